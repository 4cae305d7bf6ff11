"""What is recorded beside rollouts: claims, histories of releases, tokens, freezes, the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tidegate.analysis.verdict import Verdict
from tidegate.clock import Time
from tidegate.core.model import Event, Release, Rollout, Service
from tidegate.core.phases import Phase


@dataclass(frozen=True, slots=True)
class Freeze:
    """An environment in which nothing is moved forward until it is lifted, or until `until`."""

    environment: str
    by: str
    reason: str
    at: Time
    until: Time | None = None

    @property
    def message(self) -> str:
        """By whom and why."""
        return f"{self.environment} is frozen by {self.by}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who asked for what, when, why and from where.

    `by` is a person or a token's name; `via` the token that vouched for the person, empty where the token asked for itself.
    `subject` is what it concerns: `environment/service`, an environment, or a token's name. `source` is the address that
    the request came from, `build` the Jenkins build that it was for, `request` the id that the server's log has too.
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
    """A rollout with events above `delivered` that its CI was not told of yet; `failures` in a row."""

    rollout: str
    delivered: int
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Retention:
    """What was finished before is old; None: nothing is."""

    samples_before: Time | None
    rollouts_before: Time | None


@dataclass(frozen=True, slots=True)
class Pruned:
    """How much was forgotten, and whether there is more."""

    samples: int
    rollouts: int
    releases: int
    more: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """The exclusive right to drive a rollout. `since` is when this owner took it over from nobody or from another, `due`
    the time from which on it could be claimed."""

    rollout: str
    fence: int
    since: Time
    owner: str
    due: Time | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class EngineRow:
    """An engine, when it last said that it looks for work, and its version of Tidegate."""

    owner: str
    heartbeat_at: Time
    version: str


@dataclass(frozen=True, slots=True)
class ServerStats:
    """How the whole server stands, for those who watch it."""

    live: Mapping[tuple[str, str], int]  # rollouts that are not finished, by environment and phase
    approval_since: Mapping[str, Time]  # by environment: since when the longest hold waits for a person
    due_since: Time | None  # since when a rollout is due that nobody drives
    leases: int  # rollouts that an engine drives at this moment
    undelivered: int  # rollouts of which the CI was not told all
    undelivered_since: Time | None  # when the oldest event happened that it was not told of
    engines: tuple[EngineRow, ...]
    free_bytes: int | None = None  # on the database's disk, where that is known


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A client's key. `scope` is principal, method and path; `digest` hashes the body; `response` is what is said again."""

    scope: str
    key: str
    digest: str
    status: int = 0
    response: str = ""


@dataclass(frozen=True, slots=True)
class NewRollout:
    """All that a new rollout brings with it. `release` is None when it exists already; `event` is its first."""

    rollout: Rollout
    service: Service
    release: Release | None
    event: Event


@dataclass(frozen=True, slots=True)
class ReleaseRow:
    """A release with its history: `good_at` when a rollout to it succeeded, `quarantined_at` when one was turned back."""

    release: Release
    number: int
    created: Time
    good_at: Time | None = None
    quarantined_at: Time | None = None


class DriftState(StrEnum):
    """What is done about a difference."""

    SEEN = "seen"  # once: looked at again before anything is done, for a restart mends itself
    REPAIRING = "repairing"  # a repair was asked for
    DELAYED = "delayed"  # repairs failed; the next one comes after a pause
    SHOWN = "shown"  # by policy a person decides
    HALTED = "halted"  # the last rollout halted, so a person has to look first
    UNHEALTHY = "unhealthy"  # repairs do not help: none is tried any more until somebody acts


@dataclass(frozen=True, slots=True)
class Drift:
    """A service that is other than its release wants, since when, and seen so in how many looks in a row."""

    message: str
    since: Time
    state: DriftState
    confirmations: int = 1
    reason: str = ""  # why nothing is done; empty while something is


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """A stored service. `live` is the release that serves now, as far as rollouts brought it about."""

    service: Service
    version: int
    live: str | None = None
    rollout: str | None = None  # the live rollout, if there is one
    repairing: bool = False  # that one is a repair, which gives way to any other
    drift: Drift | None = None


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """A verdict and the step it was for."""

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
