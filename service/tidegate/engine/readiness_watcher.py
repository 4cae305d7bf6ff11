"""Notices when instances stop being ready, or become ready again, and makes the engine observe their service at once.

Rollouts and drift checks observe a service every few seconds only. This polls the platform more often, the services of an
environment concurrently, so that one that does not respond delays no other. It decides nothing: a rollout or a repair does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from types import TracebackType

import structlog

from tidegate.core.model import Instance, InstanceState
from tidegate.engine.metrics import EngineMetrics
from tidegate.errors import DriverError
from tidegate.ports import Drivers
from tidegate.store_port import EngineStore

logger = structlog.get_logger("tidegate.engine")

POLL_SECONDS = 0.25  # between two polls of a service
MAX_CPU_SHARE = 0.1  # of one processor for each environment; with many services the polls become less frequent
LIST_SECONDS = 2.0  # between two queries for the services to poll
MAX_CONCURRENT_POLLS = 8
MAX_ROUND_SECONDS = 2.0  # then the next round begins, without the services that have not responded


class ServiceReadiness:
    """The readiness of a service's instances that were ready at some time."""

    def __init__(self) -> None:
        self._ready: dict[str, bool] = {}
        self.has_ready = True  # whether any instance is ready, or none exists

    def update(self, instances: Collection[Instance]) -> bool:
        """Whether the readiness of an instance changed that was ready before."""
        present = [instance for instance in instances if instance.state is not InstanceState.STOPPING]
        ready = {instance.id: instance.state is InstanceState.READY for instance in present}
        before = {name: self._ready[name] for name in ready if name in self._ready}
        self._ready = {name: is_ready for name, is_ready in ready.items() if is_ready or name in before}
        self.has_ready = any(ready.values()) or not self._ready
        return any(ready[name] is not was_ready for name, was_ready in before.items())

    @property
    def unhealthy_count(self) -> int:
        """Instances that were ready and no longer are."""
        return sum(1 for is_ready in self._ready.values() if not is_ready)


class ReadinessWatcher:
    """Polls services inside its `with` block. `changed` is called with the environment after a change was recorded."""

    def __init__(
        self,
        store: EngineStore,
        environments: Mapping[str, Drivers],
        meter: EngineMetrics,
        changed: Callable[[str], None],
    ) -> None:
        self._store, self._environments, self._meter, self._changed = store, environments, meter, changed
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(name,), name=f"readiness-{name}") for name in environments
        ]

    def __enter__(self) -> ReadinessWatcher:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, environment: str) -> None:
        environment_poll = _EnvironmentPoll(environment, self._environments[environment], self._store)
        with ThreadPoolExecutor(MAX_CONCURRENT_POLLS, f"readiness-{environment}") as pool:
            pause = 0.0
            while not self._stopping.wait(pause):
                begun = time.monotonic()
                try:
                    cpu_seconds, changed = environment_poll.run(pool)
                    if changed:
                        self._changed(environment)
                    self._meter.observed_readiness(environment, *environment_poll.counts())
                    pause = max(POLL_SECONDS - (time.monotonic() - begun), cpu_seconds / MAX_CPU_SHARE, 0.0)
                except DriverError as error:
                    logger.debug("cannot watch readiness", environment=environment, error=error.message)
                    pause = LIST_SECONDS
                except Exception:  # a bug must not end the watch
                    logger.exception("cannot watch readiness", environment=environment)
                    pause = LIST_SECONDS


class _EnvironmentPoll:
    """The polls of one environment."""

    def __init__(self, environment: str, drivers: Drivers, store: EngineStore) -> None:
        self._environment, self._drivers, self._store = environment, drivers, store
        self._listed_at = float("-inf")
        self._running: set[str] = set()
        self._lock = threading.Lock()
        self.services: dict[str, ServiceReadiness] = {}

    def run(self, pool: ThreadPoolExecutor) -> tuple[float, bool]:
        """Poll all services once. Returns the processor time in seconds, and whether a change was recorded. Raises
        `StoreError`."""
        if time.monotonic() - self._listed_at >= LIST_SECONDS:
            listed = self._store.watched_services(self._environment)
            self.services = {key: self.services.get(key) or ServiceReadiness() for key in listed}
            self._listed_at = time.monotonic()
        with self._lock:
            idle = [key for key in self.services if key not in self._running]
            self._running |= {*idle}
        done, _ = wait([pool.submit(self._poll, key) for key in idle], timeout=MAX_ROUND_SECONDS)
        results = [future.result() for future in done]
        return sum(cpu_seconds for cpu_seconds, _ in results), any(changed for _, changed in results)

    def counts(self) -> tuple[int, int]:
        """Unhealthy instances, and services without a ready one."""
        services = self.services.values()
        return sum(each.unhealthy_count for each in services), sum(1 for each in services if not each.has_ready)

    def _poll(self, key: str) -> tuple[float, bool]:
        begun, changed = time.thread_time(), False
        readiness = self.services.get(key) or ServiceReadiness()
        try:
            if readiness.update(self._drivers.platform.instances(key)):
                self._store.observe_soon(key)
                changed = True
        except DriverError as error:
            logger.debug("cannot watch readiness", service=key, error=error.message)
        finally:
            with self._lock:
                self._running.discard(key)
        return time.thread_time() - begun, changed
