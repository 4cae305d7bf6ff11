"""Rollouts, their events and verdicts. Each function runs inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, replace

from sqlalchemy import Connection, Integer, String, bindparam, delete, func, insert, select, update

from tidegate.analysis.measurement import Measurement
from tidegate.analysis.verdict import Verdict
from tidegate.clock import Time
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Event, Rollout, RolloutKind, Service, Signal
from tidegate.core.phases import Phase
from tidegate.core.records import Idempotency, NewRollout, VerdictRow
from tidegate.errors import (
    IllegalMove,
    KeyReused,
    RolloutInProgress,
    StoreError,
    Superseded,
    UnknownRollout,
)
from tidegate.store import build_watches, deliveries, leases, mapping, services
from tidegate.store.mapping import AnyRow
from tidegate.store.tables import (
    events,
    idempotency,
    is_live,
    measurements,
    releases,
    rollouts,
    signals,
    verdicts,
    waiting_builds,
)
from tidegate.store.tables import services as services_table

# Statements of every tick and of every long poll. Each is built once: building one takes SQLAlchemy ten times as long as
# running it.
_LAST_EVENT = rollouts.c.last_event + bindparam("added", type_=Integer)
_NEW = {name: bindparam(f"new_{name}", type_=rollouts.c[name].type) for name in mapping.ENGINE_COLUMNS}
_PHASE = select(rollouts.c.phase).where(leases.HELD).with_for_update()
_SAVE = leases.CHANGE.values(**_NEW, version=rollouts.c.version + 1, last_event=_LAST_EVENT).returning(
    rollouts.c.version, rollouts.c.paused, rollouts.c.takeovers, rollouts.c.last_event
)
_NOTE = leases.CHANGE.values(last_event=_LAST_EVENT).returning(rollouts.c.last_event)
_WANTED = bindparam("wanted", type_=String)
_ROW = select(rollouts).where(rollouts.c.id == _WANTED)
_SIGNALS = select(signals).where(signals.c.rollout == _WANTED).order_by(signals.c.number)
_EVENTS = (
    select(events)
    .where(events.c.rollout == _WANTED, events.c.number > bindparam("after"))
    .order_by(events.c.number)
    .limit(bindparam("most", type_=Integer))
)


# -- creating ---------------------------------------------------------------------------------------------------------


def find_answer(connection: Connection, key: Idempotency) -> Idempotency | None:
    """The response stored for this idempotency key; None when the key is new or empty. Raises `KeyReused` when the key was
    used with another request body."""
    if not key.key:
        return None
    wanted = (idempotency.c.scope == key.scope, idempotency.c.key == key.key)
    row = connection.execute(select(idempotency).where(*wanted)).one_or_none()
    if row is None:
        return None
    if row.digest != key.digest:
        raise KeyReused(f"Idempotency key {key.key} was already used with a different request. Use a new key.")
    return mapping.idempotency_of(row)


def add(connection: Connection, new: NewRollout, now: Time) -> None:
    """Store a new rollout with its service, release and first event; ends a live repair of the service. Raises
    `RolloutInProgress`, `RouteTaken`, `ListenTaken`, `UnknownService`."""
    rollout, service, release = new.rollout, new.service, new.release
    if rollout.service != service.key or (
        release is not None and (release.service, release.id) != (service.key, rollout.new)
    ):
        raise StoreError(
            f"Internal error: rollout {rollout.id} does not belong to its service or its release", retryable=False
        )
    replaced = None
    if rollout.kind is RolloutKind.RELEASE:
        replaced = asdict(services.put(connection, service))
    elif rollout.kind is not RolloutKind.REMOVE:  # that starts from whatever there is
        services.require_unchanged(connection, rollout)
    _refuse_older_build(connection, rollout)
    _supersede_repair(connection, rollout, now)
    if rollout.kind is not RolloutKind.REPAIR:
        services.set_drift(connection, service.key, None)
    if release is None:
        services.get_release(connection, service.key, rollout.new)
    else:
        services.add_release(connection, release, now)
    unclaimed = {
        "previous_definition": replaced,
        "definition": mapping.definition_values(service) if rollout.kind is RolloutKind.RELEASE else None,
        "signalled": False,
        "owner": "",
        "since": now,
        "fence": _highest_fence(connection),
        "due": now,
        "last_event": 1,
    }
    connection.execute(insert(rollouts).values(**mapping.rollout_values(rollout), **unclaimed))
    append(connection, rollout.id, (new.event,), last=1)
    if rollout.build is not None:
        deliveries.add(connection, rollout.id, now)
        build_watches.add(connection, rollout.id, now)
        place, build = waiting_builds.c, rollout.build
        turn = (place.service == rollout.service, place.job == build.job, place.number == build.number)
        connection.execute(delete(waiting_builds).where(*turn))


def store_answer(connection: Connection, key: Idempotency, now: Time) -> None:
    """Store the response for this idempotency key."""
    if key.key:
        values = {"scope": key.scope, "key": key.key, "digest": key.digest, "status": key.status, "response": key.response}
        connection.execute(insert(idempotency).values(**values, created=now))


def _highest_fence(connection: Connection) -> int:
    """The highest fencing token. New rollouts continue from it, since a router rejects a token lower than its last one."""
    return int(connection.execute(select(func.coalesce(func.max(rollouts.c.fence), 0))).scalar_one())


def _supersede_repair(connection: Connection, rollout: Rollout, now: Time) -> None:
    """End a live repair of the service: the new rollout starts from the same observed state. The repair's engine loses its
    lease. Raises `RolloutInProgress` for any other live rollout."""
    service = rollout.service
    query = select(rollouts.c.id, rollouts.c.kind).where(rollouts.c.service == service, is_live)
    live = connection.execute(query.with_for_update()).one_or_none()
    if live is None:
        return
    if live.kind != RolloutKind.REPAIR.value or rollout.kind is RolloutKind.REPAIR:
        text = f"{service} already has a live rollout, {live.id}. Wait for its end, promote it, or roll it back."
        raise RolloutInProgress(text)
    reason = f"Superseded by rollout {rollout.id}."
    ended = update(rollouts).where(rollouts.c.id == live.id)
    values = {"phase": Phase.ROLLED_BACK.value, "reason": reason, "finished": now, "lease_until": None}
    counted = {"version": rollouts.c.version + 1, "last_event": rollouts.c.last_event + 1}
    last = connection.execute(ended.values(**values, **counted).returning(rollouts.c.last_event)).scalar_one()
    append(connection, live.id, (Event(EventKind.SUPERSEDED, reason, now, data={"rollout": rollout.id}),), last=last)


def _refuse_older_build(connection: Connection, rollout: Rollout) -> None:
    """Reject a late build of a job that a newer build has already requested a rollout of. Raises `Superseded`."""
    build = rollout.build
    if build is None:
        return
    table = rollouts.c
    newer = (
        select(table.id, table.build)
        .where(table.service == rollout.service, table.build["job"].as_string() == build.job)
        .where(table.build["number"].as_integer() > build.number)
        .order_by(table.sequence.desc())
        .limit(1)
    )
    row = connection.execute(newer).one_or_none()
    if row is not None:
        number = row.build["number"]
        text = f"Build {build.number} of {build.job} is superseded: build {number} already requested rollout {row.id}."
        raise Superseded(text, rollout=row.id)


# -- driving ----------------------------------------------------------------------------------------------------------


def save(
    connection: Connection,
    rollout: Rollout,
    added: Sequence[Event],
    fence: int,
    verdict: Verdict | None,
    measurement: Measurement | None,
    now: Time,
) -> Rollout:
    """Save the state, verdict, measurement and events under the fencing token. Raises `LeaseLost`, and `IllegalMove` when
    the rollout has ended."""
    lease = leases.lease_values(rollout.id, fence)
    before = connection.execute(_PHASE, lease).scalar_one_or_none()
    if before is None:
        raise leases.lease_lost(rollout.id, fence)
    if not Phase(before).live:
        raise IllegalMove(f"Rollout {rollout.id} has ended ({before}) and cannot change.")
    values = {f"new_{name}": value for name, value in mapping.engine_values(rollout).items()}
    saved = connection.execute(_SAVE, {**lease, **values, "added": len(added)}).one()
    if verdict is not None:
        connection.execute(insert(verdicts), mapping.verdict_values(rollout, verdict))
    if measurement is not None:
        connection.execute(insert(measurements), mapping.measurement_values(rollout.id, measurement))
    append(connection, rollout.id, added, last=saved.last_event)
    if not rollout.phase.live:
        _record_outcome(connection, rollout, Phase(before), now)
    if before == Phase.PENDING.value != rollout.phase.value:  # it has secrets, and only a refusal needs it
        connection.execute(update(rollouts).where(rollouts.c.id == rollout.id).values(previous_definition=None))
    return replace(rollout, version=saved.version, paused=saved.paused, takeovers=saved.takeovers)


def _record_outcome(connection: Connection, rollout: Rollout, before: Phase, now: Time) -> None:
    """Mark the release good or quarantined after its rollout ended. A refused one leaves the definition as it was.

    A rollout that was cancelled before it changed anything, one that halted on its way forward, a repair, and a rollback
    whose cause is no finding about the release mark nothing.
    A successful scaling sets the number of instances.
    """
    at = now if rollout.finished is None else rollout.finished
    if rollout.kind is not RolloutKind.RELEASE:
        if rollout.kind is RolloutKind.SCALE and rollout.phase is Phase.SUCCEEDED:
            services.set_replicas(connection, rollout.service, rollout.new, rollout.plan[-1].fleet[rollout.new])
        if rollout.kind is RolloutKind.REMOVE and rollout.phase is Phase.SUCCEEDED:
            services.remove(connection, rollout.service, at)
        return
    ours = (releases.c.service == rollout.service, releases.c.id == rollout.new)
    if rollout.phase is Phase.SUCCEEDED:
        connection.execute(update(releases).where(*ours).values(good_at=at))
        connection.execute(update(services_table).where(services_table.c.key == rollout.service).values(live=rollout.new))
    elif rollout.phase is Phase.REFUSED:
        replaced = connection.execute(
            select(rollouts.c.previous_definition).where(rollouts.c.id == rollout.id)
        ).scalar_one()
        services.restore(connection, rollout.service, services.Replaced(**replaced))
    elif before is Phase.ROLLING_BACK and rollout.rollback_cause is not None and rollout.rollback_cause.is_finding:
        found = {"quarantined_at": at, "quarantined_by": rollout.id, "finding": rollout.reason}
        connection.execute(update(releases).where(*ours).values(found))


def add_late_event(connection: Connection, service: str, event: Event) -> None:
    """Add an event to the service's last rollout, unless this is live or has an event with this message."""
    last = select(rollouts.c.id, rollouts.c.phase).where(rollouts.c.service == service)
    row = connection.execute(last.order_by(rollouts.c.sequence.desc()).limit(1).with_for_update()).one_or_none()
    if row is None or Phase(row.phase).live:
        return
    same = (events.c.rollout == row.id, events.c.kind == event.kind, events.c.message == event.message)
    if connection.execute(select(events.c.number).where(*same).limit(1)).first() is None:
        add_events(connection, row.id, (event,))


