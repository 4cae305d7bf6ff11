"""Builds store, drivers and engine from the settings. No other module creates concrete drivers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import ValidationError

from tidegate.core.build_watch import BuildEndRules
from tidegate.core.response_counts import LoggedRouter
from tidegate.drivers import registry, router_detection
from tidegate.drivers.http.documents import HttpDocuments
from tidegate.drivers.http.probe import HttpProbeClient
from tidegate.engine import metrics, request_logs
from tidegate.engine.build_watcher import BuildWatcher
from tidegate.engine.image_pruner import ImagePruner
from tidegate.engine.metrics import EngineMetrics
from tidegate.engine.outbox import Outbox
from tidegate.engine.prober import Prober
from tidegate.engine.pruner import Pruner
from tidegate.engine.request_logs import RequestLogs
from tidegate.engine.worker import Worker, WorkerOptions
from tidegate.errors import InvalidSettings, Problem, UnknownDriver
from tidegate.ports import CI, CheckStatus, Clock, Diagnosis, Drivers
from tidegate.settings import DriverSettings, EnvironmentSettings, RouterSettings, Settings, to_problems
from tidegate.store.store import SqlStore
from tidegate.store_port import Store


@dataclass(frozen=True)
class Wiring:
    """Everything that the web server and the command line work with."""

    settings: Settings
    store: Store
    environments: Mapping[str, Drivers]
    clock: Clock
    detected_routers: Mapping[str, Diagnosis] = field(
        default_factory=dict
    )  # by environment: routers chosen because the settings name none
    engine_metrics: EngineMetrics = field(default_factory=EngineMetrics)  # the metrics of an engine in this process

    def close(self) -> None:
        """Close all drivers and the store, waiting for background work."""
        for parts in self.environments.values():
            parts.platform.close()
        self.store.close()


def build(settings: Settings, clock: Clock = time.time) -> Wiring:
    """Create all objects without connecting anywhere. Raises `InvalidSettings` with the problems of all drivers."""
    problems: list[Problem] = []
    choices = {
        name: _choose_router(name, environment.router, problems) for name, environment in settings.environments.items()
    }
    environments = {
        name: _make_drivers(name, environment, choices[name], problems)
        for name, environment in settings.environments.items()
    }
    if problems:
        raise InvalidSettings(problems)
    whole = {name: parts for name, parts in environments.items() if parts is not None}
    chosen = {
        name: Diagnosis("router", CheckStatus.OK, choice.reason)
        for name, choice in choices.items()
        if choice is not None and choice.reason
    }
    store = SqlStore(settings.database, clock, password_file=settings.database_password_file)
    return Wiring(settings, store, whole, clock, chosen, EngineMetrics(whole))


def make_engine(wiring: Wiring, owner: str) -> Worker:
    """Create the engine. `owner`: its name as the holder of leases.

    Must be called within `sole_engine`: on a database that allows one engine, leases of earlier engines have expired.
    """
    wiring.store.expire_leases()
    wanted = wiring.settings.engine
    options = WorkerOptions(wanted.lease_seconds, wanted.threads, wanted.poll_seconds, wanted.drift_interval_seconds)
    api_port = int(wiring.settings.listen.rpartition(":")[2])
    meter, prober = wiring.engine_metrics, Prober(partial(HttpProbeClient, api_port=api_port), wiring.clock)
    store = metrics.instrument_store(wiring.store, meter)
    environments = {name: metrics.instrument_parts(parts, name, meter) for name, parts in wiring.environments.items()}
    return Worker(store, environments, options, wiring.clock, owner, prober, meter, time.monotonic)


def make_outbox(wiring: Wiring) -> Outbox:
    """Create the outbox that reports to CI servers; it works while its context is entered."""
    cis, settings = _instrumented_cis(wiring), wiring.settings
    scheme = "http" if settings.web.certificate is None else "https"
    return Outbox(wiring.store, cis, wiring.clock, settings.address.rstrip("/") or f"{scheme}://{settings.listen}")


def make_build_watcher(wiring: Wiring) -> BuildWatcher:
    """Create the watcher of the builds that requested rollouts; it works while its context is entered."""
    cis = _instrumented_cis(wiring)
    silent = wiring.settings.engine.build_silent_after_seconds
    rules = {}
    for name in cis:
        ci = wiring.settings.environments[name].ci
        assert ci is not None
        rules[name] = BuildEndRules(ci.on_build_end, ci.on_build_end_after_seconds, silent)
    return BuildWatcher(wiring.store, cis, rules, BuildEndRules(silent_seconds=silent), wiring.clock)


def _instrumented_cis(wiring: Wiring) -> dict[str, CI]:
    """The CI drivers by environment."""
    return {
        name: metrics.instrument_ci(parts.ci, name, wiring.engine_metrics)
        for name, parts in wiring.environments.items()
        if parts.ci is not None
    }


def make_pruner(wiring: Wiring) -> Pruner:
    """Create the pruner that deletes old data; it works while its context is entered."""
    return Pruner(wiring.store, wiring.clock, *wiring.settings.retention.ages())


def make_image_pruner(wiring: Wiring) -> ImagePruner:
    """Create the pruner of images; it works while its context is entered."""
    return ImagePruner(wiring.store, wiring.environments)


def make_request_logs(wiring: Wiring) -> RequestLogs:
    """Create the counter of the proxies' request logs for `latency`; it works while its context is entered."""
    routers = {name: parts.router for name, parts in wiring.environments.items()}
    logs = {name: router.request_log for name, router in routers.items() if isinstance(router, LoggedRouter)}
    counted = {name: log for name, log in logs.items() if log is not None}
    return RequestLogs(counted, wiring.engine_metrics.registry, wiring.clock)


