"""The analysis of one rollout: takes measurements, returns verdicts. Pure: equal measurements give equal verdicts.

analysis = CanaryAnalysis(rollout, origin)
analysis.queries(now)                   the queries for the metrics source
analysis.add(measurement) -> Verdict    the verdict on this measurement and all before it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tidegate.analysis import findings, messages
from tidegate.analysis.analysis_context import AnalysisContext
from tidegate.analysis.comparison import Comparison
from tidegate.analysis.counter_check import CounterCheck
from tidegate.analysis.error_rate import WARM_UP, ErrorRateCheck
from tidegate.analysis.findings import READINESS, EvidenceState
from tidegate.analysis.instance_checks import MemoryCheck, ReadinessCheck
from tidegate.analysis.latency import LatencyCheck
from tidegate.analysis.measurement import Measurement
from tidegate.analysis.queries import Query
from tidegate.analysis.query_check import ComparedQueryCheck, LimitCheck, QueryCheck
from tidegate.analysis.statistics.combine import CombinedEvidence, EvidencePart
from tidegate.analysis.statistics.confidence import STRONG_EVALUE
from tidegate.analysis.statistics.effect_grid import Array
from tidegate.analysis.statistics.eprocess import EProcess
from tidegate.analysis.statistics.parameters import WEIGHTS, Parameters
from tidegate.analysis.verdict import Finding, Outcome, Verdict
from tidegate.clock import Time, Window
from tidegate.core.model import Check, CheckKind, Policy, Rollout

QUERY_WEIGHT = 0.30  # of the evidence, shared by all compared queries of the user
MAX_HISTORY_POINTS = 120  # points of the evidence over time that a verdict carries

CheckAnalysis = CounterCheck | QueryCheck | MemoryCheck


def parameters_of(policy: Policy) -> Parameters:
    """The default parameters with the budget and the warm-up of the service's policy."""
    return replace(Parameters(), budget=policy.false_abort, warmup_seconds=policy.warmup_seconds)


class _NoEvidence:
    """The evidence of a check that cannot compare yet: an e-value of 1."""

    def evalue(self) -> Array:
        return np.ones(1)


