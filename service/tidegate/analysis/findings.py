"""The finding of each check after a measurement: outcome, reason, message, and the evidence behind it. Pure."""

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
from tidegate.analysis.statistics.confidence import STRONG_EVALUE
from tidegate.analysis.statistics.gauge import BLOCK_SECONDS, blocks_needed
from tidegate.analysis.statistics.parameters import MIN_INTERVALS
from tidegate.analysis.verdict import Finding, Outcome, Reason
from tidegate.clock import Window
from tidegate.core.model import Check

READINESS = "readiness"

Obstacle = tuple[Reason, str]


@dataclass(frozen=True)
class EvidenceState:
    """The evidence of the whole rollout at one measurement.

    `evidence` and `threshold` are e-values. `concurrent_share`, in [0, 1], is the weight of the comparison with a baseline
    that takes traffic at the same time; the rest is the comparison with the time before the switch. `blamed_parts` are the
    parts of the evidence that fail the release, `fixed_test_parts` those that fail the test at the end of the batch.
    `after_weight` is the total weight of the parts that are compared with the time before the switch.
    """

    evidence: float
    threshold: float
    concurrent_share: float
    concurrent: CombinedEvidence
    blamed_parts: frozenset[str]
    fixed_test_parts: frozenset[str]
    after_weight: float = 0.0

    def after_share(self, weight: float) -> float:
        """The weight in the evidence of a part that is compared with the time before the switch, in [0, 1]."""
        return (1.0 - self.concurrent_share) * weight / self.after_weight if self.after_weight else 0.0

    def share(self, name: str) -> float:
        """The weight of a part in the evidence, in [0, 1]; 0 for an unknown part."""
        shares = {part.name: self.concurrent.share(part) for part in self.concurrent.parts}
        return self.concurrent_share * shares.get(name, 0.0)

    def failing_part(self, check: str) -> str | None:
        """The name of the part of a check that fails the release, or None."""
        parts = sorted(self.blamed_parts | self.fixed_test_parts)
        return next((name for name in parts if name == check or name.startswith(f"{check}/")), None)


def finding_of(
    source: CounterCheck | QueryCheck | MemoryCheck,
    measurement: Measurement,
    context: AnalysisContext,
    evidence: EvidenceState,
) -> Finding:
    """The finding of one check after a measurement."""
    if isinstance(source, CounterCheck):
        return _counter_finding(source, measurement, context, evidence)
    if isinstance(source, LimitCheck):
        return _limit_finding(source, measurement, context)
    if isinstance(source, ComparedQueryCheck):
        return _query_finding(source, measurement, context, evidence)
    assert isinstance(source, MemoryCheck)
    return _memory_finding(source, measurement, context, evidence)