def add_events(connection: Connection, rollout: str, added: Sequence[Event]) -> None:
    """Add events that are not the engine's, and so need no lease."""
    if added:
        counted = update(rollouts).where(rollouts.c.id == rollout).values(last_event=rollouts.c.last_event + len(added))
        append(connection, rollout, added, connection.execute(counted.returning(rollouts.c.last_event)).scalar_one())


def note(connection: Connection, rollout: str, added: Sequence[Event], fence: int) -> None:
    """Record events under the fencing token. Raises `LeaseLost`."""
    last = connection.execute(_NOTE, {**leases.lease_values(rollout, fence), "added": len(added)}).scalar_one_or_none()
    if last is None:
        raise leases.lease_lost(rollout, fence)
    append(connection, rollout, added, last=last)


def append(connection: Connection, rollout: str, added: Sequence[Event], last: int) -> None:
    """Store events; the final one gets the number `last`."""
    first = last - len(added) + 1
    values = [mapping.event_values(rollout, event, number) for number, event in enumerate(added, start=first)]
    if values:
        connection.execute(insert(events), values)


# -- reading ----------------------------------------------------------------------------------------------------------


def find_row(connection: Connection, rollout: str) -> AnyRow:
    """Its row. Raises `UnknownRollout`."""
    row = connection.execute(_ROW, {"wanted": rollout}).one_or_none()
    if row is None:
        raise UnknownRollout(f"No rollout {rollout}.")
    return row


