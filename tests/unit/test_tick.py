"""A tick: one write or one effect, right after every crash, quiet while blind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.crash_points import stride
from support.fake_drivers import LIMIT, Interposed, a_service, claimed, constant, digest, down, sqlite
from support.store_fixtures import ManualClock, with_approval
from support.tick_harness import TickHarness, another, crash_at, interposed, taken_over
from tidegate.analysis.queries import Series
from tidegate.analysis.verdict import Outcome, Reason
from tidegate.clock import Window
from tidegate.core.event_kinds import EventKind
from tidegate.core.image_reference import PinnedImage
from tidegate.core.model import Check, CheckKind, InstanceState, Policy, SignalKind
from tidegate.core.phases import Phase
from tidegate.engine.tick import tick
from tidegate.errors import LeaseLost, MetricsError, PlatformError, RouterError
from tidegate.store.store import SqlStore
from tidegate.store_port import EngineStore


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[TickHarness]:
    clock = ManualClock()
    with sqlite(tmp_path, clock) as store:
        yield TickHarness(store, clock)


def test_a_rolling_update_replaces_all_and_tells_its_story(stage: TickHarness) -> None:
    stage.begin()
    stage.run()
    assert stage.phase is Phase.SUCCEEDED
    assert stage.world.serving() == ["v2-2", "v2-2"]
    assert {each.release for each in stage.world.present()} == {"v2-2"}
    first = ["step_started", "started", "traffic_shifted", "traffic_confirmed", "step_ready"]
    second = ["step_started", "stopped", "started", "traffic_shifted", "traffic_confirmed", "step_ready"]
    last = [
        "step_started",
        "traffic_confirmed",
        "stopped",
        "step_ready",
    ]  # the old ones of a batch stay warm until the next step
    steps = ["step_advanced", *first, "step_advanced", *second, "step_advanced", *last]
    assert stage.kinds() == ["created", "pinned", *steps, "succeeded"]


def test_the_image_is_pinned_before_anything_moves(stage: TickHarness) -> None:
    stage.begin()
    stage.tick()
    assert stage.world.calls == ["pin", "pin", "instances", "read", "write"]
    pinned = stage.store.get_release("demo/shop", "v2-2").release
    assert pinned.digest == digest(pinned.image)
    assert stage.store.load(stage.rollout)[0].digest == pinned.digest
    assert stage.world.serving() == ["v1-1", "v1-1"], "told to go on as it does"
    assert "Nothing is new" not in stage.messages(EventKind.PINNED)[0]
    assert stage.phase is Phase.RUNNING


def test_a_rollout_of_what_is_live_already_says_so(stage: TickHarness) -> None:
    stage.begin()
    stage.world.pinned["shop:2"] = PinnedImage(digest("shop:1"), "Registry is down. Using an older image.")
    stage.tick()
    assert stage.messages(EventKind.WARNING) == ["Registry is down. Using an older image."]
    assert "Nothing is new: v1-1 has this image and configuration." in stage.messages(EventKind.PINNED)[0]
    assert stage.phase is Phase.RUNNING


def test_the_default_deadline_is_what_the_healthcheck_of_the_image_needs(stage: TickHarness) -> None:
    stage.begin(replace(a_service(), policy=Policy()))
    stage.world.pinned["shop:2"] = PinnedImage(digest("shop:2"), ready_within_seconds=730.0)
    stage.tick()
    assert stage.store.load(stage.rollout)[0].policy.healthy_deadline_seconds == 730.0
    assert stage.messages(EventKind.WARNING) == []


def test_a_deadline_that_is_too_short_for_the_image_is_warned_of(stage: TickHarness) -> None:
    stage.begin(replace(a_service(), policy=Policy(healthy_deadline_seconds=60.0)))
    stage.world.pinned["shop:2"] = PinnedImage(digest("shop:2"), ready_within_seconds=730.0)
    stage.tick()
    assert stage.store.load(stage.rollout)[0].policy.healthy_deadline_seconds == 60.0
    assert stage.messages(EventKind.WARNING)[0].startswith("healthy_deadline is 60 s, but the HEALTHCHECK of the image may")


@pytest.mark.parametrize("verb", ["pin", "read", "write", "instances"])
def test_what_cannot_work_ends_it_before_anything_moves(stage: TickHarness, verb: str) -> None:
    stage.begin()
    error = PlatformError if verb in ("pin", "instances") else RouterError
    stage.world.always[verb] = error("port 8001 is taken: choose another `listen`", retryable=False)
    done = stage.tick()
    assert done.finished
    assert stage.phase is Phase.REFUSED
    assert stage.kinds() == ["created", "refused"]
    assert stage.reason == "port 8001 is taken: choose another `listen`"
    assert "start" not in stage.world.calls
    assert stage.world.serving() == ["v1-1", "v1-1"]


@pytest.mark.parametrize("known", [True, False])
def test_a_bake_too_short_for_the_scrapes_is_warned_of(stage: TickHarness, known: bool) -> None:
    def answer(query: str, window: Window) -> tuple[Series, ...]:
        if not known:
            raise MetricsError("Prometheus refused the connection", reason="source-down")
        return (Series({"server": "v1-1.0.abc"}, tuple((15.0 * n, 900.0 * n) for n in range(20))),)

    stage.world.answer = answer
    checks = (Check("errors", CheckKind.ERRORS),)
    stage.begin(a_service(bake_seconds=60.0, checks=checks, policy=Policy(warmup_seconds=20.0)))
    stage.run(Phase.RUNNING)
    warnings = stage.messages(EventKind.WARNING)
    assert [text.endswith("; set `bake: 135s` or longer") for text in warnings] == [True] * known


def test_an_old_image_that_is_gone_is_warned_of(stage: TickHarness) -> None:
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
    message = "A rollback may fail: v1-1 could not be started again: no such image"
    assert stage.messages(EventKind.WARNING) == [message]


# -- crashes ----------------------------------------------------------------------------------------------------------


def test_a_crash_before_any_call_is_healed_by_the_next_tick(stage: TickHarness) -> None:
    calls: list[str] = []
    plain = another(stage, a_service("plain", replicas=1))
    plain.run(**interposed(plain, calls.append))
    assert len(calls) > 40
    for number in range(0, len(calls), stride(3)):
        name = f"shop{number}"
        hurt = another(stage, a_service(name, replicas=1))
        crash_at(hurt, number)
        taken_over(hurt)
        hurt.run()
        assert hurt.phase is Phase.SUCCEEDED, number
        assert [each.release for each in hurt.world.present()] == ["v2-2"], number
        assert hurt.world.serving(name) == ["v2-2"], number
        assert hurt.store.load(hurt.rollout)[0].takeovers == 1


def test_rollback_is_right_after_a_crash_at_each_moment_of_it(stage: TickHarness) -> None:
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
def test_an_engine_that_lost_its_lease_does_nothing_more(stage: TickHarness, ticks: int) -> None:
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


def test_the_guard_is_asked_before_every_effect(stage: TickHarness) -> None:
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


def test_a_router_that_refuses_our_fence_means_that_the_lease_is_lost(stage: TickHarness) -> None:
    stage.begin()
    while "started" not in stage.kinds():
        stage.tick()
    stage.clock.forward(1)

    def stolen(verb: str) -> None:
        if verb == "write":  # another engine takes over and writes, just between the guard and the write
            stage.clock.forward(20)
            stage.world.fences["shop"] = claimed(stage.store, "bert").fence

    stage.cache.last_error, stage.cache.event_noted_at = f"fence {stage.claim.fence} is too old", stage.clock.now + 20
    parts = stage.world.parts()
    stage.tick()  # records that the proxy is about to be written
    with pytest.raises(LeaseLost):  # although the trouble itself is not told again
        stage.tick(parts=replace(parts, router=Interposed(parts.router, stolen)))
    assert stage.world.serving() == ["v1-1", "v1-1"]


# -- what failed is heard ---------------------------------------------------------------------------------------------


def test_a_crashing_candidate_tells_its_last_lines_before_it_is_stopped(stage: TickHarness) -> None:
    stage.begin()
    stage.world.crashing.add("v2-2")
    stage.run()
    assert stage.phase is Phase.ROLLED_BACK
    assert "exited with 1" in stage.reason
    logs = [each for each in stage.store.events(stage.rollout) if each.kind == EventKind.INSTANCE_LOG]
    assert [each.data["log"] for each in logs] == ["v2-2 says no\nv2-2 says no\n"]
    kinds = stage.kinds()
    assert kinds.index("instance_log") < kinds.index("rolling_back") < kinds.index("stopped")


def test_one_that_never_gets_ready_does_so_too(stage: TickHarness) -> None:
    stage.begin()
    stage.world.never_ready.add("v2-2")
    stage.run()
    assert stage.phase is Phase.ROLLED_BACK
    assert "did not become ready within 20 s" in stage.reason
    assert len(stage.messages(EventKind.INSTANCE_LOG)) == 1
    assert stage.world.serving() == ["v1-1", "v1-1"]


def test_a_log_that_cannot_be_read_holds_nothing_up(stage: TickHarness) -> None:
    stage.begin()
    stage.world.crashing.add("v2-2")
    stage.world.always["tail"] = PlatformError("the engine does not answer")
    stage.run()
    assert stage.phase is Phase.ROLLED_BACK
    log = next(each for each in stage.store.events(stage.rollout) if each.kind == EventKind.INSTANCE_LOG)
    assert log.data["log"] == "(cannot read the log: the engine does not answer)"


def test_a_person_who_turns_back_is_not_told_of_instances_that_were_still_starting(stage: TickHarness) -> None:
    stage.begin()
    stage.advance(EventKind.STARTED)
    stage.signal(SignalKind.ROLLBACK)
    stage.run()
    assert stage.phase is Phase.ROLLED_BACK
    assert stage.messages(EventKind.INSTANCE_LOG) == []


# -- judging ----------------------------------------------------------------------------------------------------------

JUDGED = a_service(replicas=1, bake_seconds=10.0, checks=(LIMIT,))


def test_a_good_release_is_judged_and_told_once_early_and_once_at_the_end(stage: TickHarness) -> None:
    stage.world.answer = constant(0.1)
    stage.begin(JUDGED)
    stage.run()
    assert stage.phase is Phase.SUCCEEDED
    verdicts = [each for each in stage.store.events(stage.rollout) if each.kind == EventKind.VERDICT]
    assert verdicts[-1].data["final"]
    assert verdicts[-1].data["outcome"] == "PASS"
    assert len(verdicts) <= 3, "told when it is news"
    stored = stage.store.verdicts(stage.rollout)
    assert [each.verdict.at for each in stored] == [each.at for each in verdicts]
    assert stage.world.calls.count("fetch") >= 9, "asked each second all the same"


def test_a_bad_release_is_turned_back_before_the_bake_is_over(stage: TickHarness) -> None:
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
def test_what_is_not_known_is_inconclusive(stage: TickHarness, answer: Any, reason: Reason) -> None:
    stage.world.answer = answer
    stage.begin(JUDGED)
    stage.advance(EventKind.WAITING_FOR_APPROVAL, most=300)
    last = stage.store.verdicts(stage.rollout)[-1].verdict
    assert last.outcome is Outcome.INCONCLUSIVE
    assert [each.reason for each in last.findings] == [reason]


def test_a_reason_that_we_do_not_know_counts_as_down(stage: TickHarness) -> None:
    def odd(query: str, window: object) -> Any:
        raise MetricsError("no idea", reason="gremlins")

    stage.world.answer = odd
    stage.begin(JUDGED)
    stage.advance(EventKind.VERDICT, most=300)
    assert stage.store.verdicts(stage.rollout)[-1].verdict.findings[0].reason is Reason.SOURCE_DOWN


def test_without_a_metrics_source_every_check_is_inconclusive(stage: TickHarness) -> None:
    stage.begin(JUDGED)
    stage.run(most=3, until=Phase.RUNNING, parts=stage.world.parts(metrics=False))
    for _ in range(300):
        done = stage.tick(parts=stage.world.parts(metrics=False))
        stage.clock.now = max(stage.clock.now, done.due or 0.0)
        if EventKind.VERDICT in stage.kinds():
            break
    assert "no metrics source" in stage.messages(EventKind.VERDICT)[0]


def test_a_verdict_that_is_asked_for_is_told(stage: TickHarness) -> None:
    stage.world.answer = constant(0.1)
    stage.begin(with_approval(replace(JUDGED, bake_seconds=0.0), 1))
    stage.advance(EventKind.WAITING_FOR_APPROVAL, most=300)
    told = len(stage.messages(EventKind.VERDICT))
    stage.clock.forward(0.1)
    stage.signal(SignalKind.VERIFY)
    stage.tick()
    assert len(stage.messages(EventKind.VERDICT)) == told + 1


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_engines_that_keep_dying_stop_before_they_look(stage: TickHarness) -> None:
    stage.begin(a_service(policy=replace(a_service().policy, max_takeovers=1)))
    stage.tick()
    for _ in range(2):
        stage.clock.forward(20)
        stage.claim = claimed(stage.store)
    stage.world.always["instances"] = PlatformError("this is what they die of")
    done = stage.tick()
    assert done.finished
    assert stage.phase is Phase.FAILED
    assert "engines died 2 times" in stage.reason


def test_a_rollback_before_anything_was_touched_needs_no_look(stage: TickHarness) -> None:
    stage.begin()
    stage.world.always["instances"] = PlatformError("down")
    stage.signal(SignalKind.ROLLBACK)
    assert stage.tick().finished
    assert stage.phase is Phase.ROLLED_BACK


def test_a_finished_rollout_is_left_alone(stage: TickHarness) -> None:
    stage.begin()
    stage.run()
    count = len(stage.world.calls)
    assert stage.tick().finished
    assert len(stage.world.calls) == count


def test_a_young_look_serves_the_decision_after_a_mere_write(stage: TickHarness) -> None:
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
    assert ("step_started", ["read"]) in looks, "the proxy was written, the instances were not touched"
    assert ("step_started", []) not in looks
    assert ("started", ["start"]) in looks, "what was asked to stop is known to be stopping"
    assert ("started", ["instances", "read"]) in looks, "of what was started a new look is taken"
    assert ("traffic_shifted", ["write"]) in looks, (
        "the same look serves to record that the proxy is written, and to write it"
    )


def test_states_are_told_apart_in_a_log_event(stage: TickHarness) -> None:
    stage.begin()
    stage.world.never_ready.add("v2-2")
    stage.run()
    log = next(each for each in stage.store.events(stage.rollout) if each.kind == EventKind.INSTANCE_LOG)
    assert log.data["state"] == InstanceState.STARTING.value
    assert log.message == "v2-2/0: is starting"


def _is_engine_store(store: SqlStore) -> EngineStore:
    """What the engine asks for is what the store has: checked by mypy."""
    return store
