"""Alembic's entry point: uses the caller's connection and transaction."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from tidegate.store.tables import metadata

connection: Connection = context.config.attributes["connection"]
# SQLite changes a table by copying it, which needs the batch mode.
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
