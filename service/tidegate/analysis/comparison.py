"""One count of a check, compared with a concurrent baseline and with the time before the switch. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.analysis.analysis_context import AnalysisContext
from tidegate.analysis.statistics.before_after import BeforeAfter, calibrate_in_time
from tidegate.analysis.statistics.confidence import (
    confidence_bounds,
    min_detectable_ratio,
    rules_out_harm,
    tolerated_events,
)
from tidegate.analysis.statistics.effect_grid import Array
from tidegate.analysis.statistics.eprocess import EProcess, MetricModel
from tidegate.analysis.statistics.parameters import Parameters
from tidegate.clock import Time

Mask = NDArray[np.bool_]
MINUTE = 60.0


@dataclass(frozen=True, eq=False)
class InstanceCounts:
    """One interval: counts [1, instances], and masks [instances] of the candidate (`warm`: after warm-up) and baseline."""

    start: Time
    bad: Array
    exposure: Array
    warm: Mask
    new: Mask
    old: Mask


@dataclass
class ComparisonTotals:
    """Bad events and exposures (requests or probes) of both releases, but not while the whole candidate warms up.

    `intervals`: all of these intervals; `compared_intervals`: those that counted as evidence for all instances of the
    candidate, `disturbed_intervals`: those that did not because the baseline itself was disturbed.
    """

    bad: float = 0.0
    exposure: float = 0.0
    old_bad: float = 0.0
    old_exposure: float = 0.0
    intervals: int = 0
    compared_intervals: int = 0
    disturbed_intervals: int = 0

    def add(self, counts: InstanceCounts, *, disturbed: bool, concurrent: bool = True) -> None:
        """Add an interval; `disturbed`: the baseline was; `concurrent`: it takes traffic.

        Ignored while the whole candidate warms up: both rates are of the same time, or a shared outage would look worse on
        the release that was counted for a shorter time.
        """
        if not counts.warm.any() and counts.new.any():
            return
        exposed = (counts.exposure * counts.warm).any() and (not concurrent or (counts.exposure * counts.old).any())
        self.intervals += bool(counts.warm.any())
        self.disturbed_intervals += disturbed and bool(counts.warm.any())
        self.compared_intervals += bool(exposed) and not disturbed and bool((counts.warm == counts.new).all())
        self.bad += float((counts.bad * counts.warm).sum())
        self.exposure += float((counts.exposure * counts.warm).sum())
        self.old_bad += float((counts.bad * counts.old).sum())
        self.old_exposure += float((counts.exposure * counts.old).sum())


@dataclass(eq=False)
class BaselineHistory:
    """The totals of the old release per minute [1, minutes] up to the switch. `time_sd`: the prior standard deviation of
    the log rate over time."""

    kind: MetricModel
    bad: Array
    exposure: Array
    time_sd: float
    parameters: Parameters
    _minute: int | None = None

    def add(self, counts: InstanceCounts) -> None:
        """Add an interval in which the old release took traffic."""
        minute = int(counts.start // MINUTE)
        if minute != self._minute:
            self._minute = minute
            self.bad, self.exposure = (np.pad(counted, ((0, 0), (0, 1))) for counted in (self.bad, self.exposure))
        self.bad[0, -1] += float((counts.bad * counts.old).sum())
        self.exposure[0, -1] += float((counts.exposure * counts.old).sum())

    def before_after(self) -> BeforeAfter:
        """A comparison with these totals."""
        calibration = calibrate_in_time(self.bad, self.exposure, MINUTE, self.time_sd, self.parameters)
        return BeforeAfter(self.kind, calibration, self.parameters)


@dataclass(frozen=True)
class RateRatio:
    """The ratio of the candidate's rate to the baseline's current `rate`.

    `estimate` is the maximum-likelihood ratio, `low` and `high` its confidence sequence (95 %, valid at any time; unbounded
    at the ends of the effect grid), `margin` the tolerated ratio, `usual_margin` the same with usual differences between
    hosts only, `limit` the highest tolerated rate, and `min_detectable` the smallest ratio that these data would have shown
    (None: none).
    """

    rate: float
    estimate: float
    low: float
    high: float
    unbounded_low: bool
    unbounded_high: bool
    margin: float
    usual_margin: float
    limit: float
    harm_ruled_out: bool
    min_detectable: float | None


class Comparison:
    """`harm`: the rate ratio that `harm_ruled_out` refers to. `warming`: counts instances during their warm-up, too."""

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
        self.before_after: BeforeAfter | None = None  # once no instance of the old release takes traffic
        self._before = before
        self._context, self._is_warm_up, self._harm = context, warming, harm
        self._batches: set[int] = set()
        self.totals, self.step_totals = ComparisonTotals(), ComparisonTotals()  # of the whole rollout, and of this step

    def advance(self, counts: InstanceCounts) -> None:
        """Add an interval."""
        if self._is_warm_up:
            counts = InstanceCounts(counts.start, counts.bad, counts.exposure, counts.new, counts.new, counts.old)
        if self.process is not None and counts.old.any():
            self._begin_batches(counts.start)
            self.process.advance(counts.bad, counts.exposure, counts.warm, counts.old)
        if self._before is not None:
            self._compare_with_before(self._before, counts)
        switched = self._context.switched_at is not None and counts.start >= self._context.switched_at
        disturbed = self.process is not None and bool(counts.old.any()) and bool(self.process.is_disturbed[0])
        for totals in (self.totals, self.step_totals):
            totals.add(counts, disturbed=disturbed and not switched, concurrent=not switched)

    def _compare_with_before(self, before: BaselineHistory, counts: InstanceCounts) -> None:
        """Until the switch the interval is history; after it, and after the warm-up, it is compared with the history."""
        switched = self._context.switched_at
        if switched is None or counts.start < switched:
            before.add(counts)
            return
        self.before_after = self.before_after or before.before_after()
        if counts.start >= switched + self._context.parameters.warmup_seconds:
            self.before_after.advance((counts.bad * counts.new).sum(1), (counts.exposure * counts.new).sum(1).astype(float))

    def _begin_batches(self, start: Time) -> None:
        """Start a process for each batch whose instances are warm; the warm-up comparison has one, started at once."""
        assert self.process is not None
        wait = 0.0 if self._is_warm_up else self._context.parameters.warmup_seconds
        for step, at in self._context.concurrent_since.items():
            if step not in self._batches and start >= at + wait and not (self._is_warm_up and self._batches):
                self.process.begin_batch()
                self._batches.add(step)

    def evalue(self) -> Array:
        """[1]: the e-value against the concurrent baseline."""
        return np.ones(1) if self.process is None else self.process.evalue()

    def worst_instance(self) -> int | None:
        """The index of the worst instance, if single instances have more evidence than all of them together."""
        if self.process is None or self.process.per_instance is None:
            return None
        evalues = {index: float(evalue[0]) for index, evalue in self.process.per_instance.evalues().items()}
        if not evalues or self.process.per_instance.evalue()[0] <= self.process.group_evalue()[0]:
            return None
        return max(evalues, key=lambda index: evalues[index])

    def ratio(self, needed: float) -> RateRatio | None:
        """The ratio of candidate to baseline; `needed` is the e-value of all instances at which this comparison would fail
        the release. Without a concurrent baseline all is relative to the time before."""
        evidence = self.before_after or self.process
        if evidence is None:
            return None
        totals = self.totals if self.before_after is None else self.step_totals
        grid, margin = evidence.model.grid, float(evidence.margin[0])
        low, high = (float(bound[0]) for bound in confidence_bounds(evidence.log_sums, grid))
        calibration = evidence.calibration
        if isinstance(evidence, EProcess):
            rate, old = float(evidence.baseline_rate.current().rate[0]), totals.old_exposure
        else:
            rate, old = float(calibration.rate[0]), float(calibration.exposure[0])
        dispersion = float(calibration.dispersion[0])
        return RateRatio(
            rate=rate,
            estimate=float(np.exp(grid.theta[evidence.log_sums[0].argmax()])) * margin,
            low=float(np.exp(low)) * margin,
            high=float(np.exp(high)) * margin,
            unbounded_low=low <= grid.theta[0],
            unbounded_high=high >= grid.theta[-1],
            margin=margin,
            usual_margin=float(evidence.margin_at(np.array([rate]), usual=True)[0]),
            limit=self._limit(rate * margin, evidence),
            harm_ruled_out=bool(rules_out_harm(evidence.log_sums, grid, np.log([self._harm / margin]))[0]),
            min_detectable=min_detectable_ratio(
                grid, rate, margin, dispersion,
                new=totals.exposure, old=old, needed=needed,
                intervals=totals.compared_intervals, max_nats=self._context.parameters.interval_nats,
            ),
        )  # fmt: skip

    def _limit(self, current: float, evidence: EProcess | BeforeAfter) -> float:
        """The highest tolerated rate of this step: at the rate `current`, or at more if the baseline's measured rate allows
        more."""
        totals, measured = self.step_totals, 0.0
        if totals.old_bad:
            measured = totals.old_bad / totals.old_exposure
            measured *= float(evidence.margin_at(np.array([measured]))[0])
        rate, exposure = np.array([min(1.0, max(current, measured))]), np.array([totals.exposure])
        if not totals.exposure:
            return float(rate[0])
        return min(1.0, float((tolerated_events(rate, exposure, evidence.calibration.dispersion) / exposure)[0]))

    def strongest_evalue(self) -> float:
        """The larger of the e-values against the concurrent baseline and against the time before the switch."""
        return max(float(self.evalue()[0]), self.after_evalue())

    def is_beyond_limit(self, limit: float) -> bool:
        """Whether the candidate's measured rate of this step is above the limit."""
        return self.step_totals.bad > limit * self.step_totals.exposure * (1 + 1e-9)

    def after_evalue(self) -> float:
        """The e-value against the time before the switch; 1 before the switch."""
        return 1.0 if self.before_after is None else float(self.before_after.evalue()[0])
