"""The queue of builds that wait to deploy a service, in the order in which they came. Inside the caller's transaction.

A build keeps its place while it asks again within `MAX_SILENT_SECONDS`, so that one that was killed delays no other for
long.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, and_, delete, func, insert, select, update

from tidegate.clock import Time
from tidegate.core.build_queue import LivePolicy, Turn, WaitingBuild
from tidegate.core.model import Rollout, RolloutKind, Signal, SignalKind
from tidegate.core.phases import Phase
from tidegate.core.records import AuditEntry
from tidegate.core.rollback_cause import RollbackCause
from tidegate.errors import Refused, Superseded
from tidegate.store import mapping, signals
from tidegate.store.tables import is_live, rollouts, waiting_builds

MAX_SILENT_SECONDS = 420.0  # the library asks at least every five minutes
MAX_WAITING = 100  # for one service
row = waiting_builds.c


def take_turn(connection: Connection, asking: WaitingBuild, now: Time) -> Turn:
    """Give the build a place in the queue, or keep the one it has; with `supersede`, roll back the rollout of an older
    build of its job that waits for a person. Raises `Superseded`, and `Refused` when the queue is full."""
    service, build = asking.service, asking.build
    connection.execute(delete(waiting_builds).where(row.service == service, row.asked_at < now - MAX_SILENT_SECONDS))
    _refuse_superseded(connection, asking)
    if asking.policy is LivePolicy.SUPERSEDE:
        older = and_(row.job == build.job, row.number < build.number)
        connection.execute(delete(waiting_builds).where(row.service == service, older))
    place = _place(connection, asking, now)
    ahead = select(func.count()).where(row.service == service, row.sequence <= place)
    position = int(connection.execute(ahead).scalar_one())
    waiting = int(connection.execute(select(func.count()).where(row.service == service)).scalar_one())
    live = connection.execute(select(rollouts).where(rollouts.c.service == service, is_live)).one_or_none()
    if live is None or live.kind == RolloutKind.REPAIR.value:
        return Turn(position, waiting)
    rollout = mapping.rollout_of(live)
    owner = rollout.build
    if owner is not None and (owner.job, owner.number) == (build.job, build.number):
        return Turn(position, waiting, rollout.id, is_own=True)
    if asking.policy is LivePolicy.SUPERSEDE and owner is not None and owner.job == build.job and _yields(rollout):
        _supersede(connection, rollout, asking, now)
    return Turn(position, waiting, rollout.id)


def _refuse_superseded(connection: Connection, asking: WaitingBuild) -> None:
    """Raise `Superseded` if a newer build of the job waits that takes over from older ones."""
    build = asking.build
    newer = and_(row.job == build.job, row.number > build.number, row.policy == LivePolicy.SUPERSEDE.value)
    query = select(row.number).where(row.service == asking.service, newer).order_by(row.number.desc()).limit(1)
    number = connection.execute(query).scalar_one_or_none()
    if number is not None:
        text = f"Build {build.number} of {build.job} is superseded: build {number} waits to deploy {asking.service}."
        raise Superseded(text)


def _place(connection: Connection, asking: WaitingBuild, now: Time) -> int:
    """The sequence number of the build's place."""
    build, service = asking.build, asking.service
    mine = (row.service == service, row.job == build.job, row.number == build.number)
    kept = update(waiting_builds).where(*mine).values(asked_at=now, policy=asking.policy.value).returning(row.sequence)
    sequence = connection.execute(kept).scalar_one_or_none()
    if sequence is not None:
        return int(sequence)
    if int(connection.execute(select(func.count()).where(row.service == service)).scalar_one()) >= MAX_WAITING:
        raise Refused(f"{MAX_WAITING} builds wait to deploy {service} already. Cancel some of them.")
    values = {"service": service, "job": build.job, "number": build.number, "policy": asking.policy.value, "asked_at": now}
    return int(connection.execute(insert(waiting_builds).values(values).returning(row.sequence)).scalar_one())


def _yields(rollout: Rollout) -> bool:
    """Whether the rollout may be superseded: it waits for a person, or has not changed anything yet."""
    return rollout.phase is Phase.PENDING or (rollout.phase is Phase.RUNNING and rollout.approval_since is not None)


def _supersede(connection: Connection, older: Rollout, asking: WaitingBuild, now: Time) -> None:
    """Request the rollback of an older build's rollout, once."""
    given: list[Row[Any]] = list(connection.execute(signals.of_kind(older.id, SignalKind.ROLLBACK)))
    if older.build is None or older.build.number >= asking.build.number or given:
        return
    reason = f"superseded by {asking.build.label}"
    back = Signal(SignalKind.ROLLBACK, now, asking.by, reason, via=asking.via, cause=RollbackCause.SUPERSEDED)
    label = f"{asking.build.job} #{asking.build.number}"
    entry = AuditEntry(now, "supersede", older.service, asking.by, asking.via, "", reason, older.id, label)
    signals.record(connection, older.id, back, None, None, now, entry)


def leave(connection: Connection, service: str, job: str, number: int) -> None:
    """The build waits no longer."""
    mine = (row.service == service, row.job == job, row.number == number)
    connection.execute(delete(waiting_builds).where(*mine))
