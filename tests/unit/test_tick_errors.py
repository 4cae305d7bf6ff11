"""A tick that meets what it did not want to see: a busy instance, a part that fails, a database that does not answer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from support.fake_drivers import Interposed, a_service, sqlite
from support.store_fixtures import ManualClock
from support.tick_harness import TickHarness, interposed
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import SignalKind
from tidegate.core.phases import Phase
from tidegate.core.rollout_state import member_of
from tidegate.core.waits import WaitKind
from tidegate.errors import PlatformError, RouterError, StoreError


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[TickHarness]:
    clock = ManualClock()
    with sqlite(tmp_path, clock) as store:
        yield TickHarness(store, clock)


# -- stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["routed", "busy", "unknown"])
def test_stop_reads_the_proxy_again_and_leaves_what_serves(stage: TickHarness, how: str) -> None:
    stage.begin()
    while stage.kinds().count("step_started") < 2:
        stage.clock.now = max(stage.clock.now, stage.tick().due or 0.0)
    seen: list[str] = []

    def back_in_the_route(verb: str) -> None:
        seen.append(verb)
        if seen.count("read") == 2:  # the first was the look, the second is stop's own
            if how == "routed":
                stage.world.routed["shop"] = tuple(member_of(each) for each in stage.world.present())
            else:
                count = 2 if how == "busy" else None
                stage.world.draining.update({each.id: count for each in stage.world.present("v1-1")})

    parts = stage.world.parts()
    stage.cache.forget_observation()
    stage.tick(parts=replace(parts, router=Interposed(parts.router, back_in_the_route)))
    assert seen == ["read", "read"]
    assert "stop" not in stage.world.calls
    assert len(stage.world.present()) == 3


def test_a_busy_instance_is_stopped_only_after_its_drain_time(stage: TickHarness) -> None:
    stage.begin(a_service(replicas=1))
    stage.world.in_flight["v1-1"] = 1
    stage.advance(EventKind.TRAFFIC_CONFIRMED)
    shifted = stage.store.load(stage.rollout)[0].traffic_confirmed_at
    assert shifted is not None
    stage.advance(EventKind.STOPPED, most=200)
    assert stage.clock() - shifted >= 5.0


# -- trouble ----------------------------------------------------------------------------------------------------------


def test_nothing_is_touched_while_blind_and_pauses_grow(stage: TickHarness) -> None:
    stage.begin()
    stage.tick()
    done = len(stage.world.calls)
    stage.world.always["read"] = RouterError("HAProxy does not answer")
    pauses = []
    for _ in range(8):
        answer = stage.tick()
        assert answer.failed
        assert answer.due is not None
        pauses.append(round(answer.due - stage.clock(), 3))
        stage.clock.now = answer.due
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert set(stage.world.calls[done:]) == {"instances", "read"}
    assert stage.messages(EventKind.DRIVER_ERROR) == ["HAProxy does not answer"], "told once, not eight times"
    assert stage.phase is Phase.RUNNING


def test_the_same_trouble_is_told_again_after_a_minute_and_another_at_once(stage: TickHarness) -> None:
    stage.begin()
    stage.tick()
    stage.world.always["read"] = RouterError("HAProxy does not answer")
    stage.tick()
    stage.clock.forward(30)
    stage.tick()
    stage.clock.forward(31)
    stage.tick()
    assert len(stage.messages(EventKind.DRIVER_ERROR)) == 2
    stage.world.always["read"] = RouterError("HAProxy does not let us in")
    stage.tick()
    assert stage.messages(EventKind.DRIVER_ERROR)[-1] == "HAProxy does not let us in"


def test_the_same_trouble_that_comes_again_is_told_when_it_lasts(stage: TickHarness) -> None:
    stage.begin()
    stage.tick()
    for seconds in (1.0, 1.0, 8.0):
        begun = stage.clock()
        stage.world.always["read"] = RouterError("HAProxy does not answer")
        stage.run_until(begun + seconds)
        del stage.world.always["read"]
        stage.signal(SignalKind.PAUSE)
        stage.run_until(stage.clock() + 10.0)
    assert [each for each in stage.kinds() if each in ("driver_error", "recovered")] == ["driver_error", "recovered"] * 2


def test_when_it_works_again_that_is_told_and_it_goes_on(stage: TickHarness) -> None:
    stage.begin()
    stage.tick()
    stage.world.faults["instances"] = [PlatformError("the engine does not answer")] * 3
    stage.run()
    assert stage.phase is Phase.SUCCEEDED
    assert stage.messages(EventKind.RECOVERED) == ["Recovered after 1.8 s."]


@pytest.mark.parametrize("failures", [0, 1])
def test_a_proxy_that_had_ended_is_told_of_once_even_if_the_database_fails_meanwhile(
    stage: TickHarness, failures: int
) -> None:
    stage.begin()
    stage.tick()
    stage.world.proxy_ended = True
    left = iter(range(failures))

    def fails(verb: str) -> None:
        if verb == "note" and next(left, None) is not None:
            raise StoreError("database is locked")

    stage.run(store=Interposed(stage.store, fails))
    assert stage.phase is Phase.SUCCEEDED
    assert stage.messages(EventKind.WARNING) == ["The proxy was down and has been restarted; requests in between failed."]


def test_the_database_may_fail_at_any_moment(stage: TickHarness) -> None:
    stage.begin()
    chance = random.Random(7)

    def sometimes(verb: str) -> None:
        if chance.random() < 0.3:
            raise StoreError("database is locked")

    parts = stage.world.parts()
    stage.run(store=Interposed(stage.store, sometimes), parts=parts, most=2000)
    assert stage.phase is Phase.SUCCEEDED
    assert stage.world.serving() == ["v2-2", "v2-2"]


@pytest.mark.parametrize("verb", ["instances", "start", "write", "read", "stop", "pin"])
def test_what_passes_by_itself_is_waited_out(stage: TickHarness, verb: str) -> None:
    stage.begin()
    error = RouterError if verb in ("read", "write") else PlatformError
    stage.world.faults[verb] = [error("busy")] * 3
    stage.run()
    assert stage.phase is Phase.SUCCEEDED


def test_what_does_not_pass_before_anything_was_changed_is_refused_after_ten_minutes(stage: TickHarness) -> None:
    stage.begin()
    begun = stage.clock()
    stage.world.always["pin"] = PlatformError("the registry does not answer")
    stage.run_until(begun + 300.0)
    waiting = stage.store.load(stage.rollout)[0].waiting_for
    assert waiting is not None
    assert (waiting.kind, waiting.reason) == (WaitKind.PART, "the registry does not answer")
    assert waiting.then == "the rollout is refused; nothing was changed"
    assert waiting.until == pytest.approx(begun + 600.0, abs=1.0)
    stage.run()
    assert (stage.phase, stage.reason) == (Phase.REFUSED, "the registry does not answer")
    assert stage.clock() - begun == pytest.approx(600.0, abs=15.0)
    assert stage.world.serving() == ["v1-1", "v1-1"]


def test_what_can_never_start_turns_back_at_once(stage: TickHarness) -> None:
    stage.begin()
    stage.world.faults["start"] = [PlatformError("no space left on the disk: free some", retryable=False)]
    begun = stage.clock()
    stage.run()
    assert stage.phase is Phase.ROLLED_BACK
    assert stage.reason == "no space left on the disk: free some"
    assert stage.clock() - begun < 2
    assert stage.world.serving() == ["v1-1", "v1-1"]


@pytest.mark.parametrize("verb", ["instances", "read", "load"])
def test_what_is_out_of_sight_for_longer_than_the_deadline_has_its_time_afterwards(stage: TickHarness, verb: str) -> None:
    stage.world.never_ready.add("v2-2")
    stage.begin()
    stage.advance(EventKind.STARTED)
    started = stage.clock()
    stage.run_until(started + 10.0)

    def away(called: str) -> None:
        if stage.clock() > started + 82.0:
            stage.world.never_ready.clear()
        if called == verb and stage.clock() < started + 70.0:
            raise StoreError("no connection") if verb == "load" else PlatformError("no answer")

    stage.run(most=2000, **interposed(stage, away))
    assert stage.phase is Phase.SUCCEEDED, stage.reason


def test_sight_that_comes_and_goes_does_not_put_the_deadline_off_for_ever(stage: TickHarness) -> None:
    stage.world.never_ready.add("v2-2")
    stage.begin()
    stage.advance(EventKind.STARTED)
    begun = stage.clock()

    def sometimes(called: str) -> None:
        if called == "instances" and stage.clock() % 10.0 < 5.0:
            raise PlatformError("no answer")

    stage.run(most=2000, **interposed(stage, sometimes))
    assert stage.phase is Phase.ROLLED_BACK
    assert 20.0 < stage.clock() - begun < 120.0


def test_what_goes_long_after_its_step_began_has_the_time_of_its_deadline(stage: TickHarness) -> None:
    stage.begin(replace(a_service(), bake_seconds=100.0))
    stage.advance(EventKind.STEP_READY)
    stage.run_until(stage.clock() + 60.0)
    stage.world.ready_after = 15.0
    stage.world.started.clear()
    stage.run(most=2000)
    assert stage.phase is Phase.SUCCEEDED, stage.reason


def test_a_proxy_that_refuses_for_good_is_given_up_after_the_deadline(stage: TickHarness) -> None:
    stage.begin()
    stage.advance(EventKind.STARTED)
    stage.world.always["write"] = RouterError("backend shop has servers that Tidegate did not add", retryable=False)
    begun = stage.clock()
    stage.run(Phase.ROLLING_BACK)
    assert 20 <= stage.clock() - begun < 40
    assert stage.reason.startswith("Cannot move traffic for 20 s: backend shop has servers")
    assert stage.world.serving() == ["v1-1", "v1-1"]
    stage.run()
    assert stage.phase is Phase.ROLLED_BACK, "nothing had to be moved for that"


def test_blind_for_good_halts_and_leaves_the_traffic(stage: TickHarness) -> None:
    stage.begin()
    stage.advance(EventKind.TRAFFIC_CONFIRMED)
    stage.world.always["instances"] = PlatformError("the certificate is not ours", retryable=False)
    stage.run()
    assert stage.phase is Phase.FAILED
    assert stage.reason == "Halted after 20 s of errors: the certificate is not ours"
    assert stage.world.serving() == ["v1-1", "v2-2"], "as it was"


def test_a_pause_stops_that_deadline(stage: TickHarness) -> None:
    stage.begin()
    stage.advance(EventKind.TRAFFIC_CONFIRMED)
    stage.signal(SignalKind.PAUSE)
    stage.world.always["read"] = RouterError("no backend shop", retryable=False)
    for _ in range(10):
        stage.clock.now = max(stage.clock.now, stage.tick().due or 0.0) + 30
    assert stage.phase is Phase.RUNNING


def test_a_leftover_that_cannot_be_stopped_never_moves_traffic_back(stage: TickHarness) -> None:
    stage.begin(a_service(replicas=1))
    stage.world.always["stop"] = PlatformError("permission denied", retryable=False)
    stage.run()
    assert stage.phase is Phase.FAILED
    assert stage.world.serving() == ["v2-2"]


def test_the_same_effect_without_any_change_is_slowed_down(stage: TickHarness) -> None:
    stage.begin()
    stage.tick()
    lazy = Interposed(stage.world.parts().platform, lambda verb: None)
    lazy.start = lambda release, ordinals: stage.world.calls.append("start")  # type: ignore[attr-defined] # starts nothing
    times = []
    for _ in range(20):
        done = stage.tick(parts=replace(stage.world.parts(), platform=lazy))
        if stage.world.calls[-1] == "start":
            times.append(round((done.due or stage.clock()) - stage.clock(), 3))
        stage.clock.now = max(stage.clock.now, done.due or 0.0)
    assert times[:10] == [0, 0, 0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
