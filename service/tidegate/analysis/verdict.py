"""What a judge says: outcomes, reasons and the evidence for them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tidegate.clock import Time, Window


class Outcome(StrEnum):
    """The three answers. Unknown is never good, so there is no fourth."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


class Reason(StrEnum):
    """Why a check could not decide (or could)."""

    OK = "ok"
    WORSE = "worse"  # worse than the baseline by more than the margin
    LIMIT = "limit"  # over `max` or under `min`
    NO_DATA = "no-data"  # no series or no sample in the window, or 0/0
    FEW_DATA = "few-data"  # fewer samples or requests than the check asks for
    STALE = "stale"  # the newest sample is too old
    SOURCE_DOWN = "source-down"  # refused, unreachable, 5xx
    TIMEOUT = "timeout"
    BAD_QUERY = "bad-query"
    PARTIAL = "partial"  # the source answered with warnings about missing parts
    MANY_SERIES = "many-series"  # one value was expected, several came
    NOT_COMPARABLE = "not-comparable"  # there is nothing to compare with


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer of one check, with its evidence.

    `baseline` and `candidate` are the compared values in the check's own unit (a ratio in [0, 1] for errors, the share of
    requests slower than a bound for latency); `limit` is the value that the candidate had to stay on the good side of; the
    counts are requests or samples; None means unknown. `ratio` is candidate over baseline, between `ratio_low` and
    `ratio_high` (0.95, at any time). `evidence` is the share that the check adds to the rollout's evidence. `blamed_part`:
    which part of the evidence condemned it. `harm_ruled_out`: whether harm is ruled out; `min_detectable_ratio` the
    smallest ratio that these data would have shown, None where they would have shown none. A `shadow` check is measured and
    decides nothing.
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
    """The answer of all checks of one step.

    `final` tells the verdict at the end of the bake from an early look, of which only a FAIL counts. `evidence` is the
    e-value of the whole rollout so far: the rollout fails when it reaches `threshold`, which it first did at
    `threshold_reached_at`; `evidence_history` is how it went, as (time, evidence), thinned out.
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
