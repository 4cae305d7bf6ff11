"""Alembic's entry: the connection and its transaction are the caller's."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from tidegate.store.tables import metadata

connection: Connection = context.config.attributes["connection"]
# SQLite changes a table by copying it; the batch mode writes such revisions.
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
