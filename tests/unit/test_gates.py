"""The way out of a step: who has to approve, what a freeze keeps back, what somebody may skip, what silence leads to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.decide_fixtures import decided, unrouted_at
from tidegate.analysis.verdict import Outcome, Verdict
from tidegate.clock import Window
from tidegate.core.approvals import approval_binding, deciding_approval, given_approvals
from tidegate.core.decisions import Analyze, Decision, Move, Pin, Wait, apply_move, record_task, record_verdict
from tidegate.core.hooks import TaskRun, TaskState
from tidegate.core.model import (
    Approval,
    Expiry,
    FailureAction,
    Instance,
    InstanceState,
    ObservedState,
    Policy,
    Rollout,
    Signal,
    SignalKind,
)
from tidegate.core.phases import Phase
from tidegate.core.plan import Gate, Step
from tidegate.core.rollout_state import member_of
from tidegate.core.routing import Backend, RouterState

NOW = 1_000.0
POLICY = Policy(interval_seconds=5.0, approval=Approval(expires_seconds=100.0))
FIRST = Step({"a": 2, "b": 1}, {"a": 1, "b": 1}, Gate(bake_seconds=20.0, analyzed=True, approval="promote"))
SECOND = Step({"a": 1, "b": 2}, {"b": 2}, Gate(bake_seconds=20.0, analyzed=True))
END = Step({"b": 2}, {"b": 2}, Gate(surplus_gone=True))
HELD = Rollout(
    "r", "demo/shop", "a", "b", (FIRST, SECOND, END), Backend("shop"), NOW - 500.0, old_replicas=2, phase=Phase.RUNNING,
    step_started_at=NOW - 90.0, traffic_confirmed_at=NOW - 80.0, step_ready_at=NOW - 70.0,
    unrouted_at=unrouted_at(NOW - 80.0), approval_since=NOW - 50.0, policy=POLICY,
    verdict=Verdict(Outcome.PASS, NOW - 1.0, Window(NOW - 20, NOW), (), "all well", True), digest="sha256:1",
)  # fmt: skip
A0, A1, B0 = (
    Instance(f"{release}{ordinal}", release, ordinal, f"10.0.0.{ordinal}:{port}", InstanceState.READY)
    for release, ordinal, port in (("a", 0, 80), ("a", 1, 80), ("b", 0, 81))
)
STANDS = ObservedState((A0, A1, B0), RouterState((member_of(A0), member_of(B0))))
FROZEN = "demo is frozen by ann: audit week"


def at(rollout: Rollout, *signals: Signal, frozen: str = "", now: float = NOW) -> Decision:
    return decided(rollout, STANDS, signals, now, 0.0, frozen)


def wish(by: str = "ann", kind: SignalKind = SignalKind.PROMOTE, step: int | None = 0) -> Signal:
    return Signal(kind, NOW, by, "why", step)


def needing(count: int) -> Rollout:
    return replace(HELD, policy=replace(POLICY, approval=replace(POLICY.approval, needed=count)))


def judged(outcome: Outcome, rollout: Rollout = HELD) -> Rollout:
    return replace(rollout, verdict=Verdict(outcome, NOW - 1.0, Window(NOW - 20, NOW), (), f"judged {outcome}", True))


def waits_for_freeze(decision: Decision) -> bool:
    return isinstance(decision, Wait) and (decision.until, decision.reason) == (NOW + 5.0, FROZEN)


def goes_on(decision: Decision) -> bool:
    return isinstance(decision, Move) and decision.phase is Phase.RUNNING and decision.cursor == 1


# -- who has to approve ---------------------------------------------------------------------------------------------------


def test_each_person_counts_once_and_only_for_the_step() -> None:
    rollout = needing(2)
    assert isinstance(at(rollout, wish("ann")), Wait)
    assert isinstance(at(rollout, wish("ann"), wish("ann")), Wait)
    assert isinstance(at(rollout, wish("ann"), wish("bob", step=1)), Wait)
    assert isinstance(at(rollout, wish("ann"), wish("bob", SignalKind.RESUME)), Wait)
    assert goes_on(at(rollout, wish("ann"), wish("bob")))
    assert goes_on(at(rollout, wish("ann", step=None), wish("bob")))


def test_the_approval_that_opens_is_the_last_that_was_needed() -> None:
    given = (wish("ann"), wish("ann"), wish("bob"), wish("eve"))
    assert [given_approval.by for given_approval in given_approvals(HELD, given)] == ["ann", "bob", "eve"]
    opened = deciding_approval(needing(2), given)
    assert opened is not None
    assert opened.by == "bob"


def test_what_an_approval_is_bound_to_changes_with_what_was_seen_and_not_with_a_look() -> None:
    bound = approval_binding(HELD)
    later = replace(judged(Outcome.PASS), version=99, approval_since=NOW)
    assert approval_binding(later) == bound
    doubt = judged(Outcome.INCONCLUSIVE).verdict
    assert doubt is not None
    assert HELD.verdict is not None
    unclear = record_verdict(HELD, doubt)
    measured = record_verdict(unclear, replace(doubt, at=NOW))
    assert approval_binding(measured) == approval_binding(unclear), "not with each measurement"
    comparing = replace(HELD, plan=(replace(FIRST, gate=replace(FIRST.gate, tasks=("compare",))), SECOND, END))
    again = record_verdict(record_verdict(unclear, HELD.verdict), doubt)
    others = (
        unclear,
        again,
        replace(HELD, digest="sha256:2"),
        replace(HELD, cursor=1),
        replace(HELD, id="another"),
        replace(HELD, plan=(FIRST, END)),
        replace(HELD, phase=Phase.ROLLING_BACK),
        record_task(comparing, TaskRun("compare", TaskState.UNKNOWN, NOW - 2.0, NOW - 1.0)),
    )
    assert len({bound, *map(approval_binding, others)}) == 1 + len(others)


# -- silence --------------------------------------------------------------------------------------------------------------


def expired(action: Expiry, rollout: Rollout = HELD) -> Decision:
    policy = replace(rollout.policy, approval=replace(rollout.policy.approval, on_expiry=action))
    return at(replace(rollout, policy=policy, approval_since=NOW - 101.0))


def test_silence_leads_where_it_was_said_to() -> None:
    back = expired(Expiry.ROLLBACK)
    assert isinstance(back, Move)
    assert back.phase is Phase.ROLLING_BACK
    assert isinstance(expired(Expiry.WAIT), Wait)
    assert goes_on(expired(Expiry.PROMOTE))


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.INCONCLUSIVE])
def test_what_is_bad_or_not_known_never_goes_on_by_itself(outcome: Outcome) -> None:
    policy = replace(POLICY, failure_action=FailureAction.PAUSE, max_extensions=0)
    said = expired(Expiry.PROMOTE, judged(outcome, replace(HELD, policy=policy)))
    assert isinstance(said, Move)
    assert said.phase is Phase.ROLLING_BACK


# -- freezes --------------------------------------------------------------------------------------------------------------


def test_a_freeze_keeps_back_the_start_and_the_next_batch() -> None:
    pending = replace(HELD, phase=Phase.PENDING)
    assert waits_for_freeze(at(pending, frozen=FROZEN))
    assert isinstance(at(replace(pending, forced=True), frozen=FROZEN), Pin)
    assert waits_for_freeze(at(HELD, wish(), frozen=FROZEN))
    assert goes_on(at(replace(HELD, forced=True), wish(), frozen=FROZEN))


def test_a_freeze_keeps_no_way_back_and_no_end() -> None:
    back = at(HELD, wish(kind=SignalKind.ROLLBACK), frozen=FROZEN)
    assert isinstance(back, Move)
    assert back.phase is Phase.ROLLING_BACK
    last = Step({"a": 2, "b": 1}, {"a": 1, "b": 1})
    over = at(replace(HELD, plan=(last,)), frozen=FROZEN)
    assert isinstance(over, Move)
    assert over.phase is Phase.SUCCEEDED


# -- force ----------------------------------------------------------------------------------------------------------------

FORCE = wish(kind=SignalKind.FORCE, step=None)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_force_goes_on_whatever_was_judged_and_in_spite_of_a_freeze(outcome: Outcome) -> None:
    assert goes_on(at(judged(outcome), FORCE, frozen=FROZEN))
    assert goes_on(at(replace(HELD, verdict=None, step_ready_at=NOW - 1.0), FORCE)), "nor is the bake waited for"


def test_force_sends_no_traffic_to_what_does_not_stand() -> None:
    loop = replace(B0, state=InstanceState.FAILED, restarts=9, detail="exited with status 1")
    said = decided(HELD, replace(STANDS, instances=(A0, A1, loop)), (FORCE,), NOW, 0.0)
    assert isinstance(said, Move)
    assert said.phase is Phase.ROLLING_BACK


@pytest.mark.parametrize("outcome", [Outcome.PASS, Outcome.INCONCLUSIVE])
def test_a_measurement_that_ended_after_the_bake_it_began_in_is_not_the_last(outcome: Outcome) -> None:
    assert HELD.verdict is not None
    began = replace(HELD, verdict=replace(HELD.verdict, outcome=outcome, final=False))
    assert at(began) == Analyze(True, "Querying the metrics")


def test_a_verdict_that_is_wanted_by_a_clock_ahead_of_ours_is_not_asked_for_again_and_again() -> None:
    wanted = replace(wish(kind=SignalKind.VERIFY), at=NOW + 3600.0)
    assert isinstance(at(HELD, wanted), Wait)
    assert isinstance(at(HELD, wanted, now=NOW + 3600.0), Analyze)


# -- the reason -----------------------------------------------------------------------------------------------------------


def test_a_way_back_of_several_steps_goes_on_telling_why_it_turned() -> None:
    turned = apply_move(HELD, Move(Phase.ROLLING_BACK, "5 % of requests failed", plan=(FIRST, SECOND)), NOW)
    further = apply_move(turned, Move(Phase.ROLLING_BACK, "Step 2 of 2", cursor=1), NOW)
    assert (further.cursor, further.reason) == (1, "5 % of requests failed")
