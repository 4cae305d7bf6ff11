"""What is said of one check at a look: its outcome, the reason, and the evidence for people. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tidegate.analysis import messages
from tidegate.analysis.analysis_context import AnalysisContext
from tidegate.analysis.comparison import Comparison, RateRatio
from tidegate.analysis.counter_check import CounterCheck
from tidegate.analysis.counters import STALE_SECONDS
from tidegate.analysis.error_rate import WARM_UP
from tidegate.analysis.instance_checks import MemoryCheck, ReadinessCheck
from tidegate.analysis.latency import LatencyCheck
from tidegate.analysis.measurement import Measurement
from tidegate.analysis.queries import HISTORY_SECONDS
from tidegate.analysis.query_check import ComparedQueryCheck, LimitCheck, QueryCheck
from tidegate.analysis.statistics.combine import CombinedEvidence
from tidegate.analysis.verdict import Finding, Outcome, Reason
from tidegate.clock import Window
from tidegate.core.model import Check

Obstacle = tuple[Reason, str]


@dataclass(frozen=True)
class EvidenceState:
    """The evidence of the whole rollout at a look.

    `concurrent_share`: the share of it that comes from the baseline beside the candidate. `blamed_parts`: the parts that
    condemn the release, `fixed_test_parts`: those that only the fixed look at the batch's end does.
    """

    evidence: float
    threshold: float
    concurrent_share: float
    concurrent: CombinedEvidence
    blamed_parts: frozenset[str]
    fixed_test_parts: frozenset[str]

    def share(self, name: str) -> float:
        """How much of the evidence is this part's, in [0, 1]."""
        parts = {part.name: self.concurrent.share(part) for part in self.concurrent.parts}
        return self.concurrent_share * parts.get(name, 0.0)

    def failing_part(self, check: str) -> str | None:
        """The name of the part of a check that condemns the release."""
        result = sorted(
            name for name in self.blamed_parts | self.fixed_test_parts if name == check or name.startswith(f"{check}/")
        )
        return result[0] if result else None


def finding_of(
    source: CounterCheck | QueryCheck | MemoryCheck,
    measurement: Measurement,
    context: AnalysisContext,
    evidence: EvidenceState,
) -> Finding:
    """The finding of one check."""
    if isinstance(source, CounterCheck):
        return _counter_finding(source, measurement, context, evidence)
    if isinstance(source, LimitCheck):
        return _limit_finding(source, measurement, context)
    if isinstance(source, ComparedQueryCheck):
        return _query_finding(source, measurement, context, evidence)
    assert isinstance(source, MemoryCheck)
    return _memory_finding(source, measurement, context, evidence)


def _finding(
    check: Check, measurement: Measurement, context: AnalysisContext, problem: Obstacle | None, message: str, **more: Any
) -> Finding:
    """With what is the same for all; a problem makes it inconclusive."""
    outcome, reason = (Outcome.PASS, Reason.OK) if problem is None else (Outcome.INCONCLUSIVE, problem[0])
    said = message if problem is None else problem[1]
    window = Window(measurement.bake_started_at, measurement.at)
    before = window if measurement.concurrent else Window(context.origin - HISTORY_SECONDS / 4, context.origin)
    return Finding(
        check.name,
        more.pop("outcome", outcome),
        more.pop("reason", reason),
        f"{check.name}: {said}",
        window=window,
        baseline_window=None if check.is_limit else before,
        shadow=check.shadow,
        **more,
    )


# -- requests and latency -------------------------------------------------------------------------------------------------


def _counter_finding(
    source: CounterCheck, measurement: Measurement, context: AnalysisContext, evidence: EvidenceState
) -> Finding:
    comparison = _shown_comparison(source, evidence)
    condemned = evidence.failing_part(source.check.name)
    problem = None if condemned else _find_obstacle(source, comparison, measurement, context)
    if comparison is None:
        unknown = problem or (Reason.FEW_DATA, messages.TOO_EARLY)
        return _finding(source.check, measurement, context, unknown, "", queries=source.query_texts)
    sums, ratio = comparison.step_totals, comparison.ratio(_needed_evidence(comparison, source.check, evidence))
    rates = _rate(sums.old_bad, sums.old_exposure), _rate(sums.bad, sums.exposure)
    what = messages.slower_message(comparison.name) if isinstance(source, LatencyCheck) else "failed"
    message = messages.counter_message(what, sums, rates, ratio, context, measurement.concurrent)
    more: dict[str, Any] = {"outcome": Outcome.FAIL, "reason": Reason.WORSE} if condemned else {}
    if condemned:
        more["blamed_part"] = _blamed_part(source, comparison, condemned, measurement, evidence)
        message = f"{message}; {messages.blame_message(more['blamed_part'])}"
    elif problem is None:
        message = f"{message}; {messages.detectable_message(ratio)}"
    if not measurement.concurrent:
        message += messages.NO_BASELINE_NOTE.format(old=context.old)
    return _finding(
        source.check, measurement, context, problem, message,
        baseline=rates[0], candidate=rates[1],
        limit=None if rates[0] is None or ratio is None else min(1.0, rates[0] * ratio.margin),
        baseline_count=sums.old_exposure, candidate_count=sums.exposure, queries=source.query_texts,
        evidence=_evidence(comparison, source.check, evidence), **_ratio_fields(ratio), **more,
    )  # fmt: skip


