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
        self.check, self.context = check, context
        self.failure: QueryFailure | None = None
        self.candidate: list[float] = []
        self.baseline: list[float] = []
        self.query_texts: tuple[str, ...] = ()

    def window(self, now: Time) -> Window:
        """What `$window` is: the time since the release is routed, within bounds."""
        seconds = min(max(now - self.context.origin, MIN_WINDOW_SECONDS), MAX_WINDOW_SECONDS)
        return Window(now - seconds, now)

    def queries(self, now: Time) -> tuple[Query, ...]:
        """About the new release."""
        return (value_query(self.check, QueryPurpose.CANDIDATE, self.context.rollout, self.context.new, self.window(now)),)

    def add(self, measurement: Measurement, answers: Iterable[tuple[Query, QueryResult]]) -> None:
        """Take in the answers to this check's questions."""
        self.failure, result, self.query_texts = None, dict[QueryPurpose, float](), ()
        for query, answer in answers:
            if query.purpose is QueryPurpose.HISTORY:
                self._add_history(answer)
                continue
            self.query_texts = (*self.query_texts, query.query)
            number = single_value(answer)
            if isinstance(number, QueryFailure):
                self.failure = self.failure or number
            else:
                result[query.purpose] = number
        self.add_values(result.get(QueryPurpose.CANDIDATE, math.nan), result.get(QueryPurpose.BASELINE, math.nan))

    def _add_history(self, answer: QueryResult) -> None:
        """What the history says."""

    def add_values(self, candidate: float, baseline: float) -> None:
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

    violations = 0  # how many of the last looks in a row were beyond

    def add_values(self, candidate: float, baseline: float) -> None:
        super().add_values(candidate, baseline)
        if math.isfinite(candidate):
            self.violations = self.violations + 1 if self.violates(candidate) else 0

    def violates(self, number: float) -> bool:
        """Whether a value is on the wrong side."""
        check = self.check
        return (check.maximum is not None and number > check.maximum) or (
            check.minimum is not None and number < check.minimum
        )

    @property
    def has_failed(self) -> bool:
        """Whether it was so often enough."""
        return self.violations >= self.check.min_samples


class ComparedQueryCheck(QueryCheck):
    """Old against new."""

    has_history = False
    _history: Array = np.full((1, 1), np.nan)
    _comparison: GaugeComparison | None = None

    def queries(self, now: Time) -> tuple[Query, ...]:
        context, window = self.context, self.window(now)
        asked = [
            *super().queries(now),
            value_query(self.check, QueryPurpose.BASELINE, context.rollout, context.old, window),
        ]
        if not self.has_history:
            query = fill_query(self.check.query, context.rollout, context.old, Window(0.0, BLOCK_SECONDS))
            span = Window(context.origin - HISTORY_SECONDS, context.origin)
            asked.append(Query(self.check.name, QueryPurpose.HISTORY, query, span, BLOCK_SECONDS))
        return tuple(asked)

    def _add_history(self, answer: QueryResult) -> None:
        if isinstance(answer, QueryFailure):
            return
        self.has_history = True
        if len(answer) == 1:
            self._history = _block_values(answer)

    def add_values(self, candidate: float, baseline: float) -> None:
        super().add_values(candidate, baseline)
        if self._comparison is None and self.has_history:
            options, interval = self.context.parameters, self.context.rollout.policy.interval_seconds
            worse = 1.0 if self.check.direction is Direction.LOWER else -1.0
            luck = float(stdtrit(options.host_weight, 1 - options.host_chance))
            margin = self.check.margin or 0.0
            self._comparison = GaugeComparison(interval, margin, worse, luck, estimate_noise(self._history))
        if self._comparison is not None:
            self._comparison.advance(np.array([candidate]), np.array([baseline]))

    def evalue(self) -> Array:
        """[1]."""
        return np.ones(1) if self._comparison is None else self._comparison.evalue()


def _block_values(answer: Sequence[Series]) -> Array:
    return np.array([[number for _, number in answer[0].samples]], float)
