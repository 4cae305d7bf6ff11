"""The server's own numbers, for Prometheus: its requests, and how all stands in the database.

Labels are environments, routes and words of closed lists: never a service's name, a path or an id.
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
from tidegate.ports import Clock, Store
from tidegate.web.auth_throttle import AuthThrottle

KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


class ServerMetrics:
    """What the web counts, in `registry`."""

    def __init__(self, store: Store, environments: Collection[str], throttle: AuthThrottle, clock: Clock = time) -> None:
        self.registry = own = CollectorRegistry()
        self._requests = Counter(
            "tidegate_api_requests",
            "Requests answered, by method, route and status.",
            ["method", "route", "status"],
            registry=own,
        )
        self._seconds = Histogram(
            "tidegate_api_request_seconds",
            "Time to answer; a request for events may wait on purpose.",
            ["route"],
            buckets=(0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0),
            registry=own,
        )
        Gauge("tidegate_build_info", "The version that runs.", ["version"], registry=own).labels(__version__).set(1)
        own.register(_AuthFailureCollector(lambda: throttle.total))
        own.register(_StatsCollector(store, environments, clock))

    def count(self, response: Response, seconds: float) -> None:
        """One request was answered."""
        route = request.url_rule.rule if request.url_rule else "none"
        method = request.method if request.method in KNOWN_METHODS else "other"
        self._requests.labels(method, route, str(response.status_code)).inc()
        self._seconds.labels(route).observe(seconds)


class _AuthFailureCollector(Collector):
    """Attempts to authenticate that failed, counted where they are limited."""

    def __init__(self, total: Callable[[], int]) -> None:
        self._total = total

    def collect(self) -> Iterable[Metric]:
        """One counter."""
        family = Metric("tidegate_failed_authentications", "Attempts with no token or a wrong one.", "counter")
        family.add_sample("tidegate_failed_authentications_total", {}, self._total())
        return [family]


class _StatsCollector(Collector):
    """Asks the database when it is asked itself. A number that is not known is not told: while the database fails, only
    that it fails."""

    def __init__(self, store: Store, environments: Collection[str], clock: Clock) -> None:
        self._store, self._environments, self._clock = store, environments, clock

    def describe(self) -> Iterable[Metric]:
        """Nothing, without asking the database."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Every family."""
        try:
            stats = self._store.standing()
        except StoreError:
            return [_gauge("database_up", "Whether the database answers.", 0.0)]
        return [_gauge("database_up", "Whether the database answers.", 1.0), *self._families(stats, self._clock())]

    def _families(self, stats: ServerStats, now: Time) -> Iterable[Metric]:
        yield self._live(stats)
        holds = GaugeMetricFamily(
            "tidegate_approval_wait_seconds", "How long the longest hold waits for a person.", labels=["environment"]
        )
        for environment in self._known(stats.approval_since):
            holds.add_metric([environment], _since(stats.approval_since.get(environment), now))
        yield holds
        yield _gauge(
            "rollouts_overdue_seconds", "How long a rollout is due that no engine takes.", _since(stats.due_since, now)
        )
        yield _gauge("leases", "Rollouts that an engine drives at this moment.", stats.leases)
        yield _gauge("outbox_rollouts", "Rollouts of which the CI was not told all.", stats.undelivered)
        yield _gauge(
            "outbox_lag_seconds", "Age of the oldest event that the CI was not told.", _since(stats.undelivered_since, now)
        )
        heartbeat_at = stats.engines[0].heartbeat_at if stats.engines else float("-inf")
        yield _gauge(
            "engine_heartbeat_age_seconds",
            "Since an engine was heard last; infinite where none is.",
            max(0.0, now - heartbeat_at),
        )
        if stats.free_bytes is not None:
            yield _gauge("database_free_bytes", "Room on the database's disk.", stats.free_bytes)

    def _live(self, stats: ServerStats) -> Metric:
        family = GaugeMetricFamily(
            "tidegate_live_rollouts", "Rollouts that are not finished.", labels=["environment", "phase"]
        )
        for environment in self._known(name for name, _ in stats.live):
            for phase in sorted(LIVE):
                family.add_metric([environment, phase.value], stats.live.get((environment, phase.value), 0))
        return family

    def _known(self, more: Iterable[str]) -> list[str]:
        """The environments of the settings, and those that only the database has."""
        return sorted({*self._environments, *more})


def _gauge(name: str, description: str, value: float) -> Metric:
    return GaugeMetricFamily(f"tidegate_{name}", description, value=value)


def _since(begun: Time | None, now: Time) -> float:
    return 0.0 if begun is None else max(0.0, now - begun)