def load(connection: Connection, rollout: str) -> tuple[Rollout, tuple[Signal, ...]]:
    """The rollout and its signals, oldest first. Raises `UnknownRollout`."""
    loaded = mapping.rollout_of(find_row(connection, rollout))
    signals = connection.execute(_SIGNALS, {"wanted": rollout})
    return loaded, tuple(map(mapping.signal_of, signals))


def get_definition(connection: Connection, rollout: str) -> Service | None:
    """The definition that the rollout was requested with, and the container of its release; None for one that keeps the
    live release. Raises `UnknownRollout`."""
    row = find_row(connection, rollout)
    if row.definition is None:
        return None
    release = services.get_release(connection, row.service, row.new).release
    return replace(mapping.SERVICE.decode(row.definition), replicas=release.replicas, container=release.container)


def created_by(connection: Connection, service: str, wanted: Collection[str]) -> dict[str, Rollout]:
    """The first rollout to each of these releases, by release; unknown ones are left out."""
    first = select(func.min(rollouts.c.sequence)).where(rollouts.c.service == service, rollouts.c.new.in_(wanted))
    query = select(rollouts).where(rollouts.c.sequence.in_(first.group_by(rollouts.c.new)))
    return {rollout.new: rollout for rollout in map(mapping.rollout_of, connection.execute(query))}


