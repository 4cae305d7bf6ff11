"""Deletion of old data: samples first, then whole rollouts. Each function runs inside the caller's transaction."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, exists, func, not_, or_, select

from tidegate.core.phases import LIVE
from tidegate.core.records import Pruned, Retention
from tidegate.store.tables import (
    build_watches,
    deliveries,
    events,
    idempotency,
    is_live,
    measurements,
    releases,
    rollouts,
    services,
    signals,
)
from tidegate.store.tables import verdicts as verdicts_table

MIN_ROLLOUTS = 10  # newest rollouts of each service that are always kept; new fencing tokens continue from theirs
MIN_GOOD_RELEASES = 5  # good releases of each service that are always kept, to roll back to
BATCH_MEASUREMENTS = 500  # per transaction, so that other writers do not wait long
BATCH_ROLLOUTS = 25
LOCK_NUMBER = 0x7469_6466  # the advisory lock of pruning
ROLLOUT_TABLES = (events, verdicts_table, measurements, signals, deliveries, build_watches)


def _old_measurements(retention: Retention) -> Select[tuple[int]]:
    ended = func.coalesce(rollouts.c.finished, rollouts.c.created)
    joined = measurements.join(rollouts, rollouts.c.id == measurements.c.rollout)
    return select(measurements.c.number).select_from(joined).where(not_(is_live), ended < retention.samples_before)


def _old_rollouts(retention: Retention) -> Select[tuple[str]]:
    """Rollouts that are finished, with their whole group, old, and not among the newest of their service."""
    newer, fellow = rollouts.alias("newer"), rollouts.alias("fellow")
    after = select(func.count()).select_from(newer).where(
        newer.c.service == rollouts.c.service, newer.c.sequence > rollouts.c.sequence
    )  # fmt: skip
    group = and_(
        fellow.c.group == rollouts.c.group, rollouts.c.group != "", fellow.c.phase.in_([phase.value for phase in LIVE])
    )
    ended = func.coalesce(rollouts.c.finished, rollouts.c.created)
    return (
        select(rollouts.c.id)
        .where(not_(is_live), ended < retention.rollouts_before, after.scalar_subquery() >= MIN_ROLLOUTS)
        .where(not_(exists(select(fellow.c.id).where(group))))
    )


def _unused_release(service: str) -> ColumnElement[bool]:
    """Releases that no rollout refers to, that are not live, and that are not among the newest good ones."""
    newest = (
        select(releases.c.id)
        .where(releases.c.service == service, releases.c.good_at.is_not(None))
        .order_by(releases.c.good_at.desc(), releases.c.number.desc())
        .limit(MIN_GOOD_RELEASES)
    )
    referred_to = and_(
        rollouts.c.service == releases.c.service, or_(rollouts.c.old == releases.c.id, rollouts.c.new == releases.c.id)
    )
    serves = and_(services.c.key == releases.c.service, services.c.live == releases.c.id)
    return and_(
        releases.c.service == service,
        not_(exists(select(rollouts.c.id).where(referred_to))),
        not_(exists(select(services.c.key).where(serves))),
        releases.c.id.not_in(newest),
    )


def count(connection: Connection, retention: Retention) -> Pruned:
    """What would be deleted. Releases are not counted: they are known only after the rollouts are deleted."""
    samples = 0 if retention.samples_before is None else _count(connection, _old_measurements(retention))
    old = 0 if retention.rollouts_before is None else _count(connection, _old_rollouts(retention))
    return Pruned(samples, old, 0, more=bool(samples or old))


def _count(connection: Connection, query: Select[tuple[int]] | Select[tuple[str]]) -> int:
    return int(connection.execute(select(func.count()).select_from(query.subquery())).scalar_one())


def batch(connection: Connection, retention: Retention) -> Pruned:
    """Delete one batch: samples first, rollouts when no old samples are left."""
    if retention.samples_before is not None:
        numbers = (
            connection.execute(_old_measurements(retention).order_by(measurements.c.number).limit(BATCH_MEASUREMENTS))
            .scalars()
            .all()
        )
        if numbers:
            connection.execute(delete(measurements).where(measurements.c.number.in_(numbers)))
            return Pruned(len(numbers), 0, 0, more=True)
    if retention.rollouts_before is None:
        return Pruned(0, 0, 0, more=False)
    first = _old_rollouts(retention).add_columns(rollouts.c.service).order_by(rollouts.c.sequence).limit(BATCH_ROLLOUTS)
    rows = connection.execute(first.with_for_update(of=rollouts, skip_locked=True)).all()
    if not rows:
        keys = delete(idempotency).where(idempotency.c.created < retention.rollouts_before)
        connection.execute(keys)
        return Pruned(0, 0, 0, more=False)
    ids = [row.id for row in rows]
    for table in ROLLOUT_TABLES:
        connection.execute(delete(table).where(table.c.rollout.in_(ids)))
    connection.execute(delete(rollouts).where(rollouts.c.id.in_(ids)))
    gone = sum(
        connection.execute(delete(releases).where(_unused_release(service))).rowcount
        for service in sorted({row.service for row in rows})
    )
    return Pruned(0, len(ids), gone, more=True)
