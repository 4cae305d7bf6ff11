"""Stored values other than rollouts: claims, releases with history, tokens, freezes, the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tidegate.analysis.verdict import Verdict
from tidegate.clock import Time, utc_second
from tidegate.core.model import Event, Release, Rollout, Service
from tidegate.core.phases import Phase
from tidegate.core.waits import WaitingFor

MAX_LATE_SECONDS = 60.0  # by which an engine may begin to drive a rollout after it is due


@dataclass(frozen=True, slots=True)
class Freeze:
    """An environment in which no rollout starts or enters its next step until the freeze is lifted, or until `until`."""

    environment: str
    by: str
    reason: str
    at: Time
    until: Time | None = None

    @property
    def message(self) -> str:
        """Who froze it and why."""
        return f"{self.environment} is frozen by {self.by}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who requested what, when, why and from where.

    `by` is a person or a token's name; `via` the token that vouched for the person, empty for the token itself. `subject`
    is `environment/service`, an environment, or a token's name. `source` is the client's address, `build` the Jenkins
    build, `request` the request ID that the server log has too.
    """

    at: Time
    action: str
    subject: str
    by: str
    via: str = ""
    source: str = ""
    reason: str = ""
    rollout: str | None = None
    build: str = ""
    request: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Delivery:
    """A rollout with events above `delivered` that were not reported to its CI yet; `failures` in a row."""

    rollout: str
    delivered: int
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Retention:
    """What finished before these times is deleted; None: nothing is."""

    samples_before: Time | None
    rollouts_before: Time | None


@dataclass(frozen=True, slots=True)
class Pruned:
    """How much was deleted, and whether there is more."""

    samples: int
    rollouts: int
    releases: int
    more: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """The exclusive right to drive a rollout. `since`: when the owner took it; `due`: when it could be claimed."""

    rollout: str
    fence: int
    since: Time
    owner: str
    due: Time | None = field(default=None, compare=False)
    environment: str = field(default="", compare=False)  # of the rollout's service


@dataclass(frozen=True, slots=True)
class EngineRow:
    """An engine, its last heartbeat, and its version of Tidegate."""

    owner: str
    heartbeat_at: Time
    version: str


@dataclass(frozen=True, slots=True)
class Attention:
    """A rollout that a person should know about."""

    rollout: str
    service: str  # environment/name
    state: str  # approval, failed or rolled_back
    reason: str  # of the phase; empty for an approval
    since: Time


@dataclass(frozen=True, slots=True)
class ServerStats:
    """The state of the whole server, for monitoring."""

    live: Mapping[tuple[str, str], int]  # rollouts that are not finished, by environment and phase
    approval_since: Mapping[str, Time]  # by environment: since when the oldest approval is awaited
    due_since: Time | None  # since when a rollout is due that nobody drives
    leases: int  # rollouts that an engine drives at this moment
    undelivered: int  # rollouts with events not reported to the CI
    undelivered_since: Time | None  # time of the oldest such event
    engines: tuple[EngineRow, ...]
    attention: tuple[Attention, ...] = ()
    free_bytes: int | None = None  # on the database's disk, where that is known

    def find_overdue(self, now: Time) -> str:
        """The problem if engines do not drive what is due; empty if they do."""
        late = 0.0 if self.due_since is None else now - self.due_since
        if late <= MAX_LATE_SECONDS:
            return ""
        return f"a rollout has been due for {late:.0f} s, and no engine drives it: all are busy, or do not run"


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A client's key. `scope` is principal, method and path; `digest` hashes the body; `response` is sent again."""

    scope: str
    key: str
    digest: str
    status: int = 0
    response: str = ""


@dataclass(frozen=True, slots=True)
class NewRollout:
    """A rollout with everything to store with it. `release` is None if it exists already; `event` is its first one."""

    rollout: Rollout
    service: Service
    release: Release | None
    event: Event


@dataclass(frozen=True, slots=True)
class ReleaseRow:
    """A release with its history. `good_at`: when a rollout to it succeeded. `quarantined_at`: when the rollout
    `quarantined_by` was rolled back for the `finding`."""

    release: Release
    number: int
    created: Time
    good_at: Time | None = None
    quarantined_at: Time | None = None
    quarantined_by: str = ""
    finding: str = ""

    @property
    def is_good(self) -> bool:
        """Whether a rollout to it succeeded, and nothing was found against it since."""
        return self.good_at is not None and (self.quarantined_at is None or self.quarantined_at < self.good_at)

    def quarantine_message(self, image: str) -> str:
        """Why this image is not deployed with the configuration of this release, and how to deploy it all the same."""
        at = "" if self.quarantined_at is None else f" at {utc_second(self.quarantined_at)}"
        command = f"tidegate quarantine lift {self.release.service} {self.release.id} --reason WHY"
        return (
            f"{image} is in quarantine with this configuration: rollout {self.quarantined_by} rolled back "
            f"{self.release.id}{at}: {self.finding.rstrip('.')}. Deploy another image or configuration, or lift the "
            f"quarantine: {command}"
        )


@dataclass(frozen=True, slots=True)
class PlannedService:
    """A service as a plan would deploy it, and the live release that the plan starts from."""

    definition: Service
    live: str | None
    live_replicas: int = 0


@dataclass(frozen=True, slots=True)
class DeploymentPlan:
    """A plan that a person may have read, and that a deployment can be held to. `members`: the service, and then the others
    of its group."""

    id: str
    service: str  # environment/name
    created: Time
    members: tuple[PlannedService, ...]


class DriftState(StrEnum):
    """What is done about drift."""

    SEEN = "seen"  # once: confirmed by another poll before a repair, since a restart fixes itself
    REPAIRING = "repairing"  # a repair was requested
    DELAYED = "delayed"  # repairs failed; the next one comes after a pause
    SHOWN = "shown"  # the policy leaves it to a person
    HALTED = "halted"  # the last rollout halted: a person must act first
    UNHEALTHY = "unhealthy"  # repairs keep failing: none starts until a person acts


@dataclass(frozen=True, slots=True)
class Drift:
    """A difference between a service and its live release, since when, and in how many polls in a row."""

    message: str
    since: Time
    state: DriftState
    confirmations: int = 1
    reason: str = ""  # why nothing is done; empty while something is


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """A stored service. `live` is its live release; `waiting_for` and `unhealthy` are those of the live rollout: what it
    waits for, and how many instances stopped being ready."""

    service: Service
    version: int
    live: str | None = None
    rollout: str | None = None  # the live rollout, if there is one
    repairing: bool = False  # it is a repair, which any other rollout supersedes
    drift: Drift | None = None
    waiting_for: WaitingFor | None = None
    unhealthy: int = 0


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """A verdict and its step."""

    step: int
    phase: Phase
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Token:
    """An API token without its secret. `scopes` of `read, deploy, promote, rollback, admin`; globs over
    `environment/service`."""

    id: str
    name: str
    digest: str  # SHA-256 of the secret, hex
    scopes: tuple[str, ...]
    services: tuple[str, ...] = ("*",)
    created: Time = 0.0
    expires: Time | None = None
    last_used: Time | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """Another rollout of the same group."""

    service: str
    phase: Phase
    group_point: int
    reason: str = ""
