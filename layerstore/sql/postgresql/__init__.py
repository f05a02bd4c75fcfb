"""The store on PostgreSQL. All use of psycopg stays in this package."""
