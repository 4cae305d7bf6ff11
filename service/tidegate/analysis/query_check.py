"""The user's own PromQL: one value a side at each look, held against a limit or against the other release. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.special import stdtrit

from tidegate.analysis.analysis_context import AnalysisContext
from tidegate.analysis.measurement import Measurement
from tidegate.analysis.queries import Query, QueryFailure, QueryPurpose, QueryResult, Series, fill_query, value_query
from tidegate.analysis.statistics.effect_grid import Array
from tidegate.analysis.statistics.gauge import BLOCK_SECONDS, GaugeComparison, estimate_noise
from tidegate.analysis.verdict import Reason
from tidegate.clock import Time, Window
from tidegate.core.model import Check, Direction

HISTORY_SECONDS = 3600.0
MIN_WINDOW_SECONDS = 5.0  # of the window that a query is asked about
MAX_WINDOW_SECONDS = 600.0


class QueryCheck:
    """What a query answered at each look. `failure`: why it did not, at the last one."""

    def __init__(self, check: Check, context: AnalysisContext) -> None:
        self.check, self.ground = check, context
        self.failure: QueryFailure | None = None
        self.candidate: list[float] = []
        self.baseline: list[float] = []
        self.queries: tuple[str, ...] = ()

    def window(self, now: Time) -> Window:
        """What `$window` is: the time since the release is routed, within bounds."""
        seconds = min(max(now - self.ground.origin, MIN_WINDOW_SECONDS), MAX_WINDOW_SECONDS)
        return Window(now - seconds, now)

    def questions(self, now: Time) -> tuple[Query, ...]:
        """About the new release."""
        return (value_query(self.check, QueryPurpose.CANDIDATE, self.ground.rollout, self.ground.new, self.window(now)),)

    def take(self, measurement: Measurement, answers: Iterable[tuple[Query, QueryResult]]) -> None:
        """Take in the answers to this check's questions."""
        self.failure, result, self.queries = None, dict[QueryPurpose, float](), ()
        for query, answer in answers:
            if query.part is QueryPurpose.HISTORY:
                self._recall(answer)
                continue
            self.queries = (*self.queries, query.query)
            number = single_value(answer)
            if isinstance(number, QueryFailure):
                self.failure = self.failure or number
            else:
                result[query.part] = number
        self.seen(result.get(QueryPurpose.CANDIDATE, math.nan), result.get(QueryPurpose.BASELINE, math.nan))

    def _recall(self, answer: QueryResult) -> None:
        """What the history says."""

    def seen(self, candidate: float, baseline: float) -> None:
        """Both values of a look; NaN where there is none."""
        self.candidate.append(candidate)
        self.baseline.append(baseline)


def single_value(answer: QueryResult) -> float | QueryFailure:
    """The one number of an answer, or why there is none."""
    if isinstance(answer, QueryFailure):
        return answer
    if len(answer) > 1:
        return QueryFailure(Reason.MANY_SERIES, f"{len(answer)} series came where one was expected: use sum() or max()")
    number = answer[0].samples[-1][1] if answer and answer[0].samples else math.nan
    if not math.isfinite(number):
        shown = "no series" if not answer else f"{number}"
        return QueryFailure(Reason.NO_DATA, f"the query answered {shown}")
    return number


class LimitCheck(QueryCheck):
    """`max`, `min`: beyond it in a number of looks in a row, the release fails. Looks without a value do not count."""

    run = 0  # how many of the last looks in a row were beyond

    def seen(self, candidate: float, baseline: float) -> None:
        super().seen(candidate, baseline)
        if math.isfinite(candidate):
            self.run = self.run + 1 if self.beyond(candidate) else 0

    def beyond(self, number: float) -> bool:
        """Whether a value is on the wrong side."""
        check = self.check
        return (check.maximum is not None and number > check.maximum) or (
            check.minimum is not None and number < check.minimum
        )

    @property
    def failed(self) -> bool:
        """Whether it was so often enough."""
        return self.run >= self.check.least


class ComparedQueryCheck(QueryCheck):
    """Old against new."""

    recalled = False
    _past: Array = np.full((1, 1), np.nan)
    _levels: GaugeComparison | None = None

    def questions(self, now: Time) -> tuple[Query, ...]:
        context, window = self.ground, self.window(now)
        asked = [
            *super().questions(now),
            value_query(self.check, QueryPurpose.BASELINE, context.rollout, context.old, window),
        ]
        if not self.recalled:
            query = fill_query(self.check.query, context.rollout, context.old, Window(0.0, BLOCK_SECONDS))
            span = Window(context.origin - HISTORY_SECONDS, context.origin)
            asked.append(Query(self.check.name, QueryPurpose.HISTORY, query, span, BLOCK_SECONDS))
        return tuple(asked)

    def _recall(self, answer: QueryResult) -> None:
        if isinstance(answer, QueryFailure):
            return
        self.recalled = True
        if len(answer) == 1:
            self._past = _block_values(answer)

    def seen(self, candidate: float, baseline: float) -> None:
        super().seen(candidate, baseline)
        if self._levels is None and self.recalled:
            options, interval = self.ground.options, self.ground.rollout.policy.look_seconds
            worse = 1.0 if self.check.direction is Direction.LOWER else -1.0
            luck = float(stdtrit(options.host_weight, 1 - options.host_luck))
            margin = self.check.margin or 0.0
            self._levels = GaugeComparison(interval, margin, worse, luck, estimate_noise(self._past))
        if self._levels is not None:
            self._levels.advance(np.array([candidate]), np.array([baseline]))

    def evalue(self) -> Array:
        """[1]."""
        return np.ones(1) if self._levels is None else self._levels.evalue()


def _block_values(answer: Sequence[Series]) -> Array:
    return np.array([[number for _, number in answer[0].samples]], float)
