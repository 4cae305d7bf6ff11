"""Every port on one page: what the engine and the web ask of the outside. Drivers and the store implement these.

An SDK's error never leaves its driver: it becomes the matching `DriverError` with the fact `retryable`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from tidegate.analysis.measurement import Measurement
from tidegate.analysis.queries import Series
from tidegate.analysis.verdict import Verdict
from tidegate.clock import Time, Window
from tidegate.core.hooks import Job, JobState
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


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One line of `tidegate check`: a configured part, whether it works, and how to mend it when it does not."""

    part: str  # "docker local", "haproxy", "prometheus", "database"
    ok: bool
    found: str  # version or what is wrong, one sentence
    fix: str = ""  # what to do, one sentence; empty when ok


class Platform(Protocol):
    """Runs instances. Every verb may be repeated after a crash. Raises `PlatformError`."""

    def pin(self, release: Release) -> str:
        """Resolve the image to an immutable digest on every host and make sure that it could be started.

        Pulls where a registry knows it. Refuses (not retryable) a missing image, and one whose readiness could never
        be known.
        """

    def instances(self, service: str, max_restarts: int = DEFAULT_MAX_RESTARTS) -> tuple[Instance, ...]:
        """All instances of this service on all hosts, stopped and failed ones included.

        `max_restarts`: an instance that is not ready and has restarted more often is `failed`; one that has restarted
        as often or less is `starting`. A host that does not answer is an error, never an empty answer.
        """

    def start(self, release: Release, ordinals: Collection[int]) -> None:
        """Create and start these side by side; asks, and does not wait for ready. An ordinal that exists already,
        not stopping, is left alone."""

    def stop(self, instances: Collection[Instance], grace_seconds: float) -> None:
        """Stop and remove these in the background; they show as `stopping` until gone. Unknown ones are no error."""

    def tail_logs(self, instance: Instance, lines: int) -> str:
        """Its last log lines, for the report."""

    def run_job(self, job: Job) -> JobState:
        """Begin it unless it was begun before, and say how it stands; does not wait for its end. What cannot be started
        has ended, too: with a `detail` and a status other than 0."""

    def stop_job(self, job: Job) -> None:
        """Stop it if it still runs; how it stood is then told by `run`."""

    def remove_jobs(self, service: str, rollout: str) -> None:
        """Stop and remove every job of the rollout; none left is no error."""

    def check(self) -> Sequence[Diagnosis]:
        """What `tidegate check` says of it; never raises."""

    def close(self) -> None:
        """Wait for what runs in the background, then let go."""


class Router(Protocol):
    """Sends traffic to instances, and is the truth about where it goes. Raises `RouterError`."""

    def read(self, backend: Backend) -> RouterState:
        """What the proxy really does, asked from the proxy and not from a file. Unknown backend: an empty `RouterState`."""

    def write(self, backend: Backend, members: Collection[Member], fence: int) -> None:
        """Make exactly these take new requests, in the proportion of their weights. Those left out finish theirs
        (`draining`); a draining one that is idle is struck out, which proves that nothing can reach it. Refuses a fence
        lower than the highest seen, and not retryably what this proxy cannot do (weights, a preview's header)."""

    def check(self) -> Sequence[Diagnosis]:
        """What `tidegate check` says of it; never raises."""


class MetricsSource(Protocol):
    """Answers questions. Raises `MetricsError` with a reason code."""

    def fetch(self, query: str, window: Window, step_seconds: float = 0.0) -> tuple[Series, ...]:
        """For a plain selector the raw samples inside the window; for any other PromQL its value at the window's end,
        one sample a series. With `step_seconds` either in steps over the window: at each multiple of it the value then."""

    def check(self) -> Sequence[Diagnosis]:
        """What `tidegate check` says of it; never raises."""


class DocumentFetcher(Protocol):
    """Fetches what a release serves of itself. Raises `DocumentError`."""

    def fetch(self, address: str, path: str, timeout_seconds: float) -> Mapping[str, object] | None:
        """The JSON or YAML object that the instance at `address` (`ip:port`) serves; None when it has none there (404).
        Bounded in size, and in time however slowly it comes; redirects are not followed."""


