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

    `unseen`: while it takes no traffic yet, which is a trial of its own: only fixed limits are asked about.
    """

    def __init__(self, rollout: Rollout, origin: Time, *, unseen: bool = False) -> None:
        self.unseen = unseen
        self.ground = AnalysisContext(rollout, parameters_of(rollout.policy), origin)
        alone = unseen or rollout.old is None
        query = [check for check in rollout.checks if not alone or check.is_limit]
        self._left_out = [check.name for check in rollout.checks if check not in query]
        self._sources = [_make_check(check, self.ground) for check in query]
        self._live = ReadinessCheck(self.ground)
        self._course: list[tuple[Time, float]] = []
        self._looked: set[int] = set()
        self.crossed: Time | None = None

    @classmethod
    def recalled(
        cls, rollout: Rollout, measurements: Sequence[Measurement], origin: Time, *, unseen: bool
    ) -> CanaryAnalysis:
        """As it is after those of these looks that are its own; `origin` where there are none."""
        own = [measurement for measurement in measurements if measurement.unseen is unseen]
        analysis = cls(rollout, own[0].shifted if own else origin, unseen=unseen)
        analysis.catch_up(measurements)
        return analysis

    def catch_up(self, measurements: Sequence[Measurement]) -> None:
        """Take those of these looks that are its own: somebody else has judged them already."""
        for measurement in measurements:
            if measurement.unseen is self.unseen:
                self.take(measurement)

    def questions(self, now: Time) -> tuple[Query, ...]:
        """All that has to be asked at this moment."""
        return tuple(query for source in self._sources for query in source.questions(now))

    def take(self, measurement: Measurement) -> Verdict:
        """The verdict at a look, from it and all before it. Before the bake is over only a FAIL has an effect."""
        self._note(measurement)
        for source in self._sources:
            source.take(
                measurement, [(query, answer) for query, answer in measurement.answers if query.check == source.check.name]
            )
        self._live.take(measurement)
        first = measurement.final and measurement.concurrent and measurement.step not in self._looked
        self._looked |= {measurement.step} if first else set()
        evidence, shadow = self._standing(measurement, first, shadow=False), self._standing(measurement, first, shadow=True)
        told = [
            findings.finding_of(source, measurement, self.ground, shadow if source.check.shadow else evidence)
            for source in self._sources
        ]
        told += self._readiness(measurement, evidence)
        self._remember(measurement.at, evidence)
        outcome = combine_outcomes(told, self._critical())
        message = messages.verdict_message(outcome, told, self._left_out)
        window = Window(measurement.settled, measurement.at)
        return Verdict(
            outcome, measurement.at, window, tuple(told), message, measurement.final, evidence.evidence, evidence.needed,
            tuple(self._course), self.crossed,
        )  # fmt: skip

    def _note(self, measurement: Measurement) -> None:
        context = self.ground
        if self.unseen:
            return
        if measurement.concurrent:
            context.begun.setdefault(measurement.step, measurement.shifted)
        elif context.switched is None:
            context.switched = measurement.shifted

    def _critical(self) -> dict[str, Check]:
        return {source.check.name: source.check for source in self._sources}

    # -- the evidence -----------------------------------------------------------------------------------------------------

    def _standing(self, measurement: Measurement, first: bool, *, shadow: bool) -> EvidenceState:
        """How far the evidence is, and whose it is; that of shadow checks apart. `first`: the first look at a batch's end,
        when the one fixed look is taken."""
        counted = [source for source in self._sources if source.check.shadow is shadow]
        beside = self._evidence(counted)
        after, ours = self._after(counted), 1.0 - self.ground.before_after_share
        whole = (1.0 - ours) * after + ours * float(beside.evalue()[0])
        needed = self.ground.options.threshold if self.ground.batches else 1.0 / self.ground.options.budget
        blamed = self._strongest(counted, beside, after, ours, needed) if whole >= needed else frozenset[str]()
        fixed = frozenset(name for name, bad in beside.look().items() if bad[0]) if first else frozenset[str]()
        return EvidenceState(whole, needed, ours, beside, blamed, fixed)

    def _evidence(self, sources: Sequence[CheckAnalysis]) -> CombinedEvidence:
        queries = sum(source.check.weight for source in sources if isinstance(source, ComparedQueryCheck)) or 1.0
        result = [part for source in sources for part in _evidence_parts(source, queries)]
        live = EvidencePart(READINESS, WEIGHTS["live"], self._live)  # counts beside what is asked for
        return CombinedEvidence([*result, live], max(1, self.ground.batches), self.ground.options)

    @staticmethod
    def _after(sources: Sequence[CheckAnalysis]) -> float:
        """The e-value against the time before the switch."""
        comparisons = [
            comparison
            for source in sources
            if isinstance(source, CounterCheck)
            for comparison in source.arms
            if comparison.after is not None
        ]
        total = sum(comparison.weight for comparison in comparisons)
        return (
            sum(comparison.weight / total * comparison.after_evalue() for comparison in comparisons) if comparisons else 1.0
        )

    @staticmethod
    def _strongest(
        sources: Sequence[CheckAnalysis], beside: CombinedEvidence, after: float, ours: float, needed: float
    ) -> frozenset[str]:
        """The parts that add the most, and those that would be enough alone; those against the time before when they are
        the reason."""
        each = ours * beside.each()[:, 0]
        if (1.0 - ours) * after > each.max(initial=0.0):
            comparisons = {
                f"{source.check.name}/{comparison.name}": comparison.after_evalue()
                for source in sources
                if isinstance(source, CounterCheck)
                for comparison in source.arms
                if comparison.after is not None
            }
            return frozenset(name for name, value in comparisons.items() if value >= max(comparisons.values()) / 2)
        min_samples = min(each.max() / 2, needed)
        return frozenset(part.name for part, value in zip(beside.parts, each, strict=True) if value >= min_samples)

    def _readiness(self, measurement: Measurement, evidence: EvidenceState) -> list[Finding]:
        """Told only when it is the reason: nobody asked for it by name."""
        if READINESS not in evidence.blamed:
            return []
        return [findings.readiness_finding(self._live, measurement, self.ground, evidence)]

    def _remember(self, at: Time, evidence: EvidenceState) -> None:
        if (evidence.blamed or evidence.fixed) and self.crossed is None:
            self.crossed = at
        self._course.append((at, evidence.evidence))
        if len(self._course) > MAX_HISTORY_POINTS:
            del self._course[1:-1:2]


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
            for comparison in source.arms
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
