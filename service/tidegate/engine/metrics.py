"""The engine's Prometheus metrics. Label values are environments and fixed words, never names of services or ids.

An `Instrumented` driver or store behaves like the one that it wraps and counts its errors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tidegate.analysis.verdict import Outcome, Verdict
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Event, Rollout
from tidegate.core.phases import Phase
from tidegate.errors import CIError, DocumentError, DriverError, MetricsError, PlatformError, RouterError, StoreError
from tidegate.ports import CI, DocumentFetcher, Drivers, MetricsSource, Platform, Router
from tidegate.store_port import EngineStore

OUTCOMES = tuple(phase for phase in Phase if not phase.live)
PARTS: dict[type[DriverError], str] = {
    PlatformError: "platform",
    RouterError: "router",
    MetricsError: "metrics",
    CIError: "ci",
    DocumentError: "documents",
    StoreError: "database",
}
DURATIONS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
LATENESSES = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0)


class EngineMetrics:
    """The metrics of one engine process. Thread-safe.

    The series of these `environments` start at 0: `increase()` misses the first increment of a series that appears with it.
    """

    def __init__(self, environments: Collection[str] = ()) -> None:
        self.registry = own = CollectorRegistry()
        on = ["environment", "outcome"]
        self._rollouts = Counter("tidegate_rollouts", "Rollouts that ended, by outcome.", on, registry=own)
        self._seconds = Histogram(
            "tidegate_rollout_seconds",
            "Time from the request for a rollout to its end.",
            on,
            buckets=DURATIONS,
            registry=own,
        )
        self._verdicts = Counter(
            "tidegate_verdicts", "Verdicts whose outcome or reasons changed, by outcome.", on, registry=own
        )
        self._tasks = Counter(
            "tidegate_hooks",
            "Hooks and OpenAPI comparisons, by the state that they reached.",
            ["environment", "state"],
            registry=own,
        )
        self._errors = Counter(
            "tidegate_driver_errors",
            "Errors of drivers and of the database, for which environment is empty.",
            ["environment", "part", "retryable"],
            registry=own,
        )
        self._lateness = Histogram(
            "tidegate_claim_lateness_seconds",
            "Time from when a rollout was due until an engine claimed it.",
            buckets=LATENESSES,
            registry=own,
        )
        self._ticks = Counter("tidegate_ticks", "Ticks, by whether a driver failed.", ["result"], registry=own)
        self.internal_errors = Counter("tidegate_internal_errors", "Errors in Tidegate itself: bugs.", registry=own)
        self.driven = Gauge("tidegate_driven_rollouts", "Unfinished rollouts that this engine drives.", registry=own)
        self.leases_lost = Counter("tidegate_leases_lost", "Leases that another engine took over.", registry=own)
        self._unhealthy = Gauge(
            "tidegate_instances_unhealthy",
            "Instances that were ready and no longer are, as this engine observes them.",
            ["environment"],
            registry=own,
        )
        self._unavailable = Gauge(
            "tidegate_services_unavailable",
            "Services that had ready instances and now have none.",
            ["environment"],
            registry=own,
        )
        self._begin(environments)

    def _begin(self, environments: Collection[str]) -> None:
        for result in ("ok", "error"):
            self._ticks.labels(result)
        for environment in environments:
            self._unhealthy.labels(environment)
            self._unavailable.labels(environment)
            for phase in OUTCOMES:
                self._rollouts.labels(environment, phase.value)
                self._seconds.labels(environment, phase.value)
            for outcome in Outcome:
                self._verdicts.labels(environment, outcome.value)
        for part in PARTS.values():
            for environment in [""] if part == "database" else environments:
                for retryable in ("false", "true"):
                    self._errors.labels(environment, part, retryable)

    def claimed(self, late_seconds: float) -> None:
        """Count a claimed rollout; `late_seconds` is how long it had been due."""
        self._lateness.observe(max(0.0, late_seconds))

    def ticked(self, *, failed: bool) -> None:
        """Count a tick."""
        self._ticks.labels("error" if failed else "ok").inc()

    def observed_readiness(self, environment: str, unhealthy: int, unavailable: int) -> None:
        """Set the numbers of unhealthy instances and of services without a ready one."""
        self._unhealthy.labels(environment).set(unhealthy)
        self._unavailable.labels(environment).set(unavailable)

    def failed(self, environment: str, error: DriverError) -> None:
        """Count an error of a driver or of the database."""
        part = next((name for kind, name in PARTS.items() if isinstance(error, kind)), "other")
        self._errors.labels("" if part == "database" else environment, part, str(error.retryable).lower()).inc()

    def saved(self, rollout: Rollout, events: Sequence[Event], verdict: Verdict | None) -> None:
        """Count what was saved: the verdict, the tasks and the end of the rollout."""
        environment = rollout.service.partition("/")[0]
        if verdict is not None:
            self._verdicts.labels(environment, verdict.outcome.value).inc()
        for event in events:
            if event.kind in (EventKind.TASK_STARTED, EventKind.TASK_ENDED):
                self._tasks.labels(environment, str(event.data["state"])).inc()
        if not rollout.phase.live:
            labels = environment, rollout.phase.value
            self._rollouts.labels(*labels).inc()
            ended = rollout.created if rollout.finished is None else rollout.finished
            self._seconds.labels(*labels).observe(max(0.0, ended - rollout.created))


class Instrumented:
    """Wraps a driver or the store and counts every `DriverError` that it raises."""

    def __init__(self, inner: object, environment: str, meter: EngineMetrics) -> None:
        self._inner, self._environment, self._meter = inner, environment, meter

    def __getattr__(self, name: str) -> Any:
        return self._counting(getattr(self._inner, name))

    def _counting(self, verb: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(verb)
        def call(*values: Any, **named: Any) -> Any:
            try:
                return verb(*values, **named)
            except DriverError as error:
                self._meter.failed(self._environment, error)
                raise

        return call


class _InstrumentedStore(Instrumented):
    """Also counts what is saved."""

    def save(self, rollout: Rollout, events: Sequence[Event], fence: int, **more: Any) -> Rollout:
        saved: Rollout = self._counting(cast(EngineStore, self._inner).save)(rollout, events, fence, **more)
        self._meter.saved(saved, events, more.get("verdict"))
        return saved


def instrument_store(store: EngineStore, meter: EngineMetrics) -> EngineStore:
    """The store with its errors and saves counted."""
    return cast(EngineStore, _InstrumentedStore(store, "", meter))


def instrument_ci(ci: CI, environment: str, meter: EngineMetrics) -> CI:
    """The CI driver with its errors counted."""
    return cast(CI, Instrumented(ci, environment, meter))


def instrument_parts(drivers: Drivers, environment: str, meter: EngineMetrics) -> Drivers:
    """The drivers of an environment with their errors counted."""
    return replace(
        drivers,
        platform=cast(Platform, Instrumented(drivers.platform, environment, meter)),
        router=cast(Router, Instrumented(drivers.router, environment, meter)),
        metrics=None if drivers.metrics is None else cast(MetricsSource, Instrumented(drivers.metrics, environment, meter)),
        documents=cast(DocumentFetcher, Instrumented(drivers.documents, environment, meter)),
    )
