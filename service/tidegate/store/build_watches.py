"""Builds whose rollouts are watched. Each function runs inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, delete, insert, select, update

from tidegate.clock import Time
from tidegate.core.build_watch import BuildWatch
from tidegate.store.tables import build_watches, rollouts, services

row = build_watches.c
MIN_POLL_SECONDS = 20.0  # polls of a build closer to each other are not recorded


def add(connection: Connection, rollout: str, now: Time) -> None:
    """Watch the build of a new rollout."""
    connection.execute(insert(build_watches).values(rollout=rollout, due=now, polled_at=now, unknown=0, reported=""))


def claim(connection: Connection, until: Time, now: Time, environment: str, without: Collection[str]) -> BuildWatch | None:
    """Claim the watch that has been due longest; nobody else gets it before `until`.

    Of this environment, or with an empty one of all but those in `without`.
    """
    joined = select(services.c.environment).join(rollouts, rollouts.c.service == services.c.key)
    place = joined.where(rollouts.c.id == row.rollout).scalar_subquery()
    here = place == environment if environment else place.not_in(without)
    first = select(row.rollout).where(row.due <= now, here).order_by(row.due).limit(1)
    claimed = connection.execute(
        update(build_watches)
        .where(row.rollout == first.with_for_update(skip_locked=True).scalar_subquery())
        .values(due=until)
        .returning(*build_watches.c)
    ).one_or_none()
    if claimed is None:
        return None
    return BuildWatch(claimed.rollout, claimed.polled_at, claimed.ended_at, claimed.unknown, claimed.reported)


def record(connection: Connection, watch: BuildWatch, due: Time) -> None:
    """Store what is known by now; the watch is due again then. `polled_at` is the build's own."""
    values = {"ended_at": watch.ended_at, "unknown": watch.unknown, "reported": watch.reported, "due": due}
    connection.execute(update(build_watches).where(row.rollout == watch.rollout).values(values))


def end(connection: Connection, rollout: str) -> None:
    """Watch the build no longer."""
    connection.execute(delete(build_watches).where(row.rollout == rollout))


def note_poll(connection: Connection, rollout: str, now: Time) -> None:
    """The build has polled for its rollout."""
    late = row.polled_at < now - MIN_POLL_SECONDS
    connection.execute(update(build_watches).where(row.rollout == rollout, late).values(polled_at=now))


def shift_clock(connection: Connection, seconds: float, now: Time) -> None:
    """After a jump of the clock: times as that clock would have recorded them, and everything due."""
    shifted = {"polled_at": row.polled_at + seconds, "ended_at": row.ended_at + seconds, "due": now}
    connection.execute(update(build_watches).values(shifted))
