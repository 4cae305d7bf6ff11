"""Services and their releases. Each function runs inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, Connection, Select, and_, func, insert, or_, select, update

from tidegate.clock import Time
from tidegate.core.model import Release, Rollout, Service
from tidegate.core.phases import Phase
from tidegate.core.records import Drift, ReleaseRow, ServiceRow
from tidegate.core.routing import addresses_overlap
from tidegate.errors import ListenTaken, Refused, RolloutInProgress, RouteTaken, UnknownService, VersionConflict
from tidegate.store import mapping
from tidegate.store.tables import is_live, release_numbers, releases, rollouts, services


@dataclass(frozen=True, slots=True)
class Replaced:
    """What a definition replaced, and the version of the service since."""

    version: int
    definition: object  # None: the service is new


def put(connection: Connection, service: Service, version: int | None = None) -> Replaced:
    """Store or replace a service. Its version grows when the definition changes; `version=0` requires that it is new.
    Raises `VersionConflict`, `RouteTaken`, `ListenTaken`."""
    values = mapping.service_values(service)
    columns = select(services.c.version, services.c.definition, services.c.removed_at)
    stored = connection.execute(columns.where(services.c.key == service.key).with_for_update()).one_or_none()
    present = 0 if stored is None or stored.removed_at is not None else stored.version
    if version is not None and version != present:
        raise VersionConflict(f"{service.key} is at version {present}, not {version}. Read it again and retry.")
    _require_free_route(connection, service)
    _require_free_addresses(connection, service)
    if stored is None:
        connection.execute(insert(services).values(**values, version=1))
        return Replaced(1, None)
    if stored.removed_at is not None or stored.definition != values["definition"]:
        present = stored.version + 1
        connection.execute(
            update(services).where(services.c.key == service.key).values(**values, version=present, removed_at=None)
        )
    return Replaced(present, stored.definition if stored.removed_at is None else None)


def remove(connection: Connection, key: str, now: Time) -> None:
    """Remove the service: its route and its name are free. Its rollouts and releases are kept."""
    free = {"backend": None, "live": None, "drift": None, "removed_at": now}
    connection.execute(update(services).where(services.c.key == key).values(**free))


def restore(connection: Connection, key: str, replaced: Replaced) -> None:
    """Undo a `put` of a service that existed before, unless it was stored again since."""
    if replaced.definition is None or get(connection, key).version != replaced.version:
        return
    with suppress(RouteTaken, ListenTaken):  # another service has the route or the address by now
        put(connection, mapping.SERVICE.decode(replaced.definition))


def find_conflicts(connection: Connection, service: Service) -> tuple[Refused, ...]:
    """Why the service could not be stored: another one has its route, or its address."""
    conflicts = list[Refused]()
    for require_free in (_require_free_route, _require_free_addresses):
        try:
            require_free(connection, service)
        except (RouteTaken, ListenTaken) as error:
            conflicts.append(error)
    return tuple(conflicts)


def _require_free_route(connection: Connection, service: Service) -> None:
    """A proxy's backend belongs to one service. Raises `RouteTaken`."""
    if service.backend is None:
        return
    other = connection.execute(
        select(services.c.key).where(
            services.c.environment == service.environment,
            services.c.backend == service.backend.name,
            services.c.key != service.key,
        )
    ).scalar_one_or_none()
    if other is not None:
        raise RouteTaken(f"Route {service.backend.name} in {service.environment} belongs to {other}. Choose another route.")


def _require_free_addresses(connection: Connection, service: Service) -> None:
    """An address belongs to one service that is live or being rolled out. Raises `ListenTaken`, which names it."""
    wanted = () if service.backend is None else service.backend.addresses
    query = select(services.c.definition).where(
        services.c.environment == service.environment,
        services.c.key != service.key,
        or_(services.c.live.is_not(None), _has_live_rollout()),
    )
    for other in map(mapping.SERVICE.decode, connection.execute(query).scalars() if wanted else ()):
        for address in wanted:
            addresses = () if other.backend is None else other.backend.addresses
            taken = next((one for one in addresses if addresses_overlap(one, address)), None)
            if taken is not None:
                text = f"{service.key} cannot listen on {address}: {other.key} listens on {taken}. Choose another `listen`."
                raise ListenTaken(text)


def _with_live_rollout() -> Select[tuple[object, ...]]:
    live = and_(rollouts.c.service == services.c.key, is_live)
    rollout = (
        rollouts.c.id.label("rollout"),
        rollouts.c.kind.label("rollout_kind"),
        rollouts.c.waiting_for,
        rollouts.c.health,
    )
    query = select(services, *rollout)
    return query.select_from(services).outerjoin(rollouts, live)


def get(connection: Connection, key: str) -> ServiceRow:
    """The service with its live rollout. Raises `UnknownService`."""
    row = connection.execute(_with_live_rollout().where(services.c.key == key)).one_or_none()
    if row is None or row.removed_at is not None:
        raise UnknownService(f"No service {key}.")
    return mapping.service_of(row)


def list_services(connection: Connection) -> tuple[ServiceRow, ...]:
    """All services, by key."""
    present = _with_live_rollout().where(services.c.removed_at.is_(None))
    return tuple(map(mapping.service_of, connection.execute(present.order_by(services.c.key))))


