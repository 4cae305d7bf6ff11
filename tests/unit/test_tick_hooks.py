"""Ticks with hooks, previews and groups: each hook runs once whatever happens to the engine, and nothing is left over."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.crash_points import stride
from support.fake_drivers import LIMIT, a_service, claimed, constant, sqlite
from support.store_fixtures import ManualClock
from support.tick_harness import TickHarness, another, crash_at, interposed, taken_over
from tidegate.analysis.measurement import Measurement
from tidegate.analysis.replay import replay
from tidegate.core.event_kinds import EventKind
from tidegate.core.hooks import Hook, ReleaseRole, TaskState
from tidegate.core.model import Check, CheckKind, Rollout, Service, SignalKind, Strategy
from tidegate.core.phases import Phase
from tidegate.core.routing import Backend, Preview
from tidegate.engine.tick import RolloutCache
from tidegate.openapi_diff.result import CompareOptions, OnBreaking

HOOKS = {name: Hook(("run", name)) for name in ("pre_deploy", "pre_promote", "post_promote")}
BACK = {"on_rollback": Hook(("run", "back"), release=ReleaseRole.OLD)}


def hooked(name: str = "shop", **changes: Any) -> Service:
    """One instance, a preview, and hooks."""
    place = Backend(name, preview=Preview(header="X-Preview: blue"))  # at no address, which each service needs for itself
    return a_service(name, **{"replicas": 1, "backend": place, "hooks": {**HOOKS, **BACK}, **changes})


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[TickHarness]:
    clock = ManualClock()
    with sqlite(tmp_path, clock) as store:
        yield TickHarness(store, clock)


def states(stage: TickHarness) -> dict[str, TaskState]:
    """How each task ended."""
    return {each.name: each.state for each in stage.store.load(stage.rollout)[0].tasks}


def test_images_of_hooks_are_pulled_before_anything_moves(stage: TickHarness) -> None:
    """So that a rollback never waits for them; one that cannot be pulled is reported by its hook."""
    hooks = {**HOOKS, "pre_deploy": Hook(("run",), image="tools:1"), "on_rollback": Hook(("back",), image="tools:2")}
    stage.begin(hooked(hooks=hooks))
    stage.tick()
    assert stage.world.calls[:5] == ["pin"] * 4 + ["instances"], "the new, the old, and two of hooks"
    assert stage.phase is Phase.RUNNING


def test_the_hooks_run_in_their_places(stage: TickHarness) -> None:
    stage.begin(hooked())
    stage.run()
    assert stage.phase is Phase.SUCCEEDED
    assert stage.world.begun == ["pre_deploy", "pre_promote", "post_promote"]
    told = [
        kind for kind in stage.kinds() if kind in ("task_ended", "started", "preview_shifted", "traffic_shifted", "stopped")
    ]
    assert told == [
        "task_ended", "started", "preview_shifted", "task_ended", "traffic_shifted", "preview_shifted", "stopped",
        "task_ended",
    ]  # fmt: skip
    assert stage.world.jobs == {}, "no container of a hook is left"
    logs = [each.data.get("log") for each in stage.store.events(stage.rollout) if each.kind == EventKind.TASK_ENDED]
    assert logs == ["pre_deploy says hello", "pre_promote says hello", "post_promote says hello"]


def test_a_failed_hook_turns_back_before_traffic_moves(stage: TickHarness) -> None:
    stage.begin(hooked())
    stage.world.statuses["pre_promote"] = 3
    stage.run()
    assert stage.phase is Phase.ROLLED_BACK
    assert "pre_promote failed: exit status 3" in stage.reason
    assert stage.world.begun == ["pre_deploy", "pre_promote", "on_rollback"]
    assert stage.world.serving() == ["v1-1"]
    assert {each.release for each in stage.world.present()} == {"v1-1"}
    assert stage.world.routed["shop_preview"] == ()
    assert stage.world.jobs == {}
    assert "traffic_shifted" not in stage.kinds(), "the service's own traffic was never touched"


def test_hooks_after_the_switch_only_warn(stage: TickHarness) -> None:
    stage.begin(hooked())
    stage.world.statuses["post_promote"] = 1
    stage.run()
    assert stage.phase is Phase.SUCCEEDED
    assert states(stage)["post_promote"] is TaskState.WARNED


def test_a_hook_that_does_not_end_is_ended(stage: TickHarness) -> None:
    slow = replace(HOOKS["pre_promote"], timeout_seconds=30.0)
    stage.begin(hooked(hooks={"pre_promote": slow}))
    stage.world.polls = 10_000
    begun = stage.clock()
    stage.run()
    assert stage.phase is Phase.ROLLED_BACK
    assert "Hook pre_promote did not finish within 30 s." in stage.reason
    assert "end" in stage.world.calls
    assert stage.clock() - begun < 60.0


def test_a_crash_before_any_call_runs_no_hook_twice(stage: TickHarness) -> None:
    calls: list[str] = []
    plain = another(stage, hooked("plain"))
    plain.run(**interposed(plain, calls.append))
    for number in range(0, len(calls), stride(7)):
        name = f"shop{number}"
        hurt = another(stage, hooked(name))
        crash_at(hurt, number)
        taken_over(hurt)
        hurt.run()
        assert hurt.phase is Phase.SUCCEEDED, number
        assert hurt.world.begun == ["pre_deploy", "pre_promote", "post_promote"], number
        assert hurt.world.jobs == {}, number


def test_turning_back_while_a_hook_runs_leaves_nothing(stage: TickHarness) -> None:
    stage.begin(hooked())
    stage.world.polls = 10_000
    while not stage.world.begun:
        stage.tick()
    stage.signal(SignalKind.ROLLBACK)
    stage.world.polls = 1
    stage.run()
    assert stage.phase is Phase.ROLLED_BACK
    assert stage.world.jobs == {}


@pytest.mark.parametrize(("value", "phase"), [(0.1, Phase.SUCCEEDED), (0.9, Phase.ROLLED_BACK)])
def test_limits_are_asked_about_before_traffic_comes(stage: TickHarness, value: float, phase: Phase) -> None:
    compared = Check("errors", CheckKind.ERRORS, critical=False)
    service = hooked(hooks={}, checks=(LIMIT, compared), preview_bake_seconds=10.0)
    stage.begin(service)
    stage.world.answer = constant(value)
    stage.run()
    assert stage.phase is phase
    first = next(each for each in stage.store.measurements(stage.rollout))
    assert first.is_preview
    assert {question.check for question, _ in first.results} == {"slow"}, "nothing is compared without traffic"
    exposed = "traffic_shifted" in stage.kinds()
    assert exposed is (phase is Phase.SUCCEEDED)
    verdicts = [each.verdict for each in stage.store.verdicts(stage.rollout)]
    assert replay(*_recorded(stage))[-1].outcome is verdicts[-1].outcome


def _recorded(stage: TickHarness) -> tuple[Rollout, tuple[Measurement, ...]]:
    return stage.store.load(stage.rollout)[0], stage.store.measurements(stage.rollout)


def document(*paths: str) -> dict[str, object]:
    """An OpenAPI document with a GET at each of these paths."""
    answers = {"responses": {"200": {"description": "fine"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "shop", "version": "1"},
        "paths": {each: {"get": answers} for each in paths},
    }


@pytest.mark.parametrize(
    ("old", "new", "policy", "phase", "state"),
    [
        (["/a"], ["/a", "/b"], OnBreaking.FAIL, Phase.SUCCEEDED, TaskState.PASSED),
        (["/a", "/b"], ["/a"], OnBreaking.FAIL, Phase.ROLLED_BACK, TaskState.FAILED),
        (["/a", "/b"], ["/a"], OnBreaking.WARN, Phase.SUCCEEDED, TaskState.WARNED),
        (None, None, OnBreaking.FAIL, Phase.SUCCEEDED, TaskState.PASSED),
        (["/a"], None, OnBreaking.WARN, Phase.SUCCEEDED, TaskState.WARNED),
    ],
)
def test_what_both_releases_promise_is_compared_before_traffic_moves(
    stage: TickHarness, old: list[str] | None, new: list[str] | None, policy: OnBreaking, phase: Phase, state: TaskState
) -> None:
    for release, paths in (("v1-1", old), ("v2-2", new)):
        if paths is not None:
            stage.world.documents[release] = document(*paths)
    stage.begin(hooked(hooks={}, compare=CompareOptions("/openapi.json", policy)))
    stage.run()
    assert (stage.phase, states(stage)["compare"]) == (phase, state)
    if phase is Phase.ROLLED_BACK:
        assert "/b" in stage.reason
        assert "traffic_shifted" not in stage.kinds()


def test_where_the_promise_is_not_known_a_person_is_asked(stage: TickHarness) -> None:
    stage.world.documents["v1-1"] = document("/a")
    stage.begin(hooked(hooks={}, compare=CompareOptions("/openapi.json")))
    while "waiting_for_approval" not in stage.kinds():
        stage.tick()
    assert "does not serve /openapi.json" in stage.messages(EventKind.WAITING_FOR_APPROVAL)[0]
    stage.signal(SignalKind.PROMOTE)
    stage.run()
    assert stage.phase is Phase.SUCCEEDED


def test_blue_green_with_a_preview_holds_switches_and_keeps(stage: TickHarness) -> None:
    stage.begin(hooked(strategy=Strategy.BLUE_GREEN, keep_old_seconds=600.0, hooks={}))
    while "waiting_for_approval" not in stage.kinds():
        stage.tick()
    assert stage.world.serving() == ["v1-1"]
    assert [each.release for each in stage.world.routed["shop_preview"]] == ["v2-2"]
    stage.signal(SignalKind.PROMOTE)
    begun = stage.clock()
    while stage.clock() - begun < 500.0:
        stage.clock.now = max(stage.clock.now, stage.tick().due or 0.0)
        if stage.world.serving() == ["v2-2"] and stage.phase is Phase.RUNNING:
            assert {each.release for each in stage.world.present()} == {"v1-1", "v2-2"}, "the old colour is kept warm"
    assert stage.world.serving() == ["v2-2"]
    assert stage.world.routed["shop_preview"] == ()
    stage.run()
    assert stage.phase is Phase.SUCCEEDED
    assert {each.release for each in stage.world.present()} == {"v2-2"}
    assert stage.clock() - begun > 600.0


def test_engines_that_take_turns_judge_by_all_looks(stage: TickHarness) -> None:
    stage.world.answer = constant(2.0)
    stage.begin(a_service(replicas=1, bake_seconds=60.0, checks=(replace(LIMIT, min_samples=6),)))
    for owner, stage.cache in itertools.cycle({"anna": RolloutCache(), "bert": RolloutCache()}.items()):
        stage.store.release(stage.claim, stage.clock())
        stage.claim = claimed(stage.store, owner)
        while (done := stage.tick()).due is None and stage.phase is not Phase.ROLLING_BACK:
            ...
        if stage.phase is Phase.ROLLING_BACK:
            break
        stage.clock.now = max(stage.clock.now, done.due or 0.0)
    assert len(stage.store.measurements(stage.rollout)) == 6, "as many beyond the limit as one engine needs"


def test_an_engine_alone_reads_no_look_again(stage: TickHarness) -> None:
    stage.world.answer = constant(0.1)
    stage.begin(a_service(replicas=1, bake_seconds=60.0, checks=(LIMIT,)))
    calls: list[str] = []
    stage.run(**interposed(stage, calls.append))
    assert stage.phase is Phase.SUCCEEDED
    assert calls.count("measurements") == 1
