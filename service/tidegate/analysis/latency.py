"""`latency`: how many requests are slower than a few bounds, from a classic histogram. Pure.

By default the proxy's, by server: Envoy's, or the one that is made from log lines; or the application's own, with the
labels `release` and `ordinal`. The bounds are those that about one half, one tenth and one hundredth of the requests
exceeded before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tidegate.analysis import promql
from tidegate.analysis.comparison import Comparison
from tidegate.analysis.counter_check import ALL_REQUESTS, CounterCheck, Counts
from tidegate.analysis.queries import ENVOY_RESPONSE_MICROSECONDS, RESPONSE_SECONDS, Labels, fill_query, server_selector
from tidegate.analysis.statistics.before_after import LATENCY_SD
from tidegate.analysis.statistics.effect_grid import Array
from tidegate.analysis.statistics.metric_models import MIN_HOST_SD, LatencyBound, latency_bounds, latency_calibration
from tidegate.analysis.statistics.parameters import WEIGHTS
from tidegate.clock import Window

INFINITE = "+Inf"
MICRO = 1e6
MIN_REQUESTS = 100.0  # before bounds are chosen
HARM_FACTOR = 1.5  # what a certificate rules out: half as slow again


class LatencyCheck(CounterCheck):
    """`bounds` are chosen from the history, or from the baseline where there is none yet."""

    bounds: Sequence[LatencyBound] = ()
    _labels: Sequence[str] = ()  # as the exporter writes them, by place

    def selector(self) -> str:
        if not self.bounds:
            return self.history_selector()
        written = [each for bound in self.bounds for each in self._written(self._labels[bound.index])]
        return self._buckets(f"le=~{promql.quote('|'.join(promql.escape_regex(each) for each in (*written, INFINITE)))}")

    def _written(self, bound: str) -> Sequence[str]:
        """How the label `le` of a bound is written by those that are asked."""
        return (bound,) if self.check.query else (bound, f"{MICRO * float(bound):.0f}")

    def history_selector(self) -> str:
        return self._buckets("")

    def _buckets(self, more: str) -> str:
        context = self.context
        if not self.check.query:
            names = (RESPONSE_SECONDS, ENVOY_RESPONSE_MICROSECONDS)
            return server_selector(names, context.rollout.backend.name, context.releases, f",{more}" if more else "")
        either = "|".join(promql.escape_regex(release) for release in context.releases)
        matchers = f"release=~{promql.quote(either)}" + (f",{more}" if more else "")
        return promql.add_matchers(fill_query(self.check.query, context.rollout, "", Window(0.0, 1.0)), matchers)

    def slots(self, labels: Labels) -> Sequence[str]:
        bound = labels.get("le", "")
        if bound == INFINITE:
            return (ALL_REQUESTS,)
        return (f"{float(bound) / MICRO:g}",) if labels.get("__name__") == ENVOY_RESPONSE_MICROSECONDS else (bound,)

    def split(self, comparison: Comparison, counts: Counts) -> tuple[Array, Array]:
        every = counts.get(ALL_REQUESTS, self.zeros())
        return np.maximum(0.0, every - counts.get(comparison.name, self.zeros())), every

    def prepare(self, past: Sequence[Counts]) -> Sequence[Comparison]:
        assert self.sums is not None
        old = [place for place, column in enumerate(self.instances.columns) if column.release == self.context.old]
        known = [*past, self._counts(self.sums.open_sums())]
        sums = {slot: sum(float(each[slot][0, old].sum()) for each in known if slot in each) for slot in _slots(known)}
        self._labels = sorted((slot for slot in sums if slot != ALL_REQUESTS and float(slot) > 0), key=float)
        if sums.get(ALL_REQUESTS, 0.0) < MIN_REQUESTS or not self._labels:
            return ()
        limits = np.array([float(label) for label in self._labels])
        slower = np.array([sums[ALL_REQUESTS] - sums[label] for label in self._labels])
        self.bounds = latency_bounds(limits, slower, sums[ALL_REQUESTS], self.context.parameters, self.check.margin)
        return [self._comparison(bound, past) for bound in self.bounds]

    def _comparison(self, bound: LatencyBound, past: Sequence[Counts]) -> Comparison:
        name, options = self._labels[bound.index], self.context.parameters
        before = self.history_of(
            [_slower(each, name) for each in past],
            name,
            lambda slower, requests: latency_calibration(bound, slower, requests, options),
        )
        steady = max(LATENCY_SD * bound.slope, MIN_HOST_SD)
        weight = WEIGHTS["latency"] / len(self.bounds)
        return self.make_comparison(name, weight, bound.model, before, steady=steady, harm=self.harm(bound))

    @staticmethod
    def harm(bound: LatencyBound) -> float:
        """How many times more requests exceed the bound when all take half as long again."""
        return math.exp(min(bound.slope * math.log(HARM_FACTOR), 0.85 * math.log(1 / bound.exceedance)))


def _slower(counts: Counts, bound: str) -> Counts:
    """All requests, and under the bound's name those that took longer."""
    if ALL_REQUESTS not in counts:
        return {}
    return {ALL_REQUESTS: counts[ALL_REQUESTS], bound: np.maximum(0.0, counts[ALL_REQUESTS] - counts.get(bound, 0.0))}


def _slots(known: Sequence[Counts]) -> set[str]:
    return {slot for each in known for slot in each}
