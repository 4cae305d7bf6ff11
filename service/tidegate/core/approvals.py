"""The approval rule: whether a step needs a person's answer, how many must give it, and what an approval is bound to. Pure.

The engine, the API, the command line and Jenkins all use these functions. Who may approve depends on the settings:
`tidegate.app.approvals`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

from tidegate.analysis.verdict import Outcome
from tidegate.clock import Time
from tidegate.core.hooks import TaskState
from tidegate.core.model import Expiry, FailureAction, InconclusiveAction, Rollout, Signal, SignalKind
from tidegate.core.phases import Phase
from tidegate.core.waits import WaitingFor, WaitKind

Answer = Literal["approval", "decision"]


def required_answer(rollout: Rollout) -> Answer | None:
    """What leaving the current step requires of a person, now or at the end of the bake.

    `decision`: the analysis failed and the policy is to ask, the final verdict is `INCONCLUSIVE` and the policy does not
    decide, or a task has no clear result. `approval`: the plan asks for it. None: nothing.
    """
    if rollout.failed_verdict and rollout.policy.failure_action is FailureAction.PAUSE:
        return "decision"
    if is_inconclusive(rollout) and not _continues_without_answer(rollout):
        return "decision"
    if inconclusive_task(rollout):
        return "decision"
    return "approval" if rollout.step.gate.approval else None


def awaited_answer(rollout: Rollout, signals: Sequence[Signal]) -> Answer | None:
    """The answer that the rollout waits for now; None if it does not wait, enough people have approved, or the rest of
    the gates is skipped by force."""
    is_forced = any(signal.kind is SignalKind.FORCE for signal in signals)
    if rollout.phase is not Phase.RUNNING or rollout.approval_since is None or is_forced:
        return None
    return None if deciding_approval(rollout, signals) is not None else required_answer(rollout)


def is_inconclusive(rollout: Rollout) -> bool:
    """Whether the final verdict of the current step is `INCONCLUSIVE`. While the old release is only kept running, that
    has no consequence."""
    verdict, gate = rollout.verdict, rollout.step.gate
    if verdict is None or gate.keeps_old or not gate.analyzed:
        return False
    return verdict.final and verdict.outcome is Outcome.INCONCLUSIVE


def _continues_without_answer(rollout: Rollout) -> bool:
    """Whether `on_inconclusive: continue` applies: only if a later step is analysed, so that no rollout succeeds without
    a conclusive verdict."""
    later = rollout.plan[rollout.cursor + 1 :]
    continues = rollout.policy.on_inconclusive is InconclusiveAction.CONTINUE
    return continues and any(step.gate.analyzed for step in later)


def inconclusive_task(rollout: Rollout) -> str:
    """The message of a task of the current step that ended without a clear result; empty if there is none."""
    names = rollout.step.gate.tasks
    ended = (task for task in rollout.tasks if task.name in names)
    return next((task.message for task in ended if task.state is TaskState.UNKNOWN), "")


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
    """The approvals of the current step, the first one of each person."""
    first: dict[str, Signal] = {}
    for signal in signals:
        if signal.kind is SignalKind.PROMOTE and signal.step in (None, rollout.cursor):
            first.setdefault(signal.by, signal)
    return tuple(first.values())


def deciding_approval(rollout: Rollout, signals: Sequence[Signal]) -> Signal | None:
    """The approval that reached the required number; None while more are required. At least one always is."""
    given, needed = given_approvals(rollout, signals), max(1, rollout.policy.approval.needed)
    return given[needed - 1] if len(given) >= needed else None


def approval_binding(rollout: Rollout) -> str:
    """What an approval is bound to: 16 hex digits that change with the rollout, its digest, its plan and its step.

    Unlike the version of the rollout, they stay the same while the analysis continues.
    """
    steps = [(sorted(step.fleet.items()), sorted(step.route.items()), step.gate.approval) for step in rollout.plan]
    identity = repr((rollout.id, rollout.group, rollout.digest, rollout.phase.value, rollout.cursor, steps))
    return hashlib.sha256(identity.encode()).hexdigest()[:16]
