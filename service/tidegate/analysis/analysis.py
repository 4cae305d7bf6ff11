"""The judge of one rollout: fed with looks, each answered with a verdict. Pure: the same looks give the same verdicts.

trial = Trial(rollout, origin)
trial.questions(now)          what to ask the metrics
trial.take(look) -> Verdict   what the answers mean, with all that came before
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
from tidegate.analysis.findings import EvidenceState
from tidegate.analysis.instance_checks import MemoryCheck, ReadinessCheck
from tidegate.analysis.latency import LatencyCheck
from tidegate.analysis.measurement import Measurement
from tidegate.analysis.queries import Query
from tidegate.analysis.query_check import ComparedQueryCheck, LimitCheck, QueryCheck
from tidegate.analysis.statistics.combine import CombinedEvidence, EvidencePart
from tidegate.analysis.statistics.effect_grid import Array
from tidegate.analysis.statistics.eprocess import EProcess
from tidegate.analysis.statistics.parameters import WEIGHTS, Parameters
from tidegate.analysis.verdict import Finding, Outcome, Verdict
from tidegate.clock import Time, Window
from tidegate.core.model import Check, CheckKind, Policy, Rollout

QUERY_WEIGHT = 0.30  # shared by the user's own compared queries
READINESS = "readiness"
MAX_HISTORY_POINTS = 120  # of the evidence's course

CheckAnalysis = CounterCheck | QueryCheck | MemoryCheck


def parameters_of(policy: Policy) -> Parameters:
    """The options with what the service's own policy says."""
    return replace(Parameters(), budget=policy.false_abort, warmup_seconds=policy.warmup_seconds)


class _NoEvidence:
    """The evidence of a check that is not ready to be compared: none."""

    def evalue(self) -> Array:
        return np.ones(1)


