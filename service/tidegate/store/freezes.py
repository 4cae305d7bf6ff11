"""Freezes. Each function runs inside the caller's transaction."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, delete, insert, or_, select

from tidegate.clock import Time
from tidegate.core.records import Freeze
from tidegate.store import mapping
from tidegate.store.tables import freezes

_IS_ACTIVE = or_(freezes.c.until.is_(None), freezes.c.until > bindparam("now"))
_ACTIVE = select(freezes).where(_IS_ACTIVE).order_by(freezes.c.environment)  # compiled once, since every tick runs it


def put(connection: Connection, freeze: Freeze) -> None:
    """Store a freeze; replaces the environment's previous one."""
    connection.execute(delete(freezes).where(freezes.c.environment == freeze.environment))
    connection.execute(insert(freezes).values(**mapping.freeze_values(freeze)))


def lift(connection: Connection, environment: str) -> None:
    """Remove the freeze of an environment, if there is one."""
    connection.execute(delete(freezes).where(freezes.c.environment == environment))


def list_active(connection: Connection, now: Time) -> tuple[Freeze, ...]:
    """The freezes in force, by environment."""
    return tuple(map(mapping.freeze_of, connection.execute(_ACTIVE, {"now": now})))


def find_active(connection: Connection, environment: str, now: Time) -> Freeze | None:
    """The freeze of an environment that is in force, if any."""
    return next((freeze for freeze in list_active(connection, now) if freeze.environment == environment), None)
