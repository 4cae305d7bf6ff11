"""Who drives a rollout: claims, leases and fences. Each function runs inside the caller's transaction."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, Update, and_, case, or_, select, update

from tidegate.core.judge.verdict import Time
from tidegate.core.records import Claim
from tidegate.errors import LeaseLost
from tidegate.store.tables import is_live, rollouts

row = rollouts.c
RESTORED_FENCES = 1_000_000  # more than anybody claims between two backups; a fence has room for two thousand of these


def claim(connection: Connection, owner: str, ttl_seconds: float, now: Time) -> Claim | None:
    """Take the rollout that has been due longest and that nobody holds.

    A lease that ran out without being given back means that its owner vanished: one more resume.
    """
    free = or_(row.lease_until.is_(None), row.lease_until <= now)
    first = select(row.sequence).where(is_live, row.due <= now, free).order_by(row.due, row.sequence).limit(1)
    taken = connection.execute(
        update(rollouts)
        .where(row.sequence == first.with_for_update(skip_locked=True).scalar_subquery())
        .values(
            owner=owner,
            since=case((row.owner == owner, row.since), else_=now),
            resumes=row.resumes + case((row.lease_until.is_(None), 0), else_=1),
            lease_until=now + ttl_seconds,
            fence=row.fence + 1,
            nudged=False,
        )
        .returning(row.id, row.fence, row.since, row.due)
    ).one_or_none()
    return None if taken is None else Claim(taken.id, taken.fence, taken.since, owner, taken.due)


def end_all(connection: Connection, now: Time) -> None:
    """No lease lasts longer than now; the next claim counts as a resume."""
    connection.execute(update(rollouts).where(is_live, row.lease_until > now).values(lease_until=now))


def raise_all(connection: Connection, now: Time) -> None:
    """Fences far above all that were given out since the backup, and no lease of an engine of that time."""
    end_all(connection, now)
    connection.execute(update(rollouts).values(fence=row.fence + RESTORED_FENCES))


def held(rollout: str, fence: int) -> ColumnElement[bool]:
    """The rollout is still driven under this fence. A lease that ran out counts until somebody else takes it."""
    return and_(row.id == rollout, row.fence == fence, row.lease_until.is_not(None))


def change(rollout: str, fence: int) -> Update:
    """An UPDATE of the rollout that finds no row once the lease is lost."""
    return update(rollouts).where(held(rollout, fence))


def require(connection: Connection, rollout: str, fence: int) -> None:
    """Hold the row until the transaction ends, or raise `LeaseLost`."""
    found = connection.execute(select(row.sequence).where(held(rollout, fence)).with_for_update()).one_or_none()
    if found is None:
        raise lost(rollout, fence)


def lost(rollout: str, fence: int) -> LeaseLost:
    """The error of a writer that came too late."""
    return LeaseLost(f"the lease on {rollout} with fence {fence} was lost or given back; another engine may drive it now")


def renew(connection: Connection, mine: Claim, until: Time) -> None:
    """Hold it until then."""
    if connection.execute(change(mine.rollout, mine.fence).values(lease_until=until)).rowcount != 1:
        raise lost(mine.rollout, mine.fence)


def release(connection: Connection, mine: Claim, due: Time | None, now: Time) -> None:
    """Give it back. `owner` stays, so that the same one finds its own `since` again."""
    later = row.due if due is None else due
    values = {"lease_until": None, "due": case((row.nudged, now), else_=later)}
    if connection.execute(change(mine.rollout, mine.fence).values(values)).rowcount != 1:
        raise lost(mine.rollout, mine.fence)
