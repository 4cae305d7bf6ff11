"""View of the approval that a rollout waits for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tidegate.core.approvals import Answer, approval_binding, awaited_answer, evidence_id, given_approvals
from tidegate.core.model import Rollout, Signal
from tidegate.web.views.timestamps import Timestamp, View, timestamp


class GivenApprovalView(View):
    """An approval that was given."""

    by: str
    via: str = Field(description="The token that vouched for the person in `by`. Empty: `by` is the token itself.")
    reason: str
    at: Timestamp


class ApprovalView(View):
    """The approval or decision that a rollout waits for, and who may give it."""

    name: str = Field(description="The name of the approval in the plan; empty for a decision about a verdict.")
    kind: Answer
    step: int
    binding: str = Field(description="Send it with promote. It identifies the digest, plan and step that are approved.")
    needed: int = Field(description="The number of different people who must approve.")
    given: list[GivenApprovalView]
    roles: list[str] = Field(
        description="An approver must have one of these roles. Empty: anyone with the scope `promote`."
    )
    requester_may_approve: bool
    expires: Timestamp | None
    on_expiry: Literal["rollback", "promote", "wait"]
    evidence: list[str] = Field(description="Facts for the decision, one line of text each.")
    evidence_id: str = Field(description="Changes with the outcomes of checks and hooks, the given approvals and a pause.")


def approval_view(rollout: Rollout, signals: Sequence[Signal]) -> ApprovalView | None:
    """The view, or None while no approval is needed."""
    kind = awaited_answer(rollout, signals)
    if kind is None or rollout.approval_since is None:
        return None
    policy = rollout.policy.approval
    return ApprovalView(
        name=rollout.step.gate.approval,
        kind=kind,
        step=rollout.cursor,
        binding=approval_binding(rollout),
        needed=policy.needed,
        given=[GivenApprovalView.model_validate(approval) for approval in given_approvals(rollout, signals)],
        roles=list(policy.roles),
        requester_may_approve=policy.requester,
        expires=None if policy.on_expiry.value == "wait" else timestamp(rollout.approval_since + policy.expires_seconds),
        on_expiry=policy.on_expiry.value,
        evidence=evidence(rollout, kind),
        evidence_id=evidence_id(rollout, signals),
    )


def evidence(rollout: Rollout, kind: Answer) -> list[str]:
    """Lines of text for the decision: what it is about, the state of traffic and hooks, the verdict and each finding."""
    place = f"step {rollout.cursor + 1} of {len(rollout.plan)}"
    share = ", ".join(f"{count} of {release}" for release, count in rollout.step.serving.items()) or "nothing"
    what = "approval" if kind == "approval" else "a decision"
    lines = [
        f"{rollout.service}: {rollout.old or 'nothing'} to {rollout.new}, {place} waits for {what}",
        f"{'instances' if rollout.backend is None else 'traffic'}: {share}",
        f"image {rollout.image}, digest {rollout.digest or 'not resolved yet'}, requested by {rollout.requested_by}",
    ]
    preview = None if rollout.backend is None else rollout.backend.preview
    verdict = rollout.verdict
    if preview is not None and rollout.step.preview:
        at = [f"at {preview.listen}"] * bool(preview.listen) + [f"with the header {preview.header}"] * bool(preview.header)
        lines.append(f"preview of {rollout.new}: {' or '.join(at)}")
    lines += [f"- {task.name}: {task.state.value}, {task.message}" for task in rollout.tasks if task.state.ended]
    if verdict is None:
        lines.append("no verdict: this step has no checks" if not rollout.step.gate.analyzed else "no verdict yet")
        return lines
    lines.append(verdict.message)
    for finding in verdict.findings:
        shadow = " (shadow check: does not affect the verdict)" if finding.shadow else ""
        lines.append(f"- {finding.check}: {finding.outcome.value}, {finding.message}{shadow}")
    return lines