class CanaryAnalysis:
    """`origin`: when the new release first took traffic; the history before it belongs to the baseline.

    `is_preview`: the release takes no traffic yet. A preview has an analysis of its own, with fixed limits only.
    """

    def __init__(self, rollout: Rollout, origin: Time, *, is_preview: bool = False) -> None:
        self.is_preview = is_preview
        self.context = AnalysisContext(rollout, parameters_of(rollout.policy), origin)
        only_limits = is_preview or rollout.old is None
        checks = [check for check in rollout.checks if check.is_limit or not only_limits]
        self._skipped = [check.name for check in rollout.checks if check not in checks]
        self._checks = [_make_check(check, self.context) for check in checks]
        self._readiness = ReadinessCheck(self.context)
        self._history: list[tuple[Time, float]] = []
        self._tested_steps: set[int] = set()
        self.threshold_reached_at: Time | None = None

    @classmethod
    def from_measurements(
        cls, rollout: Rollout, measurements: Sequence[Measurement], origin: Time, *, is_preview: bool
    ) -> CanaryAnalysis:
        """An analysis that has taken its share of these measurements; it starts at `origin` if it has none."""
        own = [measurement for measurement in measurements if measurement.is_preview is is_preview]
        analysis = cls(rollout, own[0].traffic_shifted_at if own else origin, is_preview=is_preview)
        analysis.catch_up(measurements)
        return analysis

    def catch_up(self, measurements: Sequence[Measurement]) -> None:
        """Take its share of measurements whose verdicts exist already: previews or not, as this analysis."""
        for measurement in measurements:
            if measurement.is_preview is self.is_preview:
                self.add(measurement)

    def queries(self, now: Time) -> tuple[Query, ...]:
        """The queries to run now."""
        return tuple(query for source in self._checks for query in source.queries(now))

    def add(self, measurement: Measurement) -> Verdict:
        """The verdict on this measurement and all before it. Until the bake is over, only a FAIL has an effect."""
        self._note_traffic(measurement)
        for source in self._checks:
            name = source.check.name
            source.add(measurement, [(query, result) for query, result in measurement.results if query.check == name])
        self._readiness.add(measurement)
        evidence, results, outcome = self._evaluate(measurement, fixed_test=False)
        if self._is_fixed_test_due(measurement, outcome):
            self._tested_steps.add(measurement.step)
            evidence, results, outcome = self._evaluate(measurement, fixed_test=True)
        self._record(measurement.at, evidence)
        message = messages.verdict_message(outcome, results, self._skipped, final=measurement.final)
        window = Window(measurement.bake_started_at, measurement.at)
        return Verdict(
            outcome, measurement.at, window, tuple(results), message, measurement.final,
            evidence.evidence, evidence.threshold, tuple(self._history), self.threshold_reached_at,
        )  # fmt: skip

    def _evaluate(self, measurement: Measurement, *, fixed_test: bool) -> tuple[EvidenceState, list[Finding], Outcome]:
        """The evidence of all checks that have an effect, all findings, and the outcome; with or without the fixed test."""
        evidence = self._evidence_state(fixed_test, shadow=False)
        shadow = self._evidence_state(fixed_test, shadow=True)
        results = [
            findings.finding_of(source, measurement, self.context, shadow if source.check.shadow else evidence)
            for source in self._checks
        ]
        results += self._readiness_findings(measurement, evidence)
        return evidence, results, combine_outcomes(results, self._checks_by_name())

    def _is_fixed_test_due(self, measurement: Measurement, outcome: Outcome) -> bool:
        """Whether this is the real end of the bake of a step with a concurrent baseline. An INCONCLUSIVE verdict extends
        the bake, and would waste the one test of the step on too little data."""
        ends = measurement.final and measurement.concurrent and measurement.step not in self._tested_steps
        return ends and not (outcome is Outcome.INCONCLUSIVE and measurement.extendable)

    def _note_traffic(self, measurement: Measurement) -> None:
        context = self.context
        if self.is_preview:
            return
        context.shifted_at = measurement.traffic_shifted_at
        if measurement.concurrent:
            context.concurrent_since.setdefault(measurement.step, measurement.traffic_shifted_at)
        elif context.switched_at is None:
            context.switched_at = measurement.traffic_shifted_at

    def _checks_by_name(self) -> dict[str, Check]:
        return {source.check.name: source.check for source in self._checks}

    # -- the evidence -----------------------------------------------------------------------------------------------------

    def _evidence_state(self, fixed_test: bool, *, shadow: bool) -> EvidenceState:
        """The evidence of the shadow checks, or of all others, optionally with the fixed test at the end of a batch."""
        sources = [source for source in self._checks if source.check.shadow is shadow]
        concurrent = self._combined_evidence(sources)
        after, share = self._after_parts(sources), 1.0 - self.context.before_after_share
        total = sum(weight for weight, _ in after.values())
        after_evalue = sum(weight / total * evalue for weight, evalue in after.values()) if after else 1.0
        evidence = (1.0 - share) * after_evalue + share * float(concurrent.evalue()[0])
        threshold = self.context.parameters.threshold if self.context.batches else 1.0 / self.context.parameters.budget
        reached = evidence >= threshold
        blamed = frozenset[str]()
        if reached and (1.0 - share) * after_evalue > share * concurrent.contributions().max(initial=0.0):
            most = max(evalue for _, evalue in after.values())
            blamed = frozenset(name for name, (_, evalue) in after.items() if evalue >= most / 2)
        elif reached:
            blamed = _blamed_parts(concurrent, share, threshold)
        tests = concurrent.fixed_test() if fixed_test else {}
        failing = frozenset(name for name, fails in tests.items() if fails[0])
        return EvidenceState(evidence, threshold, share, concurrent, blamed, failing, total)

    def _combined_evidence(self, sources: Sequence[CheckAnalysis]) -> CombinedEvidence:
        queries = sum(source.check.weight for source in sources if isinstance(source, ComparedQueryCheck)) or 1.0
        parts = [part for source in sources for part in _evidence_parts(source, queries)]
        readiness = EvidencePart(READINESS, WEIGHTS["live"], self._readiness)  # always checked
        return CombinedEvidence([*parts, readiness], max(1, self.context.batches), self.context.parameters)

    def _after_parts(self, sources: Sequence[CheckAnalysis]) -> dict[str, tuple[float, float]]:
        """The weights and e-values of all parts that are compared with the time before the switch; the growth of memory
        needs no such time, and is one of them where there never is a concurrent baseline."""
        parts = {
            f"{source.check.name}/{comparison.name}": (comparison.weight, comparison.after_evalue())
            for source in sources
            if isinstance(source, CounterCheck)
            for comparison in source.comparisons
            if comparison.before_after is not None
        }
        memory = (source for source in sources if isinstance(source, MemoryCheck) and not self.context.batches)
        return parts | {source.check.name: (WEIGHTS["memory"], float(source.evalue()[0])) for source in memory}

    def _readiness_findings(self, measurement: Measurement, evidence: EvidenceState) -> list[Finding]:
        """Readiness is reported only if it fails the release or nearly does, since no user configured it."""
        if READINESS not in evidence.blamed_parts and float(self._readiness.evalue()[0]) < STRONG_EVALUE:
            return []
        return [findings.readiness_finding(self._readiness, measurement, self.context, evidence)]

    def _record(self, at: Time, evidence: EvidenceState) -> None:
        if (evidence.blamed_parts or evidence.fixed_test_parts) and self.threshold_reached_at is None:
            self.threshold_reached_at = at
        self._history.append((at, evidence.evidence))
        if len(self._history) > MAX_HISTORY_POINTS:
            del self._history[1:-1:2]