def list_rollouts(
    connection: Connection, service: str | None, phase: Phase | None, before: str | None, limit: int
) -> tuple[Rollout, ...]:
    """Rollouts, newest first. Raises `UnknownRollout` for an unknown `before`."""
    query = select(rollouts).order_by(rollouts.c.sequence.desc()).limit(limit)
    if service is not None:
        query = query.where(rollouts.c.service == service)
    if phase is not None:
        query = query.where(rollouts.c.phase == phase.value)
    if before is not None:
        query = query.where(rollouts.c.sequence < find_row(connection, before).sequence)
    return tuple(map(mapping.rollout_of, connection.execute(query)))


def list_events(connection: Connection, rollout: str, after: int, limit: int) -> tuple[Event, ...]:
    """Events with numbers above `after`, in order. Raises `UnknownRollout`."""
    page = tuple(map(mapping.event_of, connection.execute(_EVENTS, {"wanted": rollout, "after": after, "most": limit})))
    if not page:
        find_row(connection, rollout)
    return page


def last_events(connection: Connection, wanted: Collection[str]) -> dict[str, int]:
    """The number of the last event, by rollout."""
    rows = connection.execute(select(rollouts.c.id, rollouts.c.last_event).where(rollouts.c.id.in_(wanted)))
    return {row.id: row.last_event for row in rows}


def list_verdicts(connection: Connection, rollout: str) -> tuple[VerdictRow, ...]:
    """Verdicts, oldest first. Raises `UnknownRollout`."""
    query = select(verdicts).where(verdicts.c.rollout == rollout).order_by(verdicts.c.number)
    recorded = tuple(map(mapping.verdict_of, connection.execute(query)))
    if not recorded:
        find_row(connection, rollout)
    return recorded


def peers(connection: Connection, rollout: str, group: str) -> tuple[Rollout, ...]:
    """The other rollouts of a group, in order of creation."""
    query = select(rollouts).where(rollouts.c.group == group, rollouts.c.id != rollout).order_by(rollouts.c.sequence)
    return tuple(map(mapping.rollout_of, connection.execute(query)))


def list_measurements(connection: Connection, rollout: str, after: int) -> tuple[Measurement, ...]:
    """Measurements, oldest first, without the first `after`. Raises `UnknownRollout`."""
    query = select(measurements).where(measurements.c.rollout == rollout).order_by(measurements.c.number)
    saved = tuple(map(mapping.measurement_of, connection.execute(query.offset(after))))
    if not saved:
        find_row(connection, rollout)
    return saved
