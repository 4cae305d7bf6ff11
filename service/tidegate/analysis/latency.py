"""`latency`: the shares of requests slower than a few bounds, from a classic histogram. Pure.

By default the histogram is the proxy's, by server: Envoy's own, or the one made from log lines. The application's own needs
the labels `release` and `ordinal`. The bounds are those that about 50 %, 10 % and 1 % of the requests exceeded before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tidegate.analysis import messages, promql
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
MIN_REQUESTS = 100.0  # needed to choose bounds
HARM_FACTOR = 1.5  # "harm ruled out": 1.5 times the latency


class LatencyCheck(CounterCheck):
    """`bounds` are chosen from the history, or without any from the baseline during the rollout."""

    bounds: Sequence[LatencyBound] = ()
    _labels: Sequence[str] = ()  # of the bounds, as the exporter writes them

    def selector(self) -> str:
        if not self.bounds:
            return self.history_selector()
        labels = [label for bound in self.bounds for label in self._label_forms(self._labels[bound.index])]
        return self._buckets(f"le=~{promql.quote('|'.join(promql.escape_regex(label) for label in (*labels, INFINITE)))}")

    def _label_forms(self, bound: str) -> Sequence[str]:
        """The forms of the label `le` for a bound: in seconds, and for Envoy in microseconds."""
        return (bound,) if self.check.query else (bound, f"{MICRO * float(bound):.0f}")

    def no_series_message(self, release: str) -> str:
        if self.check.query:
            return super().no_series_message(release)
        return messages.no_histogram_message(release)

    def history_selector(self) -> str:
        return self._buckets("")

    def _buckets(self, more: str) -> str:
        context = self.context
        if not self.check.query:
            names = (RESPONSE_SECONDS, ENVOY_RESPONSE_MICROSECONDS)
            return server_selector(names, context.rollout, context.releases, f",{more}" if more else "")
        either = "|".join(promql.escape_regex(release) for release in context.releases)
        matchers = f"release=~{promql.quote(either)}" + (f",{more}" if more else "")
        return promql.add_matchers(fill_query(self.check.query, context.rollout, "", Window(0.0, 1.0)), matchers)

    def slots(self, labels: Labels) -> Sequence[str]:
        bound = labels.get("le", "")
        if bound == INFINITE:
            return (ALL_REQUESTS,)
        return (f"{float(bound) / MICRO:g}",) if labels.get("__name__") == ENVOY_RESPONSE_MICROSECONDS else (bound,)

    def split(self, comparison: Comparison, counts: Counts) -> tuple[Array, Array]:
        requests = counts.get(ALL_REQUESTS, self.zeros())
        return np.maximum(0.0, requests - counts.get(comparison.name, self.zeros())), requests

    def prepare(self, past: Sequence[Counts]) -> Sequence[Comparison]:
        assert self.sums is not None
        old = [index for index, column in enumerate(self.instances.columns) if column.release == self.context.old]
        known = [*past, self._counts(self.sums.open_sums())]
        slots = {slot for counts in known for slot in counts}
        sums = {slot: sum(float(counts[slot][0, old].sum()) for counts in known if slot in counts) for slot in slots}
        self._labels = sorted((slot for slot in sums if slot != ALL_REQUESTS and float(slot) > 0), key=float)
        if sums.get(ALL_REQUESTS, 0.0) < MIN_REQUESTS or not self._labels:
            return ()
        limits = np.array([float(label) for label in self._labels])
        slower = np.array([sums[ALL_REQUESTS] - sums[label] for label in self._labels])
        self.bounds = latency_bounds(limits, slower, sums[ALL_REQUESTS], self.context.parameters, self.check.margin)
        return [self._comparison(bound, past) for bound in self.bounds]

    def _comparison(self, bound: LatencyBound, past: Sequence[Counts]) -> Comparison:
        name, parameters = self._labels[bound.index], self.context.parameters
        before = self.history_of(
            [_slower(counts, name) for counts in past],
            name,
            lambda slower, requests: latency_calibration(bound, slower, requests, parameters),
        )
        time_sd = max(LATENCY_SD * bound.slope, MIN_HOST_SD)
        weight = WEIGHTS["latency"] / len(self.bounds)
        return self.make_comparison(name, weight, bound.model, before, time_sd=time_sd, harm=self.harm(bound))

    @staticmethod
    def harm(bound: LatencyBound) -> float:
        """By which factor more requests exceed the bound when all take `HARM_FACTOR` times as long."""
        return math.exp(min(bound.slope * math.log(HARM_FACTOR), 0.85 * math.log(1 / bound.exceedance)))


def _slower(counts: Counts, bound: str) -> Counts:
    """The counts of all requests, and under the name of the bound those slower than it."""
    if ALL_REQUESTS not in counts:
        return {}
    return {ALL_REQUESTS: counts[ALL_REQUESTS], bound: np.maximum(0.0, counts[ALL_REQUESTS] - counts.get(bound, 0.0))}
