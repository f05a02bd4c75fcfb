"""The store on SQLite. All use of SQLAlchemy, Alembic and sqlite3 stays in this package."""
