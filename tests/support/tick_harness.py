"""A rollout in a small world that is driven tick by tick, and engines that die at any call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from support.fake_drivers import (
    FakeEnvironment,
    Interposed,
    SimulatedCrash,
    a_service,
    claimed,
    request_rollout,
    settle_old,
)
from support.store_fixtures import ManualClock
from tidegate.core.approvals import approval_binding
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Service, Signal, SignalKind
from tidegate.core.phases import Phase
from tidegate.core.records import Claim
from tidegate.engine.tick import RolloutCache, TickResult, tick
from tidegate.ports import Drivers
from tidegate.store.store import SqlStore


class TickHarness:
    """A store, a world, a clock that jumps to when the engine wants to look again, and one rollout."""

    def __init__(self, store: SqlStore, clock: ManualClock) -> None:
        self.store, self.clock = store, clock
        self.world = FakeEnvironment(clock)
        self.cache = RolloutCache()
        self.claim = Claim("", 0, 0.0, "")
        self.rollout = ""

    def begin(self, service: Service | None = None, *, old: bool = True) -> None:
        """Ask for release 2 where release 1 serves, or for release 1 where nothing is."""
        service = service or a_service()
        if old:
            settle_old(self.store, self.world, service, self.clock)
        self.rollout = request_rollout(self.store, service, 2 if old else 1, self.clock, 1 if old else None)
        self.claim = claimed(self.store)

    def tick(self, *, parts: Drivers | None = None, store: Any = None) -> TickResult:
        self.clock.forward(0.001)
        return tick(self.claim, store or self.store, parts or self.world.parts(), self.clock, cache=self.cache)

    def run(self, until: Phase | None = None, *, most: int = 400, **changed: Any) -> TickResult:
        """Tick to the end, to a phase, or fail."""
        for _ in range(most):
            done = self.tick(**changed)
            if done.finished or (until is not None and self.phase is until):
                return done
            if done.due is not None:
                self.clock.now = max(self.clock.now, done.due)
        raise AssertionError(f"not there after {most} ticks: {self.phase}, {done.message}")

    def run_until(self, moment: float, most: int = 400) -> None:
        """Tick until the clock is there."""
        for _ in range(most):
            if self.clock() >= moment:
                return
            done = self.tick()
            self.clock.now = min(moment, max(self.clock.now, done.due or 0.0))
        raise AssertionError(f"not there after {most} ticks: {self.phase}, {done.message}")

    def advance(self, kind: EventKind, most: int = 60) -> None:
        """Tick until an event of this kind was told."""
        for _ in range(most):
            if kind in self.kinds():
                return
            done = self.tick()
            self.clock.now = max(self.clock.now, done.due or 0.0)
        raise AssertionError(f"no {kind} in {self.kinds()}")

    @property
    def phase(self) -> Phase:
        return self.store.load(self.rollout)[0].phase

    @property
    def reason(self) -> str:
        return self.store.load(self.rollout)[0].reason

    def kinds(self) -> list[str]:
        return [event.kind for event in self.store.events(self.rollout)]

    def messages(self, kind: EventKind) -> list[str]:
        return [event.message for event in self.store.events(self.rollout) if event.kind == kind]

    def signal(self, kind: SignalKind) -> None:
        rollout = self.store.load(self.rollout)[0]
        step, binding = (rollout.cursor, approval_binding(rollout)) if kind is SignalKind.PROMOTE else (None, "")
        self.store.signal(self.rollout, Signal(kind, self.clock(), "ada", "because", step, binding=binding))


def interposed(stage: TickHarness, before: Any) -> dict[str, Any]:
    parts = stage.world.parts()
    return {
        "store": Interposed(stage.store, before),
        "parts": replace(parts, platform=Interposed(parts.platform, before), router=Interposed(parts.router, before)),
    }


def another(stage: TickHarness, service: Service) -> TickHarness:
    """A new world and service beside the others in the same store."""
    made = TickHarness(stage.store, stage.clock)
    made.begin(service)
    return made


def taken_over(stage: TickHarness) -> None:
    """By an engine that remembers nothing, once the lease has run out."""
    stage.clock.forward(20)
    stage.claim, stage.cache = claimed(stage.store, "bert"), RolloutCache()


def crash_at(stage: TickHarness, number: int) -> None:
    left = iter(range(number))

    def before(verb: str) -> None:
        if next(left, None) is None:
            raise SimulatedCrash(verb)

    with pytest.raises(SimulatedCrash):
        stage.run(**interposed(stage, before))
