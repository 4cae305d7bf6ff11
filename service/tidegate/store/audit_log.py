"""The audit log. Each function runs inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, insert, select

from tidegate.core.records import AuditEntry
from tidegate.store import mapping
from tidegate.store.tables import audit


def record(connection: Connection, entry: AuditEntry | None) -> None:
    """Add the entry, if there is one."""
    if entry is not None:
        connection.execute(insert(audit).values(mapping.audit_values(entry)))


def list_entries(
    connection: Connection, before: int | None, limit: int, subjects: Collection[str] | None
) -> tuple[AuditEntry, ...]:
    """Entries, newest first: those with a number below `before`, and of these subjects, if given."""
    query = select(audit).order_by(audit.c.number.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.c.number < before)
    if subjects is not None:
        query = query.where(audit.c.subject.in_(subjects))
    return tuple(map(mapping.audit_of, connection.execute(query)))
