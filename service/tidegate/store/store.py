"""The store on an SQL database. `store_port.Store` documents the methods."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TypeVar

from sqlalchemy import Connection

from tidegate.analysis.measurement import Measurement
from tidegate.analysis.verdict import Verdict
from tidegate.clock import Time
from tidegate.core.container import Container
from tidegate.core.model import Event, Release, Rollout, Service, Signal
from tidegate.core.phases import Phase
from tidegate.core.records import (
    AuditEntry,
    Claim,
    DeploymentPlan,
    Drift,
    EngineRow,
    Idempotency,
    NewRollout,
    Pruned,
    ReleaseRow,
    Retention,
    ServerStats,
    ServiceRow,
    VerdictRow,
)
from tidegate.errors import Refused, StoreError
from tidegate.ports import CheckStatus, Diagnosis
from tidegate.store import (
    build_watches,
    deliveries,
    leases,
    migrations,
    plans,
    pruning,
    quarantine,
    rollouts,
    services,
    signals,
    stats,
)
from tidegate.store.build_store import BuildStore
from tidegate.store.database import touch
from tidegate.store.operations import Operations
from tidegate.store_port import Store

T = TypeVar("T")


class SqlStore(Operations, BuildStore, Store):
    """One database. Thread-safe; every call is one transaction and raises `StoreError` when the database fails.

    `url` is `sqlite:///PATH` or `postgresql://USER@HOST/NAME`; `password_file` may hold the password. `clock` returns
    seconds since the epoch. Leases and due times, on which engines must agree, use `common` if given, else the clock of a
    shared database, else `clock`. Nothing is opened before the first call. Raises `InvalidSettings` for any other URL.
    """

    # -- the schema ---------------------------------------------------------------------------------------------------

    def migrate(self) -> tuple[str | None, str | None]:
        with self._database.translated("create the database"):
            self._database.create()
        with self._database.translated("migrate the schema"), self._database.migration() as connection:
            return migrations.upgrade(connection)

    def prepare(self) -> None:
        if not self._database.shared:
            self.migrate()
            return
        with self._read("read the schema version") as connection:
            wrong = migrations.unfit(migrations.current(connection))
        if wrong is not None:
            raise StoreError(f"{wrong[0]}: {wrong[1]}", retryable=False)

    def sole_engine(self) -> AbstractContextManager[None]:
        return self._database.sole_engine()

    def check(self) -> Sequence[Diagnosis]:
        try:
            return (self._diagnose(),)
        except StoreError as error:
            return (Diagnosis("database", CheckStatus.WRONG, error.message, self._database.fix),)

    def _diagnose(self) -> Diagnosis:
        with self._database.translated("check the database"):
            wrong = self._database.shortage()
        if wrong is not None:
            return Diagnosis("database", CheckStatus.WRONG, *wrong, needs_rollout=not self._database.exists())
        with self._read("read the database") as connection:
            where, schema = self._database.described(connection), migrations.current(connection)
        wrong = migrations.unfit(schema)
        if wrong is not None:
            return Diagnosis("database", CheckStatus.WRONG, f"{where}: {wrong[0]}", wrong[1])
        with self._write("write to the database") as connection:
            touch(connection)
        return Diagnosis("database", CheckStatus.OK, f"{where}, schema {schema}")

    def prune(self, retention: Retention, *, dry_run: bool = False) -> Pruned:
        if dry_run:
            with self._read("count old data") as connection:
                return pruning.count(connection, retention)
        with self._write("delete old data") as connection:
            if not self._database.alone(connection, pruning.LOCK_NUMBER):
                return Pruned(0, 0, 0, more=False)
            return pruning.batch(connection, retention)

    def engines(self) -> tuple[EngineRow, ...]:
        with self._read("list engines") as connection:
            return stats.list_engines(connection)

    def stats(self) -> ServerStats:
        with self._read("read the server statistics") as connection:
            counted = stats.read(connection, self._now(connection))
        return replace(counted, free_bytes=self._database.free_bytes())

    # -- the engine ---------------------------------------------------------------------------------------------------

    def claim(self, owner: str, ttl_seconds: float, without: Collection[str] = ()) -> Claim | None:
        with self._lease("claim a rollout") as connection:
            now = self._now(connection)
            clock_offset, was_set_back = self._clock_state(now)
            if was_set_back:
                leases.clock_set_back(connection, now + ttl_seconds, now)
                services.shift_clock(connection, now)
                deliveries.shift_clock(connection, now)
                build_watches.shift_clock(connection, 0.0, now)
            claim = leases.claim(connection, owner, ttl_seconds, without, now)
        self._clock_offset = clock_offset
        return None if claim is None else replace(claim, since=claim.since - self._ahead(now))

    def heartbeat(self, owner: str, version: str) -> None:
        with self._lease("write the engine heartbeat") as connection:
            stats.heartbeat(connection, owner, version, self._now(connection))

    def remove_engine(self, owner: str) -> None:
        with self._write("remove the engine from the list of running engines") as connection:
            stats.remove_engine(connection, owner)

    def expire_leases(self) -> None:
        if not self._database.shared:
            with self._write("expire the leases of dead engines") as connection:
                leases.expire_all(connection, self._now(connection))

    def shift_clock(self, seconds: float, ttl_seconds: float) -> None:
        if not self._database.shared:
            with self._write("adjust times to a clock jump") as connection:
                now = self._now(connection)
                leases.shift_clock(connection, seconds, now + ttl_seconds, now)
                services.shift_clock(connection, now)
                deliveries.shift_clock(connection, now)
                build_watches.shift_clock(connection, seconds, now)

    def raise_fences(self) -> None:
        with self._write("raise the fencing tokens") as connection:
            leases.raise_fences(connection, self._now(connection))

    def renew(self, claim: Claim, ttl_seconds: float) -> None:
        with self._lease(f"renew the lease on {claim.rollout}") as connection:
            leases.renew(connection, claim, self._now(connection) + ttl_seconds)

    def release(self, claim: Claim, due: Time | None) -> None:
        with self._lease(f"release the lease on {claim.rollout}") as connection:
            now = self._now(connection)
            leases.release(connection, claim, None if due is None else due + self._ahead(now), now)

    def load(self, rollout: str) -> tuple[Rollout, tuple[Signal, ...]]:
        with self._read(f"read rollout {rollout}") as connection:
            return rollouts.load(connection, rollout)

    def save(
        self,
        rollout: Rollout,
        events: Sequence[Event],
        fence: int,
        *,
        verdict: Verdict | None = None,
        measurement: Measurement | None = None,
    ) -> Rollout:
        with self._write(f"save rollout {rollout.id}") as connection:
            return rollouts.save(connection, rollout, events, fence, verdict, measurement, self._clock())

    def add_events(self, rollout: str, events: Sequence[Event], fence: int) -> None:
        with self._write(f"record events of {rollout}") as connection:
            rollouts.note(connection, rollout, events, fence)

    def set_digest(self, service: str, release: str, digest: str, fence: int, rollout: str) -> None:
        with self._write(f"pin release {release}") as connection:
            leases.require(connection, rollout, fence)
            services.pin(connection, service, release, digest)

    # -- services and releases ----------------------------------------------------------------------------------------

    def put_service(self, service: Service, version: int | None = None, *, audit: AuditEntry | None = None) -> ServiceRow:
        def put(connection: Connection) -> ServiceRow:
            services.put(connection, service, version)
            signals.record_audit(connection, audit)
            return services.get(connection, service.key)

        return self._write_checked(f"store service {service.key}", put)

    def remove_service(self, key: str, *, audit: AuditEntry | None = None) -> None:
        with self._write(f"remove service {key}") as connection:
            services.remove(connection, key, self._clock())
            signals.record_audit(connection, audit)

    def get_service(self, key: str) -> ServiceRow:
        with self._read(f"read service {key}") as connection:
            return services.get(connection, key)

    def services(self) -> tuple[ServiceRow, ...]:
        with self._read("list services") as connection:
            return services.list_services(connection)

    def find_conflicts(self, service: Service) -> tuple[Refused, ...]:
        with self._read(f"look for conflicts of {service.key}") as connection:
            return services.find_conflicts(connection, service)

    def add_plan(self, plan: DeploymentPlan) -> None:
        with self._write(f"store a plan of {plan.service}") as connection:
            plans.add(connection, plan)

    def find_plan(self, plan: str) -> DeploymentPlan | None:
        with self._read(f"read plan {plan}") as connection:
            return plans.find(connection, plan, self._clock())

    def releases(self, service: str, limit: int = 50, before: int | None = None) -> tuple[ReleaseRow, ...]:
        with self._read(f"list releases of {service}") as connection:
            return services.list_releases(connection, service, limit, before)

    def created_by(self, service: str, releases: Collection[str]) -> Mapping[str, Rollout]:
        with self._read(f"list first rollouts of {service}") as connection:
            return rollouts.created_by(connection, service, releases)

    def get_definition(self, rollout: str) -> Service | None:
        with self._read(f"read the definition of rollout {rollout}") as connection:
            return rollouts.get_definition(connection, rollout)

    def next_number(self, service: str) -> int:
        return self._write_checked(f"number a release of {service}", lambda c: services.next_number(c, service))

    def get_release(self, service: str, release: str) -> ReleaseRow:
        with self._read(f"read release {release}") as connection:
            return services.get_release(connection, service, release)

    def last_good(self, service: str, without: Collection[str] = ()) -> ReleaseRow | None:
        with self._read(f"find the last good release of {service}") as connection:
            return services.last_good(connection, service, without)

    def find_quarantined(self, service: str, digest: str, container: Container) -> ReleaseRow | None:
        with self._read(f"look up quarantined releases of {service}") as connection:
            return quarantine.find(connection, service, digest, container)

    def quarantined(self, service: str | None = None) -> tuple[ReleaseRow, ...]:
        with self._read("list releases in quarantine") as connection:
            return quarantine.list_quarantined(connection, service)

    def lift_quarantine(self, service: str, release: str, *, audit: AuditEntry | None = None) -> ReleaseRow:
        def lift(connection: Connection) -> ReleaseRow:
            row = quarantine.lift(connection, service, release)
            signals.record_audit(connection, audit)
            return row

        return self._write_checked(f"lift the quarantine of {service} {release}", lift)

    # -- drift detection ----------------------------------------------------------------------------------------------

    def next_drift_check(self, environment: str, every_seconds: float) -> ServiceRow | None:
        with self._lease(f"find a service of {environment} that is due for a drift check") as connection:
            return services.next_drift_check(connection, environment, every_seconds, self._clock())

    def add_late_event(self, service: str, event: Event) -> None:
        with self._write(f"record an event of {service}") as connection:
            rollouts.add_late_event(connection, service, event)

    def watched_services(self, environment: str) -> tuple[str, ...]:
        with self._read(f"list the services of {environment}") as connection:
            return services.watched(connection, environment)

    def observe_soon(self, service: str) -> None:
        with self._lease(f"make {service} due") as connection:
            services.observe_soon(connection, service, self._clock())

    def set_drift(self, service: str, drift: Drift | None) -> None:
        with self._write(f"record the drift of {service}") as connection:
            services.set_drift(connection, service, drift)

    # -- rollouts -----------------------------------------------------------------------------------------------------

    def peers(self, rollout: str, group: str) -> tuple[Rollout, ...]:
        with self._read(f"read the group of rollout {rollout}") as connection:
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
        others: Sequence[NewRollout] = (),
    ) -> Idempotency | None:
        def add(connection: Connection) -> Idempotency | None:
            stored = rollouts.find_answer(connection, key)
            if stored is None:
                now = self._now(connection)
                rollouts.store_answer(
                    connection, key, now
                )  # first, so that two concurrent requests with the same key collide here
                for other in (NewRollout(rollout, service, release, event), *others):
                    rollouts.add(connection, other, now)
                signals.record_audit(connection, audit)
            return stored

        return self._write_checked(f"create rollout {rollout.id}", add)

    def find_answer(self, key: Idempotency) -> Idempotency | None:
        with self._read("look up an idempotency key") as connection:
            return rollouts.find_answer(connection, key)

    def rollouts(
        self, service: str | None = None, phase: Phase | None = None, before: str | None = None, limit: int = 50
    ) -> tuple[Rollout, ...]:
        with self._read("list rollouts") as connection:
            return rollouts.list_rollouts(connection, service, phase, before, limit)

    def signal(
        self,
        rollout: str,
        signal: Signal,
        version: int | None = None,
        key: Idempotency | None = None,
        *,
        audit: AuditEntry | None = None,
    ) -> Rollout:
        def record(connection: Connection) -> Rollout:
            return signals.record(connection, rollout, signal, version, key, self._now(connection), audit)

        return self._write_checked(f"record {signal.kind} for {rollout}", record)

    def events(self, rollout: str, after: int = 0, limit: int = 500) -> tuple[Event, ...]:
        with self._read(f"read events of {rollout}") as connection:
            return rollouts.list_events(connection, rollout, after, limit)

    def last_events(self, wanted: Collection[str]) -> Mapping[str, int]:
        with self._read("look up new events") as connection:
            return rollouts.last_events(connection, wanted)

    def verdicts(self, rollout: str) -> tuple[VerdictRow, ...]:
        with self._read(f"read verdicts of {rollout}") as connection:
            return rollouts.list_verdicts(connection, rollout)

    def measurements(self, rollout: str, after: int = 0) -> tuple[Measurement, ...]:
        with self._read(f"read measurements of {rollout}") as connection:
            return rollouts.list_measurements(connection, rollout, after)

    def close(self) -> None:
        self._database.close()
