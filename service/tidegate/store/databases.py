"""From a URL to a database: `sqlite:///PATH` or `postgresql://USER@HOST/NAME`."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from tidegate.errors import InvalidSettings, Problem
from tidegate.store.database import Database
from tidegate.store.postgres import Postgres
from tidegate.store.sqlite import Sqlite

ALLOWED = "allowed: sqlite:///PATH, postgresql://USER@HOST/NAME"


def connect(url: str, password_file: Path | None = None) -> Database:
    """Open lazily: nothing is touched before the first transaction. Raises `InvalidSettings`, without a password in it."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise InvalidSettings([Problem("database", f"not a URL; {ALLOWED}")]) from None
    if parsed.drivername == "postgresql":
        return Postgres(parsed, password_file)
    if parsed.drivername != "sqlite":
        raise InvalidSettings([Problem("database", f"{parsed.drivername} is not supported; {ALLOWED}")])
    if password_file is not None:
        raise InvalidSettings([Problem("database_password_file", "SQLite has no password; leave it out")])
    return Sqlite(parsed)
