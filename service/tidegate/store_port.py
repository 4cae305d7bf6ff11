"""The store port: what the engine and the web require of the database. `tidegate.store` implements it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from tidegate.analysis.measurement import Measurement
from tidegate.analysis.verdict import Verdict
from tidegate.clock import Time
from tidegate.core.build_queue import Turn, WaitingBuild
from tidegate.core.build_watch import BuildWatch
from tidegate.core.container import Container
from tidegate.core.model import Event, Release, Rollout, Service, Signal
from tidegate.core.phases import Phase
from tidegate.core.records import (
    AuditEntry,
    Claim,
    Delivery,
    DeploymentPlan,
    Drift,
    EngineRow,
    Freeze,
    Idempotency,
    NewRollout,
    Pruned,
    ReleaseRow,
    Retention,
    ServerStats,
    ServiceRow,
    Token,
    VerdictRow,
)
from tidegate.errors import Refused
from tidegate.ports import Diagnosis


class EngineStore(Protocol):
    """The part of the store that the engine uses. Raises `StoreError`, `LeaseLost`."""

    def claim(self, owner: str, ttl_seconds: float, without: Collection[str] = ()) -> Claim | None:
        """Claim a due rollout without a valid lease, except in these environments. Counts a takeover if its owner died."""

    def heartbeat(self, owner: str, version: str) -> None:
        """Record that this engine is running and looking for work."""

    def remove_engine(self, owner: str) -> None:
        """Record that this engine shut down cleanly."""

    def expire_leases(self) -> None:
        """On a database that allows one engine, expire all leases: their owners are gone."""

    def shift_clock(self, seconds: float, ttl_seconds: float) -> None:
        """After a jump of this machine's clock, on a database that uses it: make everything due, and renew valid leases."""

    def renew(self, claim: Claim, ttl_seconds: float) -> None:
        """Extend the lease."""

    def release(self, claim: Claim, due: Time | None) -> None:
        """Release the lease; it is due again at `due`, never for None, or at once if a signal arrived meanwhile."""

    def load(self, rollout: str) -> tuple[Rollout, tuple[Signal, ...]]:
        """A rollout and every signal recorded for it, oldest first. Raises `UnknownRollout`."""

    def save(
        self,
        rollout: Rollout,
        events: Sequence[Event],
        fence: int,
        *,
        verdict: Verdict | None = None,
        measurement: Measurement | None = None,
    ) -> Rollout:
        """Save the state, events, verdict and measurement in one transaction. Returns the rollout with its new version.

        With a final phase it also marks the release good (succeeded) or quarantined (rolled back for a finding), and sets
        the service's live release. It does not write `paused`, which signals control.
        """

    def add_events(self, rollout: str, events: Sequence[Event], fence: int) -> None:
        """Record events under the fencing token."""

    def measurements(self, rollout: str, after: int = 0) -> tuple[Measurement, ...]:
        """The saved measurements, oldest first, without the first `after`. The analysis is restored from them."""

    def set_digest(self, service: str, release: str, digest: str, fence: int, rollout: str) -> None:
        """Record the digest of a release's image."""

    def get_release(self, service: str, release: str) -> ReleaseRow:
        """Raises `UnknownService` with the id in its message."""

    def get_freeze(self, environment: str) -> Freeze | None:
        """The freeze in force, if any."""

    def peers(self, rollout: str, group: str) -> tuple[Rollout, ...]:
        """The other rollouts of the group."""

    def find_quarantined(self, service: str, digest: str, container: Container) -> ReleaseRow | None:
        """The release of the service with this digest and configuration that was quarantined last; None if one with both is
        live or was good since."""

    def next_drift_check(self, environment: str, every_seconds: float) -> ServiceRow | None:
        """Claim a live service without a live rollout that was not checked for `every_seconds`; None if there is none."""

    def watched_services(self, environment: str) -> tuple[str, ...]:
        """The keys of services with a live release or a live rollout."""

    def observe_soon(self, service: str) -> None:
        """Make the live rollout of the service, or else its drift check, due now."""

    def add_late_event(self, service: str, event: Event) -> None:
        """Add an event about the service to its last rollout, unless this is live or has an event with this message."""

    def set_drift(self, service: str, drift: Drift | None) -> None:
        """Record the drift of a service; None: it matches its release."""

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
        """Store service, release (None if it exists), rollout, first event and key in one transaction, with the others of
        the group. Ends a live repair, unless this is one. Refuses a repair or scaling of a release that has changed.

        Returns None when created, or the stored response of an earlier request with the same key and body. Raises
        `KeyReused`, `RolloutInProgress`, `RouteTaken`, `Superseded`.
        """

    def rollouts(
        self, service: str | None = None, phase: Phase | None = None, before: str | None = None, limit: int = 50
    ) -> tuple[Rollout, ...]:
        """Rollouts, newest first; `before` is the last id of the previous page."""


