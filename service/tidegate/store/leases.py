"""Claims, leases and fencing tokens of rollouts. Each function runs inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, Double, Select, String, and_, bindparam, case, func, or_, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from tidegate.clock import Time
from tidegate.core.phases import Phase
from tidegate.core.records import Claim
from tidegate.errors import LeaseLost
from tidegate.store.tables import is_live, rollouts, services

row = rollouts.c
RESTORE_FENCE_STEP = 1_000_000  # more claims than between two backups; fits into a fence about 2000 times


# -- statements -------------------------------------------------------------------------------------------------------
#
# Each is built once: building one takes SQLAlchemy ten times as long as running it, and engines claim, renew and release
# continuously.

_AT, _UNTIL, _WHO = bindparam("at", type_=Double), bindparam("until", type_=Double), bindparam("who", type_=String)
_FREE = or_(row.lease_until.is_(None), row.lease_until <= _AT)
#: Rollbacks and what somebody forces come before all others.
_URGENCY = case((or_(row.forced, row.phase == Phase.ROLLING_BACK.value), 0), else_=1)
_FIRST = select(row.sequence).where(is_live, row.due <= _AT, _FREE).order_by(_URGENCY, row.due, row.sequence).limit(1)
_WITHOUT = select(services.c.key).where(services.c.environment.in_(bindparam("without", expanding=True)))
_FIRST_ELSEWHERE = _FIRST.where(row.service.not_in(_WITHOUT))


def _claim(first: Select[tuple[int]]) -> ReturningUpdate[tuple[str, int, Time, Time, str]]:
    return (
        update(rollouts)
        .where(row.sequence == first.with_for_update(skip_locked=True).scalar_subquery())
        .values(
            owner=_WHO,
            since=case((row.owner == _WHO, row.since), else_=_AT),
            takeovers=row.takeovers + case((row.lease_until.is_(None), 0), else_=1),
            lease_until=_UNTIL,
            fence=row.fence + 1,
            signalled=False,
        )
        .returning(row.id, row.fence, row.since, row.due, row.service)
    )


_CLAIM, _CLAIM_ELSEWHERE = _claim(_FIRST), _claim(_FIRST_ELSEWHERE)
#: The rollout is still driven under this fencing token; `lease_values` has the parameters. An expired lease counts until
#: another engine claims the rollout.
HELD = and_(row.id == bindparam("held_id"), row.fence == bindparam("held_fence"), row.lease_until.is_not(None))
#: An UPDATE of the rollout that matches no row once the lease is lost.
CHANGE = update(rollouts).where(HELD)
_REQUIRE = select(row.sequence).where(HELD).with_for_update()
_RENEW = CHANGE.values(lease_until=_UNTIL)
_LATER = func.coalesce(bindparam("later", type_=Double), row.due)
_RELEASE = CHANGE.values(lease_until=None, due=case((row.signalled, _AT), else_=_LATER))


# -- operations -------------------------------------------------------------------------------------------------------


def claim(connection: Connection, owner: str, ttl_seconds: float, without: Collection[str], now: Time) -> Claim | None:
    """Claim a rollout that is due and has no valid lease, in an environment that is not in `without`: rollbacks first, then
    the one that has been due longest.

    A lease that expired without a release means that its engine died; this counts as a takeover (`takeovers`).
    """
    values: dict[str, object] = {"at": now, "who": owner, "until": now + ttl_seconds}
    if without:
        taken = connection.execute(_CLAIM_ELSEWHERE, values | {"without": list(without)}).one_or_none()
    else:
        taken = connection.execute(_CLAIM, values).one_or_none()
    if taken is None:
        return None
    return Claim(taken.id, taken.fence, taken.since, owner, taken.due, taken.service.partition("/")[0])


def expire_all(connection: Connection, now: Time) -> None:
    """Expire all leases; the next claim of each rollout counts as a takeover."""
    connection.execute(update(rollouts).where(is_live, row.lease_until > now).values(lease_until=now))


def shift_clock(connection: Connection, seconds: float, until: Time, now: Time) -> None:
    """Move all times after a jump of this process's clock. Safe for rows already written with the new clock."""
    connection.execute(update(rollouts).where(is_live).values(since=row.since + seconds))
    connection.execute(update(rollouts).where(is_live, row.due > now).values(due=now))
    connection.execute(update(rollouts).where(is_live, row.lease_until.is_not(None)).values(lease_until=until))


def clock_set_back(connection: Connection, until: Time, now: Time) -> None:
    """Correct all times after the shared clock was set back; otherwise rollouts would be due, and leases expire, too late.

    Any engine may call this. A clock set forward needs no correction: due times and leases end early, which the next tick
    and the fencing tokens make harmless.
    """
    connection.execute(update(rollouts).where(is_live, row.due > now).values(due=now))
    connection.execute(update(rollouts).where(is_live, row.since > now).values(since=now))
    connection.execute(update(rollouts).where(is_live, row.lease_until > until).values(lease_until=until))


def raise_fences(connection: Connection, now: Time) -> None:
    """Raise all fencing tokens far above those issued since the backup, and expire all leases."""
    expire_all(connection, now)
    connection.execute(update(rollouts).values(fence=row.fence + RESTORE_FENCE_STEP))


def lease_values(rollout: str, fence: int) -> dict[str, object]:
    """The parameters of `HELD`."""
    return {"held_id": rollout, "held_fence": fence}


def require(connection: Connection, rollout: str, fence: int) -> None:
    """Lock the row until the transaction ends. Raises `LeaseLost`."""
    if connection.execute(_REQUIRE, lease_values(rollout, fence)).one_or_none() is None:
        raise lease_lost(rollout, fence)


def lease_lost(rollout: str, fence: int) -> LeaseLost:
    """The error of a writer whose lease was lost or released."""
    return LeaseLost(f"Lease on {rollout} (fencing token {fence}) was lost or released; another engine may drive it.")


def renew(connection: Connection, mine: Claim, until: Time) -> None:
    """Extend the lease to `until`. Raises `LeaseLost`."""
    if connection.execute(_RENEW, {**lease_values(mine.rollout, mine.fence), "until": until}).rowcount != 1:
        raise lease_lost(mine.rollout, mine.fence)


def release(connection: Connection, mine: Claim, due: Time | None, now: Time) -> None:
    """Release the lease. `owner` is kept, so that the same engine keeps its `since` with the next claim."""
    if connection.execute(_RELEASE, {**lease_values(mine.rollout, mine.fence), "later": due, "at": now}).rowcount != 1:
        raise lease_lost(mine.rollout, mine.fence)
