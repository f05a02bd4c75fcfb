"""What a push does with what is known: candidates, attempts, plan, credentials. No store is written."""
