"""The messages of findings and verdicts. Pure.

Every percentage has its counts and at most three significant digits. A finding without a result says what to do.
"""

from __future__ import annotations

from collections.abc import Sequence

from tidegate.analysis.analysis_context import AnalysisContext
from tidegate.analysis.comparison import ComparisonTotals, RateRatio
from tidegate.analysis.verdict import Finding, Outcome
from tidegate.core.model import Check, Direction

NO_BASELINE_NOTE = (
    " (no instance of {old} takes traffic, so {new} is compared with the time before the rollout; a shared outage would"
    " look the same)"
)
UNDETECTABLE = "too few requests to detect any increase; lengthen `bake` or send more traffic"
BEYOND_LIMIT = "beyond the limit, but not yet with enough evidence to fail the release"
SHORT_TREND = "compared for too short a time to show a leak of 20 % of the limit per minute; lengthen `bake`"
TOO_EARLY = "not enough data to compare yet; lengthen `bake` or send more traffic"
ZERO_BASELINE = "the baseline value is 0, so a relative margin does not apply; set `max` on the check"
UNKNOWN = "unknown"


def verdict_message(outcome: Outcome, findings: Sequence[Finding], skipped: Sequence[str], *, final: bool) -> str:
    """The finding that decided, how many others have the same outcome, and the checks skipped for lack of a baseline.

    Before the end of the bake an inconclusive result is no verdict yet.
    """
    label = "No verdict yet" if outcome is Outcome.INCONCLUSIVE and not final else outcome.value
    note = f"; skipped, no baseline: {', '.join(skipped)}" if skipped else ""
    deciding = [finding for finding in findings if not finding.shadow and finding.outcome is outcome]
    if not deciding:
        return f"{label}: no check applied{note}"
    others = f" (and {len(deciding) - 1} more)" if len(deciding) > 1 else ""
    return f"{label}: {deciding[0].message}{others}{note}"


def counter_message(
    metric: str, unit: str, totals: ComparisonTotals, ratio: RateRatio | None, context: AnalysisContext, concurrent: bool
) -> str:
    """The rates of both releases with their counts of `unit`, the limit, and the confidence bounds."""
    message = f"{metric} {_rate(totals.bad, totals.exposure, unit)} on {context.new}"
    if concurrent:
        message += f" vs {_rate(totals.old_bad, totals.old_exposure, unit)} on {context.old}"
    if ratio is None:
        return message
    return f"{message}; limit {_percent(ratio.limit)}; {_ratio_bounds(ratio)}"


def _ratio_bounds(ratio: RateRatio) -> str:
    """The confidence bounds of the candidate's rate; an end of the grid is no bound."""
    low, high = (_percent(min(1.0, ratio.rate * bound)) for bound in (ratio.low, ratio.high))
    if ratio.unbounded_high or ratio.rate * ratio.high >= 1.0:
        return "not enough data to bound it yet" if ratio.unbounded_low else f"at least {low} with 95 % confidence"
    return f"at most {high} with 95 % confidence" if ratio.unbounded_low else f"95 % confidence interval {low} to {high}"


def slow_share_name(bound: str) -> str:
    """The name of the share of requests above a bucket's bound in seconds."""
    seconds = float(bound)
    return f"share slower than {1000 * seconds:.3g} ms" if seconds < 1 else f"share slower than {seconds:.3g} s"


def blame_message(part: str) -> str:
    """Which part of the evidence made the check fail."""
    parts = {
        "batch-end test": "found by the test at the end of the batch",
        "warm-up": "already during warm-up",
        "all instances": "across all its instances",
        "before and after": "worse than before the rollout",
    }
    return parts.get(part, f"on {part} only")


def detectable_message(ratio: RateRatio | None) -> str:
    """The smallest rate that these data would have shown, and whether harm is ruled out."""
    if ratio is None or ratio.min_detectable is None:
        return "minimum detectable rate unknown"
    detectable = f"minimum detectable rate {_percent(ratio.rate * ratio.min_detectable)}"
    return f"{detectable}; harm ruled out" if ratio.harm_ruled_out else detectable


def no_series_message(release: str) -> str:
    """The metrics source has no series of a release."""
    return f"no series for {release}; check with `tidegate check` that Prometheus scrapes it"


def no_histogram_message(release: str) -> str:
    """The metrics source has no response times of a release."""
    return (
        f"no response times of {release} in Prometheus; it has to scrape the engine's /metrics, or Envoy's `exporter`; "
        "the line `latency` of `tidegate check` says what is missing"
    )


