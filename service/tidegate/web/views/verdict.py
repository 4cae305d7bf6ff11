"""A verdict as the API shows it."""

from __future__ import annotations

from pydantic import BaseModel

from tidegate.analysis.verdict import Finding, Outcome, Reason, Verdict
from tidegate.clock import Window
from tidegate.web.views.timestamps import Timestamp, timestamp


class WindowView(BaseModel):
    """A span of time."""

    start: Timestamp
    end: Timestamp

    @staticmethod
    def of(window: Window) -> WindowView:
        """From the value."""
        return WindowView(start=timestamp(window.start), end=timestamp(window.end))


class FindingView(BaseModel):
    """The answer of one check, with its evidence. Ratios in [0, 1], durations in seconds, null where unknown.

    `ratio`: candidate over baseline, between `ratio_low` and `ratio_high` (0.95, at any time). `evidence`: what the check
    adds to the rollout's. `min_detectable_ratio`: the smallest ratio that would have been detected.
    """

    check: str
    outcome: Outcome
    reason: Reason
    message: str
    baseline: float | None
    candidate: float | None
    limit: float | None
    baseline_count: float | None
    candidate_count: float | None
    queries: list[str]
    baseline_window: WindowView | None
    window: WindowView | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    evidence: float | None
    blamed_part: str
    harm_ruled_out: bool | None
    min_detectable_ratio: float | None
    shadow: bool

    @staticmethod
    def of(finding: Finding) -> FindingView:
        """From the value."""
        return FindingView(
            check=finding.check,
            outcome=finding.outcome,
            reason=finding.reason,
            message=finding.message,
            baseline=finding.baseline,
            candidate=finding.candidate,
            limit=finding.limit,
            baseline_count=finding.baseline_count,
            candidate_count=finding.candidate_count,
            queries=list(finding.queries),
            baseline_window=finding.baseline_window and WindowView.of(finding.baseline_window),
            window=finding.window and WindowView.of(finding.window),
            ratio=finding.ratio,
            ratio_low=finding.ratio_low,
            ratio_high=finding.ratio_high,
            evidence=finding.evidence,
            blamed_part=finding.blamed_part,
            harm_ruled_out=finding.harm_ruled_out,
            min_detectable_ratio=finding.min_detectable_ratio,
            shadow=finding.shadow,
        )


class PointView(BaseModel):
    """The evidence at a moment."""

    at: Timestamp
    evidence: float


class VerdictView(BaseModel):
    """The answer of all checks. `final`: of the end of the bake; of earlier measurements only a FAIL counts.

    `evidence`: the e-value of the whole rollout so far, `evidence_history` its course. The release is rolled back when it
    reaches `threshold`, which it first did at `threshold_reached_at`.
    """

    outcome: Outcome
    at: Timestamp
    window: WindowView
    findings: list[FindingView]
    message: str
    final: bool
    evidence: float | None
    threshold: float | None
    evidence_history: list[PointView]
    threshold_reached_at: Timestamp | None

    @staticmethod
    def of(verdict: Verdict) -> VerdictView:
        """From the value."""
        return VerdictView(
            outcome=verdict.outcome,
            at=timestamp(verdict.at),
            window=WindowView.of(verdict.window),
            findings=[FindingView.of(finding) for finding in verdict.findings],
            message=verdict.message,
            final=verdict.final,
            evidence=verdict.evidence,
            threshold=verdict.threshold,
            evidence_history=[PointView(at=timestamp(at), evidence=evidence) for at, evidence in verdict.evidence_history],
            threshold_reached_at=None if verdict.threshold_reached_at is None else timestamp(verdict.threshold_reached_at),
        )
