"""What follows from what the CI says about the build of a rollout."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.decide_fixtures import NOW, ROLLOUT
from tidegate.core.build import Build, BuildEndPolicy, BuildState
from tidegate.core.build_watch import (
    MAX_UNKNOWN,
    MAX_WAIT_FOR_END_SECONDS,
    BuildEndRules,
    BuildWatch,
    WatchResult,
    after_answer,
    after_no_answer,
    needs_build,
    report_silence,
)
from tidegate.core.model import Rollout, Signal, SignalKind
from tidegate.core.phases import Phase
from tidegate.core.plan import Gate, Step
from tidegate.core.rollback_cause import RollbackCause
from tidegate.drivers.ci.jenkins.build_state import read_state

BUILD = Build("team/shop", 12)
WATCH = BuildWatch("r", NOW)
RULES = BuildEndRules()
RUNS, ENDED = BuildState(is_running=True), BuildState(False, "ABORTED", "Aborted by ann", "ann")


def answered(
    state: BuildState,
    watch: BuildWatch = WATCH,
    now: float = NOW,
    rules: BuildEndRules = RULES,
    rollout: Rollout = ROLLOUT,
    build: Build = BUILD,
    signals: tuple[Signal, ...] = (),
) -> WatchResult:
    return after_answer(rollout, build, signals, watch, state, rules, now)


def test_a_build_that_is_over_takes_its_rollout_back_after_a_minute() -> None:
    first = answered(ENDED)
    (event,) = first.events
    assert event.message == (
        "Build 12 of team/shop is over (ABORTED, Aborted by ann): the rollout rolls back in 60 s (on_build_end: rollback)"
    )
    assert event.data["by"] == "ann"
    assert first.signal is None
    waiting = answered(ENDED, first.watch, NOW + 59.0)
    assert (waiting.events, waiting.signal) == ((), None)
    signal = answered(ENDED, waiting.watch, NOW + 60.0).signal
    assert signal is not None
    assert (signal.kind, signal.cause) == (SignalKind.ROLLBACK, RollbackCause.BUILD_ENDED)
    assert signal.reason == "build 12 of team/shop is over (ABORTED, Aborted by ann)"
    back = replace(ROLLOUT, phase=Phase.ROLLING_BACK)
    assert answered(ENDED, waiting.watch, NOW + 70.0, rollout=back).signal is None, "once is enough"


@pytest.mark.parametrize("result", ["SUCCESS", "FAILURE", "UNSTABLE", "NOT_BUILT"])
def test_every_result_is_an_end(result: str) -> None:
    first = answered(BuildState(False, result))
    assert answered(BuildState(False, result), first.watch, NOW + 60.0).signal is not None


@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        (BuildEndPolicy.ROLLBACK, SignalKind.ROLLBACK),
        (BuildEndPolicy.PAUSE, SignalKind.PAUSE),
        (BuildEndPolicy.DETACH, None),
    ],
)
def test_the_build_itself_may_say_what_follows(policy: BuildEndPolicy, kind: SignalKind | None) -> None:
    other = BuildEndPolicy.DETACH if policy is not BuildEndPolicy.DETACH else BuildEndPolicy.ROLLBACK
    rules, build = BuildEndRules(other), replace(BUILD, on_end=policy)
    first = answered(ENDED, rules=rules, build=build)
    assert f"(on_build_end: {policy})" in first.events[0].message
    later = answered(ENDED, first.watch, NOW + 60.0, rules, build=build)
    assert (later.signal.kind if later.signal else None) is kind
    assert later.is_over == (policy is not BuildEndPolicy.ROLLBACK)


def test_a_rollout_that_its_build_left_to_itself_continues() -> None:
    left = (Signal(SignalKind.DETACH, NOW, "jenkins"),)
    first = answered(ENDED, signals=left)
    assert first.events[0].message.endswith("the rollout continues without it (on_build_end: detach)")
    later = answered(ENDED, first.watch, NOW + 60.0, signals=left)
    assert (later.signal, later.is_over) == (None, True)
    assert report_silence(ROLLOUT, BUILD, left, WATCH, RUNS, RULES, NOW + 9_000.0).events == ()


def test_a_build_that_runs_again_is_not_over() -> None:
    """A controller that restarts may show a build as over before it has resumed it."""
    ended = answered(ENDED).watch
    again = answered(RUNS, ended, NOW + 30.0).watch
    assert again.ended_at is None
    assert answered(ENDED, again, NOW + 61.0).signal is None, "the minute starts again"


@given(st.lists(st.sampled_from(["runs", "unknown"]), max_size=30), st.floats(0, 1e6))
def test_no_answer_is_never_an_end(answers: list[str], pause: float) -> None:
    watch, reports = WATCH, 0
    for number, answer in enumerate(answers):
        now = NOW + number * pause
        result = answered(RUNS, watch, now) if answer == "runs" else after_no_answer(BUILD, watch, "no answer", now)
        assert result.signal is None
        assert not result.is_over
        assert result.watch.ended_at is None
        reports += len(result.events)
        watch = result.watch
    assert reports <= 1 + answers.count("runs"), "once for each time that it lasts"


def test_an_end_that_was_seen_does_not_count_while_nothing_is_known() -> None:
    about = "Unknown whether build 12 of team/shop still runs: Jenkins did not answer"
    text, watch = f"{about}. The rollout continues; Tidegate keeps asking.", answered(ENDED).watch
    for number in range(MAX_UNKNOWN * 2):
        result = after_no_answer(BUILD, watch, "Jenkins did not answer", NOW + 100.0 * number)
        assert result.signal is None
        assert [event.message for event in result.events] == [text] * (number + 1 == MAX_UNKNOWN)
        watch = result.watch


def test_who_rejected_a_gate_is_told_after_the_end() -> None:
    done = replace(ROLLOUT, phase=Phase.ROLLED_BACK, finished=NOW, rollback_cause=RollbackCause.APPROVAL_REJECTED)
    assert needs_build(done, NOW + MAX_WAIT_FOR_END_SECONDS - 1.0)
    assert not needs_build(done, NOW + MAX_WAIT_FOR_END_SECONDS)
    assert not needs_build(replace(done, rollback_cause=RollbackCause.CHECKS), NOW), "nobody rejected it"
    result = answered(ENDED, rollout=done)
    assert result.is_over
    assert [event.data["by"] for event in result.events] == ["ann"]
    assert answered(BuildState(False, "FAILURE"), rollout=done).events == ()


def test_a_silent_build_is_reported_once_until_it_polls_again() -> None:
    def silence(watch: BuildWatch, now: float, rollout: Rollout = ROLLOUT) -> WatchResult:
        return report_silence(rollout, BUILD, (), watch, RUNS, RULES, now)

    assert silence(WATCH, NOW + 899.0).events == ()
    first = silence(WATCH, NOW + 900.0)
    assert first.events[0].message.startswith("Build 12 of team/shop has not polled for this rollout for 15 min")
    assert silence(first.watch, NOW + 2_000.0).events == ()
    again = silence(replace(first.watch, polled_at=NOW + 2_000.0), NOW + 2_010.0)
    assert silence(again.watch, NOW + 3_000.0).events != ()
    held = replace(ROLLOUT, plan=(Step({"b": 1}, {"b": 1}, Gate(approval="go")),), approval_since=NOW)
    assert silence(WATCH, NOW + 9_000.0, held).events == (), "its build waits for a person, too"
    off = report_silence(ROLLOUT, BUILD, (), WATCH, RUNS, replace(RULES, silent_seconds=0.0), NOW + 9_000.0)
    assert off.events == ()


def test_a_build_that_hangs_at_its_gate_is_reported() -> None:
    """The controller was killed right after the click: nothing asks any more, and the rollout still waits."""
    held = replace(ROLLOUT, plan=(Step({"b": 1}, {"b": 1}, Gate(approval="go")),), approval_since=NOW)

    def silence(asks_for: frozenset[str] | None, now: float = NOW + 900.0) -> list[str]:
        state = BuildState(is_running=True, asks_for=asks_for)
        return [event.message for event in report_silence(held, BUILD, (), WATCH, state, RULES, now).events]

    assert silence(frozenset({held.id})) == silence(None) == silence(frozenset({"other"}), NOW + 899.0) == []
    assert silence(frozenset({"other"})) == [
        "Build 12 of team/shop has not polled for this rollout for 15 min and has no open input for its approval "
        f"(build_silent_after_seconds). If it hangs, abort it; to approve the rollout: tidegate promote {held.service}."
    ]


def test_a_page_says_for_which_rollouts_a_person_is_asked() -> None:
    def execution(name: str, settled: bool = False) -> dict[str, object]:
        return {"id": name, "settled": settled}

    ours = [execution("Tidegate-a-b-2-c0ffee"), execution("Tidegate-c-0-1a", settled=True), execution("Other-d-0-1a")]
    page = {"number": 12, "building": True, "actions": [{"_class": "Input", "executions": ours}, None, {}]}
    state = read_state(page, 12)
    assert state is not None
    assert state.asks_for == {"a-b"}


@pytest.mark.parametrize(
    "page",
    [
        {},
        {"number": 12, "building": None, "result": "SUCCESS"},
        {"number": 12, "building": False, "result": None},
        {"number": 12, "building": "false", "result": "SUCCESS"},
        {"number": 13, "building": False, "result": "SUCCESS"},
    ],
)
def test_a_page_that_does_not_say_so_is_no_end(page: dict[str, object]) -> None:
    assert read_state(page, 12) is None
