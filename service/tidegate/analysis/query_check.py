"""Checks with the user's own PromQL: one value per measurement, compared with a limit or with the other release. Pure."""

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
MIN_WINDOW_SECONDS = 5.0  # of `$window`
MAX_WINDOW_SECONDS = 600.0


class QueryCheck:
    """The values of a query, one per measurement and release; NaN where it failed. `failure` is of the last measurement."""

    def __init__(self, check: Check, context: AnalysisContext) -> None:
        self.check, self.context = check, context
        self.failure: QueryFailure | None = None
        self.candidate: list[float] = []
        self.baseline: list[float] = []
        self.query_texts: tuple[str, ...] = ()

    def window(self, now: Time) -> Window:
        """The value of `$window`: the time since the release first took traffic, between 5 s and 10 min."""
        seconds = min(max(now - self.context.origin, MIN_WINDOW_SECONDS), MAX_WINDOW_SECONDS)
        return Window(now - seconds, now)

    def queries(self, now: Time) -> tuple[Query, ...]:
        """The queries to run now."""
        return (value_query(self.check, QueryPurpose.CANDIDATE, self.context.rollout, self.context.new, self.window(now)),)

    def add(self, measurement: Measurement, results: Iterable[tuple[Query, QueryResult]]) -> None:
        """Add the results of this check's queries."""
        self.failure, values, self.query_texts = None, dict[QueryPurpose, float](), ()
        for query, result in results:
            if query.purpose is QueryPurpose.HISTORY:
                self._add_history(result)
                continue
            self.query_texts = (*self.query_texts, query.query)
            value = single_value(result)
            if isinstance(value, QueryFailure):
                self.failure = self.failure or value
            else:
                values[query.purpose] = value
        self.add_values(values.get(QueryPurpose.CANDIDATE, math.nan), values.get(QueryPurpose.BASELINE, math.nan))

    def _add_history(self, result: QueryResult) -> None:
        """Add the result of the history query."""

    def add_values(self, candidate: float, baseline: float) -> None:
        """Add the values of one measurement; NaN where there is none."""
        self.candidate.append(candidate)
        self.baseline.append(baseline)


def single_value(result: QueryResult) -> float | QueryFailure:
    """The finite value of a result with one series, otherwise a failure with the reason."""
    if isinstance(result, QueryFailure):
        return result
    if len(result) > 1:
        text = f"the query returned {len(result)} series, expected 1; aggregate them with sum() or max()"
        return QueryFailure(Reason.MANY_SERIES, text)
    value = result[0].samples[-1][1] if result and result[0].samples else math.nan
    if not math.isfinite(value):
        text = f"{value}" if result else "no series; check the metric's name and labels"
        return QueryFailure(Reason.NO_DATA, f"the query returned {text}")
    return value


class LimitCheck(QueryCheck):
    """Fails the release once `min_samples` values in a row violate `max` or `min`. One without a value does not count."""

    violations = 0  # how many of the latest values in a row violate a limit

    def add_values(self, candidate: float, baseline: float) -> None:
        super().add_values(candidate, baseline)
        if math.isfinite(candidate):
            self.violations = self.violations + 1 if self.violates(candidate) else 0

    def violates(self, value: float) -> bool:
        """Whether a value is above `max` or below `min`."""
        check = self.check
        return (check.maximum is not None and value > check.maximum) or (
            check.minimum is not None and value < check.minimum
        )

    @property
    def has_failed(self) -> bool:
        """Whether enough values in a row violate a limit."""
        return self.violations >= self.check.min_samples


class ComparedQueryCheck(QueryCheck):
    """Compares the values of both releases. `evalue` is the evidence that the new one is worse."""

    has_history = False
    _history: Array = np.full((1, 1), np.nan)
    _comparison: GaugeComparison | None = None

    def queries(self, now: Time) -> tuple[Query, ...]:
        context, window = self.context, self.window(now)
        queries = [
            *super().queries(now),
            value_query(self.check, QueryPurpose.BASELINE, context.rollout, context.old, window),
        ]
        if not self.has_history:
            query = fill_query(self.check.query, context.rollout, context.old, Window(0.0, BLOCK_SECONDS))
            span = Window(context.origin - HISTORY_SECONDS, context.origin)
            queries.append(Query(self.check.name, QueryPurpose.HISTORY, query, span, BLOCK_SECONDS))
        return tuple(queries)

    def _add_history(self, result: QueryResult) -> None:
        if isinstance(result, QueryFailure):
            return
        self.has_history = True
        if len(result) == 1:
            self._history = _block_values(result)

    def add_values(self, candidate: float, baseline: float) -> None:
        super().add_values(candidate, baseline)
        if self._comparison is None and self.has_history:
            parameters, interval = self.context.parameters, self.context.rollout.policy.interval_seconds
            sign = 1.0 if self.check.direction is Direction.LOWER else -1.0
            quantile = float(stdtrit(parameters.host_weight, 1 - parameters.host_chance))
            margin = self.check.margin or 0.0
            self._comparison = GaugeComparison(interval, margin, sign, quantile, estimate_noise(self._history))
        if self._comparison is not None:
            self._comparison.advance(np.array([candidate]), np.array([baseline]))

    @property
    def blocks(self) -> int:
        """The number of compared blocks."""
        return 0 if self._comparison is None else self._comparison.blocks

    def evalue(self) -> Array:
        """The e-value against the baseline [1]; 1 until the history is known."""
        return np.ones(1) if self._comparison is None else self._comparison.evalue()


def _block_values(series: Sequence[Series]) -> Array:
    """[1, blocks]."""
    return np.array([[value for _, value in series[0].samples]], float)
