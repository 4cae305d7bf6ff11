"""The store on an SQL database. What each method promises is said in `ports.Store`."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import Connection, text

from tidegate.core.judge.look import Look
from tidegate.core.judge.verdict import Time, Verdict
from tidegate.core.model import Event, Release, Rollout, Service, Signal
from tidegate.core.phases import Phase
from tidegate.core.records import (
    AuditEntry,
    Beginning,
    Claim,
    Delivery,
    Freeze,
    Idempotency,
    ReleaseRow,
    ServiceRow,
    Token,
    VerdictRow,
)
from tidegate.errors import StoreError
from tidegate.ports import Clock, Diagnosis, Store
from tidegate.store import databases, deliveries, governing, leases, migrations, rollouts, services, tokens
from tidegate.store.databases import Collision, translated

T = TypeVar("T")
LEAST_FREE_BYTES = 64 * 1024 * 1024  # below this `check` warns: the write-ahead log alone may grow by megabytes


class SqlStore(Store):
    """One database, for many threads. Every call is one transaction; an error of the database is a `StoreError`.

    `url` is `sqlite:///PATH`; `clock` tells seconds since the epoch. Nothing is opened before the first call. Raises
    `InvalidSettings` for another URL.
    """

    def __init__(self, url: str, clock: Clock = time.time) -> None:
        self._database = databases.connect(url)
        self._clock = clock

    @contextmanager
    def _read(self, doing: str) -> Iterator[Connection]:
        with translated(doing), self._database.reading.begin() as connection:
            yield connection

    @contextmanager
    def _write(self, doing: str) -> Iterator[Connection]:
        with translated(doing), self._database.write() as connection:
            yield connection

    def _write_checked(self, doing: str, work: Callable[[Connection], T]) -> T:
        """When another transaction got in between, once more: the checks then see what that one wrote."""
        try:
            with self._write(doing) as connection:
                return work(connection)
        except Collision:
            with self._write(doing) as connection:
                return work(connection)

    # -- the schema ---------------------------------------------------------------------------------------------------

    def migrate(self) -> None:
        with translated("making the database"):
            databases.create_file(self._database.path)
        with self._write("bringing the schema up to date") as connection:
            migrations.upgrade(connection)

    def check(self) -> Sequence[Diagnosis]:
        try:
            return (self._diagnose(),)
        except StoreError as error:
            mend = "look at the file, its permissions and its disk, then check again"
            return (Diagnosis("database", False, error.message, mend),)

    def _diagnose(self) -> Diagnosis:
        if not self._database.path.exists():
            return Diagnosis("database", False, f"{self._database.path} does not exist", databases.MIGRATE)
        with self._read("reading the database") as connection:
            found, wanted = migrations.current(connection), migrations.head()
        if found != wanted:
            what = f"{self._database.path}: its schema is {found or 'missing'}, {wanted} is needed"
            return Diagnosis("database", False, what, databases.MIGRATE)
        with self._write("writing to the database") as connection:
            connection.execute(
                text("UPDATE alembic_version SET version_num = version_num")
            )  # to the disk, and changes nothing
        with translated("asking how full the disk is"):
            space = os.statvfs(self._database.path.parent)
        free = space.f_bavail * space.f_frsize
        if free < LEAST_FREE_BYTES:
            what = f"{self._database.path}: only {free // 1024**2} MiB are free on its disk"
            return Diagnosis("database", False, what, f"make room: {LEAST_FREE_BYTES // 1024**2} MiB at the least")
        return Diagnosis("database", True, f"SQLite {sqlite3.sqlite_version} at {self._database.path}, schema {found}")

    # -- the engine ---------------------------------------------------------------------------------------------------

    def claim(self, owner: str, ttl_seconds: float) -> Claim | None:
        with self._write("claiming a rollout") as connection:
            return leases.claim(connection, owner, ttl_seconds, self._clock())

    def end_leases(self) -> None:
        with self._write("ending the leases of engines that are gone") as connection:
            leases.end_all(connection, self._clock())

    def renew(self, claim: Claim, ttl_seconds: float) -> None:
        with self._write(f"renewing the lease on {claim.rollout}") as connection:
            leases.renew(connection, claim, self._clock() + ttl_seconds)

    def release(self, claim: Claim, due: Time | None) -> None:
        with self._write(f"giving {claim.rollout} back") as connection:
            leases.release(connection, claim, due, self._clock())

    def load(self, rollout: str) -> tuple[Rollout, tuple[Signal, ...]]:
        with self._read(f"reading rollout {rollout}") as connection:
            return rollouts.load(connection, rollout)

    def save(
        self,
        rollout: Rollout,
        events: Sequence[Event],
        fence: int,
        *,
        verdict: Verdict | None = None,
        look: Look | None = None,
    ) -> Rollout:
        with self._write(f"saving rollout {rollout.id}") as connection:
            return rollouts.save(connection, rollout, events, fence, verdict, look, self._clock())

    def note(self, rollout: str, events: Sequence[Event], fence: int) -> None:
        with self._write(f"noting events of {rollout}") as connection:
            rollouts.note(connection, rollout, events, fence)

    def pinned(self, service: str, release: str, digest: str, fence: int, rollout: str) -> None:
        with self._write(f"pinning release {release}") as connection:
            leases.require(connection, rollout, fence)
            services.pin(connection, service, release, digest)

    # -- services and releases ----------------------------------------------------------------------------------------

    def put_service(self, service: Service, version: int | None = None, *, audit: AuditEntry | None = None) -> ServiceRow:
        def put(connection: Connection) -> ServiceRow:
            services.put(connection, service, version)
            governing.note(connection, audit)
            return services.get(connection, service.key)

        return self._write_checked(f"storing service {service.key}", put)

    def get_service(self, key: str) -> ServiceRow:
        with self._read(f"reading service {key}") as connection:
            return services.get(connection, key)

    def services(self) -> tuple[ServiceRow, ...]:
        with self._read("listing services") as connection:
            return services.every(connection)

    def releases(self, service: str, limit: int = 50) -> tuple[ReleaseRow, ...]:
        with self._read(f"listing releases of {service}") as connection:
            return services.releases_of(connection, service, limit)

    def next_number(self, service: str) -> int:
        return self._write_checked(f"numbering a release of {service}", lambda c: services.next_number(c, service))

    def get_release(self, service: str, release: str) -> ReleaseRow:
        with self._read(f"reading release {release}") as connection:
            return services.get_release(connection, service, release)

    def last_good(self, service: str, before: str | None = None) -> ReleaseRow | None:
        with self._read(f"looking for a good release of {service}") as connection:
            return services.last_good(connection, service, before)

    def quarantined(self, service: str, digest: str) -> ReleaseRow | None:
        with self._read(f"looking for a quarantine in {service}") as connection:
            return services.quarantined(connection, service, digest)

    # -- rollouts -----------------------------------------------------------------------------------------------------

    def peers(self, rollout: str, group: str) -> tuple[Rollout, ...]:
        with self._read(f"reading the group of rollout {rollout}") as connection:
            return rollouts.peers(connection, rollout, group)

    def create(
        self,
        rollout: Rollout,
        service: Service,
        release: Release | None,
        key: Idempotency,
        event: Event,
        *,
        audit: AuditEntry | None = None,
        others: Sequence[Beginning] = (),
    ) -> Idempotency | None:
        def add(connection: Connection) -> Idempotency | None:
            said = rollouts.answered(connection, key)
            if said is None:
                for each in (Beginning(rollout, service, release, event), *others):
                    rollouts.add(connection, each, self._clock())
                rollouts.remember(connection, key, self._clock())
                governing.note(connection, audit)
            return said

        return self._write_checked(f"creating rollout {rollout.id}", add)

    def answered(self, key: Idempotency) -> Idempotency | None:
        with self._read("looking an idempotency key up") as connection:
            return rollouts.answered(connection, key)

    def rollouts(
        self, service: str | None = None, phase: Phase | None = None, before: str | None = None, limit: int = 50
    ) -> tuple[Rollout, ...]:
        with self._read("listing rollouts") as connection:
            return rollouts.page(connection, service, phase, before, limit)

    def signal(
        self,
        rollout: str,
        signal: Signal,
        version: int | None = None,
        key: Idempotency | None = None,
        *,
        audit: AuditEntry | None = None,
    ) -> Rollout:
        return self._write_checked(
            f"recording {signal.kind} for {rollout}",
            lambda connection: rollouts.signal(connection, rollout, signal, version, key, self._clock(), audit),
        )

    def events(self, rollout: str, after: int = 0, limit: int = 500) -> tuple[Event, ...]:
        with self._read(f"reading events of {rollout}") as connection:
            return rollouts.story(connection, rollout, after, limit)

    def verdicts(self, rollout: str) -> tuple[VerdictRow, ...]:
        with self._read(f"reading verdicts of {rollout}") as connection:
            return rollouts.judged(connection, rollout)

    def looks(self, rollout: str) -> tuple[Look, ...]:
        with self._read(f"reading looks of {rollout}") as connection:
            return rollouts.looked(connection, rollout)

    # -- freezes and the audit log --------------------------------------------------------------------------------------

    def frozen(self, environment: str) -> Freeze | None:
        with self._read(f"reading the freeze of {environment}") as connection:
            return governing.frozen(connection, environment, self._clock())

    def freezes(self) -> tuple[Freeze, ...]:
        with self._read("listing freezes") as connection:
            return governing.every(connection, self._clock())

    def freeze(self, freeze: Freeze, *, audit: AuditEntry | None = None) -> None:
        with self._write(f"freezing {freeze.environment}") as connection:
            governing.put(connection, freeze)
            governing.note(connection, audit)

    def thaw(self, environment: str, *, audit: AuditEntry | None = None) -> None:
        with self._write(f"lifting the freeze of {environment}") as connection:
            governing.lift(connection, environment)
            governing.note(connection, audit)

    def audit(
        self, before: int | None = None, limit: int = 50, subjects: Collection[str] | None = None
    ) -> tuple[AuditEntry, ...]:
        with self._read("reading the audit log") as connection:
            return governing.read(connection, before, limit, subjects)

    # -- what a CI is told --------------------------------------------------------------------------------------------

    def next_delivery(self, lease_seconds: float) -> Delivery | None:
        now = self._clock()
        with self._write("looking for something to deliver") as connection:
            return deliveries.claim(connection, now + lease_seconds, now)

    def delivered(self, rollout: str, number: int, lease_seconds: float) -> None:
        with self._write(f"noting a delivery of {rollout}") as connection:
            deliveries.note(connection, rollout, number, self._clock() + lease_seconds)

    def put_off(self, rollout: str, due: Time, *, failed: bool) -> None:
        with self._write(f"putting deliveries of {rollout} off") as connection:
            deliveries.put_off(connection, rollout, due, failed=failed)

    # -- tokens -------------------------------------------------------------------------------------------------------

    def add_token(self, token: Token, *, audit: AuditEntry | None = None) -> None:
        with self._write("adding a token") as connection:
            tokens.add(connection, token)
            governing.note(connection, audit)

    def tokens(self) -> tuple[Token, ...]:
        with self._read("listing tokens") as connection:
            return tokens.every(connection)

    def token(self, digest: str) -> Token | None:
        with self._read("looking a token up") as connection:
            found = tokens.by_digest(connection, digest)
        now = self._clock()
        if found is not None and tokens.use_is_due(found, now):
            with self._write("noting a token's use") as connection:
                tokens.note_use(connection, found, now)
        return found

    def drop_token(self, token_id: str, *, audit: AuditEntry | None = None) -> None:
        with self._write("dropping a token") as connection:
            tokens.drop(connection, token_id)
            governing.note(connection, audit)

    def close(self) -> None:
        self._database.close()
