"""Who drives a rollout: claims, leases and fences. Each function runs inside the caller's transaction."""

from __future__ import annotations

from sqlalchemy import Connection, Double, String, and_, bindparam, case, func, or_, select, update

from tidegate.clock import Time
from tidegate.core.records import Claim
from tidegate.errors import LeaseLost
from tidegate.store.tables import is_live, rollouts

row = rollouts.c
RESTORE_FENCE_STEP = 1_000_000  # more than anybody claims between two backups; a fence has room for two thousand of these


# -- statements -------------------------------------------------------------------------------------------------------
#
# Each is made once: making one anew takes SQLAlchemy ten times as long as running it, and an engine claims, renews and
# gives back all the time.

_AT, _UNTIL, _WHO = bindparam("at", type_=Double), bindparam("until", type_=Double), bindparam("who", type_=String)
_FREE = or_(row.lease_until.is_(None), row.lease_until <= _AT)
_FIRST = select(row.sequence).where(is_live, row.due <= _AT, _FREE).order_by(row.due, row.sequence).limit(1)
_CLAIM = (
    update(rollouts)
    .where(row.sequence == _FIRST.with_for_update(skip_locked=True).scalar_subquery())
    .values(
        owner=_WHO,
        since=case((row.owner == _WHO, row.since), else_=_AT),
        resumes=row.resumes + case((row.lease_until.is_(None), 0), else_=1),
        lease_until=_UNTIL,
        fence=row.fence + 1,
        signalled=False,
    )
    .returning(row.id, row.fence, row.since, row.due)
)
#: The rollout is still driven under this fence; `lease_values` gives the values. A lease that ran out counts until somebody
#: else takes it.
HELD = and_(row.id == bindparam("held_id"), row.fence == bindparam("held_fence"), row.lease_until.is_not(None))
#: An UPDATE of the rollout that finds no row once the lease is lost.
CHANGE = update(rollouts).where(HELD)
_REQUIRE = select(row.sequence).where(HELD).with_for_update()
_RENEW = CHANGE.values(lease_until=_UNTIL)
_LATER = func.coalesce(bindparam("later", type_=Double), row.due)
_RELEASE = CHANGE.values(lease_until=None, due=case((row.signalled, _AT), else_=_LATER))


# -- what they are for ------------------------------------------------------------------------------------------------


def claim(connection: Connection, owner: str, ttl_seconds: float, now: Time) -> Claim | None:
    """Take the rollout that has been due longest and that nobody holds.

    A lease that ran out without being given back means that its owner vanished: one more resume.
    """
    taken = connection.execute(_CLAIM, {"at": now, "who": owner, "until": now + ttl_seconds}).one_or_none()
    return None if taken is None else Claim(taken.id, taken.fence, taken.since, owner, taken.due)


def expire_all(connection: Connection, now: Time) -> None:
    """No lease lasts longer than now; the next claim counts as a resume."""
    connection.execute(update(rollouts).where(is_live, row.lease_until > now).values(lease_until=now))


def shift_clock(connection: Connection, seconds: float, until: Time, now: Time) -> None:
    """All that was told by a clock which jumped since. Whoever writes by the new one just before is not put wrong by it."""
    connection.execute(update(rollouts).where(is_live).values(since=row.since + seconds))
    connection.execute(update(rollouts).where(is_live, row.due > now).values(due=now))
    connection.execute(update(rollouts).where(is_live, row.lease_until.is_not(None)).values(lease_until=until))


def clock_set_back(connection: Connection, until: Time, now: Time) -> None:
    """The clock of all engines was: what stands in its future would be due, and free, as much later. Each of them may say
    so. (Set ahead, it ends waits and leases early, which the next look and the fences make good.)"""
    connection.execute(update(rollouts).where(is_live, row.due > now).values(due=now))
    connection.execute(update(rollouts).where(is_live, row.since > now).values(since=now))
    connection.execute(update(rollouts).where(is_live, row.lease_until > until).values(lease_until=until))


def raise_fences(connection: Connection, now: Time) -> None:
    """Fences far above all that were given out since the backup, and no lease of an engine of that time."""
    expire_all(connection, now)
    connection.execute(update(rollouts).values(fence=row.fence + RESTORE_FENCE_STEP))


def lease_values(rollout: str, fence: int) -> dict[str, object]:
    """The values that `HELD` asks for."""
    return {"held_id": rollout, "held_fence": fence}


def require(connection: Connection, rollout: str, fence: int) -> None:
    """Hold the row until the transaction ends, or raise `LeaseLost`."""
    if connection.execute(_REQUIRE, lease_values(rollout, fence)).one_or_none() is None:
        raise lease_lost(rollout, fence)


def lease_lost(rollout: str, fence: int) -> LeaseLost:
    """The error of a writer that came too late."""
    return LeaseLost(f"the lease on {rollout} with fence {fence} was lost or given back; another engine may drive it now")


def renew(connection: Connection, mine: Claim, until: Time) -> None:
    """Hold it until then."""
    if connection.execute(_RENEW, {**lease_values(mine.rollout, mine.fence), "until": until}).rowcount != 1:
        raise lease_lost(mine.rollout, mine.fence)


def release(connection: Connection, mine: Claim, due: Time | None, now: Time) -> None:
    """Give it back. `owner` stays, so that the same one finds its own `since` again."""
    if connection.execute(_RELEASE, {**lease_values(mine.rollout, mine.fence), "later": due, "at": now}).rowcount != 1:
        raise lease_lost(mine.rollout, mine.fence)
