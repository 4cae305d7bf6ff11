"""The approval rule: whether a step needs a person's answer, how many must give it, and what an approval is bound to. Pure.

The engine, the API, the command line and Jenkins all use these functions. Who may approve depends on the settings:
`tidegate.app.approvals`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from tidegate.analysis.verdict import Outcome
from tidegate.clock import Time
from tidegate.core.hooks import TaskRun, TaskState
from tidegate.core.model import Expiry, FailureAction, InconclusiveAction, Rollout, Signal, SignalKind
from tidegate.core.phases import Phase
from tidegate.core.waits import WaitingFor, WaitKind
from tidegate.text import identity

Answer = Literal["approval", "decision"]


def required_answer(rollout: Rollout) -> Answer | None:
    """What leaving the current step requires of a person, now or at the end of the bake.

    `decision`: the analysis failed and the policy is to ask, the final verdict is `INCONCLUSIVE` and the policy does not
    decide, or a task has no clear result. `approval`: the plan asks for it. None: nothing.
    """
    if open_question(rollout):
        return "decision"
    return "approval" if rollout.step.gate.approval else None


def open_question(rollout: Rollout) -> str:
    """What a person has to decide in the current step: the verdict, the tasks without a clear result; empty: nothing.

    Each question needs an answer of its own. `Rollout.question` numbers them, since the same verdict may come again.
    """
    parts = [task.name for task in _inconclusive_tasks(rollout)]
    if rollout.failed_verdict and rollout.policy.failure_action is FailureAction.PAUSE:
        parts.append(Outcome.FAIL.value)
    if is_inconclusive(rollout) and not _continues_without_answer(rollout):
        parts.append(Outcome.INCONCLUSIVE.value)
    return " ".join(parts)


def number_question(before: Rollout, after: Rollout) -> Rollout:
    """The rollout `after` a change, with a new number for its question if that changed."""
    changed = open_question(before) != open_question(after)
    return replace(after, question=before.question + 1) if changed else after


def awaited_answer(rollout: Rollout, signals: Sequence[Signal]) -> Answer | None:
    """The answer that the rollout waits for now; None if it does not wait, enough people have approved, or the rest of
    the gates is skipped by force."""
    is_forced = any(signal.kind is SignalKind.FORCE for signal in signals)
    if rollout.phase is not Phase.RUNNING or rollout.approval_since is None or is_forced:
        return None
    return None if deciding_approval(rollout, signals) is not None else required_answer(rollout)


def is_inconclusive(rollout: Rollout) -> bool:
    """Whether the final verdict of the current step is `INCONCLUSIVE`. While the old release is only kept running, that
    has no consequence. Nor has the verdict before an extension of the bake."""
    verdict, gate = rollout.verdict, rollout.step.gate
    if verdict is None or gate.keeps_old or not gate.analyzed:
        return False
    counts = verdict.final and (rollout.step_ready_at is None or verdict.at >= bake_end(rollout, verdict.at))
    return counts and verdict.outcome is Outcome.INCONCLUSIVE


def bake_end(rollout: Rollout, now: Time) -> Time:
    """When the bake of the step is over; every extension adds one bake time. It begins when the step is ready, or now."""
    begin = now if rollout.step_ready_at is None else rollout.step_ready_at
    return begin + rollout.step.gate.bake_seconds * (1 + rollout.extensions)


def _continues_without_answer(rollout: Rollout) -> bool:
    """Whether `on_inconclusive: continue` applies: only if a later step is analysed, so that no rollout succeeds without
    a conclusive verdict."""
    later = rollout.plan[rollout.cursor + 1 :]
    continues = rollout.policy.on_inconclusive is InconclusiveAction.CONTINUE
    return continues and any(step.gate.analyzed for step in later)


def inconclusive_task(rollout: Rollout) -> str:
    """The message of a task of the current step that ended without a clear result; empty if there is none."""
    return next((task.message for task in _inconclusive_tasks(rollout)), "")


def _inconclusive_tasks(rollout: Rollout) -> list[TaskRun]:
    names = rollout.step.gate.tasks
    return [task for task in rollout.tasks if task.name in names and task.state is TaskState.UNKNOWN]


def requires_decision(rollout: Rollout) -> bool:
    """Whether the analysis failed or a result is not clear: then silence never continues the rollout."""
    return rollout.failed_verdict or is_inconclusive(rollout) or bool(inconclusive_task(rollout))


def approval_reason(rollout: Rollout) -> str:
    """Why a person has to answer; call it only if an answer is required."""
    if required_answer(rollout) == "approval":
        return f"Waiting for approval of step {rollout.cursor + 1} of {len(rollout.plan)}"
    if rollout.failed_verdict:
        cause = "Verdict FAIL"
    else:
        cause = "Verdict INCONCLUSIVE" if is_inconclusive(rollout) else inconclusive_task(rollout)
    return f"{cause}: waiting for a decision to promote or to roll back"


def approval_wait(rollout: Rollout, since: Time) -> WaitingFor:
    """The wait for the required answer, which began at `since`."""
    approval = rollout.policy.approval
    kind = WaitKind.APPROVAL if required_answer(rollout) == "approval" else WaitKind.DECISION
    until = None if approval.on_expiry is Expiry.WAIT else since + approval.expires_seconds
    if approval.on_expiry is Expiry.WAIT:
        then = "`tidegate promote` continues the rollout, `tidegate rollback` rolls it back"
    elif approval.on_expiry is Expiry.PROMOTE and not requires_decision(rollout):
        then = "the rollout continues"
    else:
        then = "the rollout rolls back"
    return WaitingFor(kind, approval_reason(rollout), since, until, then)


def given_approvals(rollout: Rollout, signals: Sequence[Signal]) -> tuple[Signal, ...]:
    """The approvals that count for the current step, the first one of each person.

    What the plan asks for is answered by approvals of this step and of all steps, given at any time. A decision is
    answered only by those who were shown this very question: never by an earlier approval, nor by one of all steps.
    """
    binding = approval_binding(rollout) if open_question(rollout) else ""
    first: dict[str, Signal] = {}
    for signal in signals:
        is_shown = not binding or (signal.binding == binding and signal.step is not None)
        if signal.kind is SignalKind.PROMOTE and signal.step in (None, rollout.cursor) and is_shown:
            first.setdefault(identity(signal.by), signal)
    return tuple(first.values())


def deciding_approval(rollout: Rollout, signals: Sequence[Signal]) -> Signal | None:
    """The approval that reached the required number; None while more are required. At least one always is."""
    given, needed = given_approvals(rollout, signals), max(1, rollout.policy.approval.needed)
    return given[needed - 1] if len(given) >= needed else None


def counts_for_peer(rollout: Rollout, peer: Rollout) -> bool:
    """Whether an approval of the rollout counts for this rollout of its group, too: both are at the same point, and the
    peer has nothing to decide that was not shown to whoever approved."""
    point = rollout.step.gate.group_point
    is_there = peer.phase in (Phase.PENDING, Phase.RUNNING) and peer.step.gate.group_point == point != 0
    return is_there and not open_question(peer)


def approval_binding(rollout: Rollout) -> str:
    """What an approval is bound to: 16 hex digits that change with the rollout, its digest, its plan and its step, and
    with what has to be decided (`open_question`).

    Unlike the version of the rollout, they stay the same while the analysis continues with the same outcome.
    """
    asked = open_question(rollout)
    decision = (asked, rollout.question) if asked else None
    steps = [(sorted(step.fleet.items()), sorted(step.serving.items()), step.gate.approval) for step in rollout.plan]
    shown = repr((rollout.id, rollout.group, rollout.digest, rollout.phase.value, rollout.cursor, steps, decision))
    return hashlib.sha256(shown.encode()).hexdigest()[:16]


def evidence_id(rollout: Rollout, signals: Sequence[Signal]) -> str:
    """What a person who decides now is shown, in 8 hex digits: a question that was asked with another value is asked again.

    Changes with the outcomes of the checks and tasks, the approvals given, a pause, and with the binding; not with each
    measurement, since a page that is replaced every few seconds cannot be answered.
    """
    verdict = rollout.verdict
    outcomes = [(finding.check, finding.outcome.value) for finding in verdict.findings] if verdict is not None else []
    tasks = [(task.name, task.state.value) for task in rollout.tasks]
    given = [identity(signal.by) for signal in given_approvals(rollout, signals)]
    judged = None if verdict is None else (verdict.outcome.value, verdict.final)
    shown = repr((approval_binding(rollout), judged, outcomes, tasks, given, rollout.paused))
    return hashlib.sha256(shown.encode()).hexdigest()[:8]
