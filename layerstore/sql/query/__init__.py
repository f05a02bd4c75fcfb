"""SQL of one's own, and queries that have a name."""
