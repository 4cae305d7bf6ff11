"""What a rollout waits for a person with: who may answer, until when, and what speaks for and against it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, Field

from tidegate.analysis.verdict import Outcome
from tidegate.core.approvals import approval_binding, deciding_approval, given_approvals
from tidegate.core.hooks import TaskState
from tidegate.core.model import FailureAction, Rollout, Signal, SignalKind
from tidegate.core.phases import Phase
from tidegate.web.times import When, when


class ApprovalView(BaseModel):
    """One that was given."""

    by: str
    via: str = Field(description="The token that vouched for this person; empty: it is the token itself.")
    reason: str
    at: When


class HoldView(BaseModel):
    """What a person is waited for, and what it takes."""

    name: str = Field(description="As the plan calls it; empty where the judge asks.")
    kind: Literal["approval", "decision"]
    step: int
    binding: str = Field(description="Send it with promote: it says which digest, plan and step the approval is for.")
    needed: int = Field(description="How many different people.")
    given: list[ApprovalView]
    roles: list[str] = Field(description="Of which an approver must have one; none: whoever may promote.")
    requester_may_approve: bool
    expires: When | None
    on_expiry: Literal["rollback", "promote", "wait"]
    evidence: list[str] = Field(description="What speaks for and against it, in plain lines for people.")


class BuildView(BaseModel):
    """The build that asked."""

    job: str
    number: int
    url: str


def asks(rollout: Rollout) -> Literal["approval", "decision"] | None:
    """What the present step asks of a person, be it now or once it has baked: `approval`, `decision`, or nothing."""
    verdict = rollout.verdict
    if rollout.failed_verdict:
        return "decision" if rollout.policy.failure_action is FailureAction.PAUSE else None
    if rollout.step.gate.judged and verdict is not None and verdict.outcome is Outcome.INCONCLUSIVE and verdict.final:
        return "decision"
    states = {each.name: each.state for each in rollout.tasks}
    if any(states.get(name) is TaskState.UNKNOWN for name in rollout.step.gate.tasks):
        return "decision"
    return "approval" if rollout.step.gate.hold else None


def hold_view(rollout: Rollout, signals: Sequence[Signal]) -> HoldView | None:
    """None while nobody is waited for: not held, enough have approved, or the analysis is skipped."""
    kind, skipped = asks(rollout), any(each.kind is SignalKind.FORCE for each in signals)
    if rollout.phase is not Phase.RUNNING or rollout.held is None or kind is None or skipped:
        return None
    if deciding_approval(rollout, signals) is not None:
        return None
    wanted, policy = rollout.policy.approval, rollout.policy
    given = [
        ApprovalView(by=each.by, via=each.via, reason=each.reason, at=when(each.at))
        for each in given_approvals(rollout, signals)
    ]
    return HoldView(
        name=rollout.step.gate.hold,
        kind=kind,
        step=rollout.cursor,
        binding=approval_binding(rollout),
        needed=wanted.needed,
        given=given,
        roles=list(wanted.roles),
        requester_may_approve=wanted.requester,
        expires=None if wanted.on_expiry.value == "wait" else when(rollout.held + policy.hold_expires_seconds),
        on_expiry=wanted.on_expiry.value,
        evidence=evidence(rollout, kind),
    )


def evidence(rollout: Rollout, kind: Literal["approval", "decision"]) -> list[str]:
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
    lines += [f"- {each.name}: {each.state.value}, {each.message}" for each in rollout.tasks if each.state.ended]
    if verdict is None:
        lines.append("no verdict: this step asks no checks" if not rollout.step.gate.judged else "no verdict yet")
        return lines
    lines.append(verdict.message)
    for each in verdict.findings:
        shadow = " (shadow: decides nothing)" if each.shadow else ""
        lines.append(f"- {each.check}: {each.outcome.value}, {each.message}{shadow}")
    return lines