def check_histogram(wiring: Wiring, environment: str) -> Diagnosis:
    """Whether the check `latency` has data in an environment with a metrics source. Never raises."""
    parts = wiring.environments[environment]
    assert parts.metrics is not None
    return request_logs.check_histogram(parts.router, parts.metrics, environment, wiring.clock())


def sole_engine(wiring: Wiring) -> AbstractContextManager[None]:
    """Hold the lock of the only engine, on a database that allows only one. Raises `Refused` if another engine holds it."""
    return wiring.store.sole_engine()


def _choose_router(name: str, router: RouterSettings, problems: list[Problem]) -> router_detection.DetectedRouter | None:
    """The router's driver from the settings, or the detected one; None, with a problem, if there is none."""
    if router.driver:
        return router_detection.DetectedRouter(router.driver, "")
    try:
        return router_detection.detect_router(router.options)
    except UnknownDriver as error:
        problems.append(Problem(f"environments.{name}.router", error.message))
        return None


def _make_drivers(
    name: str, environment: EnvironmentSettings, router: router_detection.DetectedRouter | None, problems: list[Problem]
) -> Drivers | None:
    """The drivers of an environment; None, with the reasons in `problems`, if one of them cannot be created."""
    wanted = {
        "platform": environment.platform,
        "router": environment.router.model_copy(update={"driver": router.driver}) if router is not None else None,
        "metrics": environment.metrics,
        "ci": environment.ci,
    }
    options = {kind: _driver_options(kind, name, driver, problems) for kind, driver in wanted.items() if driver is not None}
    if router is None or any(option is None for option in options.values()):
        return None
    made = {kind: option[0](option[1], name) for kind, option in options.items() if option is not None}
    return Drivers(made["platform"], made["router"], made.get("metrics"), HttpDocuments(), made.get("ci"))


def _driver_options(kind: str, name: str, driver: DriverSettings, problems: list[Problem]) -> tuple[Any, Any] | None:
    """The driver's class and its checked options."""
    path = f"environments.{name}.{kind}"
    try:
        made = registry.load_driver(kind, driver.driver)
        return made, made.Options.model_validate(driver.options)
    except UnknownDriver as error:
        problems.append(Problem(f"{path}.driver", error.message))
    except ValidationError as error:
        problems.extend(to_problems(error, path))
    return None