def _shown_comparison(source: CounterCheck, evidence: EvidenceState) -> Comparison | None:
    """The arm that is shown: the one that condemns, else the one with the most evidence; warm-up only when it condemns."""
    condemned = evidence.failing_part(source.check.name)
    named = [comparison for comparison in source.comparisons if f"{source.check.name}/{comparison.name}" == condemned]
    usual = [comparison for comparison in source.comparisons if comparison.name != WARM_UP]
    return next(iter(named), max(usual, key=lambda comparison: float(comparison.evalue()[0]), default=None))


def _needed_evidence(comparison: Comparison, check: Check, evidence: EvidenceState) -> float:
    share = evidence.share(f"{check.name}/{comparison.name}") if comparison.process is not None else comparison.weight
    return evidence.threshold / max(share, 1e-6)


def _evidence(comparison: Comparison, check: Check, evidence: EvidenceState) -> float:
    """What the arm adds to the evidence of the rollout."""
    return evidence.share(f"{check.name}/{comparison.name}") * float(comparison.evalue()[0])


def _ratio_fields(ratio: RateRatio | None) -> dict[str, Any]:
    if ratio is None:
        return {}
    return {
        "ratio": ratio.estimate, "ratio_low": ratio.low, "ratio_high": ratio.high,
        "harm_ruled_out": ratio.harm_ruled_out, "min_detectable_ratio": ratio.min_detectable,
    }  # fmt: skip


def _blamed_part(
    source: CounterCheck, comparison: Comparison, condemned: str, measurement: Measurement, evidence: EvidenceState
) -> str:
    if condemned in evidence.fixed_test_parts and condemned not in evidence.blamed_parts:
        return "fixed look"
    if comparison.name == WARM_UP:
        return "warm-up"
    if not measurement.concurrent:
        return "before and after"
    place = comparison.worst_instance()
    if place is None:
        return "all instances"
    column = source.instances.columns[place]
    return f"instance {column.release}/{column.ordinal}"


def _find_obstacle(
    source: CounterCheck, comparison: Comparison | None, measurement: Measurement, context: AnalysisContext
) -> Obstacle | None:
    """Why nothing can be said; the first that applies."""
    if source.failure is not None:
        return source.failure.reason, source.failure.message
    for release in context.releases if measurement.concurrent else (context.new,):
        if not any(column.release == release for column in source.instances.columns):
            return Reason.NO_DATA, messages.no_series_message(release)
    newest = source.counters.last_scrape or 0.0
    if measurement.at - newest > source.counters.stale_seconds:
        return Reason.STALE, messages.stale_message(measurement.at - newest, source.counters.stale_seconds)
    if comparison is None:
        return Reason.FEW_DATA, messages.TOO_EARLY
    return _too_few_requests(source, comparison, measurement, context) or (
        _missing_instances(source, measurement, context) if measurement.final else None
    )


def _too_few_requests(
    source: CounterCheck, comparison: Comparison, measurement: Measurement, context: AnalysisContext
) -> Obstacle | None:
    min_samples = source.check.min_samples
    sides = [(comparison.step_totals.exposure, context.new)]
    if measurement.concurrent:
        sides.append((comparison.step_totals.old_exposure, context.old))
    elif comparison.before_after is None or float(comparison.before_after.calibration.exposure[0]) < min_samples:
        return Reason.NOT_COMPARABLE, messages.no_baseline_message(context.old)
    for requests, release in sides:
        if requests < min_samples:
            return Reason.FEW_DATA, messages.few_requests_message(
                requests, release, min_samples, context.parameters.warmup_seconds
            )
    if comparison.step_totals.disturbed_intervals > comparison.step_totals.intervals / 2:
        return Reason.FEW_DATA, messages.disturbed_baseline_message(comparison.step_totals, source.dt, context.old)
    return None


def _missing_instances(source: CounterCheck, measurement: Measurement, context: AnalysisContext) -> Obstacle | None:
    """All instances of the candidate have to be seen before it is called good."""
    oldest = measurement.at - source.counters.stale_seconds
    seen = sum(1 for column in source.instances.columns if column.release == context.new and column.last_seen >= oldest)
    return (
        None
        if seen >= measurement.routed_count
        else (Reason.PARTIAL, messages.missing_instances_message(seen, measurement.routed_count, context.new))
    )


def _rate(bad: float, exposure: float) -> float | None:
    return bad / exposure if exposure > 0 else None


# -- values, memory, readiness --------------------------------------------------------------------------------------------


