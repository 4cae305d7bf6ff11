"""A tick: one write or one effect, right after every crash, quiet while blind."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.smallworld import (
    LIMIT,
    Interposed,
    a_service,
    claimed,
    constant,
    digest,
    down,
    sqlite,
)
from support.ticking import Stage, another, crash_at, interposed, taken_over
from tidegate.core.judge.verdict import Outcome, Reason
from tidegate.core.kinds import Kind
from tidegate.core.model import InstanceState, SignalKind
from tidegate.core.phases import Phase
from tidegate.core.view import member
from tidegate.engine.tick import tick
from tidegate.errors import LeaseLost, MetricsError, PlatformError, RouterError, StoreError
from tidegate.ports import EngineStore
from tidegate.store.sql import SqlStore
from tidegate.testing.store_values import HandClock


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    clock = HandClock()
    with sqlite(tmp_path, clock) as store:
        yield Stage(store, clock)


def test_a_rolling_update_replaces_all_and_tells_its_story(stage: Stage) -> None:
    stage.begin()
    stage.run()
    assert stage.phase is Phase.SUCCEEDED
    assert stage.world.serving() == ["v2-2", "v2-2"]
    assert {each.release for each in stage.world.present()} == {"v2-2"}
    first = ["entered", "started", "shifted", "routed", "settled"]
    second = ["entered", "stopped", "started", "shifted", "routed", "settled"]
    last = ["entered", "routed", "stopped", "settled"]  # the old ones of a batch stay warm until the next step
    steps = ["stepped", *first, "stepped", *second, "stepped", *last]
    assert stage.kinds() == ["created", "pinned", *steps, "succeeded"]


def test_the_image_is_pinned_before_anything_moves(stage: Stage) -> None:
    stage.begin()
    stage.tick()
    assert stage.world.calls == ["instances", "read", "pin", "write", "pin"]
    pinned = stage.store.get_release("demo/shop", "v2-2").release
    assert pinned.digest == digest(pinned.image)
    assert stage.store.load(stage.rollout)[0].digest == pinned.digest
    assert stage.world.serving() == ["v1-1", "v1-1"], "told to go on as it does"
    assert stage.phase is Phase.RUNNING


@pytest.mark.parametrize("verb", ["pin", "read", "write", "instances"])
def test_what_cannot_work_ends_it_before_anything_moves(stage: Stage, verb: str) -> None:
    stage.begin()
    error = PlatformError if verb in ("pin", "instances") else RouterError
    stage.world.always[verb] = error("port 8001 is taken: choose another `listen`", retryable=False)
    done = stage.tick()
    assert done.finished
    assert stage.phase is Phase.FAILED
    assert stage.reason == "port 8001 is taken: choose another `listen`"
    assert "start" not in stage.world.calls
    assert stage.world.serving() == ["v1-1", "v1-1"]


def test_an_old_image_that_is_gone_is_warned_of(stage: Stage) -> None:
    stage.begin()
    real = stage.world.did
    pins = iter([None, PlatformError("no such image", retryable=False)])

    def did(verb: str) -> None:
        real(verb)
        if verb == "pin" and (fault := next(pins)):
            raise fault

    stage.world.did = did  # type: ignore[method-assign] # the second of two calls is to fail
    stage.run()
    assert stage.phase is Phase.SUCCEEDED
    assert stage.told(Kind.WARNING) == ["turning back may fail, since v1-1 could not be started again: no such image"]


# -- crashes ----------------------------------------------------------------------------------------------------------


def test_a_crash_before_any_call_is_healed_by_the_next_tick(stage: Stage) -> None:
    calls: list[str] = []
    plain = another(stage, a_service("plain", replicas=1))
    plain.run(**interposed(plain, calls.append))
    assert len(calls) > 40
    for number in range(len(calls)):
        name = f"shop{number}"
        hurt = another(stage, a_service(name, replicas=1))
        crash_at(hurt, number)
        taken_over(hurt)
        hurt.run()
        assert hurt.phase is Phase.SUCCEEDED, number
        assert [each.release for each in hurt.world.present()] == ["v2-2"], number
        assert hurt.world.serving(name) == ["v2-2"], number
        assert hurt.store.load(hurt.rollout)[0].resumes == 1


def test_rollback_is_right_after_a_crash_at_each_moment_of_it(stage: Stage) -> None:
    for number in range(0, 60, 3):
        name = f"shop{number}"
        hurt = another(stage, a_service(name))
        for _ in range(7):
            hurt.tick()
        hurt.signal(SignalKind.ROLLBACK)
        try:
            crash_at(hurt, number)
        except pytest.fail.Exception:
            assert hurt.phase is Phase.ROLLED_BACK  # it was through before the crash
            continue
        taken_over(hurt)
        hurt.run()
        assert hurt.phase is Phase.ROLLED_BACK
        assert hurt.world.serving(name) == ["v1-1", "v1-1"]
        assert [each.release for each in hurt.world.present()] == ["v1-1", "v1-1"]


# -- leases -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ticks", range(1, 12))
def test_an_engine_that_lost_its_lease_does_nothing_more(stage: Stage, ticks: int) -> None:
    stage.begin()
    for _ in range(ticks):
        stage.tick()
    stage.clock.forward(20)
    claimed(stage.store, "bert")
    before = [each for each in stage.world.calls if each in ("start", "stop", "write")]
    try:
        for _ in range(5):
            done = stage.tick()
            stage.clock.now = max(stage.clock.now, done.due or 0.0)
        pytest.fail("it never noticed")
    except LeaseLost:
        pass
    assert [each for each in stage.world.calls if each in ("start", "stop", "write")] == before


def test_the_guard_is_asked_before_every_effect(stage: Stage) -> None:
    stage.begin()
    asked: list[int] = []

    def guard() -> None:
        asked.append(len(stage.world.calls))

    while not tick(stage.claim, stage.store, stage.world.parts(), stage.clock, guard=guard).finished:
        stage.clock.forward(0.1)
    effects = [place for place, verb in enumerate(stage.world.calls) if verb in ("start", "stop", "write")]
    assert len(asked) == len(effects) >= 6
    for asked_at, done_at in zip(asked, effects, strict=True):
        between = stage.world.calls[asked_at:done_at]
        assert between in ([], ["read"]), "only the proxy is read between the guard and the effect"


def test_a_router_that_refuses_our_fence_means_that_the_lease_is_lost(stage: Stage) -> None:
    stage.begin()
    while "started" not in stage.kinds():
        stage.tick()
    stage.clock.forward(1)

    def stolen(verb: str) -> None:
        if verb == "write":  # another engine takes over and writes, just between the guard and the write
            stage.clock.forward(20)
            stage.world.fences["shop"] = claimed(stage.store, "bert").fence

    stage.memory.told, stage.memory.told_at = f"fence {stage.claim.fence} is too old", stage.clock.now + 20
    parts = stage.world.parts()
    stage.tick()  # records that the proxy is about to be written
    with pytest.raises(LeaseLost):  # although the trouble itself is not told again
        stage.tick(parts=replace(parts, router=Interposed(parts.router, stolen)))
    assert stage.world.serving() == ["v1-1", "v1-1"]


# -- stopping ---------------------------------------------------------------------------------------------------------


def advance(stage: Stage, kind: Kind, most: int = 60) -> None:
    """Until an event of this kind was told."""
    for _ in range(most):
        if kind in stage.kinds():
            return
        done = stage.tick()
        stage.clock.now = max(stage.clock.now, done.due or 0.0)
    raise AssertionError(f"no {kind} in {stage.kinds()}")


@pytest.mark.parametrize("how", ["routed", "busy", "unknown"])
def test_stop_reads_the_proxy_again_and_leaves_what_serves(stage: Stage, how: str) -> None:
    stage.begin()
    while stage.kinds().count("entered") < 2:
        stage.clock.now = max(stage.clock.now, stage.tick().due or 0.0)
    seen: list[str] = []

    def back_in_the_route(verb: str) -> None:
        seen.append(verb)
        if seen.count("read") == 2:  # the first was the look, the second is stop's own
            if how == "routed":
                stage.world.routed["shop"] = tuple(member(each) for each in stage.world.present())
            else:
                count = 2 if how == "busy" else None
                stage.world.draining.update({each.id: count for each in stage.world.present("v1-1")})

    parts = stage.world.parts()
    stage.memory.forget_look()
    stage.tick(parts=replace(parts, router=Interposed(parts.router, back_in_the_route)))
    assert seen == ["read", "read"]
    assert "stop" not in stage.world.calls
    assert len(stage.world.present()) == 3


def test_a_busy_instance_is_stopped_only_after_its_drain_time(stage: Stage) -> None:
    stage.begin(a_service(replicas=1))
    stage.world.in_flight["v1-1"] = 1
    advance(stage, Kind.ROUTED)
    shifted = stage.store.load(stage.rollout)[0].shifted
    assert shifted is not None
    advance(stage, Kind.STOPPED, most=200)
    assert stage.clock() - shifted >= 5.0


# -- trouble ----------------------------------------------------------------------------------------------------------


def test_nothing_is_touched_while_blind_and_pauses_grow(stage: Stage) -> None:
    stage.begin()
    stage.tick()
    done = len(stage.world.calls)
    stage.world.always["read"] = RouterError("HAProxy does not answer")
    pauses = []
    for _ in range(8):
        answer = stage.tick()
        assert answer.trouble
        assert answer.due is not None
        pauses.append(round(answer.due - stage.clock(), 3))
        stage.clock.now = answer.due
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert set(stage.world.calls[done:]) == {"instances", "read"}
    assert stage.told(Kind.TROUBLE) == ["HAProxy does not answer"], "told once, not eight times"
    assert stage.phase is Phase.RUNNING


def test_the_same_trouble_is_told_again_after_a_minute_and_another_at_once(stage: Stage) -> None:
    stage.begin()
    stage.tick()
    stage.world.always["read"] = RouterError("HAProxy does not answer")
    stage.tick()
    stage.clock.forward(30)
    stage.tick()
    stage.clock.forward(31)
    stage.tick()
    assert len(stage.told(Kind.TROUBLE)) == 2
    stage.world.always["read"] = RouterError("HAProxy does not let us in")
    stage.tick()
    assert stage.told(Kind.TROUBLE)[-1] == "HAProxy does not let us in"


def test_when_it_works_again_that_is_told_and_it_goes_on(stage: Stage) -> None:
    stage.begin()
    stage.tick()
    stage.world.faults["instances"] = [PlatformError("the engine does not answer")] * 3
    stage.run()
    assert stage.phase is Phase.SUCCEEDED
    assert stage.told(Kind.RECOVERED) == ["it works again, after 1.8 s"]


@pytest.mark.parametrize("failures", [0, 1])
def test_a_proxy_that_had_ended_is_told_of_once_even_if_the_database_fails_meanwhile(stage: Stage, failures: int) -> None:
    stage.begin()
    stage.tick()
    stage.world.proxy_ended = True
    left = iter(range(failures))

    def fails(verb: str) -> None:
        if verb == "note" and next(left, None) is not None:
            raise StoreError("database is locked")

    stage.run(store=Interposed(stage.store, fails))
    assert stage.phase is Phase.SUCCEEDED
    assert stage.told(Kind.WARNING) == ["the proxy did not run and was started; requests of that time were lost"]


def test_the_database_may_fail_at_any_moment(stage: Stage) -> None:
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
def test_what_passes_by_itself_is_waited_out(stage: Stage, verb: str) -> None:
    stage.begin()
    error = RouterError if verb in ("read", "write") else PlatformError
    stage.world.faults[verb] = [error("busy")] * 3
    stage.run()
    assert stage.phase is Phase.SUCCEEDED


def test_what_can_never_start_turns_back_at_once(stage: Stage) -> None:
    stage.begin()
    stage.world.faults["start"] = [PlatformError("no space left on the disk: free some", retryable=False)]
    begun = stage.clock()
    stage.run()
    assert stage.phase is Phase.ROLLED_BACK
    assert stage.reason == "no space left on the disk: free some"
    assert stage.clock() - begun < 2
    assert stage.world.serving() == ["v1-1", "v1-1"]


def test_a_proxy_that_refuses_for_good_is_given_up_after_the_deadline(stage: Stage) -> None:
    stage.begin()
    advance(stage, Kind.STARTED)
    stage.world.always["write"] = RouterError("backend shop has servers that Tidegate did not add", retryable=False)
    begun = stage.clock()
    stage.run(Phase.ROLLING_BACK)
    assert 20 <= stage.clock() - begun < 40
    assert stage.reason.startswith("traffic could not be moved for 20 s: backend shop has servers")
    assert stage.world.serving() == ["v1-1", "v1-1"]
    stage.run()
    assert stage.phase is Phase.ROLLED_BACK, "nothing had to be moved for that"


def test_blind_for_good_halts_and_leaves_the_traffic(stage: Stage) -> None:
    stage.begin()
    advance(stage, Kind.ROUTED)
    stage.world.always["instances"] = PlatformError("the certificate is not ours", retryable=False)
    stage.run()
    assert stage.phase is Phase.FAILED
    assert stage.reason == "halted after 20 s: the certificate is not ours"
    assert stage.world.serving() == ["v1-1", "v2-2"], "as it was"


def test_a_pause_stops_that_deadline(stage: Stage) -> None:
    stage.begin()
    advance(stage, Kind.ROUTED)
    stage.signal(SignalKind.PAUSE)
    stage.world.always["read"] = RouterError("no backend shop", retryable=False)
    for _ in range(10):
        stage.clock.now = max(stage.clock.now, stage.tick().due or 0.0) + 30
    assert stage.phase is Phase.RUNNING


def test_a_leftover_that_cannot_be_stopped_never_moves_traffic_back(stage: Stage) -> None:
    stage.begin(a_service(replicas=1))
    stage.world.always["stop"] = PlatformError("permission denied", retryable=False)
    stage.run()
    assert stage.phase is Phase.FAILED
    assert stage.world.serving() == ["v2-2"]


def test_the_same_effect_without_any_change_is_slowed_down(stage: Stage) -> None:
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


# -- what failed is heard ---------------------------------------------------------------------------------------------


def test_a_crashing_candidate_tells_its_last_lines_before_it_is_stopped(stage: Stage) -> None:
    stage.begin()
    stage.world.crashing.add("v2-2")
    stage.run()
    assert stage.phase is Phase.ROLLED_BACK
    assert "exited with 1" in stage.reason
    logs = [each for each in stage.store.events(stage.rollout) if each.kind == Kind.LOG]
    assert [each.data["log"] for each in logs] == ["v2-2 says no\nv2-2 says no\n"]
    kinds = stage.kinds()
    assert kinds.index("log") < kinds.index("rolling_back") < kinds.index("stopped")


def test_one_that_never_gets_ready_does_so_too(stage: Stage) -> None:
    stage.begin()
    stage.world.never_ready.add("v2-2")
    stage.run()
    assert stage.phase is Phase.ROLLED_BACK
    assert "not ready within 20 s" in stage.reason
    assert len(stage.told(Kind.LOG)) == 1
    assert stage.world.serving() == ["v1-1", "v1-1"]


def test_a_log_that_cannot_be_read_holds_nothing_up(stage: Stage) -> None:
    stage.begin()
    stage.world.crashing.add("v2-2")
    stage.world.always["tail"] = PlatformError("the engine does not answer")
    stage.run()
    assert stage.phase is Phase.ROLLED_BACK
    log = next(each for each in stage.store.events(stage.rollout) if each.kind == Kind.LOG)
    assert log.data["log"] == "(its log could not be read: the engine does not answer)"


def test_a_person_who_turns_back_is_not_told_of_instances_that_were_still_starting(stage: Stage) -> None:
    stage.begin()
    advance(stage, Kind.STARTED)
    stage.signal(SignalKind.ROLLBACK)
    stage.run()
    assert stage.phase is Phase.ROLLED_BACK
    assert stage.told(Kind.LOG) == []


# -- judging ----------------------------------------------------------------------------------------------------------

JUDGED = a_service(replicas=1, bake_seconds=10.0, checks=(LIMIT,))


def test_a_good_release_is_judged_and_told_once_early_and_once_at_the_end(stage: Stage) -> None:
    stage.world.answer = constant(0.1)
    stage.begin(JUDGED)
    stage.run()
    assert stage.phase is Phase.SUCCEEDED
    verdicts = [each for each in stage.store.events(stage.rollout) if each.kind == Kind.VERDICT]
    assert verdicts[-1].data["final"]
    assert verdicts[-1].data["outcome"] == "PASS"
    assert len(verdicts) <= 3, "told when it is news"
    stored = stage.store.verdicts(stage.rollout)
    assert [each.verdict.at for each in stored] == [each.at for each in verdicts]
    assert stage.world.calls.count("fetch") >= 9, "asked each second all the same"


def test_a_bad_release_is_turned_back_before_the_bake_is_over(stage: Stage) -> None:
    stage.world.answer = constant(2.0)
    stage.begin(JUDGED)
    stage.run()
    assert stage.phase is Phase.ROLLED_BACK
    assert stage.store.verdicts(stage.rollout)[-1].verdict.outcome is Outcome.FAIL
    assert stage.world.serving() == ["v1-1"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (down, Reason.SOURCE_DOWN),
        (lambda query, window: (), Reason.NO_DATA),
    ],
)
def test_what_is_not_known_is_inconclusive(stage: Stage, answer: Any, reason: Reason) -> None:
    stage.world.answer = answer
    stage.begin(JUDGED)
    advance(stage, Kind.HELD, most=300)
    last = stage.store.verdicts(stage.rollout)[-1].verdict
    assert last.outcome is Outcome.INCONCLUSIVE
    assert [each.reason for each in last.findings] == [reason]


def test_a_reason_that_we_do_not_know_counts_as_down(stage: Stage) -> None:
    def odd(query: str, window: object) -> Any:
        raise MetricsError("no idea", reason="gremlins")

    stage.world.answer = odd
    stage.begin(JUDGED)
    advance(stage, Kind.VERDICT, most=300)
    assert stage.store.verdicts(stage.rollout)[-1].verdict.findings[0].reason is Reason.SOURCE_DOWN


def test_without_a_metrics_source_every_check_is_inconclusive(stage: Stage) -> None:
    stage.begin(JUDGED)
    stage.run(most=3, until=Phase.RUNNING, parts=stage.world.parts(metrics=False))
    for _ in range(300):
        done = stage.tick(parts=stage.world.parts(metrics=False))
        stage.clock.now = max(stage.clock.now, done.due or 0.0)
        if Kind.VERDICT in stage.kinds():
            break
    assert "no metrics source" in stage.told(Kind.VERDICT)[0]


def test_a_verdict_that_is_asked_for_is_told(stage: Stage) -> None:
    stage.world.answer = constant(0.1)
    stage.begin(replace(JUDGED, bake_seconds=0.0, holds=(1,)))
    advance(stage, Kind.HELD, most=300)
    told = len(stage.told(Kind.VERDICT))
    stage.clock.forward(0.1)
    stage.signal(SignalKind.VERIFY)
    stage.tick()
    assert len(stage.told(Kind.VERDICT)) == told + 1


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_engines_that_keep_dying_stop_before_they_look(stage: Stage) -> None:
    stage.begin(a_service(policy=replace(a_service().policy, max_resumes=1)))
    stage.tick()
    for _ in range(2):
        stage.clock.forward(20)
        stage.claim = claimed(stage.store)
    stage.world.always["instances"] = PlatformError("this is what they die of")
    done = stage.tick()
    assert done.finished
    assert stage.phase is Phase.FAILED
    assert "engines died 2 times" in stage.reason


def test_a_rollback_before_anything_was_touched_needs_no_look(stage: Stage) -> None:
    stage.begin()
    stage.world.always["instances"] = PlatformError("down")
    stage.signal(SignalKind.ROLLBACK)
    assert stage.tick().finished
    assert stage.phase is Phase.ROLLED_BACK


def test_a_finished_rollout_is_left_alone(stage: Stage) -> None:
    stage.begin()
    stage.run()
    count = len(stage.world.calls)
    assert stage.tick().finished
    assert len(stage.world.calls) == count


def test_a_young_look_serves_the_decision_after_a_mere_write(stage: Stage) -> None:
    stage.begin()
    looks = []
    for _ in range(100):
        stage.world.calls.clear()
        done = stage.tick()
        looks.append((stage.kinds()[-1], stage.world.calls[:2]))
        if done.finished:
            break
        stage.clock.now = max(stage.clock.now, done.due or 0.0)
    assert ("stopped", ["read", "stop"]) in looks, "just looked, for the move to this step"
    assert ("entered", ["read"]) in looks, "the proxy was written, the instances were not touched"
    assert ("entered", []) not in looks
    assert ("started", ["start"]) in looks, "what was asked to stop is known to be stopping"
    assert ("started", ["instances", "read"]) in looks, "of what was started a new look is taken"
    assert ("shifted", ["write"]) in looks, "the same look serves to record that the proxy is written, and to write it"


def test_states_are_told_apart_in_a_log_event(stage: Stage) -> None:
    stage.begin()
    stage.world.never_ready.add("v2-2")
    stage.run()
    log = next(each for each in stage.store.events(stage.rollout) if each.kind == Kind.LOG)
    assert log.data["state"] == InstanceState.STARTING.value
    assert log.sentence == "v2-2/0: is starting"


def _is_engine_store(store: SqlStore) -> EngineStore:
    """What the engine asks for is what the store has: checked by mypy."""
    return store
