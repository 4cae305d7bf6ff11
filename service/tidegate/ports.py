"""The ports to the outside, which drivers implement. The port to the database is in `store_port`.

An SDK error never leaves its driver: it becomes the matching `DriverError` with the fact `retryable`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from tidegate.analysis.queries import Series
from tidegate.clock import Time, Window
from tidegate.core.build import Build, BuildState
from tidegate.core.compose import Adoption, ComposeContainer
from tidegate.core.hooks import Job, JobState
from tidegate.core.image_reference import PinnedImage
from tidegate.core.logs import InstanceLog
from tidegate.core.model import DEFAULT_MAX_RESTARTS, Event, Instance, Release, Rollout, Signal
from tidegate.core.probes import ProbeResult
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


@dataclass(frozen=True, slots=True)
class PlatformHost:
    """A host that runs instances, and whether it is the machine on which Tidegate runs."""

    name: str
    is_local: bool


class Platform(Protocol):
    """Runs instances. Every call may be repeated after a crash. Raises `PlatformError`."""

    def pin(self, release: Release) -> PinnedImage:
        """Resolve the image to an immutable digest on every host, and check that it can be started.

        A release with a digest keeps it. Otherwise `pull_policy` says whether the registry is asked what the tag means. A
        missing image, and one without any readiness check, is an error that is not retryable."""

    def find_digest(self, release: Release) -> str:
        """What `pin` would resolve the image to now, as far as that is known without pulling it; empty if it is not."""

    def instances(self, service: str, max_restarts: int = DEFAULT_MAX_RESTARTS) -> tuple[Instance, ...]:
        """All instances of this service on all hosts, stopped and failed ones included.

        `max_restarts`: an instance that is not ready and has restarted more often is `failed`; one that has restarted
        as often or less is `starting`. A host that does not respond is an error, never an empty result."""

    def adopt(self, service: str, adopted: Adoption | None) -> None:
        """From now on, these containers of `docker compose` count as instances of the service; None: none do. Every process
        that reads the instances has to say so."""

    def start(self, release: Release, ordinals: Collection[int]) -> None:
        """Create and start instances concurrently, without waiting until they are ready. Ordinals that exist and are not
        stopping are skipped."""

    def stop(self, instances: Collection[Instance], grace_seconds: float) -> None:
        """Stop and remove instances in the background; they are `stopping` until removed. Unknown ones are ignored."""

    def tail_logs(self, instance: Instance, lines: int) -> str:
        """Its last log lines, for the report."""

    def compose_containers(self, project: str, service: str) -> Sequence[ComposeContainer]:
        """The containers that `docker compose` made for a service of a project, on all hosts and in any state."""

    def hosts(self) -> Sequence[PlatformHost]:
        """The hosts of the settings. Asks none of them."""

    def read_logs(self, instances: Collection[Instance], after_ns: Mapping[str, int], lines: int) -> Sequence[InstanceLog]:
        """At most `lines` lines of the log of each instance: those after its position in `after_ns`, or the last ones.
        A log that cannot be read has a `problem`."""

    def remove_images(self, releases: Collection[Release]) -> Sequence[str]:
        """Remove the images of these releases under their own names from every host, except where a container uses one.
        Returns the digests of those that were removed from at least one host."""

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

    def remove(self, backend: Backend, fence: int) -> None:
        """Forget a backend without members, and its preview: an owned proxy stops listening for it. May be repeated.

        An adopted proxy keeps what its owner wrote."""

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

    def read_build(self, build: Build) -> BuildState | None:
        """Whether the build runs; None if the CI does not know it, or its answer does not say."""

    def check(self, builds: Sequence[Build] = ()) -> Sequence[Diagnosis]:
        """The lines of `tidegate check`; never raises. `builds` are those of live rollouts."""


@dataclass(frozen=True, slots=True)
class Drivers:
    """The drivers of one environment."""

    platform: Platform
    router: Router
    metrics: MetricsSource | None  # None: the environment has none, and services with checks are refused
    documents: DocumentFetcher
    ci: CI | None = None