def _limit_finding(source: LimitCheck, measurement: Measurement, context: AnalysisContext) -> Finding:
    check, number = source.check, source.candidate[-1]
    known = None if math.isnan(number) else number
    more: dict[str, Any] = {
        "candidate": known,
        "limit": _nearest_limit(check, known),
        "candidate_count": float(len(source.candidate)),
    }
    if source.has_failed:
        message = messages.limit_message(check, number, context.new) + f", {source.violations} looks in a row"
        return _finding(
            check,
            measurement,
            context,
            None,
            message,
            outcome=Outcome.FAIL,
            reason=Reason.LIMIT,
            queries=source.query_texts,
            **more,
        )
    problem = (source.failure.reason, source.failure.message) if source.failure else None
    if problem is None and source.violations:
        problem = (
            Reason.FEW_DATA,
            messages.limit_message(check, number, context.new) + f", {source.violations} of {check.min_samples} looks",
        )
    return _finding(
        check,
        measurement,
        context,
        problem,
        messages.limit_message(check, number, context.new),
        queries=source.query_texts,
        **more,
    )


def _nearest_limit(check: Check, number: float | None) -> float | None:
    """The limit that a value is held against; the one that it is nearest to when there are two."""
    if check.maximum is None or (check.minimum is not None and number is not None and number < check.minimum):
        return check.minimum
    return check.maximum


def _query_finding(
    source: ComparedQueryCheck, measurement: Measurement, context: AnalysisContext, evidence: EvidenceState
) -> Finding:
    check, new, old = source.check, _finite_values(source.candidate), _finite_values(source.baseline)
    values: dict[str, Any] = {
        "baseline": _mean(old), "candidate": _mean(new), "baseline_count": float(len(old)),
        "candidate_count": float(len(new)), "queries": source.query_texts,
        "evidence": evidence.share(check.name) * float(source.evalue()[0]),
    }  # fmt: skip
    message = messages.comparison_message(check, _mean(new), _mean(old), context)
    if evidence.failing_part(check.name):
        return _finding(
            check,
            measurement,
            context,
            None,
            message,
            outcome=Outcome.FAIL,
            reason=Reason.WORSE,
            blamed_part="all instances",
            **values,
        )
    problem = (source.failure.reason, source.failure.message) if source.failure else None
    if problem is None and not measurement.concurrent and "$release" not in check.query:
        problem = Reason.NOT_COMPARABLE, messages.no_baseline_message(context.old)
    if problem is None and min(len(new), len(old)) < check.min_samples:
        problem = Reason.FEW_DATA, messages.few_values_message(min(len(new), len(old)), check.min_samples)
    if problem is None and _mean(old) == 0.0 and _mean(new) != 0.0:
        problem = Reason.NOT_COMPARABLE, messages.ZERO_BASELINE
    return _finding(check, measurement, context, problem, message, **values)


def _finite_values(numbers: list[float]) -> list[float]:
    return [number for number in numbers if math.isfinite(number)]


def _mean(numbers: list[float]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None


def _memory_finding(
    source: MemoryCheck, measurement: Measurement, context: AnalysisContext, evidence: EvidenceState
) -> Finding:
    check, shares = source.check, source.latest
    values: dict[str, Any] = {
        "baseline": shares.get(context.old), "candidate": shares.get(context.new), "queries": source.query_texts,
        "evidence": evidence.share(check.name) * float(source.evalue()[0]),
    }  # fmt: skip
    message = messages.memory_message(shares.get(context.new), shares.get(context.old), context)
    if evidence.failing_part(check.name):
        return _finding(
            check,
            measurement,
            context,
            None,
            message,
            outcome=Outcome.FAIL,
            reason=Reason.WORSE,
            blamed_part="all instances",
            **values,
        )
    problem = (source.failure.reason, source.failure.message) if source.failure else None
    if problem is None and context.new not in shares:
        problem = Reason.NO_DATA, messages.no_series_message(context.new)
    if problem is None and measurement.at - source.last_sample_at > STALE_SECONDS:
        problem = Reason.STALE, messages.stale_message(measurement.at - source.last_sample_at, STALE_SECONDS)
    return _finding(check, measurement, context, problem, message, **values)


def readiness_finding(
    source: ReadinessCheck, measurement: Measurement, context: AnalysisContext, evidence: EvidenceState
) -> Finding:
    """When it condemns the release."""
    sums = source.totals
    rates = _rate(sums.old_bad, sums.old_exposure), _rate(sums.bad, sums.exposure)
    message = messages.counter_message("of the probes failed", sums, rates, None, context, measurement.concurrent)
    return Finding(
        "readiness", Outcome.FAIL, Reason.WORSE, f"readiness: {message}", rates[0], rates[1],
        baseline_count=sums.old_exposure, candidate_count=sums.exposure,
        window=Window(measurement.bake_started_at, measurement.at), blamed_part="all instances",
        evidence=evidence.share("readiness") * float(source.evalue()[0]),
    )  # fmt: skip
