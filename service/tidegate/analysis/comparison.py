"""One count of a check: the evidence beside a baseline, and against the time before the switch. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.analysis.analysis_context import AnalysisContext
from tidegate.analysis.statistics.before_after import BeforeAfter, calibrate_in_time
from tidegate.analysis.statistics.confidence import confidence_bounds, min_detectable_ratio, rules_out_harm
from tidegate.analysis.statistics.effect_grid import Array
from tidegate.analysis.statistics.eprocess import EProcess, MetricModel
from tidegate.analysis.statistics.parameters import Parameters
from tidegate.clock import Time

Mask = NDArray[np.bool_]
MINUTE = 60.0


@dataclass(frozen=True, eq=False)
class InstanceCounts:
    """What happened in one interval: counts [1, instances]; who is compared, who is new at all, who is old."""

    start: Time
    bad: Array
    exposure: Array
    warm: Mask
    new: Mask
    old: Mask


@dataclass
class ComparisonTotals:
    """Bad events and exposures of both sides, of what was compared."""

    bad: float = 0.0
    exposure: float = 0.0
    old_bad: float = 0.0
    old_exposure: float = 0.0
    intervals: int = 0
    disturbed_intervals: int = 0  # intervals that said nothing, because the baseline itself was disturbed

    def add(self, counts: InstanceCounts, *, held: bool) -> None:
        """One more interval."""
        self.intervals += bool(counts.warm.any())
        self.disturbed_intervals += held and bool(counts.warm.any())
        self.bad += float((counts.bad * counts.warm).sum())
        self.exposure += float((counts.exposure * counts.warm).sum())
        self.old_bad += float((counts.bad * counts.old).sum())
        self.old_exposure += float((counts.exposure * counts.old).sum())


@dataclass(eq=False)
class BaselineHistory:
    """The old release's totals, minute by minute [1, minutes], up to the switch. `time_sd`: the prior of the log rate's
    standard deviation over time."""

    kind: MetricModel
    bad: Array
    exposure: Array
    time_sd: float
    parameters: Parameters
    _minute: int | None = None

    def add(self, counts: InstanceCounts) -> None:
        """An interval with the old release beside the new one."""
        minute = int(counts.start // MINUTE)
        if minute != self._minute:
            self._minute = minute
            self.bad, self.exposure = (np.pad(each, ((0, 0), (0, 1))) for each in (self.bad, self.exposure))
        self.bad[0, -1] += float((counts.bad * counts.old).sum())
        self.exposure[0, -1] += float((counts.exposure * counts.old).sum())

    def before_after(self) -> BeforeAfter:
        """The evidence against these totals."""
        known = calibrate_in_time(self.bad, self.exposure, MINUTE, self.time_sd, self.parameters)
        return BeforeAfter(self.kind, known, self.parameters)


@dataclass(frozen=True)
class RateRatio:
    """Candidate over the baseline's present `rate`: the likeliest, what is possible (0.95, at any time; `unbounded` at the
    end of what was tried), the margin, whether harm is ruled out, and the smallest that these data would have shown (None:
    none).
    """

    rate: float

    estimate: float
    low: float
    high: float
    unbounded_low: bool
    unbounded_high: bool
    margin: float
    harm_ruled_out: bool
    min_detectable: float | None


class Comparison:
    """`harm`: the rate ratio that a certificate rules out, from the baseline's rate."""

    def __init__(
        self,
        name: str,
        weight: float,
        context: AnalysisContext,
        process: EProcess | None,
        before: BaselineHistory | None,
        *,
        warming: bool = False,
        harm: float = 3.0,
    ) -> None:
        self.name, self.weight, self.process = name, weight, process
        self.before_after: BeforeAfter | None = None  # once nothing of the old release serves any more
        self._before = before
        self._context, self._is_warm_up, self._harm = context, warming, harm
        self._batches: set[int] = set()
        self.totals, self.step_totals = (
            ComparisonTotals(),
            ComparisonTotals(),
        )  # of the whole rollout, and of the present step

    def advance(self, counts: InstanceCounts) -> None:
        """Take in an interval."""
        if self._is_warm_up:
            counts = InstanceCounts(counts.start, counts.bad, counts.exposure, counts.new, counts.new, counts.old)
        if self.process is not None and counts.old.any():
            self._begin_batches(counts.start)
            self.process.advance(counts.bad, counts.exposure, counts.warm, counts.old)
        if self._before is not None:
            self._compare_with_before(self._before, counts)
        held = self.process is not None and bool(counts.old.any()) and bool(self.process.is_disturbed[0])
        self.totals.add(counts, held=held)
        self.step_totals.add(counts, held=held)

    def _compare_with_before(self, before: BaselineHistory, counts: InstanceCounts) -> None:
        """The old release's totals until the switch; the new one's after it, once it is warm."""
        switched = self._context.switched_at
        if switched is None or counts.start < switched:
            before.add(counts)
            return
        self.before_after = self.before_after or before.before_after()
        if counts.start >= switched + self._context.parameters.warmup_seconds:
            self.before_after.advance((counts.bad * counts.new).sum(1), (counts.exposure * counts.new).sum(1).astype(float))

    def _begin_batches(self, start: Time) -> None:
        """A process begins with each batch, when its instances are warm; that of warm-up once, at once."""
        assert self.process is not None
        wait = 0.0 if self._is_warm_up else self._context.parameters.warmup_seconds
        for step, at in self._context.concurrent_since.items():
            if step not in self._batches and start >= at + wait and not (self._is_warm_up and self._batches):
                self.process.begin_batch()
                self._batches.add(step)

    def evalue(self) -> Array:
        """[1]: against the baseline beside the candidate."""
        return np.ones(1) if self.process is None else self.process.evalue()

    def worst_instance(self) -> int | None:
        """The place of the instance that condemns the release alone, where that is stronger than all of them together."""
        if self.process is None or self.process.per_instance is None:
            return None
        alone = {place: float(result[0]) for place, result in self.process.per_instance.evalues().items()}
        if not alone or self.process.per_instance.evalue()[0] <= self.process.group_evalue()[0]:
            return None
        return max(alone, key=lambda place: alone[place])

    def ratio(self, needed: float) -> RateRatio | None:
        """What is known of candidate over baseline; `needed` is the evidence that this arm would have to reach."""
        told = self.process or self.before_after
        if told is None:
            return None
        on, margin = told.model.grid, float(told.margin[0])
        low, high = (float(end[0]) for end in confidence_bounds(told.log_sums, on))
        known = told.calibration
        rate = float(self.process.baseline_rate.current().rate[0]) if self.process else float(known.rate[0])
        old = self.totals.old_exposure if self.process else float(known.exposure[0])
        dispersion = float(known.dispersion[0])
        return RateRatio(
            rate=rate,
            estimate=float(np.exp(on.theta[told.log_sums[0].argmax()])) * margin,
            low=float(np.exp(low)) * margin,
            high=float(np.exp(high)) * margin,
            unbounded_low=low <= on.theta[0],
            unbounded_high=high >= on.theta[-1],
            margin=margin,
            harm_ruled_out=bool(rules_out_harm(told.log_sums, on, np.log([self._harm / margin]))[0]),
            min_detectable=min_detectable_ratio(on, rate, margin, dispersion, self.totals.exposure, old, needed),
        )

    def after_evalue(self) -> float:
        """Against the time before the switch."""
        return 1.0 if self.before_after is None else float(self.before_after.evalue()[0])
