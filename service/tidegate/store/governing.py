"""Freezes and the audit log. Each function runs inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, bindparam, delete, insert, or_, select

from tidegate.clock import Time
from tidegate.core.records import AuditEntry, Freeze
from tidegate.store import mapping
from tidegate.store.tables import audit, freezes

_HOLDS = or_(freezes.c.until.is_(None), freezes.c.until > bindparam("now"))
_HOLDING = select(freezes).where(_HOLDS).order_by(freezes.c.environment)  # made once: asked by every tick


def put(connection: Connection, freeze: Freeze) -> None:
    """In the place of the one before, if there was one."""
    connection.execute(delete(freezes).where(freezes.c.environment == freeze.environment))
    connection.execute(insert(freezes).values(**mapping.freeze_values(freeze)))


def lift(connection: Connection, environment: str) -> None:
    """No error when there is none."""
    connection.execute(delete(freezes).where(freezes.c.environment == environment))


def every(connection: Connection, now: Time) -> tuple[Freeze, ...]:
    """Those that hold now, by environment."""
    return tuple(map(mapping.freeze_of, connection.execute(_HOLDING, {"now": now})))


def frozen(connection: Connection, environment: str, now: Time) -> Freeze | None:
    """The one that holds now."""
    return next((each for each in every(connection, now) if each.environment == environment), None)


def note(connection: Connection, entry: AuditEntry | None) -> None:
    """Add it, where there is one."""
    if entry is not None:
        connection.execute(insert(audit).values(mapping.audit_values(entry)))


def read(
    connection: Connection, before: int | None, limit: int, subjects: Collection[str] | None
) -> tuple[AuditEntry, ...]:
    """The newest first; with a number below `before`; of these subjects, or of all."""
    query = select(audit).order_by(audit.c.number.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.c.number < before)
    if subjects is not None:
        query = query.where(audit.c.subject.in_(subjects))
    return tuple(map(mapping.audit_of, connection.execute(query)))
