"""`errors`: the share of failed requests, from the proxy's counters by server. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tidegate.analysis.comparison import Comparison
from tidegate.analysis.counter_check import ALL_REQUESTS, CounterCheck, Counts
from tidegate.analysis.queries import (
    CONNECTION_ERRORS,
    COUNTED_RESPONSES,
    ENVOY_RESPONSES,
    RESPONSE_ERRORS,
    RESPONSES,
    Labels,
    server_selector,
)
from tidegate.analysis.statistics.before_after import ERRORS_SD
from tidegate.analysis.statistics.effect_grid import Array
from tidegate.analysis.statistics.metric_models import errors_calibration, errors_model, warmup_model
from tidegate.analysis.statistics.parameters import WEIGHTS

FAILED = "failed"
FAILED_CODES = frozenset({"5xx", "lost"})  # lost: no complete response, for proxies that can report it
ERROR_COUNTERS = frozenset({CONNECTION_ERRORS, RESPONSE_ERRORS})
HARM_FACTOR, HARM_ABSOLUTE = 3.0, 0.01  # "harm ruled out": three times the rate, and at least one percentage point more
ERRORS, WARM_UP = "errors", "warm-up"  # the comparisons


class ErrorRateCheck(CounterCheck):
    """Responses by server and status class: HAProxy's own counter, Envoy's, or `tidegate_responses_total`.

    HAProxy does not count its own 502 and 503 as responses of the server, so connection and response errors are added.
    A response that breaks off half-way is in both counters there: it counts as two requests, of which one failed.
    """

    def selector(self) -> str:
        names = (RESPONSES, COUNTED_RESPONSES, ENVOY_RESPONSES, CONNECTION_ERRORS, RESPONSE_ERRORS)
        return server_selector(names, self.context.rollout, self.context.releases)

    def slots(self, labels: Labels) -> Sequence[str]:
        failed = labels.get("__name__") in ERROR_COUNTERS or labels.get("code") in FAILED_CODES
        return (ALL_REQUESTS, FAILED) if failed else (ALL_REQUESTS,)

    def split(self, comparison: Comparison, counts: Counts) -> tuple[Array, Array]:
        return counts.get(FAILED, self.zeros()), counts.get(ALL_REQUESTS, self.zeros())

    def prepare(self, past: Sequence[Counts]) -> Sequence[Comparison]:
        parameters = self.context.parameters
        before = self.history_of(past, FAILED, lambda bad, exposure: errors_calibration(bad, exposure, parameters))
        harm = max(HARM_FACTOR, 1 + HARM_ABSOLUTE / float(before.calibration.rate[0]))
        model = errors_model(parameters, self.check.margin)
        return [
            self.make_comparison(ERRORS, WEIGHTS["errors"], model, before, time_sd=ERRORS_SD, harm=harm),
            self.make_comparison(
                WARM_UP, WEIGHTS["warmup"], warmup_model(), before, time_sd=ERRORS_SD, harm=harm, warming=True
            ),
        ]
