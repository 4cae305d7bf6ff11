"""What those who watch the server want to know. Each function runs inside the caller's transaction."""

from __future__ import annotations

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update

from tidegate.clock import Time
from tidegate.core.records import EngineRow, ServerStats
from tidegate.store.tables import deliveries, engines, events, is_live, rollouts, services

ENGINE_EXPIRY_SECONDS = 86_400.0  # an engine that was not heard for so long is not told of any more
row = rollouts.c


def heartbeat(connection: Connection, owner: str, version: str, now: Time) -> None:
    """The engine is alive; those that are long gone are struck out."""
    values = {"heartbeat_at": now, "version": version}
    if connection.execute(update(engines).where(engines.c.owner == owner).values(values)).rowcount != 1:
        connection.execute(insert(engines).values(owner=owner, **values))
        connection.execute(delete(engines).where(engines.c.heartbeat_at < now - ENGINE_EXPIRY_SECONDS))


def remove_engine(connection: Connection, owner: str) -> None:
    """The engine ended as it should."""
    connection.execute(delete(engines).where(engines.c.owner == owner))


def list_engines(connection: Connection) -> tuple[EngineRow, ...]:
    """Every engine that did not end as it should, the one heard last first."""
    rows = connection.execute(select(engines).order_by(engines.c.heartbeat_at.desc(), engines.c.owner))
    return tuple(EngineRow(row.owner, row.heartbeat_at, row.version) for row in rows)


def read(connection: Connection, now: Time) -> ServerStats:
    """Counted by the database: no rollout is read."""
    live = select(services.c.environment, row.phase, func.count(), func.min(row.held))
    live = live.join(services, services.c.key == row.service).where(is_live)
    counts = connection.execute(live.group_by(services.c.environment, row.phase)).all()
    holds: dict[str, Time] = {}
    for environment, _, _, since in counts:
        if since is not None:
            holds[environment] = min(since, holds.get(environment, since))
    free = or_(row.lease_until.is_(None), row.lease_until <= now)
    overdue = connection.execute(select(func.min(row.due)).where(is_live, row.due <= now, free)).scalar_one()
    held = connection.execute(select(func.count()).where(is_live, row.lease_until > now)).scalar_one()
    undelivered = connection.execute(
        select(func.count(), func.min(events.c.at))
        .select_from(deliveries)
        .join(rollouts, and_(row.id == deliveries.c.rollout, row.last_event > deliveries.c.delivered))
        .join(events, and_(events.c.rollout == row.id, events.c.number == deliveries.c.delivered + 1))
    ).one()
    return ServerStats(
        live={(environment, phase): count for environment, phase, count, _ in counts},
        approval_since=holds,
        due_since=overdue,
        leases=held,
        undelivered=undelivered[0],
        undelivered_since=undelivered[1],
        engines=list_engines(connection),
    )
