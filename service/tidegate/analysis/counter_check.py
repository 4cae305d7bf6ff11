"""The base of the checks that count requests: from raw counters to evidence. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tidegate.analysis import messages
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

HISTORY_BLOCKS = 30  # minutes of history from which dispersion and differences between instances are estimated

ALL_REQUESTS = "all"  # the slot of all requests

Counts = Mapping[str, Array]  # by slot: [1, instances]


@dataclass(frozen=True, eq=False)
class CountHistory:
    """A count before the rollout: its calibration, its exposures per second [1], and the totals of the service
    [1, minutes]."""

    calibration: Calibration
    per_second: Array
    bad: Array
    exposure: Array


class CounterCheck(ABC):
    """Takes measurements. A subclass defines the selectors, the slots (kinds of counts), and the comparisons."""

    def __init__(self, check: Check, context: AnalysisContext) -> None:
        self.check, self.context = check, context
        self.counters, self.instances = Counters(), InstanceIndex([context.old, context.new])
        self.sums: IntervalSums | None = None
        self.history: Sequence[Mapping[tuple[str, int], float]] = ()  # by minute: amounts by (slot, instance)
        self.has_history = False
        self.failure: QueryFailure | None = None
        self.comparisons: Sequence[Comparison] = ()
        self.last_sample_at: Time = context.origin
        self.query_texts: tuple[str, ...] = ()
        self._pending: list[Increase] = []  # until the scrape interval is known
        self._step = -1

    @property
    def dt(self) -> float:
        """The length of an interval in seconds."""
        return self.sums.interval_seconds if self.sums else self.context.rollout.policy.interval_seconds

    # -- queries ----------------------------------------------------------------------------------------------------------

    @abstractmethod
    def selector(self) -> str:
        """The selector for each measurement."""

    def no_series_message(self, release: str) -> str:
        """The finding's message if there is no series of a release."""
        return messages.no_series_message(release)

    def history_selector(self) -> str:
        """The selector for the time before the rollout."""
        return self.selector()

    def queries(self, now: Time) -> tuple[Query, ...]:
        """The history until it has arrived, and the newest samples."""
        history = [] if self.has_history else [history_query(self.check.name, self.history_selector(), self.context.origin)]
        return (*history, samples_query(self.check.name, self.selector(), self.last_sample_at, now))

    # -- results ----------------------------------------------------------------------------------------------------------

    @abstractmethod
    def slots(self, labels: Labels) -> Sequence[str]:
        """The slots that a series counts towards."""

    @abstractmethod
    def prepare(self, past: Sequence[Counts]) -> Sequence[Comparison]:
        """The comparisons, given the minutes of history; empty while there is too little data."""

    @abstractmethod
    def split(self, comparison: Comparison, counts: Counts) -> tuple[Array, Array]:
        """The bad events and exposures of a comparison, both [1, instances]."""

    def add(self, measurement: Measurement, results: Iterable[tuple[Query, QueryResult]]) -> None:
        """Add the results of this check's queries."""
        self.failure = None
        for query, result in results:
            if isinstance(result, QueryFailure):
                self.failure = self.failure or result
            elif query.purpose is QueryPurpose.HISTORY:
                self._add_history(result)
            else:
                self.query_texts = (query.query,)
                self._add_samples(result, measurement.at)
        if measurement.step != self._step:
            self._step = measurement.step
            for comparison in self.comparisons:
                comparison.step_totals = ComparisonTotals()
        if self.has_history and self.sums is not None and not self.comparisons:
            self.comparisons = self.prepare([self._counts(cell) for cell in self.history])
        if self.comparisons and self.sums is not None:
            for start, cell in self.sums.pop_ended(self.counters.complete_until(measurement.at)):
                self._advance(start, cell)

    def _add_history(self, series: Sequence[Series]) -> None:
        self.has_history = True
        minutes = IntervalSums(self.context.origin - HISTORY_SECONDS, HISTORY_STEP_SECONDS)
        self._add(minutes, Counters().add(series))
        self.history = [cell for _, cell in minutes.pop_ended(self.context.origin)]

    def _add_samples(self, series: Sequence[Series], now: Time) -> None:
        increases = list(self.counters.add(series))
        self.instances.add(series)
        self.last_sample_at = self.counters.last_scrape or self.last_sample_at
        if self.sums is None:
            interval = self.counters.interval_seconds
            if interval is None:
                self._pending += increases
                return
            self.sums = IntervalSums(self.context.origin, max(self.dt, interval))
            increases, self._pending = self._pending + increases, []
        self._add(self.sums, increases)

    def _add(self, sums: IntervalSums, increases: Iterable[Increase]) -> None:
        for increase in increases:
            index = self.instances.index_of(increase.labels)
            if index is not None:
                for slot in self.slots(increase.labels):
                    sums.add(increase.at, slot, index, increase.amount)

    def _counts(self, cell: Mapping[tuple[str, int], float]) -> Counts:
        """The amounts of a cell by slot: [1, instances]."""
        counts: dict[str, Array] = {}
        for (slot, index), amount in cell.items():
            counts.setdefault(slot, self.zeros())[0, index] = amount
        return counts

    def _advance(self, start: Time, cell: Mapping[tuple[str, int], float]) -> None:
        assert self.sums is not None
        columns, end = self.instances.columns, start + self.sums.interval_seconds
        present = np.array([column.first_seen <= end and column.last_seen >= start for column in columns], bool)
        new = present & np.array([column.release == self.context.new for column in columns], bool)
        old = present & np.array([column.release == self.context.old for column in columns], bool)
        warmup_seconds = self.context.parameters.warmup_seconds
        warm = np.array([end - column.first_seen >= warmup_seconds for column in columns], bool)
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
        time_sd: float,
        harm: float,
        warming: bool = False,
    ) -> Comparison:
        """A comparison with a concurrent baseline and with the time before the switch. `time_sd`: the prior standard
        deviation of the log rate over time."""
        context, parameters = self.context, self.context.parameters
        process = before = None
        if context.batches:
            batches = 1 if warming else context.batches
            process = EProcess(
                model,
                past.calibration,
                past.per_second,
                dt=self.dt,
                batches=batches,
                planned=context.planned_instances,
                parameters=parameters,
            )
        if not warming:
            before = BaselineHistory(model, past.bad, past.exposure, time_sd, parameters)
        return Comparison(name, weight, context, process, before, warming=warming, harm=harm)

    # -- history ----------------------------------------------------------------------------------------------------------

    def zeros(self) -> Array:
        """[1, instances] zeros."""
        return np.zeros((1, len(self.instances.columns)))

    def history_blocks(self, past: Sequence[Counts], slot: str, count: int = HISTORY_BLOCKS) -> Array:
        """[1, blocks, old instances]: the last `count` minutes of the history."""
        old = [index for index, column in enumerate(self.instances.columns) if column.release == self.context.old]
        rows = [counts.get(slot, self.zeros())[:, old] for counts in past[-count:]]
        return np.stack(rows, axis=1) if old and rows else np.zeros((1, count, 1))

    def history_of(
        self, past: Sequence[Counts], bad: str, calibrate: Callable[[Array, Array], Calibration]
    ) -> CountHistory:
        """The count of `bad` events before the rollout."""
        exposure = self.history_blocks(past, ALL_REQUESTS)
        minutes = max(1, int((exposure.sum((0, 2)) > 0).sum()))
        return CountHistory(
            calibrate(self.history_blocks(past, bad), exposure),
            exposure.sum((1, 2)) / (HISTORY_STEP_SECONDS * minutes),
            self.history_blocks(past, bad, len(past)).sum(2),
            self.history_blocks(past, ALL_REQUESTS, len(past)).sum(2),
        )
