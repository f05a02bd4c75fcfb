"""All that SQLite alone has: connections, transactions, opening, the log, loading, backup, salvage."""
