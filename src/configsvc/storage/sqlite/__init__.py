"""SQLite in one file."""
