"""What the platforms said last, for those who ask often and must not wait."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

from tidegate.clock import Time
from tidegate.core.model import Instance
from tidegate.errors import DriverError
from tidegate.ports import Platform

FRESH_SECONDS = 2.0  # several Prometheis that ask at once cost the platform one question
STALE_SECONDS = 60.0  # while the platform does not answer, what it said last is told for so long
WAIT_SECONDS = 1.0  # for a platform that is slow to answer, where there is something to tell in its place
THREADS = 16

Instances = tuple[Instance, ...]


class DiscoveryCache:
    """Asks about all services at the same time, and about none a second time while the answer is still to come."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, "discovery")
        self._lock = threading.Lock()
        self._said: dict[str, tuple[Time, Instances]] = {}
        self._asked: dict[str, Future[Instances]] = {}

    def instances(self, wanted: Mapping[str, Platform], now: Time) -> Mapping[str, Instances]:
        """Of these services. Raises `DriverError` when a platform has not answered for too long."""
        questions = {
            service: self._question(service, platform, now)
            for service, platform in wanted.items()
            if now - self._at(service) > FRESH_SECONDS
        }
        wait(questions.values(), WAIT_SECONDS)
        return {service: self._found(service, questions.get(service), now) for service in wanted}

    def _question(self, service: str, platform: Platform, now: Time) -> Future[Instances]:
        with self._lock:
            pending = self._asked.get(service)
            if pending is None or pending.done():
                pending = self._asked[service] = self._pool.submit(self._ask, service, platform, now)
            return pending

    def _ask(self, service: str, platform: Platform, now: Time) -> Instances:
        instances = platform.instances(service)
        self._said[service] = now, instances
        return instances

    def _found(self, service: str, question: Future[Instances] | None, now: Time) -> Instances:
        kept = now - self._at(service) <= STALE_SECONDS
        if question is None or (kept and not question.done()):
            return self._said[service][1]
        try:
            return question.result()
        except DriverError:
            if kept:
                return self._said[service][1]
            raise

    def _at(self, service: str) -> Time:
        return self._said[service][0] if service in self._said else float("-inf")
