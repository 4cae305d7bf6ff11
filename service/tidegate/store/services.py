"""Services and their releases. Each function runs inside the caller's transaction."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import ColumnElement, Connection, Select, and_, func, insert, or_, select, update

from tidegate.clock import Time
from tidegate.core.model import Release, Rollout, Service
from tidegate.core.records import Drift, ReleaseRow, ServiceRow
from tidegate.errors import RolloutInProgress, RouteTaken, UnknownService, VersionConflict
from tidegate.store import mapping
from tidegate.store.tables import is_live, release_numbers, releases, rollouts, services


def put(connection: Connection, service: Service, version: int | None = None) -> None:
    """Store or replace. The version grows when something changes; `version` 0 means that there must be none yet."""
    values = mapping.service_values(service)
    stored = connection.execute(
        select(services.c.version, services.c.definition).where(services.c.key == service.key).with_for_update()
    ).one_or_none()
    present = 0 if stored is None else stored.version
    if version is not None and version != present:
        raise VersionConflict(f"{service.key} has version {present}, not {version}; read it again")
    _require_free_route(connection, service)
    if stored is None:
        connection.execute(insert(services).values(**values, version=1))
    elif stored.definition != values["definition"]:
        connection.execute(update(services).where(services.c.key == service.key).values(**values, version=present + 1))


def _require_free_route(connection: Connection, service: Service) -> None:
    """One backend of one proxy belongs to one service."""
    other = connection.execute(
        select(services.c.key).where(
            services.c.environment == service.environment,
            services.c.backend == service.backend.name,
            services.c.key != service.key,
        )
    ).scalar_one_or_none()
    if other is not None:
        raise RouteTaken(f"route {service.backend.name} of {service.environment} belongs to {other}; choose another route")


def _with_live_rollout() -> Select[tuple[object, ...]]:
    live = and_(rollouts.c.service == services.c.key, is_live)
    query = select(services, rollouts.c.id.label("rollout"), rollouts.c.kind.label("rollout_kind"))
    return query.select_from(services).outerjoin(rollouts, live)


def get(connection: Connection, key: str) -> ServiceRow:
    """Raises `UnknownService`."""
    row = connection.execute(_with_live_rollout().where(services.c.key == key)).one_or_none()
    if row is None:
        raise UnknownService(f"no service {key}")
    return mapping.service_of(row)


def list_services(connection: Connection) -> tuple[ServiceRow, ...]:
    """All, by key."""
    return tuple(map(mapping.service_of, connection.execute(_with_live_rollout().order_by(services.c.key))))


def next_drift_check(connection: Connection, environment: str, every_seconds: float, now: Time) -> ServiceRow | None:
    """Take the one whose look has been due longest: it is not due again for so long. None with a live rollout is."""
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


def shift_clock(connection: Connection, now: Time) -> None:
    """The clock by which looks are due jumped."""
    connection.execute(update(services).where(services.c.drift_check_due > now).values(drift_check_due=now))


def set_drift(connection: Connection, key: str, drift: Drift | None) -> None:
    """Record what was found, unless a rollout has begun since: what was seen is that one's doing then."""
    value = None if drift is None else mapping.DRIFT.encode(drift)
    connection.execute(update(services).where(services.c.key == key, ~_has_live_rollout()).values(drift=value))


def _has_live_rollout() -> ColumnElement[bool]:
    return select(rollouts.c.id).where(rollouts.c.service == services.c.key, is_live).exists()


def set_replicas(connection: Connection, key: str, release: str, replicas: int) -> None:
    """From now on the service and this release of it have so many instances."""
    ours = and_(releases.c.service == key, releases.c.id == release)
    connection.execute(update(releases).where(ours).values(replicas=replicas))
    put(connection, replace(get(connection, key).service, replicas=replicas))


def require_unchanged(connection: Connection, rollout: Rollout) -> None:
    """Raises `RolloutInProgress` where another release serves by now, or another number of it, than a rollout that stays
    with it was made for."""
    live = connection.execute(
        select(services.c.live).where(services.c.key == rollout.service).with_for_update()
    ).scalar_one_or_none()
    if (
        live != rollout.new
        or get_release(connection, rollout.service, rollout.new).release.replicas != rollout.old_replicas
    ):
        raise RolloutInProgress(f"another rollout of {rollout.service} came first; look at it again")


def next_number(connection: Connection, service: str) -> int:
    """Count on. Two that make the first row at once collide, and the second is run again."""
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
    """A new one. Its number is the one its id ends with, as `next_number` reserved it."""
    tail = release.id.rpartition("-")[2]
    number = int(tail) if tail.isdecimal() else next_number(connection, release.service)
    connection.execute(insert(releases).values(**mapping.release_values(release), number=number, created=now))


def get_release(connection: Connection, service: str, release: str) -> ReleaseRow:
    """Raises `UnknownService`, with the release in its message."""
    wanted = and_(releases.c.service == service, releases.c.id == release)
    row = connection.execute(select(releases).where(wanted)).one_or_none()
    if row is None:
        raise UnknownService(f"no release {release} of {service}")
    return mapping.release_of(row)


def list_releases(connection: Connection, service: str, limit: int) -> tuple[ReleaseRow, ...]:
    """The newest first."""
    query = select(releases).where(releases.c.service == service).order_by(releases.c.number.desc()).limit(limit)
    return tuple(map(mapping.release_of, connection.execute(query)))


def pin(connection: Connection, service: str, release: str, digest: str) -> None:
    """Record the digest. Raises `UnknownService` when there is no such release."""
    wanted = and_(releases.c.service == service, releases.c.id == release)
    if connection.execute(update(releases).where(wanted).values(digest=digest)).rowcount != 1:
        raise UnknownService(f"no release {release} of {service}")


def quarantined(connection: Connection, service: str, digest: str) -> ReleaseRow | None:
    """The release with this digest that was turned back last; None when one with it was good since."""
    table = releases.c
    same = (table.service == service, table.digest == digest)
    query = select(releases).where(*same, table.quarantined_at.is_not(None)).order_by(table.quarantined_at.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    good = connection.execute(select(func.max(table.good_at)).where(*same)).scalar_one_or_none()
    if row is None or (good is not None and good > row.quarantined_at):
        return None
    return mapping.release_of(row)


def last_good(connection: Connection, service: str, before: str | None) -> ReleaseRow | None:
    """A release that was set good and quarantined at the same moment is not good."""
    table = releases.c
    query = (
        select(releases)
        .where(table.service == service, table.good_at.is_not(None))
        .where(or_(table.quarantined_at.is_(None), table.quarantined_at < table.good_at))
        .order_by(table.good_at.desc(), table.number.desc())
        .limit(1)
    )
    row = connection.execute(query if before is None else query.where(table.id != before)).one_or_none()
    return None if row is None else mapping.release_of(row)
