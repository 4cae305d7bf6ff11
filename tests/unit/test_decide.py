"""Each rung of the ladder, and every wait and deadline that was wrong once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.decide_fixtures import (
    A0,
    A1,
    B0,
    END,
    NOW,
    POLICY,
    ROLLOUT,
    STEP,
    answer,
    at,
    decided,
    instance,
    signal,
    unrouted_at,
    world,
)
from tidegate.analysis.verdict import Outcome, Verdict
from tidegate.clock import Window
from tidegate.core import planner
from tidegate.core.decide import decide
from tidegate.core.decisions import (  # fmt: skip
    Analyze,
    Mark,
    MarkKind,
    Move,
    Pin,
    Shift,
    Start,
    Stop,
    Track,
    Wait,
    apply_mark,
    apply_move,
    apply_track,
)
from tidegate.core.model import (
    FailureAction,
    InconclusiveAction,
    Instance,
    InstanceState,
    ObservedState,
    Rollout,
    Signal,
    SignalKind,
)
from tidegate.core.phases import Phase
from tidegate.core.plan import Gate
from tidegate.core.records import Peer
from tidegate.core.rollback_cause import RollbackCause
from tidegate.core.rollout_state import member_of
from tidegate.core.routing import Member, RouterState
from tidegate.core.waits import WaitKind
from tidegate.errors import IllegalMove


def verdict(outcome: Outcome, when: float = NOW, *, final: bool = True) -> Verdict:
    return Verdict(outcome, when, Window(when - 20, when), (), f"judged {outcome}", final)


SHIFTED = replace(ROLLOUT, traffic_confirmed_at=NOW - 5.0, unrouted_at=unrouted_at(NOW - 5.0))
SETTLED = replace(SHIFTED, step_ready_at=NOW - 30.0)
STANDS = world(A0, A1, B0, routed=(A0, B0))


def test_pending_pins_first() -> None:
    pending = replace(ROLLOUT, phase=Phase.PENDING)
    assert isinstance(at(pending, world()), Pin)
    back = Move(Phase.ROLLED_BACK, "Rollback requested by ada: why", cause=RollbackCause.REQUEST)
    assert at(pending, world(), signal(SignalKind.ROLLBACK)) == back
    assert isinstance(at(replace(pending, paused=True), world()), Wait)


def test_a_new_step_is_marked() -> None:
    assert at(replace(ROLLOUT, step_started_at=None), STANDS) == Mark(MarkKind.STEP_STARTED, "Step started")


def test_missing_instances_are_started_at_free_ordinals() -> None:
    assert at(ROLLOUT, world(A0, A1)) == Start("b", (0,), "Starting 1 instance of b")
    assert at(ROLLOUT, world(A1, B0, routed=(A1,))) == Start("a", (0,), "Starting 1 instance of a")
    late = at(ROLLOUT, world(A0, A1), now=NOW + 1_000.0)
    assert isinstance(late, Start), "what came before it took longer than the deadline of the instances"
    starting = replace(ROLLOUT, starting_at=NOW + 1_000.0)
    assert isinstance(at(starting, world(A0, A1), now=NOW + 1_059.0), Start)
    assert at(starting, world(A0, A1), now=NOW + 1_061.0).phase is Phase.ROLLING_BACK  # type: ignore[union-attr]


def test_what_is_not_ready_is_waited_for() -> None:
    said = at(ROLLOUT, world(A0, A1, replace(B0, state=InstanceState.STARTING)))
    assert isinstance(said, Wait)
    assert "b/0" in said.reason


def test_ready_instances_are_shifted_to() -> None:
    said = at(ROLLOUT, world(A0, A1, B0))
    assert isinstance(said, Shift)
    assert {member.instance for member in said.members} == {"a0", "b0"}


LATE = replace(ROLLOUT, step_started_at=NOW - 61.0)
CRASHED, STARTING = (replace(B0, state=state) for state in (InstanceState.FAILED, InstanceState.STARTING))


@pytest.mark.parametrize(
    ("rollout", "observed", "cause"),
    [
        (ROLLOUT, world(A0, A1, CRASHED), RollbackCause.NEVER_SERVED),
        (ROLLOUT, world(A0, A1, CRASHED, routed=(A0, B0)), RollbackCause.HEALTH),
        (SHIFTED, world(A0, A1, CRASHED, routed=(A0,)), RollbackCause.HEALTH),
        (LATE, world(A0, A1, STARTING), RollbackCause.NEVER_SERVED),
        (replace(LATE, plan=(STEP, STEP, END), cursor=1), world(A0, A1, STARTING), RollbackCause.HEALTH),
    ],
    ids=["crashed", "crashed in the route", "crashed after the shift", "not ready", "not ready in a later batch"],
)
def test_only_a_release_that_has_served_is_put_into_quarantine_when_its_instances_fail(
    rollout: Rollout, observed: ObservedState, cause: RollbackCause
) -> None:
    said = at(rollout, observed)
    assert isinstance(said, Move)
    assert (said.phase, said.cause) == (Phase.ROLLING_BACK, cause)
    assert apply_move(rollout, said, NOW).rollback_cause is cause


ASKS = replace(POLICY, failure_action=FailureAction.PAUSE)
ROLLBACK, BUILD_ENDED = signal(SignalKind.ROLLBACK), signal(SignalKind.ROLLBACK, cause=RollbackCause.BUILD_ENDED)


@pytest.mark.parametrize(
    ("rollout", "signals", "cause"),
    [
        (replace(SETTLED, verdict=verdict(Outcome.FAIL)), (), RollbackCause.CHECKS),
        (replace(SETTLED, verdict=verdict(Outcome.FAIL), policy=ASKS), (ROLLBACK,), RollbackCause.CHECKS),
        (SETTLED, (ROLLBACK,), RollbackCause.REQUEST),
        (replace(SETTLED, approval_since=NOW), (ROLLBACK,), RollbackCause.APPROVAL_REJECTED),
        (replace(SETTLED, approval_since=NOW), (BUILD_ENDED,), RollbackCause.BUILD_ENDED),
    ],
    ids=["FAIL", "FAIL that a person was asked about", "request", "rejected", "build over"],
)
def test_only_a_finding_speaks_against_a_release(
    rollout: Rollout, signals: tuple[Signal, ...], cause: RollbackCause
) -> None:
    said = at(rollout, STANDS, *signals)
    assert isinstance(said, Move)
    assert (said.phase, said.cause) == (Phase.ROLLING_BACK, cause)
    assert cause.is_finding == (cause is RollbackCause.CHECKS)
    if rollout.verdict is not None:
        assert rollout.verdict.message in said.reason, "what was found"


def test_another_release_of_the_group_is_no_finding_about_this_one() -> None:
    peer = Peer("demo/web", Phase.ROLLING_BACK, 0, "judged FAIL")
    said = decided(SETTLED, STANDS, (), NOW, 0.0, peers=(peer,))
    assert isinstance(said, Move)
    assert (said.phase, said.cause) == (Phase.ROLLING_BACK, RollbackCause.GROUP)


def test_an_instance_that_returns_to_the_route_drains_anew_when_it_leaves_again() -> None:
    """Else it could be stopped at once, if the shift that takes it out again is never recorded."""
    back = replace(SHIFTED, unrouted_at={"a1": NOW - 99.0})
    said = decide(back, world(A0, A1, B0, routed=(A0, A1, B0)), (), NOW, 0.0)
    assert isinstance(said, Track)
    assert apply_track(back, said, NOW).unrouted_at == {}


def test_the_drain_time_of_an_instance_outlives_its_step() -> None:
    """A connection that outlives the step that took it out of the route does not get the whole time again."""
    left = replace(SHIFTED, cursor=1, unrouted_at={"a1": NOW - 20.0}, traffic_confirmed_at=None)
    observed = world(A0, A1, B0, routed=(A0, B0), a1=1)
    assert not isinstance(at(left, observed), Stop)
    assert at(left, observed, now=NOW + 10.0) == Stop((A1,), "Stopping a/1", overdue=True)
    both = decide(left, world(A0, A1, B0, routed=(B0,), a0=1, a1=1), (), NOW, 0.0)
    assert isinstance(both, Track)
    assert apply_track(left, both, NOW).unrouted_at == {"a0": NOW, "a1": NOW - 20.0}


def test_a_matching_proxy_is_marked() -> None:
    assert at(ROLLOUT, STANDS) == Mark(MarkKind.TRAFFIC_CONFIRMED, "Traffic confirmed by the proxy: 1 of a, 1 of b")
    assert at(SHIFTED, STANDS) == Mark(MarkKind.STEP_READY, "Desired state reached")


def test_an_idle_unrouted_one_is_struck_from_the_proxy() -> None:
    said = at(SETTLED, world(A0, A1, B0, routed=(A0, B0), a1=0))
    assert isinstance(said, Shift)
    assert {member.instance for member in said.members} == {"a0", "b0"}


def test_surplus_is_stopped_only_when_idle_or_drained() -> None:
    last = replace(SHIFTED, cursor=1)
    b1 = instance("b", 1)
    idle = world(A0, B0, b1, routed=(B0, b1))
    busy = world(A0, B0, b1, routed=(B0, b1), a0=3)
    unknown = world(A0, B0, b1, routed=(B0, b1), a0=None)
    assert at(last, idle) == Stop((A0,), "Stopping a/0")
    for seen in (busy, unknown):
        assert not isinstance(at(last, seen), Stop)
        assert isinstance(at(replace(last, unrouted_at=unrouted_at(NOW - 30.0)), seen), Stop)
        assert not isinstance(at(replace(last, unrouted_at={}), seen), Stop), "an unknown beginning counts as now"


def test_a_routed_surplus_is_never_stopped() -> None:
    last = replace(SHIFTED, cursor=1, unrouted_at=unrouted_at(0.0))
    assert not isinstance(at(last, world(A0, B0, routed=(A0, B0))), Stop)


@pytest.mark.parametrize(
    "bad",
    [replace(B0, state=InstanceState.FAILED, detail="ended with 1"), replace(B0, restarts=3)],
    ids=["failed", "restarts"],
)
def test_a_candidate_that_does_not_stand_turns_back(bad: Instance) -> None:
    said = at(ROLLOUT, world(A0, A1, bad))
    assert isinstance(said, Move)
    assert (said.phase, said.plan) == (Phase.ROLLING_BACK, planner.rollback_plan("a", 2))
    tolerant = replace(ROLLOUT, policy=replace(POLICY, max_failure_ratio=1.0))
    assert not isinstance(at(tolerant, world(A0, A1, bad)), Move)


def test_a_candidate_that_was_ended_from_outside_is_replaced() -> None:
    stopped = replace(B0, state=InstanceState.STOPPED, detail="exited with status 143")
    assert at(ROLLOUT, world(A0, A1, stopped)) == Stop((stopped,), "Stopping b/0")
    assert isinstance(at(ROLLOUT, world(A0, A1)), Start)


def test_a_failed_old_instance_is_replaced() -> None:
    failed = replace(A1, state=InstanceState.FAILED)
    assert at(SHIFTED, world(A0, failed, B0, routed=(A0, B0))) == Stop((failed,), "Stopping a/1")


def test_a_dead_member_leaves_the_route_but_never_the_last() -> None:
    assert at(SHIFTED, world(A0, A1, routed=(A0, B0))) == Shift((member_of(A0),), "Removing 1 dead instance from the proxy")
    gone = at(SHIFTED, world(A1, routed=(B0,)))
    assert not isinstance(gone, Shift)


def test_drift_opens_the_step_again() -> None:
    said = at(SETTLED, world(A0, A1, B0, routed=(A0,)))
    assert isinstance(said, Mark)
    assert said.mark is MarkKind.TRAFFIC_DIVERGED
    again = apply_mark(SETTLED, said.mark, NOW)
    assert (again.traffic_confirmed_at, again.step_ready_at, again.verdict) == (None, None, None)


# -- deadlines ------------------------------------------------------------------------------------------------------------


LATE = world(A0, A1, replace(B0, state=InstanceState.STARTING, detail="GET /health answered 503"))


def test_past_the_deadline_it_turns_back_with_what_was_seen() -> None:
    said = at(replace(ROLLOUT, step_started_at=NOW - 61.0), LATE)
    assert isinstance(said, Move)
    assert said.phase is Phase.ROLLING_BACK
    assert "b/0 did not become ready within 60 s: GET /health answered 503" in said.reason


def test_the_engines_own_downtime_is_not_charged() -> None:
    assert isinstance(at(replace(ROLLOUT, step_started_at=NOW - 600.0), LATE, since=NOW - 5.0), Wait)


def test_deadlines_stop_while_paused_and_begin_anew() -> None:
    late = replace(ROLLOUT, step_started_at=NOW - 600.0)
    assert isinstance(at(replace(late, paused=True), LATE), Wait)
    assert isinstance(at(late, LATE, signal(SignalKind.RESUME, when=NOW - 10.0)), Wait)


def test_on_the_way_back_giving_up_halts_and_moves_nothing() -> None:
    back = replace(ROLLOUT, phase=Phase.ROLLING_BACK, plan=planner.rollback_plan("a", 2), step_started_at=NOW - 61.0)
    said = at(back, world(A0, replace(A1, state=InstanceState.STARTING), B0, routed=(A0, B0)))
    assert isinstance(said, Move)
    assert said.phase is Phase.FAILED


def test_engines_that_keep_dying_are_bounded() -> None:
    said = at(replace(ROLLOUT, takeovers=51), STANDS)
    assert isinstance(said, Move)
    assert said.phase is Phase.FAILED


# -- the gate -------------------------------------------------------------------------------------------------------------


def test_it_bakes_and_looks() -> None:
    early = replace(SHIFTED, step_ready_at=NOW - 2.0)
    waits = at(early, STANDS)
    assert isinstance(waits, Wait)
    assert (waits.until, waits.reason) == (NOW + 3.0, "Baking step 1 of 2")
    looked = at(replace(early, step_ready_at=NOW - 5.0), STANDS)
    assert looked == Analyze(False, "Querying the metrics")


def test_the_end_of_the_bake_is_judged_for_good() -> None:
    said = at(replace(SETTLED, step_ready_at=NOW - 20.0, verdict=verdict(Outcome.PASS, NOW - 1.0, final=False)), STANDS)
    assert isinstance(said, Analyze)
    assert said.final


def test_a_fail_turns_back_at_once() -> None:
    said = at(replace(SETTLED, step_ready_at=NOW - 5.0, verdict=verdict(Outcome.FAIL, final=False)), STANDS)
    assert isinstance(said, Move)
    assert (said.phase, said.reason) == (Phase.ROLLING_BACK, "judged FAIL")


def test_a_fail_may_ask_a_person_or_be_passed_over() -> None:
    failed = replace(SETTLED, verdict=verdict(Outcome.FAIL))
    pausing = replace(failed, policy=replace(POLICY, failure_action=FailureAction.PAUSE))
    assert isinstance(at(pausing, STANDS), Mark)
    held = replace(pausing, approval_since=NOW - 1.0)
    assert isinstance(at(held, STANDS), Wait)
    assert at(held, STANDS, answer(held)) == Move(Phase.RUNNING, "Step 2 of 2", cursor=1)
    passing = replace(failed, policy=replace(POLICY, failure_action=FailureAction.CONTINUE))
    assert isinstance(at(passing, STANDS), Move)


def test_inconclusive_is_extended_then_asked_then_turned_back() -> None:
    unsure = replace(SETTLED, verdict=verdict(Outcome.INCONCLUSIVE))
    assert at(unsure, STANDS) == Mark(MarkKind.BAKE_EXTENDED, "Verdict INCONCLUSIVE: extending the bake (1 of 2)")
    often = replace(unsure, extensions=2, step_ready_at=NOW - 90.0)
    assert isinstance(at(often, STANDS), Mark)
    assert at(often, STANDS) == Mark(
        MarkKind.WAITING_FOR_APPROVAL, "Verdict INCONCLUSIVE: waiting for a decision to promote or to roll back"
    )
    expired = replace(often, approval_since=NOW - 101.0)
    said = at(expired, STANDS)
    assert isinstance(said, Move)
    assert (said.phase, "Approval timed out" in said.reason) == (Phase.ROLLING_BACK, True)
    paused = at(replace(expired, paused=True), STANDS)
    assert isinstance(paused, Wait)
    assert paused.waiting_for.kind is WaitKind.PAUSE, "its limit is over, and what follows needs `resume`"


def test_a_hold_is_bound_to_its_step() -> None:
    step = replace(STEP, gate=Gate(approval="promote"))
    held = replace(SETTLED, plan=(step, END), approval_since=NOW - 1.0)
    assert isinstance(at(held, STANDS), Wait)
    assert isinstance(at(held, STANDS, signal(SignalKind.PROMOTE, 1)), Wait)
    assert isinstance(at(held, STANDS, signal(SignalKind.PROMOTE, 0)), Move)
    assert isinstance(at(held, STANDS, signal(SignalKind.PROMOTE, None)), Move)


def test_checks_go_on_while_a_person_is_waited_for() -> None:
    step = replace(STEP, gate=replace(STEP.gate, approval="promote"))
    held = replace(SETTLED, plan=(step, END), approval_since=NOW - 9.0, verdict=verdict(Outcome.PASS, NOW - 6.0))
    assert isinstance(at(held, STANDS), Wait), "seldom while nothing but a person is waited for"
    assert isinstance(at(replace(held, verdict=verdict(Outcome.PASS, NOW - 30.0)), STANDS), Analyze)


@pytest.mark.parametrize(
    ("action", "later", "does"),
    [
        ("pause", False, MarkKind.WAITING_FOR_APPROVAL),
        ("continue", False, MarkKind.WAITING_FOR_APPROVAL),
        ("continue", True, None),
        ("rollback", False, None),
    ],
)
def test_what_follows_when_nothing_can_be_said(action: str, later: bool, does: MarkKind | None) -> None:
    policy = replace(POLICY, on_inconclusive=InconclusiveAction(action))
    plan = (STEP, STEP, END) if later else (STEP, END)
    said = at(replace(SETTLED, plan=plan, policy=policy, verdict=verdict(Outcome.INCONCLUSIVE)), STANDS)
    if does is not None:
        assert isinstance(said, Mark)
        assert said.mark is does
    else:
        assert isinstance(said, Move)
        assert said.phase is (Phase.ROLLING_BACK if action == "rollback" else Phase.RUNNING)


def test_somebody_may_ask_for_a_verdict() -> None:
    fresh = replace(SETTLED, step_ready_at=NOW - 2.0, verdict=verdict(Outcome.PASS, NOW - 1.0, final=False))
    assert isinstance(at(fresh, STANDS, signal(SignalKind.VERIFY)), Analyze)
    assert isinstance(at(fresh, STANDS), Wait)


def test_paused_goes_no_further() -> None:
    done = replace(SETTLED, paused=True, verdict=verdict(Outcome.PASS))
    assert isinstance(at(done, STANDS), Wait)
    assert isinstance(at(replace(ROLLOUT, paused=True), world(A0, A1, B0)), Wait), "no traffic is moved"


def test_the_end() -> None:
    b1 = instance("b", 1)
    last = replace(SETTLED, cursor=1, step_ready_at=NOW - 1.0)
    assert at(last, world(B0, b1, routed=(B0, b1))) == Move(Phase.SUCCEEDED, "b is live")
    leaving = replace(A0, state=InstanceState.STOPPING)
    assert isinstance(at(last, world(leaving, B0, b1, routed=(B0, b1))), Wait), "nothing may be left over"
    back = replace(last, phase=Phase.ROLLING_BACK, plan=planner.rollback_plan("a", 2), cursor=0, reason="judged FAIL")
    assert at(back, world(A0, A1)) == Move(Phase.ROLLED_BACK, "judged FAIL")


def test_a_member_knows_its_address() -> None:
    moved_on = replace(B0, address="10.0.9.9:80")
    seen = ObservedState((A0, A1, moved_on), RouterState((member_of(A0), Member("b0", "b", 0, B0.address))))
    assert at(SHIFTED, seen) == Shift((member_of(A0),), "Removing 1 dead instance from the proxy")


def test_leaving_a_step_keeps_when_instances_left_the_route() -> None:
    left = apply_move(
        replace(ROLLOUT, unrouted_at={"a1": NOW - 99.0}, step_started_at=NOW), Move(Phase.RUNNING, "on", cursor=1), NOW
    )
    assert (left.unrouted_at, left.step_started_at, left.verdict) == ({"a1": NOW - 99.0}, None, None)


def test_what_the_table_does_not_list_is_refused() -> None:
    with pytest.raises(IllegalMove, match="a rollout that is succeeded cannot become running"):
        apply_move(replace(ROLLOUT, phase=Phase.SUCCEEDED), Move(Phase.RUNNING, "again"), NOW)
