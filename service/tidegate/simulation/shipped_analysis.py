"""The analysis of Tidegate on simulated rollouts: the same evidence as in the engine, interval by interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tidegate.analysis.analysis_context import BEFORE_AFTER_SHARE
from tidegate.analysis.statistics import before_after, metric_models
from tidegate.analysis.statistics.before_after import BeforeAfter, calibrate_in_time
from tidegate.analysis.statistics.calibration import Calibration
from tidegate.analysis.statistics.combine import CombinedEvidence, EvidencePart
from tidegate.analysis.statistics.confidence import STRONG_EVALUE, confidence_bounds, tolerated_events
from tidegate.analysis.statistics.eprocess import EProcess, MetricModel
from tidegate.analysis.statistics.memory_trend import MemoryTrend
from tidegate.analysis.statistics.parameters import MIN_INTERVALS, WEIGHTS, Parameters
from tidegate.simulation.blue_green import GeneratedSwitch
from tidegate.simulation.distributions import Counts, Floats, Mask
from tidegate.simulation.generator import BUCKET_BOUNDS, GeneratedRollout
from tidegate.simulation.result import AbortResult

DEFAULT_PARAMETERS = Parameters()
MIN_REQUESTS = 50  # the default `min_requests` of a check
MINUTE = 60.0


def analyze(rollouts: GeneratedRollout, parameters: Parameters = DEFAULT_PARAMETERS) -> AbortResult:
    """When the analysis rolls back each rolling update, if it does."""
    analysis = _AnalysisRun(rollouts, parameters)
    replicates, intervals = rollouts.N.shape[:2]
    seconds, bakes, unclear = np.full(replicates, np.inf), np.zeros(replicates), np.zeros(replicates)
    ends = [min(round((number + 1) * rollouts.window / rollouts.dt), intervals) - 1 for number in range(rollouts.batches)]
    for interval in range(intervals):
        analysis.begin(interval)
        analysis.advance(interval)
        failing = analysis.evalue() >= parameters.threshold
        if interval in ends[: rollouts.analyzed_batches]:
            failing = failing | np.any(list(analysis.evidence.fixed_test().values()), axis=0)
        seconds = np.where(failing & np.isinf(seconds), (interval + 1) * rollouts.dt, seconds)
        if interval in ends[: rollouts.analyzed_batches]:
            bakes, unclear = bakes + np.isinf(seconds), unclear + (np.isinf(seconds) & analysis.is_inconclusive())
    return AbortResult(np.isfinite(seconds), seconds, bakes, unclear)


def analyze_switch(rollouts: GeneratedSwitch, parameters: Parameters = DEFAULT_PARAMETERS) -> AbortResult:
    """When the analysis rolls back each blue-green switch, if it does: compared with the time before only."""
    past = rollouts.N[:, : rollouts.switch]
    slower = rollouts.S[:, : rollouts.switch].sum((0, 1))
    bounds = metric_models.latency_bounds(BUCKET_BOUNDS, slower.astype(float), float(past.sum()), parameters)
    weights = before_after.WEIGHTS
    comparisons = [
        (
            weights["errors"],
            rollouts.X,
            _before(rollouts, rollouts.X, metric_models.errors_model(parameters), before_after.ERRORS_SD, parameters),
        )
    ]
    for bound in bounds:
        counts = rollouts.S[..., bound.index]
        time_sd = max(before_after.LATENCY_SD * bound.slope, metric_models.MIN_HOST_SD)
        comparisons.append(
            (weights["latency"] / len(bounds), counts, _before(rollouts, counts, bound.model, time_sd, parameters))
        )
    begin = rollouts.switch + int(parameters.warmup_seconds / rollouts.dt)
    seconds = np.full(len(rollouts.N), np.inf)
    for interval in range(begin, rollouts.N.shape[1]):
        for _, counts, comparison in comparisons:
            comparison.advance(_floats(counts[:, interval]), _floats(rollouts.N[:, interval]))
        evidence = sum(weight * comparison.evalue() for weight, _, comparison in comparisons)
        crossed = (evidence >= 1 / parameters.budget) & np.isinf(seconds)
        seconds = np.where(crossed, (interval + 1 - rollouts.switch) * rollouts.dt, seconds)
    return AbortResult(np.isfinite(seconds), seconds)


def _before(
    rollouts: GeneratedSwitch, counts: Counts, model: MetricModel, time_sd: float, parameters: Parameters
) -> BeforeAfter:
    bad, exposure = _floats(counts[:, : rollouts.switch]), _floats(rollouts.N[:, : rollouts.switch])
    return BeforeAfter(model, calibrate_in_time(bad, exposure, rollouts.dt, time_sd, parameters), parameters)


def _floats(counts: Counts) -> Floats:
    return np.asarray(counts, dtype=np.float64)


class _BatchTotals:
    """One count of both releases since a batch began, as the analysis of a rollout sums it; all [R]."""

    def __init__(self, process: EProcess, replicates: int) -> None:
        self.process = process
        self.begin(replicates)

    def begin(self, replicates: int) -> None:
        """A batch begins."""
        self.bad, self._requests, self._old_bad, self._old_requests = np.zeros((4, replicates))
        self._intervals, self._compared, self._disturbed = np.zeros((3, replicates))

    def advance(self, bad: Floats, requests: Floats, new: Mask, old: Mask, *, complete: bool) -> None:
        """Add an interval. `complete`: all instances of the new release are warm."""
        if not new.any():
            return
        disturbed = self.process.is_disturbed
        old_requests, new_requests = (requests * old).sum(1), (requests * new).sum(1)
        self._intervals = self._intervals + 1
        self._disturbed = self._disturbed + disturbed
        self._compared = self._compared + ((new_requests > 0) & (old_requests > 0) & ~disturbed & complete)
        self.bad, self._requests = self.bad + (bad * new).sum(1), self._requests + new_requests
        self._old_bad, self._old_requests = self._old_bad + (bad * old).sum(1), self._old_requests + old_requests

    def has_few_data(self) -> Mask:
        """Whether too little was compared for a verdict [R]."""
        few = (self._requests < MIN_REQUESTS) | (self._old_requests < MIN_REQUESTS) | (self._compared < MIN_INTERVALS)
        return few | (self._disturbed > self._intervals / 2)

    def is_beyond_limit(self) -> Mask:
        """Whether the measured rate of the new release is above the limit, or its interval above the usual margin [R]."""
        process, measured = self.process, self._old_bad / np.maximum(self._old_requests, 1)
        current = process.baseline_rate.current().rate * process.margin
        limit = np.maximum(current, np.where(measured > 0, measured * process.margin_at(np.maximum(measured, 1e-9)), 0.0))
        low = confidence_bounds(process.log_sums, process.model.grid)[0]
        rate = process.baseline_rate.current().rate
        unusual = low + np.log(process.margin) > np.log(process.margin_at(rate, usual=True))
        tolerated = tolerated_events(np.minimum(limit, 1.0), self._requests, process.calibration.dispersion)
        return np.asarray((self.bad > tolerated) | (unusual & (low > process.model.grid.theta[0])))


class _AnalysisRun:
    """The evidence of one set of simulated rollouts."""

    def __init__(self, rollouts: GeneratedRollout, parameters: Parameters) -> None:
        self._rollouts, self._parameters = rollouts, parameters
        self._planned = int((rollouts.batch < rollouts.analyzed_batches).sum())
        self._after: list[tuple[float, int | None, BeforeAfter]] = []
        past, requests = _floats(rollouts.Hn), _floats(rollouts.N)
        failed = metric_models.errors_calibration(_floats(rollouts.He), past, parameters)
        missed = metric_models.readiness_calibration(_floats(rollouts.Hm), _floats(rollouts.Hmn), parameters)
        self.memory = MemoryTrend(len(requests), rollouts.dt, rollouts.analyzed_batches, parameters)
        self.errors = self._process(metric_models.errors_model(parameters), failed, requests)
        self.warmup = self._process(metric_models.warmup_model(), failed, requests, batches=1)
        self.live = self._process(metric_models.readiness_model(), missed, np.ones_like(requests))
        slower = _floats(rollouts.Hs.sum((0, 1, 2)))
        self.bounds = metric_models.latency_bounds(BUCKET_BOUNDS, slower, float(rollouts.Hn.sum()), parameters)
        self.latency = [
            self._process(
                bound.model,
                metric_models.latency_calibration(bound, _floats(rollouts.Hs[..., bound.index]), past, parameters),
                requests,
            )
            for bound in self.bounds
        ]
        self.evidence = CombinedEvidence(self._parts(), rollouts.analyzed_batches, parameters)
        self._totals = [_BatchTotals(process, len(requests)) for process in (self.errors, *self.latency)]

    def _process(
        self, model: MetricModel, calibration: Calibration, exposure: Floats, batches: int | None = None
    ) -> EProcess:
        rollouts = self._rollouts
        return EProcess(
            model,
            calibration,
            (exposure[:, 0] * (rollouts.age[0] < 0)).sum(1) / rollouts.dt,
            dt=rollouts.dt,
            batches=rollouts.analyzed_batches if batches is None else batches,
            planned=self._planned,
            parameters=self._parameters,
        )

    def _parts(self) -> list[EvidencePart]:
        weight = WEIGHTS["latency"] / max(1, len(self.latency))
        latency = zip(self.bounds, self.latency, strict=True)
        return [
            EvidencePart("errors", WEIGHTS["errors"], self.errors, self.errors),
            EvidencePart("warmup", WEIGHTS["warmup"], self.warmup),
            EvidencePart("live", WEIGHTS["live"], self.live),
            *(EvidencePart(f"latency {bound.seconds:g}", weight, process, process) for bound, process in latency),
            EvidencePart("memory", WEIGHTS["memory"], self.memory),
        ]

    def begin(self, interval: int) -> None:
        """Start the processes that begin with this interval."""
        rollouts, parameters = self._rollouts, self._parameters
        if interval == 0:
            self.warmup.begin_batch()
        if interval == round(rollouts.analyzed_batches * rollouts.window / rollouts.dt):
            self._begin_after(interval)
        for number in range(rollouts.analyzed_batches):
            if interval == round((number * rollouts.window + parameters.warmup_seconds) / rollouts.dt):
                for process in (self.errors, self.live, *self.latency):
                    process.begin_batch()
            if interval == round(number * rollouts.window / rollouts.dt):
                members = [int(index) for index in np.flatnonzero(rollouts.batch == number)]
                self.memory.begin_batch(members, int((rollouts.batch > number).sum()))
                for totals in self._totals:
                    totals.begin(len(rollouts.N))

    def _begin_after(self, interval: int) -> None:
        """The last batch without a control is compared with the time before it."""
        weights, model = before_after.WEIGHTS, metric_models.errors_model(self._parameters)
        self._after = [(weights["errors"], None, self._before(None, model, before_after.ERRORS_SD, interval))]
        for bound in self.bounds:
            time_sd = max(before_after.LATENCY_SD * bound.slope, metric_models.MIN_HOST_SD)
            comparison = self._before(bound.index, bound.model, time_sd, interval)
            self._after.append((weights["latency"] / len(self.bounds), bound.index, comparison))

    def _before(self, bound: int | None, model: MetricModel, time_sd: float, until: int) -> BeforeAfter:
        """A comparison with the totals per minute of the old release up to an interval."""
        rollouts = self._rollouts
        past = rollouts.He if bound is None else rollouts.Hs[..., bound]
        counts = rollouts.X if bound is None else rollouts.S[..., bound]
        each = round(MINUTE / rollouts.dt)
        first, old = until % each, (rollouts.age[:until] < 0)[None]
        bad, requests = (
            np.concatenate(
                [before.sum(2), (during[:, :until] * old).sum(2)[:, first:].reshape(len(past), -1, each).sum(2)], 1
            )
            for before, during in ((past, counts), (rollouts.Hn, rollouts.N))
        )
        calibration = calibrate_in_time(_floats(bad), _floats(requests), MINUTE, time_sd, self._parameters)
        return BeforeAfter(model, calibration, self._parameters)

    def evalue(self) -> Floats:
        """The evidence of the rollout [R]."""
        concurrent = self.evidence.evalue()
        if not self._rollouts.batches > self._rollouts.analyzed_batches:
            return concurrent
        after = sum((weight * comparison.evalue() for weight, _, comparison in self._after), np.zeros_like(concurrent))
        after = after if self._after else np.ones_like(concurrent)
        return np.asarray(BEFORE_AFTER_SHARE * after + (1 - BEFORE_AFTER_SHARE) * concurrent)

    def is_inconclusive(self) -> Mask:
        """Whether the verdict at the end of a bake is INCONCLUSIVE [R]; without a check of memory."""
        strong = [each.evalue() >= STRONG_EVALUE for each in (self.live, self.warmup, self.errors, *self.latency)]
        few = [totals.has_few_data() for totals in self._totals]
        return np.asarray(np.any([*strong, *few, *(self._is_beyond(check) for check in self._by_check())], axis=0))

    def _by_check(self) -> list[list[_BatchTotals]]:
        return [self._totals[:1], self._totals[1:]]

    @staticmethod
    def _is_beyond(check: Sequence[_BatchTotals]) -> Mask:
        """Whether the reported count of a check is beyond its limit: the one with the most evidence if that speaks for
        harm, else the one with the most bad events."""
        evalues = np.stack([totals.process.evalue() for totals in check])
        most = np.stack([totals.bad for totals in check]).argmax(0)
        reported = np.where(evalues.max(0) >= 1.0, evalues.argmax(0), most)
        return np.asarray(np.take_along_axis(np.stack([each.is_beyond_limit() for each in check]), reported[None], 0)[0])

    def advance(self, interval: int) -> None:
        """Add one interval of all counts."""
        rollouts, age = self._rollouts, self._rollouts.age[interval]
        old, new = age < 0, age >= self._parameters.warmup_seconds
        bad, requests = _floats(rollouts.X[:, interval]), _floats(rollouts.N[:, interval])
        missed = _floats(rollouts.miss[:, interval])
        self.errors.advance(bad, requests, new, old)
        self.warmup.advance(bad, requests, age >= 0, old)
        self.live.advance(missed, np.ones_like(missed), new, old)
        for bound, process in zip(self.bounds, self.latency, strict=True):
            process.advance(_floats(rollouts.S[:, interval, :, bound.index]), requests, new, old)
        self.memory.advance(rollouts.mem[:, interval], age)
        complete = bool((new | ~(age >= 0)).all())
        slower = (_floats(rollouts.S[:, interval, :, bound.index]) for bound in self.bounds)
        for totals, counted in zip(self._totals, (bad, *slower), strict=True):
            totals.advance(counted, requests, new, old, complete=complete)
        warm = interval * rollouts.dt >= rollouts.analyzed_batches * rollouts.window + self._parameters.warmup_seconds
        for _, index, comparison in self._after if warm else ():
            counted = bad if index is None else _floats(rollouts.S[:, interval, :, index])
            comparison.advance((counted * (age >= 0)).sum(1), (requests * (age >= 0)).sum(1))
