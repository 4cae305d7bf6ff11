"""Statistics of the server and the list of engines. Each function runs inside the caller's transaction."""

from __future__ import annotations

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update

from tidegate.clock import Time
from tidegate.core.model import RolloutKind
from tidegate.core.phases import Phase
from tidegate.core.records import Attention, EngineRow, ServerStats
from tidegate.store.tables import deliveries, engines, events, is_live, rollouts, services

ENGINE_EXPIRY_SECONDS = 86_400.0  # an engine without a heartbeat for so long is dropped from the list
MAX_ATTENTION = 50  # of each state; monitoring needs a bound
RECENT_ROLLOUTS = 500  # among which those that ended badly are found
ROLLED_BACK_SECONDS = 900.0  # a rollback is news for so long; a halted rollout until the next one of its service
row = rollouts.c


def heartbeat(connection: Connection, owner: str, version: str, now: Time) -> None:
    """Record the engine's heartbeat; a new engine also removes expired ones from the list."""
    values = {"heartbeat_at": now, "version": version}
    if connection.execute(update(engines).where(engines.c.owner == owner).values(values)).rowcount != 1:
        connection.execute(insert(engines).values(owner=owner, **values))
        connection.execute(delete(engines).where(engines.c.heartbeat_at < now - ENGINE_EXPIRY_SECONDS))


def remove_engine(connection: Connection, owner: str) -> None:
    """The engine shut down cleanly: remove it from the list."""
    connection.execute(delete(engines).where(engines.c.owner == owner))


def list_engines(connection: Connection) -> tuple[EngineRow, ...]:
    """All engines that run or did not shut down cleanly, latest heartbeat first."""
    rows = connection.execute(select(engines).order_by(engines.c.heartbeat_at.desc(), engines.c.owner))
    return tuple(EngineRow(row.owner, row.heartbeat_at, row.version) for row in rows)


def read(connection: Connection, now: Time) -> ServerStats:
    """The statistics, counted by the database without loading rollouts."""
    live = select(services.c.environment, row.phase, func.count(), func.min(row.approval_since))
    live = live.join(services, services.c.key == row.service).where(is_live)
    counts = connection.execute(live.group_by(services.c.environment, row.phase)).all()
    approvals: dict[str, Time] = {}
    for environment, _, _, since in counts:
        if since is not None:
            approvals[environment] = min(since, approvals.get(environment, since))
    free = or_(row.lease_until.is_(None), row.lease_until <= now)
    overdue = connection.execute(select(func.min(row.due)).where(is_live, row.due <= now, free)).scalar_one()
    leased = connection.execute(select(func.count()).where(is_live, row.lease_until > now)).scalar_one()
    undelivered = connection.execute(
        select(func.count(), func.min(events.c.at))
        .select_from(deliveries)
        .join(rollouts, and_(row.id == deliveries.c.rollout, row.last_event > deliveries.c.delivered))
        .join(events, and_(events.c.rollout == row.id, events.c.number == deliveries.c.delivered + 1))
    ).one()
    return ServerStats(
        live={(environment, phase): count for environment, phase, count, _ in counts},
        approval_since=approvals,
        due_since=overdue,
        leases=leased,
        undelivered=undelivered[0],
        undelivered_since=undelivered[1],
        engines=list_engines(connection),
        attention=_attention(connection, now),
    )


def _attention(connection: Connection, now: Time) -> tuple[Attention, ...]:
    """The rollouts that wait for approval, have halted and were not followed by another, or were rolled back lately."""
    waiting = select(row.id, row.service, row.approval_since).where(is_live, row.approval_since.is_not(None))
    approvals = connection.execute(waiting.order_by(row.approval_since).limit(MAX_ATTENTION))
    later = rollouts.alias()
    superseded = select(later.c.id).where(later.c.service == row.service, later.c.sequence > row.sequence).exists()
    halted = and_(row.phase == Phase.FAILED.value, ~superseded)
    # a repair that ended so gave way to another rollout, which is no news
    released = and_(row.phase == Phase.ROLLED_BACK.value, row.kind != RolloutKind.REPAIR.value)
    rolled_back = and_(released, row.finished > now - ROLLED_BACK_SECONDS)
    newest = select(func.coalesce(func.max(rollouts.c.sequence), 0) - RECENT_ROLLOUTS).scalar_subquery()
    ended = select(row.id, row.service, row.phase, row.reason, row.finished).where(
        row.sequence > newest, or_(halted, rolled_back)
    )
    bad = connection.execute(ended.order_by(row.sequence.desc()).limit(MAX_ATTENTION))
    return (
        *(Attention(one.id, one.service, "approval", "", one.approval_since) for one in approvals),
        *(Attention(one.id, one.service, one.phase, one.reason, one.finished or now) for one in bad),
    )
