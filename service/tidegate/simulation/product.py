"""The judge that ships, fed with simulated rollouts: the same evidence, interval by interval."""

from __future__ import annotations

import numpy as np

from tidegate.core.evidence import before_after, kinds
from tidegate.core.evidence.before_after import BeforeAfter, calibrate_in_time
from tidegate.core.evidence.calibration import Calibration
from tidegate.core.evidence.options import WEIGHTS, Options
from tidegate.core.evidence.process import Kind, Process
from tidegate.core.evidence.ramp import Ramp
from tidegate.core.evidence.rollout import Evidence, Part
from tidegate.simulation.deciding import Decided
from tidegate.simulation.draws import Counts, Floats
from tidegate.simulation.generating import BOUNDS, Generated
from tidegate.simulation.switching import GeneratedSwitch

USUAL = Options()


def decide(made: Generated, options: Options = USUAL) -> Decided:
    """When the judge turns each rolling update back, if it does."""
    fed = _Fed(made, options)
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
    return Decided(np.isfinite(seconds), seconds)


def decide_switch(made: GeneratedSwitch, options: Options = USUAL) -> Decided:
    """When the judge turns a switch of all traffic back, if it does, with only the time before to compare with."""
    past = made.N[:, : made.switch]
    slower = made.S[:, : made.switch].sum((0, 1))
    bounds = kinds.latency_bounds(BOUNDS, slower.astype(float), float(past.sum()), options)
    weights = before_after.WEIGHTS
    arms = [(weights["errors"], made.X, _before(made, made.X, kinds.errors_kind(options), before_after.ERRORS_SD, options))]
    for bound in bounds:
        counts = made.S[..., bound.place]
        steady = max(before_after.LATENCY_SD * bound.slope, kinds.LEAST_HOST_SD)
        arms.append((weights["latency"] / len(bounds), counts, _before(made, counts, bound.kind, steady, options)))
    begin = made.switch + int(options.warmup_seconds / made.dt)
    seconds = np.full(len(made.N), np.inf)
    for interval in range(begin, made.N.shape[1]):
        for _, counts, arm in arms:
            arm.advance(_floats(counts[:, interval]), _floats(made.N[:, interval]))
        evidence = sum(weight * arm.evalue() for weight, _, arm in arms)
        crossed = (evidence >= 1 / options.budget) & np.isinf(seconds)
        seconds = np.where(crossed, (interval + 1 - made.switch) * made.dt, seconds)
    return Decided(np.isfinite(seconds), seconds)


def _before(made: GeneratedSwitch, counts: Counts, kind: Kind, steady: float, options: Options) -> BeforeAfter:
    bad, exposure = _floats(counts[:, : made.switch]), _floats(made.N[:, : made.switch])
    return BeforeAfter(kind, calibrate_in_time(bad, exposure, made.dt, steady, options), options)


def _floats(counts: Counts) -> Floats:
    return np.asarray(counts, dtype=np.float64)


class _Fed:
    """The evidence of one set of simulated rollouts."""

    def __init__(self, made: Generated, options: Options) -> None:
        self._made, self._options = made, options
        self._planned = int((made.batch < made.judged).sum())
        past, requests = _floats(made.Hn), _floats(made.N)
        failed = kinds.errors_calibration(_floats(made.He), past, options)
        missed = kinds.live_calibration(_floats(made.Hm), _floats(made.Hmn), options)
        self.ramp = Ramp(len(requests), made.dt, made.judged, options)
        self.errors = self._process(kinds.errors_kind(options), failed, requests)
        self.warmup = self._process(kinds.warmup_kind(), failed, requests, batches=1)
        self.live = self._process(kinds.live_kind(), missed, np.ones_like(requests))
        slower = _floats(made.Hs.sum((0, 1, 2)))
        self.bounds = kinds.latency_bounds(BOUNDS, slower, float(made.Hn.sum()), options)
        self.latency = [
            self._process(
                bound.kind,
                kinds.latency_calibration(bound, _floats(made.Hs[..., bound.place]), past, options),
                requests,
            )
            for bound in self.bounds
        ]
        self.evidence = Evidence(self._parts(), made.judged, options)

    def _process(self, kind: Kind, known: Calibration, exposure: Floats, batches: int | None = None) -> Process:
        made = self._made
        return Process(
            kind,
            known,
            (exposure[:, 0] * (made.age[0] < 0)).sum(1) / made.dt,
            dt=made.dt,
            batches=made.judged if batches is None else batches,
            planned=self._planned,
            options=self._options,
        )

    def _parts(self) -> list[Part]:
        shared = WEIGHTS["latency"] / max(1, len(self.latency))
        named = zip(self.bounds, self.latency, strict=True)
        return [
            Part("errors", WEIGHTS["errors"], self.errors, self.errors),
            Part("warmup", WEIGHTS["warmup"], self.warmup),
            Part("live", WEIGHTS["live"], self.live),
            *(Part(f"latency {bound.seconds:g}", shared, process, process) for bound, process in named),
            Part("memory", WEIGHTS["memory"], self.ramp),
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