def _finding(
    check: Check, measurement: Measurement, context: AnalysisContext, obstacle: Obstacle | None, message: str, **more: Any
) -> Finding:
    """A finding with the fields common to all checks. An obstacle makes it inconclusive and replaces the message."""
    outcome, reason = (Outcome.PASS, Reason.OK) if obstacle is None else (Outcome.INCONCLUSIVE, obstacle[0])
    text = message if obstacle is None else obstacle[1]
    window = Window(measurement.bake_started_at, measurement.at)
    before = window if measurement.concurrent else Window(context.origin - HISTORY_SECONDS / 4, context.origin)
    return Finding(
        check.name,
        more.pop("outcome", outcome),
        more.pop("reason", reason),
        f"{check.name}: {text}",
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
    failing = evidence.failing_part(source.check.name)
    obstacle = None if failing else _find_obstacle(source, comparison, measurement, context)
    needed = _needed_evidence(source, evidence)
    if comparison is None:
        obstacle = obstacle or (Reason.FEW_DATA, messages.TOO_EARLY)
        return _finding(source.check, measurement, context, obstacle, "", queries=source.query_texts)
    totals, ratio = comparison.step_totals, comparison.ratio(needed)
    baseline, candidate = _rate(totals.old_bad, totals.old_exposure), _rate(totals.bad, totals.exposure)
    metric = messages.slow_share_name(comparison.name) if isinstance(source, LatencyCheck) else "error rate"
    message = messages.counter_message(metric, "requests", totals, ratio, context, measurement.concurrent)
    more: dict[str, Any] = {"outcome": Outcome.FAIL, "reason": Reason.WORSE} if failing else {}
    if failing:
        more["blamed_part"] = _blamed_part(source, comparison, failing, measurement, evidence)
        message = f"{message}; {messages.blame_message(more['blamed_part'])}"
    elif obstacle is None:
        doubt = _find_doubt(source, comparison, ratio, needed)
        obstacle = None if doubt is None else (doubt[0], f"{message}; {doubt[1]}")
        message = f"{message}; {messages.detectable_message(ratio)}"
    if not measurement.concurrent:
        message += messages.NO_BASELINE_NOTE.format(old=context.old, new=context.new)
    return _finding(
        source.check, measurement, context, obstacle, message,
        baseline=baseline, candidate=candidate,
        limit=None if ratio is None else ratio.limit,
        baseline_count=totals.old_exposure, candidate_count=totals.exposure, queries=source.query_texts,
        evidence=_evidence(comparison, source.check, evidence), **_ratio_fields(ratio), **more,
    )  # fmt: skip


def _shown_comparison(source: CounterCheck, evidence: EvidenceState) -> Comparison | None:
    """The comparison to report: the one that fails; else the one with the most evidence if that speaks for harm; else the
    one with the most bad events, which is known best. Warm-up only if it fails."""
    name = evidence.failing_part(source.check.name)
    failing = [comparison for comparison in source.comparisons if f"{source.check.name}/{comparison.name}" == name]
    strongest = max(_main(source), key=Comparison.strongest_evalue, default=None)
    if failing or strongest is None or strongest.strongest_evalue() >= 1.0:
        return next(iter(failing), strongest)
    return max(_main(source), key=lambda comparison: comparison.step_totals.bad)


def _main(source: CounterCheck) -> list[Comparison]:
    """The comparisons of a check without the one of the warm-up."""
    return [comparison for comparison in source.comparisons if comparison.name != WARM_UP]


def _needed_evidence(source: CounterCheck, evidence: EvidenceState) -> float:
    """The e-value of all instances at which this check alone would reach the threshold of the rollout, if all of its
    comparisons show the same."""
    main = _main(source)
    if any(comparison.before_after is not None for comparison in main):
        share = sum(evidence.after_share(comparison.weight) for comparison in main)
    else:
        shares = (
            evidence.share(f"{source.check.name}/{each.name}") * each.process.group_share for each in main if each.process
        )
        share = sum(shares)
    return evidence.threshold / max(share, 1e-9)


def _find_doubt(source: CounterCheck, comparison: Comparison, ratio: RateRatio | None, needed: float) -> Obstacle | None:
    """Why a check that did not fail has not passed either, or None: no PASS that could not have been a FAIL."""
    compared = comparison.step_totals.compared_intervals
    if compared < MIN_INTERVALS:
        return Reason.FEW_DATA, messages.few_intervals_message(compared, MIN_INTERVALS, source.dt)
    if all(each is None or each.min_detectable is None for each in (main.ratio(needed) for main in _main(source))):
        return Reason.FEW_DATA, messages.UNDETECTABLE
    evalue = max(each.strongest_evalue() for each in source.comparisons)
    if evalue >= STRONG_EVALUE:
        return Reason.UNCLEAR, messages.strong_evidence_message(evalue)
    if ratio is not None and comparison.is_beyond_limit(ratio.limit):
        return Reason.UNCLEAR, messages.BEYOND_LIMIT
    if ratio is not None and not ratio.unbounded_low and ratio.low > ratio.usual_margin:
        return Reason.UNCLEAR, messages.unusual_message(ratio)
    return None


def _evidence(comparison: Comparison, check: Check, evidence: EvidenceState) -> float:
    """What a comparison adds to the evidence of the rollout."""
    concurrent = evidence.share(f"{check.name}/{comparison.name}") * float(comparison.evalue()[0])
    return concurrent + evidence.after_share(comparison.weight) * comparison.after_evalue() * (
        comparison.before_after is not None
    )


def _ratio_fields(ratio: RateRatio | None) -> dict[str, Any]:
    if ratio is None:
        return {}
    return {
        "ratio": ratio.estimate, "ratio_low": ratio.low, "ratio_high": ratio.high,
        "harm_ruled_out": ratio.harm_ruled_out, "min_detectable_ratio": ratio.min_detectable,
    }  # fmt: skip


def _blamed_part(
    source: CounterCheck, comparison: Comparison, failing: str, measurement: Measurement, evidence: EvidenceState
) -> str:
    if failing in evidence.fixed_test_parts and failing not in evidence.blamed_parts:
        return "batch-end test"
    if comparison.name == WARM_UP:
        return "warm-up"
    if not measurement.concurrent:
        return "before and after"
    worst = comparison.worst_instance()
    if worst is None:
        return "all instances"
    column = source.instances.columns[worst]
    return f"instance {column.release}/{column.ordinal}"


def _find_obstacle(
    source: CounterCheck, comparison: Comparison | None, measurement: Measurement, context: AnalysisContext
) -> Obstacle | None:
    """The first reason why the check has no result, or None."""
    if source.failure is not None:
        return source.failure.reason, source.failure.message
    for release in context.releases if measurement.concurrent else (context.new,):
        if not any(column.release == release for column in source.instances.columns):
            return Reason.NO_DATA, source.no_series_message(release)
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
    totals = comparison.step_totals
    releases = [(totals.exposure, context.new)]
    if measurement.concurrent:
        releases.append((totals.old_exposure, context.old))
    elif comparison.before_after is None or float(comparison.before_after.calibration.exposure[0]) < min_samples:
        return Reason.NOT_COMPARABLE, messages.no_baseline_message(context.old)
    for requests, release in releases:
        if requests < min_samples:
            return Reason.FEW_DATA, messages.few_requests_message(
                requests, release, min_samples, context.parameters.warmup_seconds
            )
    if totals.disturbed_intervals > totals.intervals / 2:
        return Reason.FEW_DATA, messages.disturbed_baseline_message(totals, source.dt, context.old)
    return None


def _missing_instances(source: CounterCheck, measurement: Measurement, context: AnalysisContext) -> Obstacle | None:
    """A PASS needs metrics of every instance of the candidate that takes traffic."""
    oldest = measurement.at - source.counters.stale_seconds
    columns = source.instances.columns
    present = sum(column.release == context.new and column.last_seen >= oldest for column in columns)
    if present >= measurement.routed_count:
        return None
    return Reason.PARTIAL, messages.missing_instances_message(present, measurement.routed_count, context.new)


def _rate(bad: float, exposure: float) -> float | None:
    return bad / exposure if exposure > 0 else None


# -- values, memory, readiness --------------------------------------------------------------------------------------------


def _limit_finding(source: LimitCheck, measurement: Measurement, context: AnalysisContext) -> Finding:
    check, value = source.check, source.candidate[-1]
    known = None if math.isnan(value) else value
    message = messages.limit_message(check, value, context.new)
    more: dict[str, Any] = {
        "candidate": known, "limit": _nearest_limit(check, known), "candidate_count": float(len(source.candidate)),
        "queries": source.query_texts,
    }  # fmt: skip
    if source.has_failed:
        message += f"; beyond the limit {source.violations} times in a row"
        return _finding(
            check, measurement, context, None, message, outcome=Outcome.FAIL, reason=Reason.LIMIT, **more
        )  # fmt: skip
    obstacle = _source_failure(source)
    if obstacle is None and source.violations:
        obstacle = (
            Reason.FEW_DATA,
            f"{message}; beyond the limit {source.violations} times in a row, {check.min_samples} fail the release",
        )
    values = len(_finite_values(source.candidate))
    if obstacle is None and values < check.min_samples:
        obstacle = Reason.FEW_DATA, f"{message}; {messages.few_values_message(values, check.min_samples)}"
    return _finding(check, measurement, context, obstacle, message, **more)


def _source_failure(source: QueryCheck | MemoryCheck) -> Obstacle | None:
    return (source.failure.reason, source.failure.message) if source.failure else None


def _nearest_limit(check: Check, value: float | None) -> float | None:
    """The limit to report: `min` for a value below it or without `max`, otherwise `max`."""
    if check.maximum is None or (check.minimum is not None and value is not None and value < check.minimum):
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
    message = messages.comparison_message(check, _mean(new), _mean(old), (len(new), len(old)), context)
    if evidence.failing_part(check.name):
        values |= {"outcome": Outcome.FAIL, "reason": Reason.WORSE, "blamed_part": "all instances"}
        return _finding(check, measurement, context, None, message, **values)
    obstacle = _source_failure(source)
    if obstacle is None and not measurement.concurrent and "$release" not in check.query:
        obstacle = Reason.NOT_COMPARABLE, messages.no_baseline_message(context.old)
    if obstacle is None and min(len(new), len(old)) < check.min_samples:
        obstacle = Reason.FEW_DATA, messages.few_values_message(min(len(new), len(old)), check.min_samples)
    if obstacle is None and _mean(old) == 0.0 and _mean(new) != 0.0:
        obstacle = Reason.NOT_COMPARABLE, messages.ZERO_BASELINE
    if obstacle is None and (doubt := _query_doubt(source, context, evidence)) is not None:
        obstacle = doubt[0], f"{message}; {doubt[1]}"
    return _finding(check, measurement, context, obstacle, message, **values)


def _query_doubt(source: ComparedQueryCheck, context: AnalysisContext, evidence: EvidenceState) -> Obstacle | None:
    """Why a compared query that did not fail has not passed either, or None."""
    share = evidence.share(source.check.name)
    if not share:
        return Reason.NOT_COMPARABLE, messages.no_baseline_message(context.old)
    needed = blocks_needed(evidence.threshold / share)
    if source.blocks < needed:
        return Reason.FEW_DATA, messages.few_intervals_message(source.blocks, needed, BLOCK_SECONDS)
    evalue = float(source.evalue()[0])
    return (Reason.UNCLEAR, messages.strong_evidence_message(evalue)) if evalue >= STRONG_EVALUE else None


def _finite_values(values: list[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _memory_finding(
    source: MemoryCheck, measurement: Measurement, context: AnalysisContext, evidence: EvidenceState
) -> Finding:
    check, shares = source.check, source.latest
    values: dict[str, Any] = {
        "baseline": shares.get(context.old), "candidate": shares.get(context.new), "queries": source.query_texts,
        "evidence": evidence.share(check.name) * float(source.evalue()[0]),
    }  # fmt: skip
    message = messages.memory_message(check, shares.get(context.new), shares.get(context.old), context)
    if evidence.failing_part(check.name):
        message += f"; grows faster than {context.old}, beyond the tolerated growth"
        values |= {"outcome": Outcome.FAIL, "reason": Reason.WORSE, "blamed_part": "all instances"}
        return _finding(check, measurement, context, None, message, **values)
    obstacle = _source_failure(source)
    if obstacle is None and context.new not in shares:
        obstacle = Reason.NO_DATA, messages.no_series_message(context.new)
    if obstacle is None and measurement.at - source.last_sample_at > STALE_SECONDS:
        obstacle = Reason.STALE, messages.stale_message(measurement.at - source.last_sample_at, STALE_SECONDS)
    if obstacle is None and not source.shows_leak:
        obstacle = Reason.FEW_DATA, f"{message}; {messages.SHORT_TREND}"
    evalue = float(source.evalue()[0])
    if obstacle is None and evalue >= STRONG_EVALUE:
        obstacle = Reason.UNCLEAR, f"{message}; {messages.strong_evidence_message(evalue)}"
    return _finding(check, measurement, context, obstacle, message, **values)


def readiness_finding(
    source: ReadinessCheck, measurement: Measurement, context: AnalysisContext, evidence: EvidenceState
) -> Finding:
    """The finding of the readiness check, which is only reported when it fails the release or is unclear."""
    totals = source.totals
    baseline, candidate = _rate(totals.old_bad, totals.old_exposure), _rate(totals.bad, totals.exposure)
    message = messages.counter_message("not ready in", "probes", totals, None, context, measurement.concurrent)
    evalue, failing = float(source.evalue()[0]), evidence.failing_part(READINESS) is not None
    if not failing:
        message = f"{message}; {messages.strong_evidence_message(evalue)}"
    return Finding(
        READINESS, Outcome.FAIL if failing else Outcome.INCONCLUSIVE, Reason.WORSE if failing else Reason.UNCLEAR,
        f"{READINESS}: {message}", baseline, candidate,
        baseline_count=totals.old_exposure, candidate_count=totals.exposure,
        window=Window(measurement.bake_started_at, measurement.at), blamed_part="all instances" if failing else "",
        evidence=evidence.share(READINESS) * evalue,
    )  # fmt: skip
