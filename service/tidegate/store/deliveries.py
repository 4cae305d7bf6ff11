"""What the CI was told of each rollout that a build asked for. Each function runs inside the caller's transaction."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select, update

from tidegate.clock import Time
from tidegate.core.records import Delivery
from tidegate.store.tables import deliveries, rollouts

row = deliveries.c


def add(connection: Connection, rollout: str, now: Time) -> None:
    """A new rollout, of which nothing is told yet."""
    connection.execute(insert(deliveries).values(rollout=rollout, delivered=0, failures=0, due=now))


def claim(connection: Connection, until: Time, now: Time) -> Delivery | None:
    """The one that is due longest and has something to tell; nobody else is given it before `until`."""
    behind = select(rollouts.c.last_event).where(rollouts.c.id == row.rollout).scalar_subquery() > row.delivered
    first = select(row.rollout).where(row.due <= now, behind).order_by(row.due).limit(1)
    claimed = connection.execute(
        update(deliveries)
        .where(row.rollout == first.with_for_update(skip_locked=True).scalar_subquery())
        .values(due=until)
        .returning(row.rollout, row.delivered, row.failures)
    ).one_or_none()
    return None if claimed is None else Delivery(claimed.rollout, claimed.delivered, claimed.failures)


def record(connection: Connection, rollout: str, number: int, until: Time) -> None:
    """Told up to this event; nobody else is given what follows before `until`, so that the order holds."""
    values = {"delivered": number, "failures": 0, "due": until}
    connection.execute(update(deliveries).where(row.rollout == rollout, row.delivered < number).values(values))


def postpone_delivery(connection: Connection, rollout: str, due: Time, *, failed: bool) -> None:
    """Not before then."""
    more = 1 if failed else 0
    connection.execute(update(deliveries).where(row.rollout == rollout).values(due=due, failures=row.failures + more))


def shift_clock(connection: Connection, now: Time) -> None:
    """The clock by which they are due jumped."""
    connection.execute(update(deliveries).where(row.due > now).values(due=now))
