"""The server's Prometheus metrics: its requests, and the state of rollouts in the database.

Label values are environments, routes and fixed words, so that their number is bounded. Only rollouts that need attention, a
limited number, are named, so that an alert can say which.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from time import time

from flask import Response, request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tidegate import __version__
from tidegate.clock import Time
from tidegate.core.phases import LIVE
from tidegate.core.records import ServerStats
from tidegate.errors import StoreError
from tidegate.ports import Clock
from tidegate.store_port import Store
from tidegate.text import single_line
from tidegate.web.auth_throttle import AuthThrottle

MAX_REASON_CHARS = 200  # in a label
KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


class ServerMetrics:
    """Metrics of the API server, in `registry`."""

    def __init__(self, store: Store, environments: Collection[str], throttle: AuthThrottle, clock: Clock = time) -> None:
        self.registry = own = CollectorRegistry()
        self._requests = Counter(
            "tidegate_api_requests",
            "API requests by method, route and status.",
            ["method", "route", "status"],
            registry=own,
        )
        self._seconds = Histogram(
            "tidegate_api_request_seconds",
            "Duration of API requests; long polls for events wait up to 300 s.",
            ["route"],
            buckets=(0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0),
            registry=own,
        )
        Gauge("tidegate_build_info", "The running version, in the label version.", ["version"], registry=own).labels(
            __version__
        ).set(1)
        own.register(_AuthFailureCollector(lambda: throttle.total))
        own.register(_StatsCollector(store, environments, clock))

    def count(self, response: Response, seconds: float) -> None:
        """Count a completed request."""
        route = request.url_rule.rule if request.url_rule else "none"
        method = request.method if request.method in KNOWN_METHODS else "other"
        self._requests.labels(method, route, str(response.status_code)).inc()
        self._seconds.labels(route).observe(seconds)


class _AuthFailureCollector(Collector):
    """The number of failed authentication attempts, which the throttle counts."""

    def __init__(self, total: Callable[[], int]) -> None:
        self._total = total

    def collect(self) -> Iterable[Metric]:
        """The counter."""
        family = Metric("tidegate_failed_authentications", "Authentication attempts without a valid token.", "counter")
        family.add_sample("tidegate_failed_authentications_total", {}, self._total())
        return [family]


class _StatsCollector(Collector):
    """Reads the database at every scrape. While the database is down, only `tidegate_database_up` is exported, so that no
    stale value is reported."""

    def __init__(self, store: Store, environments: Collection[str], clock: Clock) -> None:
        self._store, self._environments, self._clock = store, environments, clock

    def describe(self) -> Iterable[Metric]:
        """No metric, so that registration does not query the database."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Every metric family."""
        try:
            stats = self._store.stats()
        except StoreError:
            return [_gauge("database_up", "Whether the database responds (1) or not (0).", 0.0)]
        return [
            _gauge("database_up", "Whether the database responds (1) or not (0).", 1.0),
            *self._families(stats, self._clock()),
        ]

    def _families(self, stats: ServerStats, now: Time) -> Iterable[Metric]:
        yield self._live(stats)
        yield self._attention(stats, now)
        approvals = GaugeMetricFamily(
            "tidegate_approval_wait_seconds", "Age of the oldest pending approval.", labels=["environment"]
        )
        for environment in self._known(stats.approval_since):
            approvals.add_metric([environment], _since(stats.approval_since.get(environment), now))
        yield approvals
        yield _gauge(
            "rollouts_overdue_seconds",
            "How long the oldest due rollout has not been claimed.",
            _since(stats.due_since, now),
        )
        yield _gauge("leases", "Rollouts that a thread of an engine processes now; not those that wait.", stats.leases)
        yield _gauge("outbox_rollouts", "Rollouts with events not yet delivered to the CI.", stats.undelivered)
        yield _gauge(
            "outbox_lag_seconds",
            "Age of the oldest event not yet delivered to the CI.",
            _since(stats.undelivered_since, now),
        )
        heartbeat_at = stats.engines[0].heartbeat_at if stats.engines else float("-inf")
        yield _gauge(
            "engine_heartbeat_age_seconds",
            "Seconds since the last engine heartbeat; infinite without an engine.",
            max(0.0, now - heartbeat_at),
        )
        if stats.free_bytes is not None:
            yield _gauge("database_free_bytes", "Free bytes on the disk of the database.", stats.free_bytes)

    def _attention(self, stats: ServerStats, now: Time) -> Metric:
        family = GaugeMetricFamily(
            "tidegate_rollout_attention_seconds",
            "How long a rollout has waited for approval, was rolled back, or has halted; 50 of each at most.",
            labels=["environment", "service", "rollout", "state", "reason"],
        )
        for one in stats.attention:
            environment, _, service = one.service.partition("/")
            reason = single_line(one.reason, MAX_REASON_CHARS)
            family.add_metric([environment, service, one.rollout, one.state, reason], _since(one.since, now))
        return family

    def _live(self, stats: ServerStats) -> Metric:
        family = GaugeMetricFamily(
            "tidegate_live_rollouts", "Unfinished rollouts by environment and phase.", labels=["environment", "phase"]
        )
        for environment in self._known(name for name, _ in stats.live):
            for phase in sorted(LIVE):
                family.add_metric([environment, phase.value], stats.live.get((environment, phase.value), 0))
        return family

    def _known(self, stored: Iterable[str]) -> list[str]:
        """The environments in the settings and any others in the database."""
        return sorted({*self._environments, *stored})


def _gauge(name: str, description: str, value: float) -> Metric:
    return GaugeMetricFamily(f"tidegate_{name}", description, value=value)


def _since(start: Time | None, now: Time) -> float:
    return 0.0 if start is None else max(0.0, now - start)
