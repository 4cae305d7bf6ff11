"""Delivery of events to the CI, for rollouts that a build requested. Each function runs inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, insert, select, update

from tidegate.clock import Time
from tidegate.core.records import Delivery
from tidegate.store.tables import deliveries, rollouts, services

row = deliveries.c


def add(connection: Connection, rollout: str, now: Time) -> None:
    """Add a new rollout; none of its events is delivered yet."""
    connection.execute(insert(deliveries).values(rollout=rollout, delivered=0, failures=0, due=now))


def claim(connection: Connection, until: Time, now: Time, environment: str, without: Collection[str]) -> Delivery | None:
    """Claim the delivery that has been due longest and has new events; nobody else gets it before `until`.

    Of this environment, or with an empty one of all but those in `without`.
    """
    behind = select(rollouts.c.last_event).where(rollouts.c.id == row.rollout).scalar_subquery() > row.delivered
    joined = select(services.c.environment).join(rollouts, rollouts.c.service == services.c.key)
    place = joined.where(rollouts.c.id == row.rollout).scalar_subquery()
    here = place == environment if environment else place.not_in(without)
    first = select(row.rollout).where(row.due <= now, behind, here).order_by(row.due).limit(1)
    claimed = connection.execute(
        update(deliveries)
        .where(row.rollout == first.with_for_update(skip_locked=True).scalar_subquery())
        .values(due=until)
        .returning(row.rollout, row.delivered, row.failures)
    ).one_or_none()
    return None if claimed is None else Delivery(claimed.rollout, claimed.delivered, claimed.failures)


def record(connection: Connection, rollout: str, number: int, until: Time) -> None:
    """Record that events up to `number` were delivered. Nobody else gets the rest before `until`, which keeps the order."""
    values = {"delivered": number, "failures": 0, "due": until}
    connection.execute(update(deliveries).where(row.rollout == rollout, row.delivered < number).values(values))


def postpone_delivery(connection: Connection, rollout: str, due: Time, *, failed: bool) -> None:
    """Try again at `due`."""
    more = 1 if failed else 0
    connection.execute(update(deliveries).where(row.rollout == rollout).values(due=due, failures=row.failures + more))


def shift_clock(connection: Connection, now: Time) -> None:
    """Make deliveries due after a jump of the clock."""
    connection.execute(update(deliveries).where(row.due > now).values(due=now))