class CanaryAnalysis:
    """`origin`: when the new release was first routed; the history before it is the baseline's.

    `is_preview`: while it takes no traffic yet, which is a trial of its own: only fixed limits are asked about.
    """

    def __init__(self, rollout: Rollout, origin: Time, *, is_preview: bool = False) -> None:
        self.is_preview = is_preview
        self.context = AnalysisContext(rollout, parameters_of(rollout.policy), origin)
        alone = is_preview or rollout.old is None
        query = [check for check in rollout.checks if not alone or check.is_limit]
        self._skipped = [check.name for check in rollout.checks if check not in query]
        self._checks = [_make_check(check, self.context) for check in query]
        self._readiness = ReadinessCheck(self.context)
        self._history: list[tuple[Time, float]] = []
        self._tested_steps: set[int] = set()
        self.threshold_reached_at: Time | None = None

    @classmethod
    def from_measurements(
        cls, rollout: Rollout, measurements: Sequence[Measurement], origin: Time, *, is_preview: bool
    ) -> CanaryAnalysis:
        """As it is after those of these looks that are its own; `origin` where there are none."""
        own = [measurement for measurement in measurements if measurement.is_preview is is_preview]
        analysis = cls(rollout, own[0].traffic_shifted_at if own else origin, is_preview=is_preview)
        analysis.catch_up(measurements)
        return analysis

    def catch_up(self, measurements: Sequence[Measurement]) -> None:
        """Take those of these looks that are its own: somebody else has judged them already."""
        for measurement in measurements:
            if measurement.is_preview is self.is_preview:
                self.add(measurement)

    def queries(self, now: Time) -> tuple[Query, ...]:
        """All that has to be asked at this moment."""
        return tuple(query for source in self._checks for query in source.queries(now))

    def add(self, measurement: Measurement) -> Verdict:
        """The verdict at a look, from it and all before it. Before the bake is over only a FAIL has an effect."""
        self._note_traffic(measurement)
        for source in self._checks:
            source.add(
                measurement, [(query, answer) for query, answer in measurement.results if query.check == source.check.name]
            )
        self._readiness.add(measurement)
        first = measurement.final and measurement.concurrent and measurement.step not in self._tested_steps
        self._tested_steps |= {measurement.step} if first else set()
        evidence, shadow = (
            self._evidence_state(measurement, first, shadow=False),
            self._evidence_state(measurement, first, shadow=True),
        )
        told = [
            findings.finding_of(source, measurement, self.context, shadow if source.check.shadow else evidence)
            for source in self._checks
        ]
        told += self._readiness_findings(measurement, evidence)
        self._record(measurement.at, evidence)
        outcome = combine_outcomes(told, self._checks_by_name())
        message = messages.verdict_message(outcome, told, self._skipped)
        window = Window(measurement.bake_started_at, measurement.at)
        return Verdict(
            outcome, measurement.at, window, tuple(told), message, measurement.final, evidence.evidence, evidence.threshold,
            tuple(self._history), self.threshold_reached_at,
        )  # fmt: skip

    def _note_traffic(self, measurement: Measurement) -> None:
        context = self.context
        if self.is_preview:
            return
        if measurement.concurrent:
            context.concurrent_since.setdefault(measurement.step, measurement.traffic_shifted_at)
        elif context.switched_at is None:
            context.switched_at = measurement.traffic_shifted_at

    def _checks_by_name(self) -> dict[str, Check]:
        return {source.check.name: source.check for source in self._checks}

    # -- the evidence -----------------------------------------------------------------------------------------------------

    def _evidence_state(self, measurement: Measurement, first: bool, *, shadow: bool) -> EvidenceState:
        """How far the evidence is, and whose it is; that of shadow checks apart. `first`: the first look at a batch's end,
        when the one fixed look is taken."""
        counted = [source for source in self._checks if source.check.shadow is shadow]
        beside = self._combined_evidence(counted)
        after, ours = self._before_after_evalue(counted), 1.0 - self.context.before_after_share
        whole = (1.0 - ours) * after + ours * float(beside.evalue()[0])
        needed = self.context.parameters.threshold if self.context.batches else 1.0 / self.context.parameters.budget
        blamed = self._blamed_parts(counted, beside, after, ours, needed) if whole >= needed else frozenset[str]()
        fixed = frozenset(name for name, bad in beside.fixed_test().items() if bad[0]) if first else frozenset[str]()
        return EvidenceState(whole, needed, ours, beside, blamed, fixed)

    def _combined_evidence(self, sources: Sequence[CheckAnalysis]) -> CombinedEvidence:
        queries = sum(source.check.weight for source in sources if isinstance(source, ComparedQueryCheck)) or 1.0
        result = [part for source in sources for part in _evidence_parts(source, queries)]
        live = EvidencePart(READINESS, WEIGHTS["live"], self._readiness)  # counts beside what is asked for
        return CombinedEvidence([*result, live], max(1, self.context.batches), self.context.parameters)

    @staticmethod
    def _before_after_evalue(sources: Sequence[CheckAnalysis]) -> float:
        """The e-value against the time before the switch."""
        comparisons = [
            comparison
            for source in sources
            if isinstance(source, CounterCheck)
            for comparison in source.comparisons
            if comparison.before_after is not None
        ]
        total = sum(comparison.weight for comparison in comparisons)
        return (
            sum(comparison.weight / total * comparison.after_evalue() for comparison in comparisons) if comparisons else 1.0
        )

    @staticmethod
    def _blamed_parts(
        sources: Sequence[CheckAnalysis], beside: CombinedEvidence, after: float, ours: float, needed: float
    ) -> frozenset[str]:
        """The parts that add the most, and those that would be enough alone; those against the time before when they are
        the reason."""
        each = ours * beside.contributions()[:, 0]
        if (1.0 - ours) * after > each.max(initial=0.0):
            comparisons = {
                f"{source.check.name}/{comparison.name}": comparison.after_evalue()
                for source in sources
                if isinstance(source, CounterCheck)
                for comparison in source.comparisons
                if comparison.before_after is not None
            }
            return frozenset(name for name, value in comparisons.items() if value >= max(comparisons.values()) / 2)
        min_samples = min(each.max() / 2, needed)
        return frozenset(part.name for part, value in zip(beside.parts, each, strict=True) if value >= min_samples)

    def _readiness_findings(self, measurement: Measurement, evidence: EvidenceState) -> list[Finding]:
        """Told only when it is the reason: nobody asked for it by name."""
        if READINESS not in evidence.blamed_parts:
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
    """A check's shares of the evidence, whether it can be compared already or not."""
    name = source.check.name
    if isinstance(source, CounterCheck):
        kind = source.check.kind.value
        whole = WEIGHTS[kind] + (WEIGHTS["warmup"] if source.check.kind is CheckKind.ERRORS else 0.0)
        result = [
            EvidencePart(f"{name}/{comparison.name}", comparison.weight, comparison, _fixed_test_process(comparison))
            for comparison in source.comparisons
        ]
        return result or [EvidencePart(name, whole, _NoEvidence())]
    if isinstance(source, MemoryCheck):
        return [EvidencePart(name, WEIGHTS["memory"], source)]
    if isinstance(source, ComparedQueryCheck):
        return [EvidencePart(name, QUERY_WEIGHT * source.check.weight / queries, source)]
    return []


def _fixed_test_process(comparison: Comparison) -> EProcess | None:
    return None if comparison.name == WARM_UP else comparison.process


def combine_outcomes(told: Sequence[Finding], checks: dict[str, Check]) -> Outcome:
    """Any FAIL is a FAIL, whatever else is unknown; then any critical unknown; where nothing is known at all, unknown."""
    counted = [finding for finding in told if not finding.shadow]
    if any(finding.outcome is Outcome.FAIL for finding in counted):
        return Outcome.FAIL
    unknown = [finding for finding in counted if finding.outcome is Outcome.INCONCLUSIVE]
    if any(checks[finding.check].critical for finding in unknown) or len(unknown) == len(counted):
        return Outcome.INCONCLUSIVE
    return Outcome.PASS
