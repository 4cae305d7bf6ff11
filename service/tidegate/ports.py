"""The ports: what the engine and the web require of the outside. Drivers and the store implement them.

An SDK error never leaves its driver: it becomes the matching `DriverError` with the fact `retryable`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from tidegate.analysis.measurement import Measurement
from tidegate.analysis.queries import Series
from tidegate.analysis.verdict import Verdict
from tidegate.clock import Time, Window
from tidegate.core.container import Container
from tidegate.core.hooks import Job, JobState
from tidegate.core.image_reference import PinnedImage
from tidegate.core.model import DEFAULT_MAX_RESTARTS, Build, Event, Instance, Release, Rollout, Service, Signal
from tidegate.core.phases import Phase
from tidegate.core.probes import ProbeResult
from tidegate.core.records import (
    AuditEntry,
    Claim,
    Delivery,
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
from tidegate.core.routing import Backend, Member, RouterState

Clock = Callable[[], Time]


class CheckStatus(StrEnum):
    """The status of a checked part."""

    OK = "ok"  # it works
    WARNING = "warning"  # it works, but a person should know about the result
    WRONG = "wrong"  # it does not work, or requests may be lost


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One line of `tidegate check`: a configured part, whether it works, and how to fix it."""

    part: str  # "docker local", "haproxy", "prometheus", "database"
    status: CheckStatus
    result: str  # the version, or the problem
    fix: str = ""  # what to do; empty when ok
    needs_rollout: bool = False  # what it checks exists only after a first rollout, so before that it is not wrong


class Platform(Protocol):
    """Runs instances. Every call may be repeated after a crash. Raises `PlatformError`."""

    def pin(self, release: Release) -> PinnedImage:
        """Resolve the image to an immutable digest on every host, and check that it can be started.

        A release with a digest keeps it. Otherwise `pull_policy` says whether the registry is asked what the tag means. A
        missing image, and one without any readiness check, is an error that is not retryable."""

    def instances(self, service: str, max_restarts: int = DEFAULT_MAX_RESTARTS) -> tuple[Instance, ...]:
        """All instances of this service on all hosts, stopped and failed ones included.

        `max_restarts`: an instance that is not ready and has restarted more often is `failed`; one that has restarted
        as often or less is `starting`. A host that does not respond is an error, never an empty result."""

    def start(self, release: Release, ordinals: Collection[int]) -> None:
        """Create and start instances concurrently, without waiting until they are ready. Ordinals that exist and are not
        stopping are skipped."""

    def stop(self, instances: Collection[Instance], grace_seconds: float) -> None:
        """Stop and remove instances in the background; they are `stopping` until removed. Unknown ones are ignored."""

    def tail_logs(self, instance: Instance, lines: int) -> str:
        """Its last log lines, for the report."""

    def run_job(self, job: Job) -> JobState:
        """Start the job unless it was started before; do not wait. One that cannot start has a `detail` and a status."""

    def stop_job(self, job: Job) -> None:
        """Stop the job if it is running; `run_job` then returns its state."""

    def remove_jobs(self, service: str, rollout: str) -> None:
        """Stop and remove all jobs of the rollout, if there are any."""

    def check(self) -> Sequence[Diagnosis]:
        """The lines of `tidegate check`; never raises."""

    def close(self) -> None:
        """Wait for background work, then release all resources."""


class Router(Protocol):
    """Sends traffic to instances, and is the authority on where traffic goes. Raises `RouterError`."""

    def unsupported(self, backend: Backend) -> Mapping[str, str]:
        """What of a service's backend this router cannot have: a message by key of `x-tidegate`. Asks no proxy."""
        return {}

    def read(self, backend: Backend) -> RouterState:
        """The state of the running proxy, not of a file. An unknown backend gives an empty `RouterState`."""

    def write(self, backend: Backend, members: Collection[Member], fence: int) -> None:
        """Send new requests to exactly these members, in proportion to their weights; others finish theirs (`draining`).

        Idle ones are removed, which proves that nothing reaches them. A fencing token lower than the highest one seen is
        refused. What the proxy does not support (weights, a preview's header) is an error that is not retryable."""

    def check(self) -> Sequence[Diagnosis]:
        """The lines of `tidegate check`; never raises."""


class MetricsSource(Protocol):
    """Runs PromQL queries. Raises `MetricsError` with a reason code."""

    def fetch(self, query: str, window: Window, step_seconds: float = 0.0) -> tuple[Series, ...]:
        """For a plain selector, the raw samples in the window; for any other query, its value at the end of the window, one
        sample for each series. With `step_seconds`, the value at each multiple of the step in the window."""

    def check(self) -> Sequence[Diagnosis]:
        """The lines of `tidegate check`; never raises."""


class DocumentFetcher(Protocol):
    """Fetches OpenAPI documents from instances. Raises `DocumentError`."""

    def fetch(self, address: str, path: str, timeout_seconds: float) -> Mapping[str, object] | None:
        """The JSON or YAML object at a path of the instance at `address` (`ip:port`); None for a 404. Size and total
        time are limited; redirects are not followed."""


class ProbeClient(Protocol):
    """Sends requests to one service as its clients do. Used by one thread at a time; never raises."""

    def probe(self, *, kept: bool) -> ProbeResult:
        """Send one GET request over a new connection, or over the one kept alive."""

    def close(self) -> None:
        """Close the kept connection."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A delivery to the CI: an event, the present state of its rollout, a link for people, and all signals so far."""

    rollout: Rollout
    event: Event
    link: str
    signals: tuple[Signal, ...] = ()


class CI(Protocol):
    """Receives every event of the rollouts that its builds requested, in order and at least once. Raises `CIError`."""

    def report(self, build: Build, notice: Notice) -> None:
        """Show the event, and answer the CI's pending inputs for the rollout. Idempotent."""

    def check(self) -> Sequence[Diagnosis]:
        """The lines of `tidegate check`; never raises."""


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

        With a final phase it also marks the release good (succeeded) or quarantined (rolled back), and sets the service's
        live release. It does not write `paused`, which signals control.
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
        """The quarantined release of the service with this digest and configuration that was rolled back last; None if one
        with both is live or was good since."""

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

    def get_service(self, key: str) -> ServiceRow:
        """Raises `UnknownService`."""

    def services(self) -> tuple[ServiceRow, ...]:
        """All services, by key."""

    def releases(self, service: str, limit: int = 50) -> tuple[ReleaseRow, ...]:
        """The releases of the service, newest first."""

    def next_number(self, service: str) -> int:
        """Reserve the number of the service's next release."""

    def last_good(self, service: str, before: str | None = None) -> ReleaseRow | None:
        """The release last marked good, and since neither quarantined nor left by a rollback; other than `before`."""

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

    def add_token(self, token: Token, *, audit: AuditEntry | None = None) -> None: ...

    def tokens(self) -> tuple[Token, ...]: ...

    def token(self, digest: str) -> Token | None:
        """The token with this digest of its secret; also records its use."""

    def delete_token(self, token_id: str, *, audit: AuditEntry | None = None) -> None:
        """Delete a token. Raises `Refused` when there is none."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Drivers:
    """The drivers of one environment."""

    platform: Platform
    router: Router
    metrics: MetricsSource | None  # None: the environment has none, and services with checks are refused
    documents: DocumentFetcher
    ci: CI | None = None
