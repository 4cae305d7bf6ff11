"""Approvals: what a step needs from a person, who may give it, and whether it can be given now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from tidegate.analysis.verdict import Outcome
from tidegate.app.context import AppContext
from tidegate.core.approvals import deciding_approval, given_approvals
from tidegate.core.hooks import TaskState
from tidegate.core.model import FailureAction, Rollout, Signal, SignalKind
from tidegate.core.phases import Phase
from tidegate.errors import ApprovalNotAllowed, IllegalMove

Answer = Literal["approval", "decision"]


def needed_answer(rollout: Rollout) -> Answer | None:
    """What the present step asks of a person, be it now or once it has baked: `approval`, `decision`, or nothing."""
    verdict = rollout.verdict
    if rollout.failed_verdict:
        return "decision" if rollout.policy.failure_action is FailureAction.PAUSE else None
    if rollout.step.gate.analyzed and verdict is not None and verdict.outcome is Outcome.INCONCLUSIVE and verdict.final:
        return "decision"
    states = {task.name: task.state for task in rollout.tasks}
    if any(states.get(name) is TaskState.UNKNOWN for name in rollout.step.gate.tasks):
        return "decision"
    return "approval" if rollout.step.gate.approval else None


def awaited_answer(rollout: Rollout, signals: Sequence[Signal]) -> Answer | None:
    """What a person is waited for now. None while nobody is: not waiting, enough have approved, or the analysis is
    skipped."""
    skipped = any(signal.kind is SignalKind.FORCE for signal in signals)
    if rollout.phase is not Phase.RUNNING or rollout.approval_since is None or skipped:
        return None
    return None if deciding_approval(rollout, signals) is not None else needed_answer(rollout)


def require_approvable(context: AppContext, rollout: Rollout, signals: Sequence[Signal], by: str) -> None:
    """Raises `IllegalMove` when the present step asks nothing of a person, or enough have approved it already."""
    _require_running(rollout)
    place = f"step {rollout.cursor + 1} of {len(rollout.plan)}"
    before = deciding_approval(rollout, signals)
    if before is not None:
        raise IllegalMove(f"{place} of rollout {rollout.id} was approved already, by {before.by}")
    if needed_answer(rollout) is None and not rollout.step.gate.keeps_old:  # there it ends the keeping of the old release
        raise IllegalMove(f"nothing waits for approval: {place} of rollout {rollout.id} goes on by itself{_later(rollout)}")
    require_approver(context, rollout, signals, by)


def require_approvable_in_full(context: AppContext, rollout: Rollout, signals: Sequence[Signal], by: str) -> None:
    """Raises `IllegalMove` when neither the present nor any later step asks a person."""
    _require_running(rollout)
    if needed_answer(rollout) is None and not any(step.gate.approval for step in rollout.plan[rollout.cursor :]):
        raise IllegalMove(f"nothing waits for approval: rollout {rollout.id} has no hold any more and goes on by itself")
    require_approver(context, rollout, signals, by)


def _require_running(rollout: Rollout) -> None:
    if rollout.phase is not Phase.RUNNING:
        raise IllegalMove(f"rollout {rollout.id} is {rollout.phase}: nothing waits for approval")


def _later(rollout: Rollout) -> str:
    later = [number for number in range(rollout.cursor + 1, len(rollout.plan)) if rollout.plan[number].gate.approval]
    return f"; the next hold is after step {later[0] + 1}" if later else ", and no hold follows"


def require_approver(context: AppContext, rollout: Rollout, signals: Sequence[Signal], by: str) -> None:
    """Raises `ApprovalNotAllowed` for who may not approve this rollout, `IllegalMove` for who has done so already."""
    wanted = rollout.policy.approval
    if not wanted.requester and by == rollout.requested_by:
        raise ApprovalNotAllowed(f"{by} asked for rollout {rollout.id} and so may not approve it: somebody else has to")
    environment = rollout.service.partition("/")[0]
    settings = context.settings.environments.get(environment)
    members = {role: settings.roles.get(role, []) if settings else [] for role in wanted.roles}
    if wanted.roles and not any(by in names for names in members.values()):
        roles = " or ".join(wanted.roles)
        raise ApprovalNotAllowed(f"{by} may not approve rollout {rollout.id}: it takes one of the role {roles}")
    before = next((approval for approval in given_approvals(rollout, signals) if approval.by == by), None)
    if before is not None:
        step = f"step {rollout.cursor + 1} of {len(rollout.plan)}"
        raise IllegalMove(f"{step} of rollout {rollout.id} was approved already, by {before.by}")


def require_group_approver(context: AppContext, rollout: Rollout, by: str, require_scope: Callable[[str], None]) -> None:
    """That this person may give the approval for the others of its group, too: raises `NotAllowed`. `require_scope` does
    so where the token lacks the scope for a service."""
    if not rollout.group:
        return
    for peer in context.store.peers(rollout.id, rollout.group):
        same_point = peer.phase is Phase.RUNNING and peer.step.gate.group_point == rollout.step.gate.group_point != 0
        signals = context.store.load(peer.id)[1] if same_point else ()
        if same_point and not any(approval.by == by for approval in given_approvals(peer, signals)):
            require_scope(peer.service)
            require_approver(context, peer, signals, by)