class Store(EngineStore, Protocol):
    """The whole store."""

    def migrate(self) -> tuple[str | None, str | None]:
        """Migrate the schema; may run concurrently. Returns the revisions before (None: it was empty) and after."""

    def prepare(self) -> None:
        """Raises `StoreError` unless the schema is compatible. Migrates a database that only one machine uses."""

    def sole_engine(self) -> AbstractContextManager[None]:
        """Lock a database that allows only one engine. Raises `Refused` when another engine runs."""

    def check(self) -> Sequence[Diagnosis]:
        """The lines of `tidegate check`; never raises."""

    def raise_fences(self) -> None:
        """After a restore, without engines: raise fencing tokens above all that proxies have seen; expire all leases."""

    def prune(self, retention: Retention, *, dry_run: bool = False) -> Pruned:
        """Delete one batch of old data: measurements first, then rollouts with their data and unreferenced releases.

        Keeps live rollouts, the newest ones of each service, live releases and the newest good ones. Does nothing while
        another process prunes. `dry_run` only counts.
        """

    def engines(self) -> tuple[EngineRow, ...]:
        """Engines that run or did not shut down cleanly, latest heartbeat first."""

    def stats(self) -> ServerStats:
        """The statistics of the server."""

    def put_service(self, service: Service, version: int | None = None, *, audit: AuditEntry | None = None) -> ServiceRow:
        """Store or replace a service. Raises `VersionConflict` unless `version` is the present one, and `RouteTaken`."""

    def remove_service(self, key: str, *, audit: AuditEntry | None = None) -> None:
        """Remove a service of which nothing runs. Its releases and rollouts are kept."""

    def get_service(self, key: str) -> ServiceRow:
        """Raises `UnknownService`, also for one that was removed."""

    def services(self) -> tuple[ServiceRow, ...]:
        """All services, by key."""

    def find_conflicts(self, service: Service) -> tuple[Refused, ...]:
        """Why `put_service` would refuse the service: `RouteTaken`, `ListenTaken`, both or neither."""

    def add_plan(self, plan: DeploymentPlan) -> None:
        """Store a plan, for a week."""

    def find_plan(self, plan: str) -> DeploymentPlan | None:
        """The plan; None if there is none, or if it is older than a week."""

    def releases(self, service: str, limit: int = 50, before: int | None = None) -> tuple[ReleaseRow, ...]:
        """The releases of the service with a number below `before`, newest first."""

    def created_by(self, service: str, releases: Collection[str]) -> Mapping[str, Rollout]:
        """The first rollout to each of these releases, by release; those whose rollout was pruned are left out."""

    def get_definition(self, rollout: str) -> Service | None:
        """The definition that a rollout was requested with; None for one that keeps the live release. Raises
        `UnknownRollout`."""

    def next_number(self, service: str) -> int:
        """Reserve the number of the service's next release."""

    def last_good(self, service: str, without: Collection[str] = ()) -> ReleaseRow | None:
        """The release last marked good, and since neither quarantined nor left by a rollback; none of `without`."""

    def quarantined(self, service: str | None = None) -> tuple[ReleaseRow, ...]:
        """The releases in quarantine, of this service or of all, the last one first."""

    def lift_quarantine(self, service: str, release: str, *, audit: AuditEntry | None = None) -> ReleaseRow:
        """End the quarantine of this release's image with its configuration; returns the release as it was. Raises
        `UnknownService`, `NotQuarantined`."""

    def find_answer(self, key: Idempotency) -> Idempotency | None:
        """The stored response for this key; None when the key is new or empty. Raises `KeyReused`."""

    def signal(
        self,
        rollout: str,
        signal: Signal,
        version: int | None = None,
        key: Idempotency | None = None,
        *,
        audit: AuditEntry | None = None,
    ) -> Rollout:
        """Record a signal, update `paused`, make the rollout due, and add an event; also for its group, and
        an approval for those that wait at the same point. Raises `IllegalMove` when the rollout has ended, and
        `VersionConflict` when `version` is not the present one.

        `key` is stored with it; a repeated key changes nothing and returns the present rollout. Raises `KeyReused`.
        """

    def events(self, rollout: str, after: int = 0, limit: int = 500) -> tuple[Event, ...]:
        """Events with a number above `after`."""

    def last_events(self, wanted: Collection[str]) -> Mapping[str, int]:
        """The number of the last event, by rollout; unknown rollouts are left out."""

    def verdicts(self, rollout: str) -> tuple[VerdictRow, ...]:
        """All verdicts, oldest first."""

    def freeze(self, freeze: Freeze, *, audit: AuditEntry | None = None) -> None:
        """Freeze an environment; replaces an existing freeze."""

    def unfreeze(self, environment: str, *, audit: AuditEntry | None = None) -> None:
        """Lift the freeze, if there is one."""

    def freezes(self) -> tuple[Freeze, ...]:
        """The freezes in force, by environment."""

    def audit(
        self, before: int | None = None, limit: int = 50, subjects: Collection[str] | None = None
    ) -> tuple[AuditEntry, ...]:
        """Audit entries, newest first, with numbers below `before`; of these subjects, or of all."""

    def next_delivery(self, ttl_seconds: float, environment: str = "", without: Collection[str] = ()) -> Delivery | None:
        """Claim a delivery with new events, in this environment or in all but those `without`; None when there is none."""

    def mark_delivered(self, rollout: str, number: int, lease_seconds: float) -> None:
        """Record that events up to `number` were delivered; the claim of the rest is extended."""

    def postpone_delivery(self, rollout: str, due: Time, *, failed: bool) -> None:
        """Postpone the next delivery until `due`."""

    def take_turn(self, asking: WaitingBuild) -> Turn:
        """Queue a build that wants to deploy, or keep its place; it loses the place when it does not ask again in time.
        With `supersede`, the rollout of an older build of the job that waits for a person is rolled back. Raises
        `Superseded`, `Refused`."""

    def leave_queue(self, service: str, job: str, number: int) -> None:
        """The build waits no longer."""

    def next_build_watch(
        self, ttl_seconds: float, environment: str = "", without: Collection[str] = ()
    ) -> BuildWatch | None:
        """Claim a build to watch, in this environment or in all but those `without`; None when none is due."""

    def record_build_watch(
        self, watch: BuildWatch, due: Time, events: Sequence[Event] = (), *, audit: AuditEntry | None = None
    ) -> None:
        """Record what is known of a build, with events of its rollout; it is due again at `due`."""

    def end_build_watch(self, rollout: str) -> None:
        """Watch the build of the rollout no longer."""

    def note_build_poll(self, rollout: str) -> None:
        """Record that the build of the rollout has polled for it."""

    def add_token(self, token: Token, *, audit: AuditEntry | None = None) -> None: ...

    def tokens(self) -> tuple[Token, ...]: ...

    def token(self, digest: str) -> Token | None:
        """The token with this digest of its secret; also records its use."""

    def delete_token(self, token_id: str, *, audit: AuditEntry | None = None) -> None:
        """Delete a token. Raises `Refused` when there is none."""

    def close(self) -> None: ...