class ProbeClient(Protocol):
    """Asks one service as its clients do. Used by one thread at a time; never raises."""

    def probe(self, *, kept: bool) -> ProbeResult:
        """One GET: over a connection of its own, or over the one that was kept from the last time."""

    def close(self) -> None:
        """Let go of the kept connection."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What a CI is told: an event of a rollout, how the rollout stands now, where people look, and all wishes so far."""

    rollout: Rollout
    event: Event
    link: str
    signals: tuple[Signal, ...] = ()


class CI(Protocol):
    """Told of every event of the rollouts that its builds asked for: at least once, and in order. Raises `CIError`."""

    def report(self, build: Build, notice: Notice) -> None:
        """Show it, and settle what waits there for the rollout. Repeated, it changes nothing more."""

    def check(self) -> Sequence[Diagnosis]:
        """What `tidegate check` says of it; never raises."""


class EngineStore(Protocol):
    """What the engine asks of the database. Raises `StoreError`, `LeaseLost`."""

    def claim(self, owner: str, ttl_seconds: float) -> Claim | None:
        """A due rollout that nobody holds; None when there is none. Counts a resume when its last owner vanished."""

    def heartbeat(self, owner: str, version: str) -> None:
        """This engine is alive and looks for work."""

    def remove_engine(self, owner: str) -> None:
        """This engine ends as it should: nobody misses it."""

    def expire_leases(self) -> None:
        """Where the database allows one engine, and this is it: whoever held a lease is gone, so none is waited for."""

    def shift_clock(self, seconds: float, ttl_seconds: float) -> None:
        """Where the database goes by this machine's clock, which jumped: what would be due later is due now, and the leases
        that are held last so long from now."""

    def renew(self, claim: Claim, ttl_seconds: float) -> None:
        """Hold it longer."""

    def release(self, claim: Claim, due: Time | None) -> None:
        """Give it back, to be claimed again from `due` on; None when it is finished. A signal that came meanwhile
        makes it due at once."""

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
        """State, events, verdict and look in one transaction, or `LeaseLost`. Returns it with its new version.

        When the phase becomes final it also sets the release good (succeeded) or quarantined (turned back), and the
        service's live release. `paused` is not written: it belongs to the signals.
        """

    def add_events(self, rollout: str, events: Sequence[Event], fence: int) -> None:
        """Events alone, under the same fence."""

    def measurements(self, rollout: str, after: int = 0) -> tuple[Measurement, ...]:
        """Every look at the metrics that was saved, oldest first, without the first `after` of them: what the judge is
        folded over."""

    def set_digest(self, service: str, release: str, digest: str, fence: int, rollout: str) -> None:
        """Record what the image was resolved to."""

    def get_release(self, service: str, release: str) -> ReleaseRow:
        """Raises `UnknownService` with the id in its message."""

    def get_freeze(self, environment: str) -> Freeze | None:
        """The freeze that holds now, if there is one."""

    def peers(self, rollout: str, group: str) -> tuple[Rollout, ...]:
        """The other rollouts of the group."""

    def find_quarantined(self, service: str, digest: str) -> ReleaseRow | None:
        """The release of the service with this digest that was turned back last, unless one was good since."""

    def next_drift_check(self, environment: str, every_seconds: float) -> ServiceRow | None:
        """A service of the environment that has a live release, no live rollout, and was not given to any engine for so
        long; None when there is none."""

    def set_drift(self, service: str, drift: Drift | None) -> None:
        """Record how it was found between rollouts; None: as its release wants."""

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
        """Service definition, release (None when it exists already), rollout, first event and key, in one transaction;
        with those of the others of its group. A live repair of the service ends in the same transaction, unless this is
        another; a repair and a scaling are refused where another release serves by now, or another number of it.

        Returns None when created, or the stored answer when the same key came with the same body before. Raises
        `KeyReused`, `RolloutInProgress`, `RouteTaken`, `Superseded`.
        """

    def rollouts(
        self, service: str | None = None, phase: Phase | None = None, before: str | None = None, limit: int = 50
    ) -> tuple[Rollout, ...]:
        """The newest first; `before` is the last id of the page before."""