def stale_message(age_seconds: float, limit_seconds: float) -> str:
    """The newest sample is too old."""
    return f"the newest sample is {age_seconds:.0f} s old, limit {limit_seconds:.0f} s; check that Prometheus still scrapes"


def few_requests_message(requests: float, release: str, min_requests: int, warmup_seconds: float) -> str:
    """A release had too few requests."""
    return (
        f"{_count(requests)} requests to {release} after {warmup_seconds:.3g} s of warm-up, at least {min_requests} needed;"
        " lengthen `bake`, send more traffic or lower `min_requests`"
    )


def disturbed_baseline_message(totals: ComparisonTotals, interval_seconds: float, old: str) -> str:
    """Nothing is compared while the baseline itself is worse than usual."""
    return (
        f"{old} itself was disturbed for {totals.disturbed_intervals * interval_seconds:.0f} of "
        f"{totals.intervals * interval_seconds:.0f} s, too long to compare with; lengthen `bake`"
    )


def few_intervals_message(intervals: int, needed: int, interval_seconds: float) -> str:
    """Too few intervals were compared for a FAIL, and so for a PASS."""
    more = (needed - intervals) * interval_seconds
    return f"{intervals} of at least {needed} intervals of {interval_seconds:.3g} s compared; needs about {more:.0f} s more"


def strong_evidence_message(evalue: float) -> str:
    """Too much evidence of harm for a PASS, too little for a FAIL."""
    return f"strong evidence of harm (e-value {_number(evalue)}), but not yet enough to fail the release"


def unusual_message(ratio: RateRatio) -> str:
    """All of the interval is above the margin, but within what differences between hosts can explain."""
    usual = _percent(min(1.0, ratio.rate * ratio.usual_margin))
    return f"all of the interval is above {usual}, which differences between hosts rarely explain"


def few_values_message(values: int, min_samples: int) -> str:
    """A query returned too few values."""
    return f"{values} values, at least {min_samples} needed; lengthen `bake` or lower `min_samples`"


def no_baseline_message(old: str) -> str:
    """There is no baseline of any kind."""
    return f"no baseline: no instance of {old} takes traffic, and there is too little history before the rollout"


def missing_instances_message(present: int, expected: int, release: str) -> str:
    """Instances take traffic and are missing from the metrics."""
    return f"metrics show only {present} of the {expected} instances of {release} that take traffic; check the scrapes"


def limit_message(check: Check, value: float, release: str) -> str:
    """A value and its limits. More digits where three would make the value look equal to a limit."""
    limits = [
        f"{name} {_number(limit, 6)}"
        for name, limit in (("max", check.maximum), ("min", check.minimum))
        if limit is not None
    ]
    equal = any(limit is not None and _number(value) == _number(limit) for limit in (check.maximum, check.minimum))
    return f"{_number(value, 6 if equal else 3)} on {release}; {', '.join(limits)}"


def comparison_message(
    check: Check, new: float | None, old: float | None, counts: tuple[int, int], context: AnalysisContext
) -> str:
    """The mean values of both releases, from `counts` (new, old) measurements, and the margin."""
    word = "more" if check.direction is Direction.LOWER else "less"
    return (
        f"mean {_number(new)} ({counts[0]} values) on {context.new} vs"
        f" {_number(old)} ({counts[1]} values) on {context.old}; up to {100 * (check.margin or 0.0):.3g} % {word} allowed"
    )


def memory_message(check: Check, new: float | None, old: float | None, context: AnalysisContext) -> str:
    """Mean memory of both releases as a share of the limit."""
    return f"{_memory(check, new)} on {context.new} vs {_memory(check, old)} on {context.old}"


def _memory(check: Check, share: float | None) -> str:
    if share is None:
        return UNKNOWN
    limit = check.maximum or 1.0
    return f"{_percent(share)} of the limit ({_number(share * limit)} of {_number(limit)})"


def _rate(bad: float, total: float, unit: str) -> str:
    if total <= 0:
        return f"{UNKNOWN} (0 {unit})"
    return f"{_percent(bad / total)} ({_count(bad)} of {_count(total)} {unit})"


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.3g} %"


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _number(number: float | None, digits: int = 3) -> str:
    """With so many significant digits, and without an exponent where it is a common number."""
    if number is None:
        return UNKNOWN
    rounded = float(f"{number:.{digits}g}")
    return f"{rounded:,.0f}" if 1000 <= abs(rounded) < 1e15 else f"{rounded:.{digits}g}"
