"""The database: tables, rows and the one class that speaks to it, `sql.SqlStore`."""