def _make_check(check: Check, context: AnalysisContext) -> CheckAnalysis:
    match check.kind:
        case CheckKind.ERRORS:
            return ErrorRateCheck(check, context)
        case CheckKind.LATENCY:
            return LatencyCheck(check, context)
        case CheckKind.MEMORY:
            return MemoryCheck(check, context)
        case CheckKind.QUERY:
            return LimitCheck(check, context) if check.is_limit else ComparedQueryCheck(check, context)


def _evidence_parts(source: CheckAnalysis, queries: float) -> list[EvidencePart]:
    """The parts of a check's evidence. A check that cannot compare yet has one, so that the weights do not change."""
    name = source.check.name
    if isinstance(source, CounterCheck):
        kind = source.check.kind.value
        weight = WEIGHTS[kind] + (WEIGHTS["warmup"] if source.check.kind is CheckKind.ERRORS else 0.0)
        parts = [
            EvidencePart(f"{name}/{comparison.name}", comparison.weight, comparison, _fixed_test_process(comparison))
            for comparison in source.comparisons
        ]
        return parts or [EvidencePart(name, weight, _NoEvidence())]
    if isinstance(source, MemoryCheck):
        return [EvidencePart(name, WEIGHTS["memory"], source)]
    if isinstance(source, ComparedQueryCheck):
        return [EvidencePart(name, QUERY_WEIGHT * source.check.weight / queries, source)]
    return []


def _blamed_parts(concurrent: CombinedEvidence, share: float, threshold: float) -> frozenset[str]:
    """The parts with at least half of the largest contribution, and those that reach the threshold alone."""
    contributions = share * concurrent.contributions()[:, 0]
    smallest = min(contributions.max() / 2, threshold)
    return frozenset(part.name for part, value in zip(concurrent.parts, contributions, strict=True) if value >= smallest)


def _fixed_test_process(comparison: Comparison) -> EProcess | None:
    return None if comparison.name == WARM_UP else comparison.process


def combine_outcomes(results: Sequence[Finding], checks: dict[str, Check]) -> Outcome:
    """FAIL if any finding fails; INCONCLUSIVE if a critical check or every check is inconclusive; otherwise PASS."""
    active = [finding for finding in results if not finding.shadow]
    if any(finding.outcome is Outcome.FAIL for finding in active):
        return Outcome.FAIL
    inconclusive = [finding for finding in active if finding.outcome is Outcome.INCONCLUSIVE]
    critical = (finding.check not in checks or checks[finding.check].critical for finding in inconclusive)
    if any(critical) or len(inconclusive) == len(active):
        return Outcome.INCONCLUSIVE
    return Outcome.PASS
