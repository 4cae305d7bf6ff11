"""Views of verdicts and their findings."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from tidegate.analysis.verdict import Outcome, Reason
from tidegate.web.views.timestamps import Timestamp, View


class WindowView(View):
    """A period of time."""

    start: Timestamp
    end: Timestamp


class FindingView(View):
    """The result of one check with its evidence. Ratios in [0, 1], durations in seconds, null where unknown.

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


class PointView(View):
    """The evidence at one time."""

    at: Timestamp
    evidence: float

    @model_validator(mode="before")
    @classmethod
    def _from_pair(cls, value: Any) -> Any:
        return dict(zip(("at", "evidence"), value, strict=True)) if isinstance(value, tuple) else value


class VerdictView(View):
    """The result of all checks. `final`: at the end of the bake; of earlier measurements only a FAIL counts.

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
