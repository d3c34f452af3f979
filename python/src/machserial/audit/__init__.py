"""The trail outside of the database: exports, archives and their verification."""
