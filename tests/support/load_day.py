"""A day of an engine: rollouts begin and end all the while, and only the moments at which there is work are lived."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.fake_drivers import LIMIT, FakeDocuments, FakeEnvironment, a_service
from support.load_drivers import LoadMetrics, LoadOptions, LoadPlatform, LoadRouter
from support.load_rollouts import HOUR_SECONDS, RolloutRequesters, environments, request_next, settle
from support.load_setup import resident_mib
from support.wait import eventually
from tidegate.clock import Time
from tidegate.core.model import Policy, Service
from tidegate.core.records import Claim
from tidegate.engine.pruner import Pruner
from tidegate.engine.worker import Worker, WorkerOptions
from tidegate.ports import Drivers
from tidegate.store.store import SqlStore
from tidegate.web import log_setup

BAKE_SECONDS = 300.0  # of each of two batches, so that a rollout takes ten minutes
INTERVAL_SECONDS = 60.0
RETENTION_SECONDS = HOUR_SECONDS  # what ended longer ago is pruned, but for the newest ten of each service


class SkippingClock:
    """The real time, and all that was leapt over. A day of a thousand pauses is over when its work is done."""

    def __init__(self) -> None:
        self._leapt = 0.0

    def __call__(self) -> Time:
        return time.time() + self._leapt

    def shift_clock(self, to: Time) -> None:
        """It is that late now, if it was not yet."""
        self._leapt += max(0.0, to - self())


class SkippingStore:
    """A store whose clock leaps to the next moment at which a rollout is due, as soon as none is due or held."""

    def __init__(self, store: SqlStore, clock: SkippingClock, callers: RolloutRequesters) -> None:
        self._store, self._clock, self._callers = store, clock, callers
        self._lock = threading.Lock()  # guards the two below
        self._held: set[str] = set()
        self._due: dict[str, Time] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def claim(self, owner: str, ttl_seconds: float, without: Collection[str] = ()) -> Claim | None:
        """As the store's."""
        with self._lock:
            found = self._store.claim(owner, ttl_seconds, without)
            if found is not None:
                self._held.add(found.rollout)
                self._due.pop(found.rollout, None)
            elif self._due and not self._held:
                self._clock.shift_clock(min(self._due.values()))
        return found

    def release(self, claim: Claim, due: Time | None) -> None:
        """As the store's. Who asked for a rollout that has ended asks for the next at once."""
        self._store.release(claim, due)
        if due is None:
            rollout, _ = self._store.load(claim.rollout)
            self._callers.ask(rollout.service)
        with self._lock:
            self._held.discard(claim.rollout)
            if due is not None:
                self._due[claim.rollout] = due


@dataclass(frozen=True)
class HourOfLoad:
    """How an engine stood when so many hours were over. `ended`: rollouts so far; `kept`: those that the database has."""

    number: int
    ended: int
    kept: int
    resident_mib: float


class DayOfLoad:
    """An engine with its own database in `home`, and services that are rolled out without an end."""

    def __init__(self, home: Path, services: int) -> None:
        self._clock = SkippingClock()
        self._store = SqlStore(f"sqlite:///{home}/tidegate.db", self._clock)
        self._options = LoadOptions(directory=home / "world", ready_seconds=0.0)
        self._services = [_service(number) for number in range(services)]

    def lived(self, hours: Sequence[int]) -> list[HourOfLoad]:
        """Through all of these hours; how it stood at the end of each."""
        with closing(self._store):
            self._store.migrate()
            settle(self._store, self._services, self._options, self._clock)
            for service in self._services:
                request_next(self._store, service, 1, self._clock)
            callers = RolloutRequesters(self._store, self._services, self._clock)
            worker = self._worker(SkippingStore(self._store, self._clock, callers))
            thread = threading.Thread(target=worker.run)
            thread.start()
            try:
                return self._watched(hours, callers)
            finally:
                worker.stop()
                thread.join()

    def _worker(self, store: SkippingStore) -> Worker:
        options = WorkerOptions(threads=4, poll_seconds=0.001)  # it leaps when it looks in vain
        documents = FakeDocuments(FakeEnvironment(self._clock))
        parts = {
            name: Drivers(
                LoadPlatform(self._options, name),
                LoadRouter(self._options, name),
                LoadMetrics(self._options, name),
                documents,
            )
            for name in environments()
        }
        return Worker(store, parts, options, self._clock, "day")  # type: ignore[arg-type]

    def _watched(self, hours: Sequence[int], callers: RolloutRequesters) -> list[HourOfLoad]:
        begun, found = self._clock(), list[HourOfLoad]()
        pruner = Pruner(self._store, self._clock, None, RETENTION_SECONDS)
        for hour in range(1, max(hours) + 1):
            end = begun + hour * HOUR_SECONDS
            eventually("an hour is over", lambda end=end: self._clock() >= end, 3600.0, poll_seconds=0.05)
            pruner.prune()
            if hour in hours:
                gc.collect()
                size = resident_mib(os.getpid())
                kept = sum(len(self._store.rollouts(service.key, limit=1000)) for service in self._services)
                found.append(HourOfLoad(hour, callers.ended, kept, size))
        return found


def _service(number: int) -> Service:
    policy = Policy(drain_timeout_seconds=5.0, interval_seconds=INTERVAL_SECONDS)
    environment = environments()[number % len(environments())]
    return a_service(f"s{number:05}", environment=environment, policy=policy, bake_seconds=BAKE_SECONDS, checks=(LIMIT,))


def live_a_day(home: Path, services: int, hours: Sequence[int]) -> list[HourOfLoad]:
    """In a process of its own, whose memory is the engine's."""
    log_setup.configure("warning", "json")
    return DayOfLoad(home, services).lived(hours)
