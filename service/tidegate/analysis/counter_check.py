"""The ready-made checks that count requests: raw counters to evidence. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tidegate.analysis.analysis_context import AnalysisContext
from tidegate.analysis.comparison import BaselineHistory, Comparison, ComparisonTotals, InstanceCounts
from tidegate.analysis.counters import Counters, Increase, InstanceIndex, IntervalSums
from tidegate.analysis.measurement import Measurement
from tidegate.analysis.queries import (
    HISTORY_SECONDS,
    HISTORY_STEP_SECONDS,
    Labels,
    Query,
    QueryFailure,
    QueryPurpose,
    QueryResult,
    Series,
    history_query,
    samples_query,
)
from tidegate.analysis.statistics.calibration import Calibration
from tidegate.analysis.statistics.effect_grid import Array
from tidegate.analysis.statistics.eprocess import EProcess, MetricModel
from tidegate.clock import Time
from tidegate.core.model import Check

HISTORY_BLOCKS = 30  # of the history, for how unsteady and how different the instances are

ALL_REQUESTS = "all"  # the slot of all requests

Counts = Mapping[str, Array]  # by slot: [1, instances]


@dataclass(frozen=True, eq=False)
class CountHistory:
    """A count before the rollout: how it is between instances, its exposures a second [1], and the service's totals
    [1, minutes]."""

    calibration: Calibration
    per_second: Array
    bad: Array
    exposure: Array


class CounterCheck(ABC):
    """Fed with looks. What a kind of check adds: its selectors, the slots of a series, and its arms."""

    def __init__(self, check: Check, context: AnalysisContext) -> None:
        self.check, self.context = check, context
        self.counters, self.instances = Counters(), InstanceIndex([context.old, context.new])
        self.sums: IntervalSums | None = None
        self.history: Sequence[Mapping[tuple[str, int], float]] = ()  # the history's minutes
        self.has_history = False
        self.failure: QueryFailure | None = None
        self.comparisons: Sequence[Comparison] = ()
        self.last_sample_at: Time = context.origin
        self.query_texts: tuple[str, ...] = ()
        self._pending: list[Increase] = []  # before the scrape interval is known
        self._step = -1

    @property
    def dt(self) -> float:
        """Seconds in an interval."""
        return self.sums.interval_seconds if self.sums else self.context.rollout.policy.interval_seconds

    # -- asked ------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def selector(self) -> str:
        """What is asked at each look."""

    def history_selector(self) -> str:
        """What is asked about the time before."""
        return self.selector()

    def queries(self, now: Time) -> tuple[Query, ...]:
        """The history until it was answered, and what is new."""
        query = [] if self.has_history else [history_query(self.check.name, self.history_selector(), self.context.origin)]
        return (*query, samples_query(self.check.name, self.selector(), self.last_sample_at, now))

    # -- taken in ---------------------------------------------------------------------------------------------------------

    @abstractmethod
    def slots(self, labels: Labels) -> Sequence[str]:
        """Which amounts a counter belongs to."""

    @abstractmethod
    def prepare(self, past: Sequence[Counts]) -> Sequence[Comparison]:
        """The arms, from minutes of history; none while too little is known."""

    @abstractmethod
    def split(self, comparison: Comparison, counts: Counts) -> tuple[Array, Array]:
        """(bad events, exposures) of an arm."""

    def add(self, measurement: Measurement, answers: Iterable[tuple[Query, QueryResult]]) -> None:
        """Take in the answers to this check's questions."""
        self.failure = None
        for query, answer in answers:
            if isinstance(answer, QueryFailure):
                self.failure = self.failure or answer
            elif query.purpose is QueryPurpose.HISTORY:
                self._add_history(answer)
            else:
                self.query_texts = (query.query,)
                self._add_samples(answer, measurement.at)
        if measurement.step != self._step:
            self._step = measurement.step
            for comparison in self.comparisons:
                comparison.step_totals = ComparisonTotals()
        if self.has_history and self.sums is not None and not self.comparisons:
            self.comparisons = self.prepare([self._counts(cell) for cell in self.history])
        if self.comparisons and self.sums is not None:
            for start, cell in self.sums.pop_ended(self.counters.complete_until(measurement.at)):
                self._advance(start, cell)

    def _add_history(self, found: Sequence[Series]) -> None:
        self.has_history = True
        minutes = IntervalSums(self.context.origin - HISTORY_SECONDS, HISTORY_STEP_SECONDS)
        self._add(minutes, Counters().add(found))
        self.history = [cell for _, cell in minutes.pop_ended(self.context.origin)]

    def _add_samples(self, found: Sequence[Series], now: Time) -> None:
        grown = list(self.counters.add(found))
        self.instances.add(found)
        self.last_sample_at = self.counters.last_scrape or self.last_sample_at
        if self.sums is None:
            interval = self.counters.interval_seconds
            if interval is None:
                self._pending += grown
                return
            self.sums = IntervalSums(self.context.origin, max(self.dt, interval))
            grown, self._pending = self._pending + grown, []
        self._add(self.sums, grown)

    def _add(self, cells: IntervalSums, grown: Iterable[Increase]) -> None:
        for each in grown:
            place = self.instances.index_of(each.labels)
            if place is not None:
                for slot in self.slots(each.labels):
                    cells.add(each.at, slot, place, each.amount)

    def _counts(self, cell: Mapping[tuple[str, int], float]) -> Counts:
        """By slot: [1, instances], 0 where there is nothing."""
        result: dict[str, Array] = {}
        for (slot, place), amount in cell.items():
            result.setdefault(slot, np.zeros((1, len(self.instances.columns))))[0, place] = amount
        return result

    def _advance(self, start: Time, cell: Mapping[tuple[str, int], float]) -> None:
        assert self.sums is not None
        columns, end, warmup = (
            self.instances.columns,
            start + self.sums.interval_seconds,
            self.context.parameters.warmup_seconds,
        )
        there = [column.first_seen <= end and column.last_seen >= start for column in columns]
        new = np.array(
            [here and column.release == self.context.new for here, column in zip(there, columns, strict=True)], bool
        )
        old = np.array(
            [here and column.release == self.context.old for here, column in zip(there, columns, strict=True)], bool
        )
        warm = np.array([end - column.first_seen >= warmup for column in columns], bool)
        counts = self._counts(cell)
        for comparison in self.comparisons:
            bad, exposure = self.split(comparison, counts)
            comparison.advance(InstanceCounts(start, bad, exposure, new & warm, new, old))

    def make_comparison(
        self,
        name: str,
        weight: float,
        model: MetricModel,
        past: CountHistory,
        *,
        steady: float,
        harm: float,
        warming: bool = False,
    ) -> Comparison:
        """One arm with its evidence beside a baseline and after the switch. `steady`: the prior of the log rate's standard
        deviation over time."""
        context, options = self.context, self.context.parameters
        beside = before = None
        if context.batches:
            batches = 1 if warming else context.batches
            beside = EProcess(
                model,
                past.calibration,
                past.per_second,
                dt=self.dt,
                batches=batches,
                planned=context.planned_instances,
                parameters=options,
            )
        if not warming:
            before = BaselineHistory(model, past.bad, past.exposure, steady, options)
        return Comparison(name, weight, context, beside, before, warming=warming, harm=harm)

    # -- of the history ---------------------------------------------------------------------------------------------------

    def zeros(self) -> Array:
        """[1, instances] zeros."""
        return np.zeros((1, len(self.instances.columns)))

    def history_blocks(self, past: Sequence[Counts], slot: str, count: int = HISTORY_BLOCKS) -> Array:
        """[1, blocks, old instances]: the last minutes of the history."""
        old = [place for place, column in enumerate(self.instances.columns) if column.release == self.context.old]
        rows = [counts.get(slot, self.zeros())[:, old] for counts in past[-count:]]
        return np.stack(rows, axis=1) if old and rows else np.zeros((1, count, 1))

    def history_of(
        self, past: Sequence[Counts], bad: str, calibrate: Callable[[Array, Array], Calibration]
    ) -> CountHistory:
        """What is known of a count before the rollout."""
        exposure = self.history_blocks(past, ALL_REQUESTS)
        minutes = max(1, int((exposure.sum((0, 2)) > 0).sum()))
        return CountHistory(
            calibrate(self.history_blocks(past, bad), exposure),
            exposure.sum((1, 2)) / (HISTORY_STEP_SECONDS * minutes),
            self.history_blocks(past, bad, len(past)).sum(2),
            self.history_blocks(past, ALL_REQUESTS, len(past)).sum(2),
        )
