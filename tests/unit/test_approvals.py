"""The approval rule: the engine and the API agree on whether a rollout waits for a person, and for what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.decide_fixtures import A0, A1, B0, END, NOW, POLICY, ROLLOUT, STEP, answer, at, signal, unrouted_at, world
from tidegate.analysis.verdict import Outcome, Verdict
from tidegate.clock import Window
from tidegate.core.approvals import approval_binding, awaited_answer, given_approvals, required_answer
from tidegate.core.decisions import Mark, MarkKind, Move, Wait, apply_mark, record_verdict
from tidegate.core.model import FailureAction, InconclusiveAction, Rollout, Signal, SignalKind
from tidegate.core.waits import WaitKind

OBSERVED = world(A0, A1, B0, routed=(A0, B0))
READY = replace(ROLLOUT, traffic_confirmed_at=NOW - 90.0, unrouted_at=unrouted_at(NOW - 90.0), step_ready_at=NOW - 80.0)
APPROVED_STEP = replace(STEP, gate=replace(STEP.gate, approval="promote"))


def judged(outcome: Outcome, *, later_analysis: bool, approval: bool, **policy: object) -> Rollout:
    """A rollout at the end of a bake with this verdict."""
    step = APPROVED_STEP if approval else STEP
    verdict = Verdict(outcome, NOW - 1.0, Window(NOW - 20, NOW), (), f"judged {outcome}", True)
    plan = (step, STEP, END) if later_analysis else (step, END)
    return replace(READY, plan=plan, verdict=verdict, extensions=2, policy=replace(POLICY, **policy))  # type: ignore[arg-type]


@pytest.mark.parametrize("approval", [False, True], ids=["no-approval", "approval"])
@pytest.mark.parametrize("later", [False, True], ids=["last-analysis", "later-analysis"])
@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("on_inconclusive", list(InconclusiveAction))
@pytest.mark.parametrize("failure_action", list(FailureAction))
def test_engine_and_api_agree(
    failure_action: FailureAction, on_inconclusive: InconclusiveAction, outcome: Outcome, later: bool, approval: bool
) -> None:
    rollout = judged(
        outcome, later_analysis=later, approval=approval, failure_action=failure_action, on_inconclusive=on_inconclusive
    )
    decision = at(rollout, OBSERVED)
    rolls_back = isinstance(decision, Move) and decision.plan is not None
    if rolls_back:
        return
    asks = isinstance(decision, Mark) and decision.mark is MarkKind.WAITING_FOR_APPROVAL
    assert asks == (required_answer(rollout) is not None)
    if asks:
        waiting = replace(rollout, approval_since=NOW - 1.0)
        decision = at(waiting, OBSERVED)
        assert isinstance(decision, Wait)
        assert decision.waiting_for.kind == awaited_answer(waiting, ())


def test_continue_asks_for_nothing_while_a_later_step_is_analysed() -> None:
    rollout = judged(Outcome.INCONCLUSIVE, later_analysis=True, approval=False, on_inconclusive=InconclusiveAction.CONTINUE)
    assert awaited_answer(replace(rollout, approval_since=NOW), ()) is None
    decision = at(rollout, OBSERVED)
    assert isinstance(decision, Move)
    assert decision.cursor == 1


def test_continue_asks_for_a_decision_at_the_last_analysed_step() -> None:
    rollout = judged(
        Outcome.INCONCLUSIVE, later_analysis=False, approval=False, on_inconclusive=InconclusiveAction.CONTINUE
    )
    assert awaited_answer(replace(rollout, approval_since=NOW), ()) == "decision"
    decision = at(rollout, OBSERVED)
    assert isinstance(decision, Mark)
    assert decision.mark is MarkKind.WAITING_FOR_APPROVAL


def test_a_failed_analysis_that_may_continue_still_needs_the_approval_of_the_plan() -> None:
    rollout = judged(Outcome.FAIL, later_analysis=False, approval=True, failure_action=FailureAction.CONTINUE)
    waiting = replace(rollout, approval_since=NOW - 1.0)
    assert awaited_answer(waiting, ()) == "approval"
    decision = at(waiting, OBSERVED)
    assert isinstance(decision, Wait)
    assert decision.waiting_for.kind is WaitKind.APPROVAL
    assert awaited_answer(waiting, [signal(SignalKind.PROMOTE)]) is None
    assert isinstance(at(waiting, OBSERVED, signal(SignalKind.PROMOTE)), Move)


EARLY = [signal(SignalKind.PROMOTE, 0, NOW - 30.0), signal(SignalKind.PROMOTE, None, NOW - 30.0)]


@pytest.mark.parametrize("early", EARLY, ids=["for the step", "for all steps"])
@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.INCONCLUSIVE])
def test_what_was_approved_before_a_verdict_does_not_answer_it(outcome: Outcome, early: Signal) -> None:
    verdict = judged(outcome, later_analysis=True, approval=True).verdict
    before = judged(Outcome.PASS, later_analysis=True, approval=True, failure_action=FailureAction.PAUSE)
    early = replace(early, binding=approval_binding(before))
    assert isinstance(at(before, OBSERVED, early), Move), "the hold of the plan is answered by it"
    assert verdict is not None
    after = replace(record_verdict(before, verdict), approval_since=NOW - 1.0)
    decision = at(after, OBSERVED, early)
    assert isinstance(decision, Wait)
    assert decision.waiting_for.kind is WaitKind.DECISION
    assert awaited_answer(after, [early]) == "decision"
    assert isinstance(at(after, OBSERVED, early, answer(after)), Move)
    extended = apply_mark(after, MarkKind.BAKE_EXTENDED, NOW)
    assert not given_approvals(record_verdict(extended, replace(verdict, at=NOW + 30.0)), [answer(after)]) or (
        outcome is Outcome.FAIL
    ), "the verdict of another bake is another question"


def test_an_early_approval_neither_ends_a_bake_nor_the_extension_of_one() -> None:
    failed = judged(Outcome.FAIL, later_analysis=True, approval=True, failure_action=FailureAction.PAUSE)
    baking = replace(failed, step_ready_at=NOW - 5.0, verdict=None, extensions=0)
    early = answer(baking)
    assert not isinstance(at(baking, OBSERVED, early), Move)
    assert failed.verdict is not None
    assert isinstance(at(record_verdict(baking, failed.verdict), OBSERVED, early), Mark), "it asks, and does not go on"
    doubt = replace(failed.verdict, outcome=Outcome.INCONCLUSIVE)
    unclear = record_verdict(replace(baking, step_ready_at=NOW - 80.0), doubt)
    extends = at(unclear, OBSERVED, early)
    assert isinstance(extends, Mark)
    assert extends.mark is MarkKind.BAKE_EXTENDED


@pytest.mark.parametrize("spelling", ["Ann", " ann", "ann  ", "ANN", "\uff21\uff4e\uff4e"])
def test_one_person_counts_once_however_the_name_is_written(spelling: str) -> None:
    two = judged(Outcome.PASS, later_analysis=True, approval=True)
    first, again = answer(two, "ann"), answer(two, spelling)
    assert [given.by for given in given_approvals(two, [first, again])] == ["ann"]
    assert [given.by for given in given_approvals(two, [first, answer(two, "anna")])] == ["ann", "anna"]