class Store(EngineStore, Protocol):
    """All that is asked of the database."""

    def migrate(self) -> None:
        """Bring the schema up to date; several may do it at once."""

    def prepare(self) -> None:
        """Before serving or driving: raise `StoreError` unless the schema fits this program. A database that only one
        machine uses is brought up to date here."""

    def sole_engine(self) -> AbstractContextManager[None]:
        """Be the only engine on a database that allows only one. Raises `Refused` when there is another."""

    def check(self) -> Sequence[Diagnosis]:
        """What `tidegate check` says of it; never raises."""

    def raise_fences(self) -> None:
        """The database is older than the world: from now on fences are higher than any that a proxy can have seen, and no
        lease of that time is waited for. No engine may run meanwhile."""

    def prune(self, retention: Retention, *, dry_run: bool = False) -> Pruned:
        """Forget a little of what is old: looks first, then rollouts with all that belongs to them and the releases that
        nobody tells of any more. Never a live rollout, the newest of a service, the release that serves or the last good
        ones. Nothing while another program does it. `dry_run`: count everything, and change nothing."""

    def engines(self) -> tuple[EngineRow, ...]:
        """Those that run or ended without a word, the one heard last first."""

    def stats(self) -> ServerStats:
        """How the whole server stands."""

    def put_service(self, service: Service, version: int | None = None, *, audit: AuditEntry | None = None) -> ServiceRow:
        """Store or replace. `version`: `Stale` unless it is the present one. Raises `RouteTaken`."""

    def get_service(self, key: str) -> ServiceRow:
        """Raises `UnknownService`."""

    def services(self) -> tuple[ServiceRow, ...]:
        """All, by key."""

    def releases(self, service: str, limit: int = 50) -> tuple[ReleaseRow, ...]:
        """Those of the service, the newest first."""

    def next_number(self, service: str) -> int:
        """The number that the next release of the service will have; reserved in the call."""

    def last_good(self, service: str, before: str | None = None) -> ReleaseRow | None:
        """The release last set good, not quarantined since, other than `before`."""

    def find_answer(self, key: Idempotency) -> Idempotency | None:
        """What was said to this key before; None when it is new or empty. Raises `KeyReused`."""

    def signal(
        self,
        rollout: str,
        signal: Signal,
        version: int | None = None,
        key: Idempotency | None = None,
        *,
        audit: AuditEntry | None = None,
    ) -> Rollout:
        """Record a wish, set or clear `paused`, make the rollout due, add an event; the same for the others of its group
        that still go on, an approval for those that wait at the same point. Refused (`IllegalMove`) when the
        rollout is finished, `Stale` when `version` is not the present one.

        `key` is recorded with it; the same key again changes nothing and returns the rollout as it stands. Raises
        `KeyReused`.
        """

    def events(self, rollout: str, after: int = 0, limit: int = 500) -> tuple[Event, ...]:
        """Those with a number above `after`."""

    def last_events(self, wanted: Collection[str]) -> Mapping[str, int]:
        """The number of the last event of each of these rollouts; unknown ones are left out."""

    def verdicts(self, rollout: str) -> tuple[VerdictRow, ...]:
        """All, oldest first."""

    def freeze(self, freeze: Freeze, *, audit: AuditEntry | None = None) -> None:
        """Freeze its environment; a freeze that is there is replaced."""

    def unfreeze(self, environment: str, *, audit: AuditEntry | None = None) -> None:
        """Lift the freeze; no error when there is none."""

    def freezes(self) -> tuple[Freeze, ...]:
        """Those that hold now, by environment."""

    def audit(
        self, before: int | None = None, limit: int = 50, subjects: Collection[str] | None = None
    ) -> tuple[AuditEntry, ...]:
        """What was asked for, the newest first; numbers below `before`; only of these subjects, or of all."""

    def next_delivery(self, lease_seconds: float) -> Delivery | None:
        """One with something to tell, for this caller alone for so long; None when there is none."""

    def mark_delivered(self, rollout: str, number: int, lease_seconds: float) -> None:
        """The CI was told of the events up to this one; the rest stays this caller's for so long."""

    def postpone_delivery(self, rollout: str, due: Time, *, failed: bool) -> None:
        """Deliver no more of it before then."""

    def add_token(self, token: Token, *, audit: AuditEntry | None = None) -> None: ...

    def tokens(self) -> tuple[Token, ...]: ...

    def token(self, digest: str) -> Token | None:
        """By the secret's digest; also records that it was used."""

    def delete_token(self, token_id: str, *, audit: AuditEntry | None = None) -> None:
        """Raises `Refused` when there is none."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Drivers:
    """The drivers of one environment."""

    platform: Platform
    router: Router
    metrics: MetricsSource | None  # None: the environment has none, and services with checks are refused
    documents: DocumentFetcher
    ci: CI | None = None
