"""An approval that a rollout waits for, as the API shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, Field

from tidegate.app.approvals import Answer, awaited_answer
from tidegate.core.approvals import approval_binding, given_approvals
from tidegate.core.model import Rollout, Signal
from tidegate.web.views.timestamps import Timestamp, timestamp


class GivenApprovalView(BaseModel):
    """One that was given."""

    by: str
    via: str = Field(description="The token that vouched for this person; empty: it is the token itself.")
    reason: str
    at: Timestamp


class ApprovalView(BaseModel):
    """What a person is waited for, and what it takes."""

    name: str = Field(description="As the plan calls it; empty where the judge asks.")
    kind: Answer
    step: int
    binding: str = Field(description="Send it with promote: it says which digest, plan and step the approval is for.")
    needed: int = Field(description="How many different people.")
    given: list[GivenApprovalView]
    roles: list[str] = Field(description="Of which an approver must have one; none: whoever may promote.")
    requester_may_approve: bool
    expires: Timestamp | None
    on_expiry: Literal["rollback", "promote", "wait"]
    evidence: list[str] = Field(description="What speaks for and against it, in plain lines for people.")


def approval_view(rollout: Rollout, signals: Sequence[Signal]) -> ApprovalView | None:
    """None while nobody is waited for."""
    kind = awaited_answer(rollout, signals)
    if kind is None or rollout.approval_since is None:
        return None
    wanted = rollout.policy.approval
    given = [
        GivenApprovalView(by=approval.by, via=approval.via, reason=approval.reason, at=timestamp(approval.at))
        for approval in given_approvals(rollout, signals)
    ]
    return ApprovalView(
        name=rollout.step.gate.approval,
        kind=kind,
        step=rollout.cursor,
        binding=approval_binding(rollout),
        needed=wanted.needed,
        given=given,
        roles=list(wanted.roles),
        requester_may_approve=wanted.requester,
        expires=None if wanted.on_expiry.value == "wait" else timestamp(rollout.approval_since + wanted.expires_seconds),
        on_expiry=wanted.on_expiry.value,
        evidence=evidence(rollout, kind),
    )


def evidence(rollout: Rollout, kind: Answer) -> list[str]:
    """Plain lines for who decides: what it is about, the verdict, each check, and what could not have been seen."""
    place = f"step {rollout.cursor + 1} of {len(rollout.plan)}"
    share = ", ".join(f"{count} of {release}" for release, count in rollout.step.route.items()) or "nothing"
    what = "approval" if kind == "approval" else "a decision"
    lines = [
        f"{rollout.service}: {rollout.old or 'nothing'} to {rollout.new}, {place} waits for {what}",
        f"traffic goes to {share}",
        f"image {rollout.image}, digest {rollout.digest or 'not resolved yet'}, asked for by {rollout.requested_by}",
    ]
    preview, verdict = rollout.backend.preview, rollout.verdict
    if preview is not None and rollout.step.preview:
        at = [f"at {preview.listen}"] * bool(preview.listen) + [f"with the header {preview.header}"] * bool(preview.header)
        lines.append(f"{rollout.new} is reached by its preview {' or '.join(at)}")
    lines += [f"- {task.name}: {task.state.value}, {task.message}" for task in rollout.tasks if task.state.ended]
    if verdict is None:
        lines.append("no verdict: this step asks no checks" if not rollout.step.gate.analyzed else "no verdict yet")
        return lines
    lines.append(verdict.message)
    for finding in verdict.findings:
        shadow = " (shadow: decides nothing)" if finding.shadow else ""
        lines.append(f"- {finding.check}: {finding.outcome.value}, {finding.message}{shadow}")
    return lines
