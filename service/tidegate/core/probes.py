"""A service asked from outside while a rollout is live: what to ask, and what came of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tidegate.clock import Time
from tidegate.core.routing import EVERY_ADDRESS, EVERY_IPV4, split_listen

MIN_INTERVAL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Probe:
    """A GET to `url`, the service's public address, every so often.

    An answer that takes longer than `slow_seconds` is slow, one that does not come within `timeout_seconds` has failed. The
    answer's `header` names the release, where the application sends one.
    """

    url: str
    interval_seconds: float = 0.5
    timeout_seconds: float = 2.0
    slow_seconds: float = 1.0
    header: str = ""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """How one request went: `error` says why it failed, empty when it did not. Answered 2xx or 3xx is no failure."""

    seconds: float
    error: str = ""
    release: str = ""  # as the answer's header names it; empty: it does not


@dataclass(frozen=True, slots=True)
class ProbeCounts:
    """Requests of the prober. A failed one is not slow, too."""

    requests: int = 0
    failed: int = 0
    slow: int = 0

    def plus(self, other: ProbeCounts) -> ProbeCounts:
        """Of both."""
        return ProbeCounts(self.requests + other.requests, self.failed + other.failed, self.slow + other.slow)

    def minus(self, before: ProbeCounts) -> ProbeCounts:
        """What came since."""
        return ProbeCounts(self.requests - before.requests, self.failed - before.failed, self.slow - before.slow)


@dataclass(frozen=True, slots=True)
class ProbeFailure:
    """A request of the prober that failed, and why."""

    at: Time
    reason: str


@dataclass(frozen=True, slots=True)
class ProbeStats:
    """All since this engine began to probe the rollout. `by_release` has those that an answer named; `failures` are the
    first few."""

    since: Time
    total: ProbeCounts = ProbeCounts()
    by_release: Mapping[str, ProbeCounts] = field(default_factory=dict)
    failures: tuple[ProbeFailure, ...] = ()


def public_url(listen: str, path: str) -> str:
    """Where a backend's address (as in `split_listen`) is asked on this machine. An address of all is asked at its
    loopback."""
    host, port = split_listen(listen)
    host = {EVERY_IPV4: "127.0.0.1", EVERY_ADDRESS: "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"
