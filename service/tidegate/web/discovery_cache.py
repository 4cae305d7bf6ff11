"""A short-lived cache of the platforms' instances, for service discovery that polls often and must not block."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

from tidegate.clock import Time
from tidegate.core.model import Instance
from tidegate.errors import DriverError
from tidegate.ports import Platform

FRESH_SECONDS = 2.0  # several Prometheus servers share one request to the platform
STALE_SECONDS = 60.0  # how long the last result is served while the platform is unavailable
WAIT_SECONDS = 1.0  # how long to wait for a slow platform when a cached result exists
THREADS = 16

Instances = tuple[Instance, ...]


class DiscoveryCache:
    """Reads all services in parallel, with at most one pending request per service."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, "discovery")
        self._lock = threading.Lock()
        self._cached: dict[str, tuple[Time, Instances]] = {}
        self._pending: dict[str, Future[Instances]] = {}

    def instances(self, platforms: Mapping[str, Platform], now: Time) -> Mapping[str, Instances]:
        """The instances of each service, by its key. Raises `DriverError` after `STALE_SECONDS` without a platform."""
        futures = {
            service: self._refresh(service, platform, now)
            for service, platform in platforms.items()
            if now - self._at(service) > FRESH_SECONDS
        }
        wait(futures.values(), WAIT_SECONDS)
        return {service: self._result(service, futures.get(service), now) for service in platforms}

    def _refresh(self, service: str, platform: Platform, now: Time) -> Future[Instances]:
        with self._lock:
            pending = self._pending.get(service)
            if pending is None or pending.done():
                pending = self._pending[service] = self._pool.submit(self._read, service, platform, now)
            return pending

    def _read(self, service: str, platform: Platform, now: Time) -> Instances:
        instances = platform.instances(service)
        self._cached[service] = now, instances
        return instances

    def _result(self, service: str, future: Future[Instances] | None, now: Time) -> Instances:
        usable = now - self._at(service) <= STALE_SECONDS
        if future is None or (usable and not future.done()):
            return self._cached[service][1]
        try:
            return future.result()
        except DriverError:
            if usable:
                return self._cached[service][1]
            raise

    def _at(self, service: str) -> Time:
        return self._cached[service][0] if service in self._cached else float("-inf")
