"""The services and the live rollouts of a load measurement, and the callers who ask for the next ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import replace
from types import TracebackType

from support.fake_drivers import LIMIT, a_service, record_old, request_rollout
from support.load_drivers import LoadOptions, LoadPlatform, LoadRouter
from tidegate.core.model import Approval, Policy, Service
from tidegate.ports import Clock
from tidegate.store.store import SqlStore

ENVIRONMENTS = 5
HOUR_SECONDS = 3600.0
MOVING_BAKES_SECONDS = (3.0, 4.0, 5.0, 6.0, 7.0)  # of one after the other, so that they do not all move at once
ASKING_SECONDS = 2.0  # between two looks of a caller whether its rollout has ended
ENDED_BEFORE = 1  # the number of the release that serves when a measurement begins


def environments() -> list[str]:
    """Their names."""
    return [f"env{number}" for number in range(1, ENVIRONMENTS + 1)]


def is_moving(number: int) -> bool:
    """One service in ten has rollouts that end and are followed by another; the others wait all the while."""
    return number % 10 == 0


def service_of(number: int) -> Service:
    """Of ten services one moves on and on, four wait at a hold, and five are in a bake of an hour with one check.

    A service has one live rollout at most, so there are as many services as rollouts.
    """
    environment = environments()[number % ENVIRONMENTS]
    name, policy = f"s{number:05}", Policy(drain_timeout_seconds=5.0)
    if is_moving(number):
        bake = MOVING_BAKES_SECONDS[number // 10 % len(MOVING_BAKES_SECONDS)]
        return a_service(name, environment=environment, policy=policy, bake_seconds=bake)
    if number % 10 < 5:
        approval = Approval(after=(1,))
        return a_service(name, environment=environment, policy=replace(policy, approval=approval))
    return a_service(name, environment=environment, policy=policy, bake_seconds=HOUR_SECONDS, checks=(LIMIT,))


def settle(store: SqlStore, services: Collection[Service], world: LoadOptions, clock: Clock) -> None:
    """Their first releases serve, in the store and in the world."""
    for service in services:
        claim = record_old(store, service, clock)
        made = LoadPlatform(world, service.environment).settle(service, "v1-1")
        LoadRouter(world, service.environment).settle(service, made, claim.fence)


def request_next(store: SqlStore, service: Service, old: int, clock: Clock) -> str:
    """A rollout from the release of this number to the next; its id."""
    return request_rollout(store, service, old + 1, clock, old)


class RolloutRequesters:
    """While it is entered, each of these services is asked for its next rollout as soon as the one before has ended."""

    def __init__(self, store: SqlStore, services: Collection[Service], clock: Clock = time.time) -> None:
        self._store, self._clock = store, clock
        self._present = {service.key: (service, ENDED_BEFORE) for service in services}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="callers")
        self.ended = 0  # rollouts that came to their end

    def __enter__(self) -> RolloutRequesters:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while self._present:
            for key in list(self._present):
                if self._stopping.wait(ASKING_SECONDS / len(self._present)):
                    return
                self.ask(key)

    def ask(self, key: str) -> None:
        """For the next one, if there is none that goes on."""
        service, old = self._present[key]
        rollout, _ = self._store.load(f"{service.name}-{old + 1}")
        if rollout.phase.live:
            return
        self.ended += 1
        self._present[key] = (service, old + 1)
        request_next(self._store, service, old + 1, self._clock)
