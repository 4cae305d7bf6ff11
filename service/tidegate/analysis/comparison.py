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
    compared: Mask
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
    held: int = 0  # intervals that said nothing, because the baseline itself was disturbed

    def add(self, counts: InstanceCounts, *, held: bool) -> None:
        """One more interval."""
        self.intervals += bool(counts.compared.any())
        self.held += held and bool(counts.compared.any())
        self.bad += float((counts.bad * counts.compared).sum())
        self.exposure += float((counts.exposure * counts.compared).sum())
        self.old_bad += float((counts.bad * counts.old).sum())
        self.old_exposure += float((counts.exposure * counts.old).sum())


@dataclass(eq=False)
class BaselineHistory:
    """The old release's totals, minute by minute [1, minutes], up to the switch. `steady`: the prior of the log rate's
    standard deviation over time."""

    kind: MetricModel
    bad: Array
    exposure: Array
    steady: float
    options: Parameters
    _minute: int | None = None

    def add(self, counts: InstanceCounts) -> None:
        """An interval with the old release beside the new one."""
        minute = int(counts.start // MINUTE)
        if minute != self._minute:
            self._minute = minute
            self.bad, self.exposure = (np.pad(each, ((0, 0), (0, 1))) for each in (self.bad, self.exposure))
        self.bad[0, -1] += float((counts.bad * counts.old).sum())
        self.exposure[0, -1] += float((counts.exposure * counts.old).sum())

    def compared(self) -> BeforeAfter:
        """The evidence against these totals."""
        known = calibrate_in_time(self.bad, self.exposure, MINUTE, self.steady, self.options)
        return BeforeAfter(self.kind, known, self.options)


@dataclass(frozen=True)
class RateRatio:
    """Candidate over the baseline's present `rate`: the likeliest, what is possible (0.95, at any time; `unbounded` at the
    end of what was tried), the margin, whether harm is ruled out, and the smallest that these data would have shown (None:
    none).
    """

    rate: float

    best: float
    low: float
    high: float
    unbounded_low: bool
    unbounded_high: bool
    margin: float
    certified: bool
    visible: float | None


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
        self.after: BeforeAfter | None = None  # once nothing of the old release serves any more
        self._before = before
        self._ground, self._warming, self._harm = context, warming, harm
        self._batches: set[int] = set()
        self.all, self.step = ComparisonTotals(), ComparisonTotals()  # of the whole rollout, and of the present step

    def advance(self, counts: InstanceCounts) -> None:
        """Take in an interval."""
        if self._warming:
            counts = InstanceCounts(counts.start, counts.bad, counts.exposure, counts.new, counts.new, counts.old)
        if self.process is not None and counts.old.any():
            self._begin(counts.start)
            self.process.advance(counts.bad, counts.exposure, counts.compared, counts.old)
        if self._before is not None:
            self._compare_with_before(self._before, counts)
        held = self.process is not None and bool(counts.old.any()) and bool(self.process.held[0])
        self.all.add(counts, held=held)
        self.step.add(counts, held=held)

    def _compare_with_before(self, before: BaselineHistory, counts: InstanceCounts) -> None:
        """The old release's totals until the switch; the new one's after it, once it is warm."""
        switched = self._ground.switched
        if switched is None or counts.start < switched:
            before.add(counts)
            return
        self.after = self.after or before.compared()
        if counts.start >= switched + self._ground.options.warmup_seconds:
            self.after.advance((counts.bad * counts.new).sum(1), (counts.exposure * counts.new).sum(1).astype(float))

    def _begin(self, start: Time) -> None:
        """A process begins with each batch, when its instances are warm; that of warm-up once, at once."""
        assert self.process is not None
        wait = 0.0 if self._warming else self._ground.options.warmup_seconds
        for step, at in self._ground.begun.items():
            if step not in self._batches and start >= at + wait and not (self._warming and self._batches):
                self.process.begin_batch()
                self._batches.add(step)

    def evalue(self) -> Array:
        """[1]: against the baseline beside the candidate."""
        return np.ones(1) if self.process is None else self.process.evalue()

    def worst(self) -> int | None:
        """The place of the instance that condemns the release alone, where that is stronger than all of them together."""
        if self.process is None or self.process.alone is None:
            return None
        alone = {place: float(result[0]) for place, result in self.process.alone.each().items()}
        if not alone or self.process.alone.evalue()[0] <= self.process.group_evalue()[0]:
            return None
        return max(alone, key=lambda place: alone[place])

    def ratio(self, needed: float) -> RateRatio | None:
        """What is known of candidate over baseline; `needed` is the evidence that this arm would have to reach."""
        told = self.process or self.after
        if told is None:
            return None
        on, margin = told.kind.grid, float(told.margin[0])
        low, high = (float(end[0]) for end in confidence_bounds(told.log_sums, on))
        known = told.calibration
        rate = float(self.process.rate.now().rate[0]) if self.process else float(known.rate[0])
        old = self.all.old_exposure if self.process else float(known.exposure[0])
        dispersion = float(known.dispersion[0])
        return RateRatio(
            rate=rate,
            best=float(np.exp(on.theta[told.log_sums[0].argmax()])) * margin,
            low=float(np.exp(low)) * margin,
            high=float(np.exp(high)) * margin,
            unbounded_low=low <= on.theta[0],
            unbounded_high=high >= on.theta[-1],
            margin=margin,
            certified=bool(rules_out_harm(told.log_sums, on, np.log([self._harm / margin]))[0]),
            visible=min_detectable_ratio(on, rate, margin, dispersion, self.all.exposure, old, needed),
        )

    def after_evalue(self) -> float:
        """Against the time before the switch."""
        return 1.0 if self.after is None else float(self.after.evalue()[0])
