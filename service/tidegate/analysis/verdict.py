"""Verdicts and findings: outcome, reason, and the evidence for them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tidegate.clock import Time, Window


class Outcome(StrEnum):
    """The outcome of a check or of all checks. Missing data is INCONCLUSIVE, never PASS."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


class Reason(StrEnum):
    """The reason of an outcome. All but `ok`, `worse` and `limit` are inconclusive."""

    OK = "ok"
    WORSE = "worse"  # worse than the baseline by more than the margin
    LIMIT = "limit"  # over `max` or under `min`
    NO_DATA = "no-data"  # no series or no sample in the window, or 0/0
    FEW_DATA = "few-data"  # fewer samples or requests than the check requires
    STALE = "stale"  # the newest sample is too old
    SOURCE_DOWN = "source-down"  # refused, unreachable, 5xx
    TIMEOUT = "timeout"
    BAD_QUERY = "bad-query"
    PARTIAL = "partial"  # the source answered with warnings about missing parts
    MANY_SERIES = "many-series"  # several series where one was expected
    NOT_COMPARABLE = "not-comparable"  # no baseline
    UNCLEAR = "unclear"  # beyond the limit or with strong evidence of harm, but short of a FAIL


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. None means unknown.

    `baseline` and `candidate` are the compared values in the unit of the check: for errors the failed share of requests, in
    [0, 1]; for latency the share slower than a bound. `limit` is the largest (for `min` the smallest) tolerated value. The
    counts are requests or samples. `ratio` is candidate over baseline; `ratio_low` and `ratio_high` are its 95 % confidence
    sequence, valid at any time. `evidence` is the e-value that the check adds to the evidence of the rollout.
    `blamed_part`: which part of the evidence failed it. `harm_ruled_out`: harm (see docs/analysis.md) is rejected at 5 %.
    `min_detectable_ratio` is the smallest ratio that these data would have shown. A `shadow` check has no effect on
    the verdict.
    """

    check: str
    outcome: Outcome
    reason: Reason
    message: str
    baseline: float | None = None
    candidate: float | None = None
    limit: float | None = None
    baseline_count: float | None = None
    candidate_count: float | None = None
    queries: tuple[str, ...] = ()
    baseline_window: Window | None = None
    window: Window | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    evidence: float | None = None
    blamed_part: str = ""
    harm_ruled_out: bool | None = None
    min_detectable_ratio: float | None = None
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of all checks of one step.

    `final`: the bake is over; before that only a FAIL has an effect. `evidence` is the e-value of the whole rollout so far.
    The rollout fails when it reaches `threshold`, first at `threshold_reached_at`. `evidence_history` is the evidence over
    time as (time, e-value), thinned out.
    """

    outcome: Outcome
    at: Time
    window: Window
    findings: tuple[Finding, ...]
    message: str
    final: bool
    evidence: float | None = None
    threshold: float | None = None
    evidence_history: tuple[tuple[Time, float], ...] = ()
    threshold_reached_at: Time | None = None
