"""The rungs for previews, shares, tasks, long-lived connections, a colour that is kept, and groups."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.decide_fixtures import A0, A1, B0, NOW, POLICY, ROLLOUT, answer, at, decided, instance, signal, unrouted_at
from tidegate.analysis.verdict import Outcome, Verdict
from tidegate.clock import Window
from tidegate.core.decisions import Decision, Mark, MarkKind, Move, Run, Shift, Start, Stop, Wait
from tidegate.core.hooks import TaskRun, TaskState
from tidegate.core.model import (
    Approval,
    Instance,
    ObservedState,
    Rollout,
    SignalKind,
)
from tidegate.core.phases import Phase
from tidegate.core.plan import Gate, Step
from tidegate.core.records import Peer
from tidegate.core.rollback_cause import RollbackCause
from tidegate.core.rollout_state import member_of
from tidegate.core.routing import Backend, Preview, RouterState

B1 = instance("b", 1)
PLACE = Backend("shop", preview=Preview("8002", "X-Preview: yes"))
UNSEEN = Step({"a": 2, "b": 1}, {"a": 2}, Gate(approval="promote", tasks=("pre_promote",)), preview={"b": 1})
SWITCHED = Step({"a": 2, "b": 2}, {"b": 2}, Gate(bake_seconds=20.0))
END = Step({"b": 2}, {"b": 2}, Gate(surplus_gone=True))
FIRST = replace(ROLLOUT, plan=(UNSEEN, SWITCHED, END), backend=PLACE)
STANDS = replace(FIRST, traffic_confirmed_at=NOW - 5.0, step_ready_at=NOW - 5.0)
BACK = Step({"a": 2}, {"a": 2}, Gate(surplus_gone=True))


def world(
    *there: Instance, preview: tuple[Instance, ...] = (), visits: dict[str, int | None] | None = None
) -> ObservedState:
    """The old ones serve; the preview leads to these."""
    routed = RouterState(tuple(member_of(each) for each in (A0, A1)))
    return ObservedState(there, routed, RouterState(tuple(member_of(each) for each in preview), visits or {}))


def ended(name: str, state: TaskState, message: str = "it says no") -> TaskRun:
    return TaskRun(name, state, NOW - 3.0, NOW - 1.0, message)


# -- the preview ------------------------------------------------------------------------------------------------------


def test_the_preview_leads_to_the_new_release_before_it_takes_traffic() -> None:
    decision = at(FIRST, world(A0, A1, B0))
    assert isinstance(decision, Shift)
    assert (decision.preview, decision.members) == (True, (member_of(B0),))


def test_the_step_stands_only_when_the_preview_leads_there() -> None:
    decision = at(FIRST, world(A0, A1, B0, preview=(B0,)))
    assert isinstance(decision, Mark)
    assert decision.mark is MarkKind.TRAFFIC_CONFIRMED


def test_without_a_preview_in_its_backend_there_is_none_to_lead() -> None:
    decision = at(replace(FIRST, backend=Backend("shop")), world(A0, A1, B0))
    assert isinstance(decision, Mark)


def test_one_that_died_leaves_the_preview_before_anything_is_started_at_its_address() -> None:
    decision = at(STANDS, world(A0, A1, preview=(B0,)))
    assert isinstance(decision, Shift)
    assert (decision.preview, decision.members) == (True, ())


def test_on_the_way_back_nothing_is_stopped_that_the_preview_leads_to() -> None:
    back = replace(FIRST, plan=(BACK,), phase=Phase.ROLLING_BACK)
    emptied = at(back, world(A0, A1, B0, preview=(B0,)))
    assert isinstance(emptied, Shift)
    assert (emptied.preview, emptied.members) == (True, ())
    left = replace(back, traffic_confirmed_at=NOW, unrouted_at=unrouted_at(NOW))
    stands = replace(left, step_ready_at=NOW)
    assert isinstance(at(stands, world(A0, A1, B0, visits={"b0": 1})), Wait)
    struck = at(left, world(A0, A1, B0, visits={"b0": 0}))
    assert isinstance(struck, Shift)
    assert struck.preview
    assert isinstance(at(left, world(A0, A1, B0)), Stop)


# -- shares -----------------------------------------------------------------------------------------------------------


def test_a_share_is_written_as_weights_and_read_back() -> None:
    step = Step({"a": 2, "b": 1}, {"a": 2, "b": 1}, share=0.05)
    rollout = replace(ROLLOUT, plan=(step, END))
    decision = at(rollout, world(A0, A1, B0))
    assert isinstance(decision, Shift)
    weight = {member.instance: member.weight for member in decision.members}
    assert weight["b0"] / (weight["b0"] + weight["a0"] + weight["a1"]) == pytest.approx(0.05, rel=0.01)
    done = at(rollout, ObservedState((A0, A1, B0), RouterState(decision.members)))
    assert isinstance(done, Mark)
    equal = ObservedState((A0, A1, B0), RouterState(tuple(replace(member, weight=1) for member in decision.members)))
    assert isinstance(at(rollout, equal), Shift)


# -- tasks ------------------------------------------------------------------------------------------------------------


def test_what_comes_before_the_step_runs_before_anything_is_started() -> None:
    hooked = replace(FIRST, plan=(replace(UNSEEN, gate=Gate(tasks_before=("pre_deploy",))), END))
    decision = at(hooked, world(A0, A1))
    assert isinstance(decision, Run)
    assert decision.task == "pre_deploy"
    assert isinstance(at(replace(hooked, paused=True), world(A0, A1)), Wait)
    running = replace(hooked, tasks=(TaskRun("pre_deploy", TaskState.RUNNING, NOW),))
    assert isinstance(at(running, world(A0, A1)), Run)
    assert isinstance(at(replace(running, paused=True), world(A0, A1)), Run), "one that runs is looked after"
    passed = replace(hooked, tasks=(ended("pre_deploy", TaskState.PASSED),))
    assert isinstance(at(passed, world(A0, A1)), Start)


def test_the_hook_comes_before_the_person() -> None:
    stands = world(A0, A1, B0, preview=(B0,))
    decision = at(STANDS, stands)
    assert isinstance(decision, Run)
    assert decision.task == "pre_promote"
    held = at(replace(STANDS, tasks=(ended("pre_promote", TaskState.PASSED),)), stands)
    assert isinstance(held, Mark)
    assert held.mark is MarkKind.WAITING_FOR_APPROVAL


@pytest.mark.parametrize("name", ["pre_deploy", "pre_promote", "compare"])
def test_a_failed_task_turns_back_before_traffic_moves(name: str) -> None:
    decision = at(replace(STANDS, tasks=(ended(name, TaskState.FAILED),)), world(A0, A1, B0, preview=(B0,)))
    assert isinstance(decision, Move)
    assert (decision.phase, decision.reason) == (Phase.ROLLING_BACK, "it says no")


def test_one_that_only_warns_does_not_hold_it_up() -> None:
    last = replace(
        ROLLOUT,
        plan=(replace(END, gate=Gate(surplus_gone=True, tasks=("post_promote",))),),
        step_ready_at=NOW,
        traffic_confirmed_at=NOW,
    )
    seen = ObservedState((B0, B1), RouterState((member_of(B0), member_of(B1))))
    assert isinstance(at(last, seen), Run)
    decision = at(replace(last, tasks=(ended("post_promote", TaskState.WARNED),)), seen)
    assert isinstance(decision, Move)
    assert decision.phase is Phase.SUCCEEDED


@pytest.mark.parametrize("started", [True, False])
def test_a_hook_that_could_not_be_started_is_not_charged_to_the_image(*, started: bool) -> None:
    failed = replace(ended("pre_promote", TaskState.FAILED), started=started)
    decision = at(replace(STANDS, tasks=(failed,)), world(A0, A1, B0, preview=(B0,)))
    assert isinstance(decision, Move)
    cause = RollbackCause.HOOK if started else RollbackCause.UNAVAILABLE
    assert (decision.phase, decision.cause) == (Phase.ROLLING_BACK, cause)


def test_where_nothing_can_be_said_a_person_is_asked_and_silence_turns_back() -> None:
    gate = Gate(tasks=("compare",))
    rollout = replace(
        STANDS, plan=(replace(UNSEEN, gate=gate), END), tasks=(ended("compare", TaskState.UNKNOWN, "who knows"),)
    )
    stands = world(A0, A1, B0, preview=(B0,))
    asked = at(rollout, stands)
    assert isinstance(asked, Mark)
    assert "who knows" in asked.reason
    promote = replace(POLICY, approval=replace(POLICY.approval, on_expiry="promote"))  # type: ignore[arg-type]
    expired = at(replace(rollout, approval_since=NOW - 200.0, policy=promote), stands)
    assert isinstance(expired, Move)
    assert expired.phase is Phase.ROLLING_BACK
    asked_for = replace(rollout, approval_since=NOW)
    assert isinstance(at(asked_for, stands, signal(SignalKind.PROMOTE)), Wait), "given before there was a result"
    assert isinstance(at(asked_for, stands, answer(asked_for)), Move)


def test_who_skips_the_analysis_skips_the_comparison_and_no_hook() -> None:
    rollout = replace(STANDS, plan=(replace(UNSEEN, gate=Gate(tasks=("compare", "pre_promote"))), END))
    decision = at(rollout, world(A0, A1, B0, preview=(B0,)), signal(SignalKind.FORCE))
    assert isinstance(decision, Run)
    assert decision.task == "pre_promote"


# -- what lives long --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "tunnels", "left", "long_lived", "stopped"),
    [
        (1, 1, 6.0, 5.0, True),  # a WebSocket, and its own time is over before the drain
        (1, 1, 4.0, 5.0, False),
        (2, 1, 6.0, 5.0, False),  # a request beside it has the drain time
        (2, 1, 31.0, 5.0, True),
        (1, 1, 31.0, 600.0, False),  # longer than the drain
        (1, 0, 31.0, 600.0, False),  # a long poll: open when the drain is over
        (1, 0, 601.0, 600.0, True),
        (None, 0, 31.0, 5.0, True),
        (None, 0, 31.0, 600.0, False),
        (1, 1, 31.0, None, True),
    ],
)
def test_long_lived_connections_have_a_time_of_their_own(
    count: int | None, tunnels: int, left: float, long_lived: float | None, stopped: bool
) -> None:
    policy = replace(POLICY, long_lived_seconds=long_lived)
    rollout = replace(
        ROLLOUT, plan=(END,), cursor=0, policy=policy, traffic_confirmed_at=NOW - left, unrouted_at=unrouted_at(NOW - left)
    )
    routed = RouterState((member_of(B0), member_of(B1)), {"a0": count}, tunnels={"a0": tunnels} if tunnels else {})
    decision = at(rollout, ObservedState((A0, B0, B1), routed))
    assert isinstance(decision, Stop) is stopped
    if isinstance(decision, Stop):
        assert decision.overdue


# -- a colour that is kept ----------------------------------------------------------------------------------------------

KEEPING = Step({"a": 2, "b": 2}, {"b": 2}, Gate(bake_seconds=600.0, analyzed=True, keeps_old=True))
KEPT = replace(ROLLOUT, plan=(KEEPING, END), traffic_confirmed_at=NOW, step_ready_at=NOW)
SERVES = ObservedState((A0, A1, B0, B1), RouterState((member_of(B0), member_of(B1))))


def said(outcome: Outcome) -> Verdict:
    return Verdict(outcome, NOW, Window(NOW - 5.0, NOW), (), f"judged {outcome}", False)


def test_the_old_colour_is_kept_warm_until_its_time_is_over() -> None:
    rollout = replace(KEPT, verdict=said(Outcome.PASS))
    assert isinstance(at(rollout, SERVES), Wait)
    over = replace(rollout, verdict=replace(said(Outcome.PASS), at=NOW + 600.0, final=True))
    done = at(over, SERVES, now=NOW + 601.0)
    assert isinstance(done, Move)
    assert done.cursor == 1


def test_an_approval_ends_the_keeping() -> None:
    decision = at(replace(KEPT, verdict=said(Outcome.PASS)), SERVES, signal(SignalKind.PROMOTE))
    assert isinstance(decision, Move)
    assert decision.cursor == 1


def test_a_fail_while_it_is_kept_turns_back_and_that_nothing_is_known_does_not() -> None:
    failed = at(replace(KEPT, verdict=said(Outcome.FAIL)), SERVES)
    assert isinstance(failed, Move)
    assert failed.phase is Phase.ROLLING_BACK
    unknown = replace(KEPT, verdict=replace(said(Outcome.INCONCLUSIVE), at=NOW + 600.0, final=True))
    on = at(unknown, SERVES, now=NOW + 601.0)
    assert isinstance(on, Move)
    assert on.phase is Phase.RUNNING


# -- groups -----------------------------------------------------------------------------------------------------------

POINT = replace(UNSEEN, gate=Gate(approval="promote", group_point=1))
JOINED = replace(STANDS, plan=(POINT, SWITCHED, END), group="g")
READY = world(A0, A1, B0, preview=(B0,))


def beside(rollout: Rollout, *peers: Peer) -> Decision:
    return decided(rollout, READY, (), NOW, 0.0, "", peers)


def test_a_group_waits_until_all_have_arrived_and_then_asks_a_person() -> None:
    late = Peer("demo/worker", Phase.RUNNING, 0)
    arrived = beside(JOINED, late)
    assert isinstance(arrived, Mark)
    assert arrived.mark is MarkKind.WAITING_FOR_GROUP
    here = replace(JOINED, group_point=1)
    waits = beside(here, late)
    assert isinstance(waits, Wait)
    assert "demo/worker" in waits.reason
    held = beside(here, replace(late, group_point=1))
    assert isinstance(held, Mark)
    assert held.mark is MarkKind.WAITING_FOR_APPROVAL


@pytest.mark.parametrize("phase", [Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.REFUSED, Phase.FAILED])
def test_one_that_turns_back_turns_all_back(phase: Phase) -> None:
    decision = beside(JOINED, Peer("demo/worker", phase, 1, "its errors"))
    assert isinstance(decision, Move)
    assert decision.phase is Phase.ROLLING_BACK
    assert "demo/worker" in decision.reason
    assert "its errors" in decision.reason
    pending = beside(replace(JOINED, phase=Phase.PENDING), Peer("demo/worker", phase, 1))
    assert isinstance(pending, Move)
    assert pending.phase is (Phase.REFUSED if phase is Phase.REFUSED else Phase.ROLLED_BACK)


def test_one_that_is_over_and_good_is_not_waited_for() -> None:
    held = beside(replace(JOINED, group_point=1), Peer("demo/worker", Phase.SUCCEEDED, 2))
    assert isinstance(held, Mark)


# -- looking meanwhile --------------------------------------------------------------------------------------------------


def test_the_world_is_looked_at_in_a_long_bake_and_while_a_person_is_waited_for() -> None:
    stands = world(A0, A1, B0, preview=(B0,))
    held = replace(STANDS, tasks=(ended("pre_promote", TaskState.PASSED),), approval_since=NOW)
    waits = at(replace(held, policy=replace(POLICY, approval=Approval(expires_seconds=86_400.0))), stands)
    kept = at(replace(KEPT, verdict=said(Outcome.PASS)), SERVES)
    for decision in (waits, kept):
        assert isinstance(decision, Wait)
        assert decision.until <= NOW + POLICY.interval_seconds
