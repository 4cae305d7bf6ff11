"""Drift detection between rollouts: observe each service, record the drift, and create a repair rollout.

There is one thread for each environment, so that an unreachable platform or proxy delays no other environment. The store
gives each service to one engine at a time, so at most one check runs for each environment.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import TracebackType

import structlog

from tidegate.app import drift_repair
from tidegate.core import drift
from tidegate.core.model import ObservedState, Service
from tidegate.core.records import Drift, DriftState, Idempotency, ServiceRow
from tidegate.core.routing import RouterState
from tidegate.engine import events
from tidegate.engine.log_context import log_event
from tidegate.errors import DriverError, Refused
from tidegate.ports import Clock, Drivers
from tidegate.store_port import EngineStore

logger = structlog.get_logger("tidegate.engine")

INTERVAL_SECONDS = 5.0  # between two checks of the same service
PAUSE_SECONDS = 0.05  # between the checks of two services
NO_KEY = Idempotency("", "", "")


class DriftWatcher:
    """Checks services inside its `with` block. `wake` is called after a repair was created; `interval_seconds` is the time
    between two checks of the same service."""

    def __init__(
        self,
        store: EngineStore,
        environments: Mapping[str, Drivers],
        clock: Clock,
        wake: Callable[[], None],
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        self._store, self._environments, self._clock, self._wake = store, environments, clock, wake
        self._interval_seconds = interval_seconds
        self._stopping = threading.Event()
        self._woken = {name: threading.Event() for name in environments}
        self._unobservable: dict[str, str] = {}  # by service key: the error that was logged
        self._memory_kills: dict[str, dict[str, int]] = {}  # by service key: those known by instance
        self._threads = [threading.Thread(target=self._run, args=(name,), name=f"watch-{name}") for name in environments]

    def __enter__(self) -> DriftWatcher:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        for woken in self._woken.values():
            woken.set()
        for thread in self._threads:
            thread.join()

    def wake(self, environment: str) -> None:
        """Query for services that are due now."""
        self._woken[environment].set()

    def _run(self, environment: str) -> None:
        logged_error = ""
        pause = PAUSE_SECONDS
        while not self._stopping.is_set():
            self._woken[environment].wait(pause)
            self._woken[environment].clear()
            if self._stopping.is_set():
                return
            try:
                checked = self.check_next(environment)
                logged_error, pause = "", PAUSE_SECONDS if checked else min(1.0, self._interval_seconds / 2)
            except DriverError as error:
                if logged_error != error.message:
                    logger.warning("cannot check services for drift", environment=environment, error=error.message)
                logged_error, pause = error.message, self._interval_seconds
            except Exception:  # a bug that one service triggers must not stop the checks of the others
                logger.exception("cannot check services for drift", environment=environment)
                pause = self._interval_seconds

    def check_next(self, environment: str) -> bool:
        """Check the service whose check has been due longest; False when none is due. Raises `StoreError`."""
        row = self._store.next_drift_check(environment, self._interval_seconds)
        if row is None or row.live is None:
            return False
        service = drift_repair.service_in_force(self._store, row.service)
        observed = self._observe(service, self._environments[environment])
        if observed is not None:
            self._note_memory_kills(service.key, observed)
            self._handle(row, service, row.live, observed)
        return True

    def _note_memory_kills(self, service: str, observed: ObservedState) -> None:
        """Record an event for each instance that was killed for memory since the last check."""
        killed, known = events.find_memory_kills(self._memory_kills.get(service, {}), observed.instances)
        for instance in killed:
            event = events.out_of_memory(instance, self._clock())
            log_event(event, environment=service.partition("/")[0], service=service.partition("/")[2])
            self._store.add_late_event(service, event)
        self._memory_kills[service] = known

    def _observe(self, service: Service, drivers: Drivers) -> ObservedState | None:
        """The observed state; None when the platform or the proxy fails, which is logged once for each error."""
        backend = service.backend
        place = None if backend is None else backend.preview_backend
        try:
            drivers.platform.adopt(service.key, service.adopted)
            instances = drivers.platform.instances(service.key, service.policy.max_restarts)
            router_state = RouterState() if backend is None else drivers.router.read(backend)
            preview = RouterState() if place is None else drivers.router.read(place)
        except DriverError as error:
            if self._unobservable.get(service.key) != error.message:
                self._unobservable[service.key] = error.message
                logger.warning("cannot observe service; leaving it untouched", service=service.key, error=error.message)
            return None
        if router_state.restarted or preview.restarted:
            logger.warning("the proxy was down and has been restarted", service=service.key)
        if self._unobservable.pop(service.key, None) is not None:
            logger.info("service can be observed again", service=service.key)
        return ObservedState(instances, router_state, preview)

    def _handle(self, row: ServiceRow, service: Service, live: str, observed: ObservedState) -> None:
        """Record the drift, then create the repair. If this process dies in between, the next check creates it."""
        now = self._clock()
        release = self._store.get_release(service.key, live).release
        difference = drift.find_difference(service, release, observed, now)
        history = () if difference is None else self._store.rollouts(service.key, limit=drift.HISTORY_LENGTH)
        decision = drift.handle_drift(service, row.drift, difference, history, now)
        if decision.drift != row.drift:
            self._store.set_drift(service.key, decision.drift)
            _log_change(service.key, row.drift, decision.drift)
        if not decision.repair or decision.drift is None:
            return
        new = drift_repair.new_repair(service, release, now, f"repair of {release.id}: {decision.drift.message}")
        try:
            self._store.create(new.rollout, new.service, None, NO_KEY, new.event)
        except Refused as error:
            logger.info("did not start a repair", service=service.key, reason=error.message)
            return
        self._wake()


def _log_change(service: str, before: Drift | None, drift: Drift | None) -> None:
    """Log a change of the drift state. Alerts may match `service is unhealthy`."""
    if drift is None:
        logger.info("service matches its release again", service=service)
    elif before is None or before.state is not drift.state:
        if drift.state is DriftState.UNHEALTHY:
            logger.warning("service is unhealthy", service=service, drift=drift.message, reason=drift.reason)
        elif drift.state is not DriftState.SEEN:
            logger.info("service has drifted", service=service, drift=drift.message, state=drift.state, reason=drift.reason)
