"""The judge that ships, fed with simulated rollouts: the same evidence, interval by interval."""

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


def analyze(made: GeneratedRollout, options: Parameters = DEFAULT_PARAMETERS) -> AbortResult:
    """When the judge turns each rolling update back, if it does."""
    fed = _AnalysisRun(made, options)
    replicates, intervals = made.N.shape[:2]
    seconds = np.full(replicates, np.inf)
    ends = {min(round((number + 1) * made.window / made.dt), intervals) - 1 for number in range(made.judged)}
    for interval in range(intervals):
        fed.begin(interval)
        fed.advance(interval)
        now = fed.evidence.crossed()
        if interval in ends:
            now = now | np.any(list(fed.evidence.look().values()), axis=0)
        seconds = np.where(now & np.isinf(seconds), (interval + 1) * made.dt, seconds)
    return AbortResult(np.isfinite(seconds), seconds)


def analyze_switch(made: GeneratedSwitch, options: Parameters = DEFAULT_PARAMETERS) -> AbortResult:
    """When the judge turns a switch of all traffic back, if it does, with only the time before to compare with."""
    past = made.N[:, : made.switch]
    slower = made.S[:, : made.switch].sum((0, 1))
    bounds = metric_models.latency_bounds(BUCKET_BOUNDS, slower.astype(float), float(past.sum()), options)
    weights = before_after.WEIGHTS
    arms = [
        (
            weights["errors"],
            made.X,
            _before(made, made.X, metric_models.errors_model(options), before_after.ERRORS_SD, options),
        )
    ]
    for bound in bounds:
        counts = made.S[..., bound.place]
        steady = max(before_after.LATENCY_SD * bound.slope, metric_models.MIN_HOST_SD)
        arms.append((weights["latency"] / len(bounds), counts, _before(made, counts, bound.kind, steady, options)))
    begin = made.switch + int(options.warmup_seconds / made.dt)
    seconds = np.full(len(made.N), np.inf)
    for interval in range(begin, made.N.shape[1]):
        for _, counts, arm in arms:
            arm.advance(_floats(counts[:, interval]), _floats(made.N[:, interval]))
        evidence = sum(weight * arm.evalue() for weight, _, arm in arms)
        crossed = (evidence >= 1 / options.budget) & np.isinf(seconds)
        seconds = np.where(crossed, (interval + 1 - made.switch) * made.dt, seconds)
    return AbortResult(np.isfinite(seconds), seconds)


def _before(made: GeneratedSwitch, counts: Counts, kind: MetricModel, steady: float, options: Parameters) -> BeforeAfter:
    bad, exposure = _floats(counts[:, : made.switch]), _floats(made.N[:, : made.switch])
    return BeforeAfter(kind, calibrate_in_time(bad, exposure, made.dt, steady, options), options)


def _floats(counts: Counts) -> Floats:
    return np.asarray(counts, dtype=np.float64)


class _AnalysisRun:
    """The evidence of one set of simulated rollouts."""

    def __init__(self, made: GeneratedRollout, options: Parameters) -> None:
        self._made, self._options = made, options
        self._planned = int((made.batch < made.judged).sum())
        past, requests = _floats(made.Hn), _floats(made.N)
        failed = metric_models.errors_calibration(_floats(made.He), past, options)
        missed = metric_models.readiness_calibration(_floats(made.Hm), _floats(made.Hmn), options)
        self.ramp = MemoryTrend(len(requests), made.dt, made.judged, options)
        self.errors = self._process(metric_models.errors_model(options), failed, requests)
        self.warmup = self._process(metric_models.warmup_model(), failed, requests, batches=1)
        self.live = self._process(metric_models.readiness_model(), missed, np.ones_like(requests))
        slower = _floats(made.Hs.sum((0, 1, 2)))
        self.bounds = metric_models.latency_bounds(BUCKET_BOUNDS, slower, float(made.Hn.sum()), options)
        self.latency = [
            self._process(
                bound.kind,
                metric_models.latency_calibration(bound, _floats(made.Hs[..., bound.place]), past, options),
                requests,
            )
            for bound in self.bounds
        ]
        self.evidence = CombinedEvidence(self._parts(), made.judged, options)

    def _process(self, kind: MetricModel, known: Calibration, exposure: Floats, batches: int | None = None) -> EProcess:
        made = self._made
        return EProcess(
            kind,
            known,
            (exposure[:, 0] * (made.age[0] < 0)).sum(1) / made.dt,
            dt=made.dt,
            batches=made.judged if batches is None else batches,
            planned=self._planned,
            options=self._options,
        )

    def _parts(self) -> list[EvidencePart]:
        shared = WEIGHTS["latency"] / max(1, len(self.latency))
        named = zip(self.bounds, self.latency, strict=True)
        return [
            EvidencePart("errors", WEIGHTS["errors"], self.errors, self.errors),
            EvidencePart("warmup", WEIGHTS["warmup"], self.warmup),
            EvidencePart("live", WEIGHTS["live"], self.live),
            *(EvidencePart(f"latency {bound.seconds:g}", shared, process, process) for bound, process in named),
            EvidencePart("memory", WEIGHTS["memory"], self.ramp),
        ]

    def begin(self, interval: int) -> None:
        """Whatever begins with this interval."""
        made, options = self._made, self._options
        if interval == 0:
            self.warmup.begin_batch()
        for number in range(made.judged):
            if interval == round((number * made.window + options.warmup_seconds) / made.dt):
                for process in (self.errors, self.live, *self.latency):
                    process.begin_batch()
            if interval == round(number * made.window / made.dt):
                members = [int(each) for each in np.flatnonzero(made.batch == number)]
                self.ramp.begin_batch(members, int((made.batch > number).sum()))

    def advance(self, interval: int) -> None:
        """Take in one interval of all."""
        made, age = self._made, self._made.age[interval]
        old, new = age < 0, age >= self._options.warmup_seconds
        bad, requests = _floats(made.X[:, interval]), _floats(made.N[:, interval])
        missed = _floats(made.miss[:, interval])
        self.errors.advance(bad, requests, new, old)
        self.warmup.advance(bad, requests, age >= 0, old)
        self.live.advance(missed, np.ones_like(missed), new, old)
        for bound, process in zip(self.bounds, self.latency, strict=True):
            process.advance(_floats(made.S[:, interval, :, bound.place]), requests, new, old)
        self.ramp.advance(made.mem[:, interval], age)
