"""The judge's sentences. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tidegate.analysis.analysis_context import AnalysisContext
from tidegate.analysis.comparison import ComparisonTotals, RateRatio
from tidegate.analysis.verdict import Finding, Outcome
from tidegate.core.model import Check, Direction

NO_BASELINE_NOTE = (
    " (nothing of {old} serves beside it, so this is against the time before the rollout; an outage of something shared "
    "looks the same)"
)
TOO_EARLY = "too little is known yet to compare anything"
ZERO_BASELINE = "the baseline's value is 0, so that no relative margin applies: give the check a max"


def verdict_message(outcome: Outcome, told: Sequence[Finding], left_out: Sequence[str]) -> str:
    """The finding that decided, then how many others say the same."""
    skipped = f"; not asked without a release to compare with: {', '.join(left_out)}" if left_out else ""
    counted = [finding for finding in told if not finding.shadow]
    deciding = [finding for finding in counted if finding.outcome is outcome]
    if not deciding:
        return f"{outcome}: no check was asked{skipped}"
    more = f" (and {len(deciding) - 1} more)" if len(deciding) > 1 else ""
    return f"{outcome}: {deciding[0].message}{more}{skipped}"


def counter_message(
    what: str,
    sums: ComparisonTotals,
    rates: tuple[float | None, float | None],
    ratio: RateRatio | None,
    context: AnalysisContext,
    concurrent: bool,
) -> str:
    """Both sides, and what the ratio can be."""
    told = [f"{_percent(rates[1])} of {_count(sums.exposure)} requests to {context.new} {what}"]
    if concurrent:
        told.append(f"{_percent(rates[0])} of {_count(sums.old_exposure)} to {context.old}")
    if ratio is None:
        return ", ".join(told)
    return f"{', '.join(told)}; {_ratio_bounds(ratio)}, more than {_percent(ratio.rate * ratio.margin)} is too many"


def _ratio_bounds(ratio: RateRatio) -> str:
    """The confidence sequence; an end of the grid is no bound."""
    low, high = (_percent(min(1.0, ratio.rate * end)) for end in (ratio.low, ratio.high))
    if ratio.unbounded_high or ratio.rate * ratio.high >= 1.0:
        return "how many it is is not known yet" if ratio.unbounded_low else f"it is at least {low}"
    return f"it is at most {high}" if ratio.unbounded_low else f"it is between {low} and {high}"


def slower_message(bound: str) -> str:
    """Said of requests beyond a bucket's bound in seconds."""
    seconds = float(bound)
    return f"took longer than {1000 * seconds:g} ms" if seconds < 1 else f"took longer than {seconds:g} s"


def blame_message(part: str) -> str:
    """Which part of the evidence condemned it."""
    said = {
        "fixed look": "seen at the end of the batch",
        "warm-up": "already while warming up",
        "all instances": "on all its instances together",
        "before and after": "compared with the time before",
    }
    return said.get(part, f"on {part} alone")


def detectable_message(ratio: RateRatio | None) -> str:
    """What these data could have shown, and whether harm is ruled out."""
    if ratio is None:
        return "what could have been seen is not known"
    seen = "nothing" if ratio.min_detectable is None else f"{_percent(ratio.rate * ratio.min_detectable)}"
    return f"{seen} would have been seen{', and harm is ruled out' if ratio.harm_ruled_out else ''}"


def no_series_message(release: str) -> str:
    """The metrics know nothing of a release."""
    return f"the metrics have no series of {release}"


def stale_message(age: float, allowed: float) -> str:
    """The newest sample is too old."""
    return f"the newest sample is {age:.0f} s old, more than {allowed:.0f} s"


def few_requests_message(requests: float, release: str, min_samples: int, warmup: float) -> str:
    """Too few requests."""
    return f"{_count(requests)} requests to {release} (after {warmup:g} s of warm-up), {min_samples} are needed"


def disturbed_baseline_message(sums: ComparisonTotals, dt: float, old: str) -> str:
    """Nothing is compared while the baseline itself is not as it was."""
    return (
        f"{old} itself was disturbed for {sums.disturbed_intervals * dt:.0f} of the {sums.intervals * dt:.0f} s "
        "that were compared, so that they say little of the new release"
    )


def few_values_message(number: int, min_samples: int) -> str:
    """Too few values."""
    return f"{number} values, {min_samples} are needed"


def no_baseline_message(old: str) -> str:
    """No baseline of any kind."""
    return f"nothing of {old} serves beside it, and too little is known of the time before"


def missing_instances_message(seen: int, wanted: int, release: str) -> str:
    """Instances that are not in the metrics."""
    return f"the metrics show {seen} of the {wanted} instances of {release} that take traffic"


def limit_message(check: Check, number: float, release: str) -> str:
    """A value and its limits."""
    bounds = [
        f"{word} {bound:.6g}"
        for word, bound in (("at most", check.maximum), ("at least", check.minimum))
        if bound is not None
    ]
    return f"{number:.6g} for {release}, {' and '.join(bounds)} is allowed"


def comparison_message(check: Check, new: float | None, old: float | None, context: AnalysisContext) -> str:
    """Two values and the margin."""
    word = "more" if check.direction is Direction.LOWER else "less"
    return (
        f"{_number(new)} for {context.new}, {_number(old)} for {context.old}; "
        f"{100 * (check.margin or 0.0):.3g} % {word} is allowed"
    )


def memory_message(new: float | None, old: float | None, context: AnalysisContext) -> str:
    """Shares of the limit."""
    return f"{_percent(new)} of the limit for {context.new}, {_percent(old)} for {context.old}"


def _percent(ratio: float | None) -> str:
    return "an unknown share" if ratio is None else f"{100 * ratio:.3g} %"


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _number(number: float | None) -> str:
    return "nothing" if number is None else f"{number:.6g}"
