"""`errors`: the share of failed requests, from the proxy's counters by server. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tidegate.core.evidence.before_after import ERRORS_SD
from tidegate.core.evidence.grid import Array
from tidegate.core.evidence.kinds import errors_calibration, errors_kind, warmup_kind
from tidegate.core.evidence.options import WEIGHTS
from tidegate.core.judge.arm import Arm
from tidegate.core.judge.counted import ALL, Counted, Counts
from tidegate.core.judge.questions import (
    CONNECTION_ERRORS,
    COUNTED_RESPONSES,
    ENVOY_RESPONSES,
    RESPONSE_ERRORS,
    RESPONSES,
    servers,
)
from tidegate.core.judge.series import Labels

BAD = "failed"
FAILED_CODES = frozenset({"5xx", "lost"})  # lost: no whole answer came, where a proxy can tell that apart
ERRORS_OF_ITS_OWN = frozenset({CONNECTION_ERRORS, RESPONSE_ERRORS})
HARM_FACTOR, HARM_ABSOLUTE = 3.0, 0.01  # what a certificate rules out: three times the rate, and a point at least
ERRORS, WARMUP = "errors", "warm-up"  # the arms


class Requests(Counted):
    """Answers by server and class of status: HAProxy's own counter, Envoy's, or `tidegate_responses_total`.

    HAProxy does not count its own 502 and 503 as responses of the server, so connection and response errors are added.

    There an answer that broke off half-way is in both counters, and so counts as two requests, of which one failed.
    """

    def selector(self) -> str:
        names = (RESPONSES, COUNTED_RESPONSES, ENVOY_RESPONSES, CONNECTION_ERRORS, RESPONSE_ERRORS)
        return servers(names, self.ground.rollout.backend.name, self.ground.releases)

    def slots(self, labels: Labels) -> Sequence[str]:
        failed = labels.get("__name__") in ERRORS_OF_ITS_OWN or labels.get("code") in FAILED_CODES
        return (ALL, BAD) if failed else (ALL,)

    def split(self, arm: Arm, counts: Counts) -> tuple[Array, Array]:
        return counts.get(BAD, self.nothing()), counts.get(ALL, self.nothing())

    def prepare(self, past: Sequence[Counts]) -> Sequence[Arm]:
        options = self.ground.options
        before = self.past_of(past, BAD, lambda bad, exposure: errors_calibration(bad, exposure, options))
        harm = max(HARM_FACTOR, 1 + HARM_ABSOLUTE / float(before.known.rate[0]))
        kind = errors_kind(options, self.check.margin)
        return [
            self.arm(ERRORS, WEIGHTS["errors"], kind, before, steady=ERRORS_SD, harm=harm),
            self.arm(WARMUP, WEIGHTS["warmup"], warmup_kind(), before, steady=ERRORS_SD, harm=harm, warming=True),
        ]