def next_drift_check(connection: Connection, environment: str, every_seconds: float, now: Time) -> ServiceRow | None:
    """Claim the service whose drift check has been due longest, and make it due again in `every_seconds`. Services with a
    live rollout are skipped; None when none is due."""
    first = (
        select(services.c.key)
        .where(
            services.c.environment == environment,
            services.c.live.is_not(None),
            services.c.drift_check_due <= now,
            ~_has_live_rollout(),
        )
        .order_by(services.c.drift_check_due, services.c.key)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    taken = update(services).where(services.c.key == first.scalar_subquery()).values(drift_check_due=now + every_seconds)
    key = connection.execute(taken.returning(services.c.key)).scalar_one_or_none()
    return None if key is None else get(connection, key)


def watched(connection: Connection, environment: str) -> tuple[str, ...]:
    """The keys of services with a live release or a live rollout."""
    exists = or_(services.c.live.is_not(None), _has_live_rollout())
    return tuple(connection.execute(select(services.c.key).where(services.c.environment == environment, exists)).scalars())


def observe_soon(connection: Connection, key: str, now: Time) -> None:
    """Make the live rollout of the service and its drift check due now."""
    live = and_(rollouts.c.service == key, is_live)
    connection.execute(update(rollouts).where(live, rollouts.c.due > now).values(due=now))
    connection.execute(update(rollouts).where(live).values(signalled=True))
    connection.execute(update(services).where(services.c.key == key).values(drift_check_due=now))


def shift_clock(connection: Connection, now: Time) -> None:
    """Make drift checks due after a jump of the clock."""
    connection.execute(update(services).where(services.c.drift_check_due > now).values(drift_check_due=now))


def set_drift(connection: Connection, key: str, drift: Drift | None) -> None:
    """Record the drift, unless a rollout has begun since and may have caused what was observed."""
    value = None if drift is None else mapping.DRIFT.encode(drift)
    connection.execute(update(services).where(services.c.key == key, ~_has_live_rollout()).values(drift=value))


def _has_live_rollout() -> ColumnElement[bool]:
    return select(rollouts.c.id).where(rollouts.c.service == services.c.key, is_live).exists()


def set_replicas(connection: Connection, key: str, release: str, replicas: int) -> None:
    """Set the number of instances of the service and of this release."""
    ours = and_(releases.c.service == key, releases.c.id == release)
    connection.execute(update(releases).where(ours).values(replicas=replicas))
    put(connection, replace(get(connection, key).service, replicas=replicas))


def require_unchanged(connection: Connection, rollout: Rollout) -> None:
    """Raises `RolloutInProgress` when the live release or its number of instances changed since the rollout was planned."""
    live = connection.execute(
        select(services.c.live).where(services.c.key == rollout.service).with_for_update()
    ).scalar_one_or_none()
    if (
        live != rollout.new
        or get_release(connection, rollout.service, rollout.new).release.replicas != rollout.old_replicas
    ):
        raise RolloutInProgress(f"Another rollout of {rollout.service} came first. Read the service again and retry.")


def next_number(connection: Connection, service: str) -> int:
    """The next release number. Two concurrent calls that insert the first row collide; the caller then runs one again."""
    number: int | None = connection.execute(
        update(release_numbers)
        .where(release_numbers.c.service == service)
        .values(last=release_numbers.c.last + 1)
        .returning(release_numbers.c.last)
    ).scalar_one_or_none()
    if number is None:
        connection.execute(insert(release_numbers).values(service=service, last=1))
        return 1
    return number


def add_release(connection: Connection, release: Release, now: Time) -> None:
    """Add a release. Its number is the one that its id ends with, which `next_number` reserved."""
    tail = release.id.rpartition("-")[2]
    number = int(tail) if tail.isdecimal() else next_number(connection, release.service)
    connection.execute(insert(releases).values(**mapping.release_values(release), number=number, created=now))


def get_release(connection: Connection, service: str, release: str) -> ReleaseRow:
    """A release. Raises `UnknownService`, which names the release."""
    wanted = and_(releases.c.service == service, releases.c.id == release)
    row = connection.execute(select(releases).where(wanted)).one_or_none()
    if row is None:
        raise UnknownService(f"No release {release} of {service}.")
    return mapping.release_of(row)


def list_releases(connection: Connection, service: str, limit: int, before: int | None) -> tuple[ReleaseRow, ...]:
    """Releases, newest first, with numbers below `before`."""
    query = select(releases).where(releases.c.service == service).order_by(releases.c.number.desc()).limit(limit)
    if before is not None:
        query = query.where(releases.c.number < before)
    return tuple(map(mapping.release_of, connection.execute(query)))


def pin(connection: Connection, service: str, release: str, digest: str) -> None:
    """Record a release's image digest. Raises `UnknownService` when there is no such release."""
    wanted = and_(releases.c.service == service, releases.c.id == release)
    if connection.execute(update(releases).where(wanted).values(digest=digest)).rowcount != 1:
        raise UnknownService(f"No release {release} of {service}.")


def last_good(connection: Connection, service: str, without: Collection[str]) -> ReleaseRow | None:
    """The newest good release other than these. One marked good and quarantined at the same time is not good, nor is one
    that a rollback of the service left."""
    table = releases.c
    left = select(rollouts.c.id).where(
        rollouts.c.service == service,
        rollouts.c.undoes,
        rollouts.c.phase == Phase.SUCCEEDED.value,
        rollouts.c.old == table.id,
        func.coalesce(rollouts.c.finished, rollouts.c.created) >= table.good_at,
    )
    query = (
        select(releases)
        .where(table.service == service, table.good_at.is_not(None))
        .where(or_(table.quarantined_at.is_(None), table.quarantined_at < table.good_at))
        .where(~left.exists())
        .order_by(table.good_at.desc(), table.number.desc())
        .limit(1)
    )
    row = connection.execute(query.where(table.id.not_in(without))).one_or_none()
    return None if row is None else mapping.release_of(row)
