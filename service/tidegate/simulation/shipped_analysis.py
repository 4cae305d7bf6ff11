"""The analysis of Tidegate on simulated rollouts: the same evidence as in the engine, interval by interval."""

from __future__ import annotations

import numpy as np

from tidegate.analysis.statistics import before_after, metric_models
from tidegate.analysis.statistics.before_after import BeforeAfter, calibrate_in_time
from tidegate.analysis.statistics.calibration import Calibration
from tidegate.analysis.statistics.combine import CombinedEvidence, EvidencePart
from tidegate.analysis.statistics.eprocess import EProcess, MetricModel
from tidegate.analysis.statistics.memory_trend import MemoryTrend
from tidegate.analysis.statistics.parameters import WEIGHTS, Parameters
from tidegate.simulation.blue_green import GeneratedSwitch
from tidegate.simulation.distributions import Counts, Floats
from tidegate.simulation.generator import BUCKET_BOUNDS, GeneratedRollout
from tidegate.simulation.result import AbortResult

DEFAULT_PARAMETERS = Parameters()


def analyze(rollouts: GeneratedRollout, parameters: Parameters = DEFAULT_PARAMETERS) -> AbortResult:
    """When the analysis rolls back each rolling update, if it does."""
    analysis = _AnalysisRun(rollouts, parameters)
    replicates, intervals = rollouts.N.shape[:2]
    seconds = np.full(replicates, np.inf)
    ends = {
        min(round((number + 1) * rollouts.window / rollouts.dt), intervals) - 1
        for number in range(rollouts.analyzed_batches)
    }
    for interval in range(intervals):
        analysis.begin(interval)
        analysis.advance(interval)
        failing = analysis.evidence.reaches_threshold()
        if interval in ends:
            failing = failing | np.any(list(analysis.evidence.fixed_test().values()), axis=0)
        seconds = np.where(failing & np.isinf(seconds), (interval + 1) * rollouts.dt, seconds)
    return AbortResult(np.isfinite(seconds), seconds)


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


class _AnalysisRun:
    """The evidence of one set of simulated rollouts."""

    def __init__(self, rollouts: GeneratedRollout, parameters: Parameters) -> None:
        self._rollouts, self._parameters = rollouts, parameters
        self._planned = int((rollouts.batch < rollouts.analyzed_batches).sum())
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
        for number in range(rollouts.analyzed_batches):
            if interval == round((number * rollouts.window + parameters.warmup_seconds) / rollouts.dt):
                for process in (self.errors, self.live, *self.latency):
                    process.begin_batch()
            if interval == round(number * rollouts.window / rollouts.dt):
                members = [int(index) for index in np.flatnonzero(rollouts.batch == number)]
                self.memory.begin_batch(members, int((rollouts.batch > number).sum()))

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
