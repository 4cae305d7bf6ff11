"""`latency`: how many requests are slower than a few bounds, from a classic histogram. Pure.

By default the proxy's, by server: Envoy's, or the one that is made from log lines; or the application's own, with the
labels `release` and `ordinal`. The bounds are those that about one half, one tenth and one hundredth of the requests
exceeded before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tidegate.core.evidence.before_after import LATENCY_SD
from tidegate.core.evidence.grid import Array
from tidegate.core.evidence.kinds import LEAST_HOST_SD, Bound, latency_bounds, latency_calibration
from tidegate.core.evidence.options import WEIGHTS
from tidegate.core.judge import promql
from tidegate.core.judge.arm import Arm
from tidegate.core.judge.counted import ALL, Counted, Counts
from tidegate.core.judge.questions import ENVOY_RESPONSE_MICROSECONDS, RESPONSE_SECONDS, filled, servers
from tidegate.core.judge.series import Labels
from tidegate.core.judge.verdict import Window

INFINITE = "+Inf"
MICRO = 1e6
LEAST_REQUESTS = 100.0  # before bounds are chosen
HARM = 1.5  # what a certificate rules out: half as slow again


class Latency(Counted):
    """`bounds` are chosen from the history, or from the baseline where there is none yet."""

    bounds: Sequence[Bound] = ()
    _labels: Sequence[str] = ()  # as the exporter writes them, by place

    def selector(self) -> str:
        if not self.bounds:
            return self.history_selector()
        written = [each for bound in self.bounds for each in self._written(self._labels[bound.place])]
        return self._buckets(f"le=~{promql.quoted('|'.join(promql.literal(each) for each in (*written, INFINITE)))}")

    def _written(self, bound: str) -> Sequence[str]:
        """How the label `le` of a bound is written by those that are asked."""
        return (bound,) if self.check.query else (bound, f"{MICRO * float(bound):.0f}")

    def history_selector(self) -> str:
        return self._buckets("")

    def _buckets(self, more: str) -> str:
        ground = self.ground
        if not self.check.query:
            names = (RESPONSE_SECONDS, ENVOY_RESPONSE_MICROSECONDS)
            return servers(names, ground.rollout.backend.name, ground.releases, f",{more}" if more else "")
        either = "|".join(promql.literal(release) for release in ground.releases)
        matchers = f"release=~{promql.quoted(either)}" + (f",{more}" if more else "")
        return promql.narrowed(filled(self.check.query, ground.rollout, "", Window(0.0, 1.0)), matchers)

    def slots(self, labels: Labels) -> Sequence[str]:
        bound = labels.get("le", "")
        if bound == INFINITE:
            return (ALL,)
        return (f"{float(bound) / MICRO:g}",) if labels.get("__name__") == ENVOY_RESPONSE_MICROSECONDS else (bound,)

    def split(self, arm: Arm, counts: Counts) -> tuple[Array, Array]:
        every = counts.get(ALL, self.nothing())
        return np.maximum(0.0, every - counts.get(arm.name, self.nothing())), every

    def prepare(self, past: Sequence[Counts]) -> Sequence[Arm]:
        assert self.cells is not None
        old = [place for place, column in enumerate(self.roster.columns) if column.release == self.ground.old]
        known = [*past, self._counts(self.cells.waiting())]
        sums = {slot: sum(float(each[slot][0, old].sum()) for each in known if slot in each) for slot in _slots(known)}
        self._labels = sorted((slot for slot in sums if slot != ALL and float(slot) > 0), key=float)
        if sums.get(ALL, 0.0) < LEAST_REQUESTS or not self._labels:
            return ()
        limits = np.array([float(each) for each in self._labels])
        slower = np.array([sums[ALL] - sums[each] for each in self._labels])
        self.bounds = latency_bounds(limits, slower, sums[ALL], self.ground.options, self.check.margin)
        return [self._arm(bound, past) for bound in self.bounds]

    def _arm(self, bound: Bound, past: Sequence[Counts]) -> Arm:
        name, options = self._labels[bound.place], self.ground.options
        before = self.past_of(
            [_slower(each, name) for each in past],
            name,
            lambda slower, requests: latency_calibration(bound, slower, requests, options),
        )
        steady = max(LATENCY_SD * bound.slope, LEAST_HOST_SD)
        weight = WEIGHTS["latency"] / len(self.bounds)
        return self.arm(name, weight, bound.kind, before, steady=steady, harm=self.harm(bound))

    @staticmethod
    def harm(bound: Bound) -> float:
        """How many times more requests exceed the bound when all take half as long again."""
        return math.exp(min(bound.slope * math.log(HARM), 0.85 * math.log(1 / bound.exceedance)))


def _slower(counts: Counts, bound: str) -> Counts:
    """All requests, and under the bound's name those that took longer."""
    if ALL not in counts:
        return {}
    return {ALL: counts[ALL], bound: np.maximum(0.0, counts[ALL] - counts.get(bound, 0.0))}


def _slots(known: Sequence[Counts]) -> set[str]:
    return {slot for each in known for slot in each}
