"""A clock that jumps under a running engine: what is waited for takes as long as it was meant to."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from support.fake_drivers import FakeEnvironment, a_service, request_rollout, settle_old, sqlite
from support.store_fixtures import ManualClock, a_rollout
from support.tick_harness import TickHarness
from support.wait import eventually
from tidegate.core.decisions import shift_marks
from tidegate.core.event_kinds import EventKind
from tidegate.core.hooks import TaskRun, TaskState
from tidegate.core.model import Rollout
from tidegate.core.phases import Phase
from tidegate.core.records import Claim
from tidegate.engine import clock_jumps
from tidegate.engine.metrics import EngineMetrics
from tidegate.engine.worker import Worker, WorkerOptions
from tidegate.store.store import SqlStore

HOUR = 3600.0
BAKE_SECONDS = 60.0
LOST = "tidegate_leases_lost_total"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[TickHarness]:
    clock = ManualClock()
    with sqlite(tmp_path, clock) as store:
        yield TickHarness(store, clock)


def rollout_of(stage: TickHarness) -> Rollout:
    return stage.store.load(stage.rollout)[0]


def follow(stage: TickHarness, apart: float) -> None:
    clock_jumps.adjust(stage.claim, stage.store, stage.cache, apart, stage.clock())


def baking(stage: TickHarness) -> float:
    """A rollout in its first bake; when that is over."""
    stage.begin(a_service(bake_seconds=BAKE_SECONDS))
    follow(stage, 0.0)
    while (settled := rollout_of(stage).step_ready_at) is None:
        stage.clock.forward(0.1)
        stage.tick()
    return settled + BAKE_SECONDS


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_a_bake_takes_as_long_as_it_was_meant_to(stage: TickHarness, seconds: float) -> None:
    end = baking(stage) + seconds
    stage.clock.now += seconds
    follow(stage, seconds)
    assert rollout_of(stage).step_ready_at == pytest.approx(end - BAKE_SECONDS)
    stage.clock.now = end - 1.0
    stage.tick()
    assert rollout_of(stage).cursor == 0, "it is not over yet"
    stage.clock.now = end + 0.1
    stage.run(Phase.SUCCEEDED)
    way = "forward" if seconds > 0 else "back"
    assert stage.messages(EventKind.WARNING) == [f"Engine clock jumped {way} 3600 s; timers were adjusted."]


def test_what_is_no_jump_changes_nothing(stage: TickHarness) -> None:
    baking(stage)
    before = rollout_of(stage)
    for apart in (0.4, 0.0, -0.4):
        follow(stage, apart)
    assert rollout_of(stage) == before


def test_small_steps_add_up(stage: TickHarness) -> None:
    baking(stage)
    settled = rollout_of(stage).step_ready_at
    for apart in (0.6, 1.2):
        follow(stage, apart)
    assert settled is not None
    assert rollout_of(stage).step_ready_at == pytest.approx(settled + 1.2)


def test_what_trouble_is_counted_from_goes_along(stage: TickHarness) -> None:
    baking(stage)
    stage.cache.stuck_since = stage.cache.failing_since = stage.clock()
    stage.clock.now -= HOUR
    follow(stage, -HOUR)
    assert stage.cache.stuck_since == stage.cache.failing_since == pytest.approx(stage.clock())


def test_a_task_that_has_ended_stays_as_it_was() -> None:
    done, runs = TaskRun("a", TaskState.PASSED, 1.0, 2.0), TaskRun("b", TaskState.RUNNING, 3.0)
    moved = shift_marks(replace(a_rollout(a_service(), 1), tasks=(done, runs)), HOUR)
    assert moved.tasks == (done, TaskRun("b", TaskState.RUNNING, 3.0 + HOUR))
    assert (moved.step_started_at, moved.verdict) == (None, None)


class Jumping:
    """The real clock, and what it is ahead."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@contextmanager
def _driven(store: SqlStore, world: FakeEnvironment, clock: Jumping, meter: EngineMetrics | None = None) -> Iterator[None]:
    options = WorkerOptions(lease_seconds=2.0, threads=2, poll_seconds=0.05)
    worker = Worker(store, {"demo": world.parts()}, options, clock, "anna", meter=meter, steady=time.monotonic)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join(60)


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
@pytest.mark.parametrize("verb", ["instances", "write"])
def test_a_worker_goes_on_whenever_in_a_tick_the_clock_jumps(tmp_path: Path, verb: str, seconds: float) -> None:
    """SQLite tells by that clock what is due, and it is the one that instances have 20 s by to become ready."""
    clock = Jumping()
    with sqlite(tmp_path, clock) as store:
        world = FakeEnvironment(time.time, ready_after=0.3)
        service = a_service(bake_seconds=0.5)
        settle_old(store, world, service, clock)
        rollout = request_rollout(store, service, 2, clock, 1)
        jumps = iter([seconds])

        def jump(called: str) -> None:
            if called == verb and store.load(rollout)[0].step_started_at is not None:
                clock.ahead += next(jumps, 0.0)

        world.pause = jump
        with _driven(store, world, clock):
            eventually("it has ended", lambda: not store.load(rollout)[0].phase.live)
        assert store.load(rollout)[0].phase is Phase.SUCCEEDED


def test_a_lease_that_a_jump_expires_does_not_shorten_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock jumps just before the engine claims rollouts: it takes the rollout that its other thread is driving."""
    clock = Jumping()
    driving, jumped, meter = threading.Event(), threading.Event(), EngineMetrics()
    with sqlite(tmp_path, clock) as store:
        world = FakeEnvironment(time.time, ready_after=0.3)
        service = a_service(bake_seconds=0.5)
        settle_old(store, world, service, clock)
        rollout = request_rollout(store, service, 2, clock, 1)
        original = store.claim

        def claim(owner: str, ttl_seconds: float, without: Collection[str] = ()) -> Claim | None:
            if not driving.is_set() or jumped.is_set():
                return original(owner, ttl_seconds, without)
            clock.ahead += HOUR
            jumped.set()
            taken = original(owner, ttl_seconds, without)
            eventually("the other thread notices it", lambda: meter.registry.get_sample_value(LOST) == 1.0)
            return taken

        def hold(called: str) -> None:
            if called == "instances" and store.load(rollout)[0].starting_at is not None and not driving.is_set():
                driving.set()
                assert jumped.wait(30)
                eventually("the rollout is claimed again", lambda: store.load(rollout)[0].takeovers > 0)

        monkeypatch.setattr(store, "claim", claim)
        world.pause = hold
        with _driven(store, world, clock, meter):
            eventually("it has ended", lambda: not store.load(rollout)[0].phase.live)
        assert jumped.is_set()
        assert store.load(rollout)[0].phase is Phase.SUCCEEDED


def test_a_worker_whose_clock_goes_back_does_not_wait_until_it_was_caught_up(tmp_path: Path) -> None:
    clock = Jumping()
    with sqlite(tmp_path, clock) as store:
        world = FakeEnvironment(clock, ready_after=0.02)
        service = a_service(bake_seconds=1.0)
        settle_old(store, world, service, clock)
        rollout = request_rollout(store, service, 2, clock, 1)
        with _driven(store, world, clock):
            eventually("its bake has begun", lambda: store.load(rollout)[0].step_ready_at is not None)
            clock.ahead = -HOUR
            eventually("it has ended", lambda: not store.load(rollout)[0].phase.live)
        assert store.load(rollout)[0].phase is Phase.SUCCEEDED
