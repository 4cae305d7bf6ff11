"""Who may approve a rollout, and whether it can be approved now. What a step requires: `tidegate.core.approvals`."""

from __future__ import annotations

from collections.abc import Sequence

from tidegate.app.context import AppContext
from tidegate.core.approvals import (
    approval_reason,
    counts_for_peer,
    deciding_approval,
    given_approvals,
    open_question,
    required_answer,
)
from tidegate.core.model import Rollout, Signal
from tidegate.core.phases import Phase
from tidegate.errors import ApprovalNotAllowed, IllegalMove
from tidegate.text import identity


def require_approvable(context: AppContext, rollout: Rollout, signals: Sequence[Signal], by: str) -> None:
    """Raise `IllegalMove` if the current step requires no answer, or enough people have approved it."""
    _require_running(rollout)
    place = f"step {rollout.cursor + 1} of {len(rollout.plan)}"
    before = deciding_approval(rollout, signals)
    if before is not None:
        raise IllegalMove(f"{place} of rollout {rollout.id} is already approved by {before.by}")
    if required_answer(rollout) is None and not rollout.step.gate.keeps_old:  # approving that step ends it
        raise IllegalMove(f"Nothing to approve: {place} of rollout {rollout.id} proceeds automatically{_later(rollout)}")
    require_approver(context, rollout, signals, by)


def require_approvable_in_full(context: AppContext, rollout: Rollout, signals: Sequence[Signal], by: str) -> None:
    """Raise `IllegalMove` if no remaining step requires an approval, or if a decision comes first: approvals of all steps
    are those of the plan, and never answer a verdict."""
    _require_running(rollout)
    if open_question(rollout):
        text = f"{approval_reason(rollout)}. Answer it by itself: approvals of all steps answer no verdict"
        raise IllegalMove(f"Cannot approve all steps of rollout {rollout.id}: {text}")
    if not any(step.gate.approval for step in rollout.plan[rollout.cursor :]):
        raise IllegalMove(f"Nothing to approve: no remaining step of rollout {rollout.id} needs approval")
    require_approver(context, rollout, signals, by)


def _require_running(rollout: Rollout) -> None:
    if rollout.phase is not Phase.RUNNING:
        raise IllegalMove(f"Nothing to approve: rollout {rollout.id} is {rollout.phase}")


def _later(rollout: Rollout) -> str:
    later = [number for number in range(rollout.cursor + 1, len(rollout.plan)) if rollout.plan[number].gate.approval]
    return f"; the next approval is at step {later[0] + 1}" if later else " and no later step needs approval"


def require_approver(context: AppContext, rollout: Rollout, signals: Sequence[Signal], by: str) -> None:
    """Raise `ApprovalNotAllowed` if this person may not approve the rollout, `IllegalMove` if they have approved it
    already."""
    wanted = rollout.policy.approval
    if not wanted.requester and identity(by) == identity(rollout.requested_by):
        raise ApprovalNotAllowed(f"{by} requested rollout {rollout.id} and cannot approve it: another person must")
    environment = rollout.service.partition("/")[0]
    settings = context.settings.environments.get(environment)
    members = {identity(name) for role in wanted.roles for name in (settings.roles.get(role, []) if settings else [])}
    if wanted.roles and identity(by) not in members:
        roles = " or ".join(wanted.roles)
        raise ApprovalNotAllowed(f"{by} cannot approve rollout {rollout.id}: requires role {roles}")
    before = _find_approval(rollout, signals, by)
    if before is not None:
        step = f"step {rollout.cursor + 1} of {len(rollout.plan)}"
        raise IllegalMove(f"{step} of rollout {rollout.id} is already approved by {before.by}")


def require_group_approver(context: AppContext, rollout: Rollout, by: str) -> None:
    """Raise `ApprovalNotAllowed` if this person may not approve the other rollouts of the group that the approval counts
    for."""
    if not rollout.group:
        return
    for peer in context.store.peers(rollout.id, rollout.group):
        if not counts_for_peer(rollout, peer):
            continue
        signals = context.store.load(peer.id)[1]
        if _find_approval(peer, signals, by) is None:
            require_approver(context, peer, signals, by)


def _find_approval(rollout: Rollout, signals: Sequence[Signal], by: str) -> Signal | None:
    """The approval that this person has given already."""
    return next((one for one in given_approvals(rollout, signals) if identity(one.by) == identity(by)), None)
