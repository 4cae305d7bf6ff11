"""The checks of readiness, restarts and memory of instances. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from tidegate.analysis.analysis_context import AnalysisContext
from tidegate.analysis.comparison import ComparisonTotals, InstanceCounts
from tidegate.analysis.counters import InstanceIndex, IntervalSums
from tidegate.analysis.measurement import Measurement
from tidegate.analysis.queries import Query, QueryFailure, QueryResult, fill_query, samples_query
from tidegate.analysis.statistics.effect_grid import Array
from tidegate.analysis.statistics.eprocess import EProcess
from tidegate.analysis.statistics.memory_trend import MemoryTrend
from tidegate.analysis.statistics.metric_models import readiness_calibration, readiness_model
from tidegate.clock import Time, Window
from tidegate.core.model import Check

COUNT, SUM = "count", "sum"


class ReadinessCheck:
    """Each measurement probes each instance. A probe fails if an instance that was ready is not, or has been restarted."""

    def __init__(self, context: AnalysisContext) -> None:
        self.context = context
        self.totals = ComparisonTotals()
        self._indexes: dict[str, int] = {}
        self._first_seen: list[Time] = []
        self._restarts: dict[str, int] = {}
        self._batches: set[int] = set()
        no_history = np.zeros((1, 30, 1))
        self.process: EProcess | None = None
        if context.batches:
            self.process = EProcess(
                readiness_model(),
                readiness_calibration(no_history, no_history, context.parameters),
                np.zeros(1),
                dt=context.rollout.policy.interval_seconds,
                batches=context.batches,
                planned=context.planned_instances,
                parameters=context.parameters,
            )

    def add(self, measurement: Measurement) -> None:
        """Add one probe of each instance."""
        for sample in measurement.instances:
            if sample.instance not in self._indexes and sample.ready:
                self._indexes[sample.instance] = len(self._indexes)
                self._first_seen.append(measurement.at)
        counts = self._counts(measurement)
        self._restarts = {sample.instance: sample.restarts for sample in measurement.instances}
        if self.process is None or not counts.old.any():
            return
        for step, at in self.context.concurrent_since.items():
            if step not in self._batches and measurement.at >= at + self.context.parameters.warmup_seconds:
                self.process.begin_batch()
                self._batches.add(step)
        self.process.advance(counts.bad, counts.exposure, counts.warm, counts.old)
        self.totals.add(counts, disturbed=False)

    def _counts(self, measurement: Measurement) -> InstanceCounts:
        shape = (1, len(self._indexes))
        bad, exposure = np.zeros(shape), np.zeros(shape)
        new, old = np.zeros(shape[1], bool), np.zeros(shape[1], bool)
        for sample in measurement.instances:
            index = self._indexes.get(sample.instance)
            if index is None:
                continue
            exposure[0, index] = 1.0
            restarted = sample.restarts > self._restarts.get(sample.instance, sample.restarts)
            bad[0, index] = float(not sample.ready or restarted)
            new[index], old[index] = sample.release == self.context.new, sample.release == self.context.old
        warm = np.array(
            [measurement.at - first >= self.context.parameters.warmup_seconds for first in self._first_seen], bool
        )
        return InstanceCounts(measurement.at, bad, exposure, new & warm, new, old)

    def evalue(self) -> Array:
        """The e-value against the concurrent baseline [1]."""
        return np.ones(1) if self.process is None else self.process.evalue()


class MemoryCheck:
    """A gauge of each instance as a share of `limit`. The series have the labels `release` and `ordinal`."""

    def __init__(self, check: Check, context: AnalysisContext) -> None:
        self.check, self.context = check, context
        self.instances = InstanceIndex(context.releases)
        self.dt = context.rollout.policy.interval_seconds
        self.sums = IntervalSums(context.origin, self.dt)
        self.trend = MemoryTrend(1, self.dt, max(1, context.batches), context.parameters)
        self.failure: QueryFailure | None = None
        self.last_sample_at = context.origin
        self.query_texts: tuple[str, ...] = ()
        self.latest: dict[str, float] = {}  # by release: the mean over its instances, as a share of the limit
        self._members: set[int] = set()

    def queries(self, now: Time) -> tuple[Query, ...]:
        """The samples scraped since the last known one."""
        query = fill_query(self.check.query, self.context.rollout, self.context.new, Window(now - self.dt, now))
        return (samples_query(self.check.name, query, self.last_sample_at, now),)

    def add(self, measurement: Measurement, results: Iterable[tuple[Query, QueryResult]]) -> None:
        """Add the samples of the gauge."""
        self.failure = None
        for query, result in results:
            self.query_texts = (query.query,)
            if isinstance(result, QueryFailure):
                self.failure = result
                continue
            self.instances.add(result)
            newest = self.last_sample_at
            for series in result:
                index = self.instances.index_of(series.labels)
                for at, value in series.samples if index is not None else ():
                    if at > self.last_sample_at and np.isfinite(value):
                        assert index is not None
                        self.sums.add(at, SUM, index, value / (self.check.maximum or 1.0))
                        self.sums.add(at, COUNT, index, 1.0)
                        newest = max(newest, at)
            self.last_sample_at = newest
        for start, cell in self.sums.pop_ended(self.last_sample_at):
            self._advance(start, cell)

    def _advance(self, start: Time, cell: Mapping[tuple[str, int], float]) -> None:
        columns = self.instances.columns
        gauge = np.full((1, len(columns)), np.nan)
        for index in range(len(columns)):
            if (COUNT, index) in cell:
                gauge[0, index] = cell[SUM, index] / cell[COUNT, index]
        new = np.array([column.release == self.context.new for column in columns], bool)
        age = np.where(new, [start - column.first_seen for column in columns], -1.0) if columns else np.zeros(0)
        members, shifted = self._waiting(), self.context.shifted_at
        if members and shifted is not None and start >= shifted + self.context.parameters.warmup_seconds:
            self._members |= set(members)
            self.trend.begin_batch(members, int((~new).sum()))
        for release in self.context.releases:
            shares = [gauge[0, index] for index, column in enumerate(columns) if column.release == release]
            finite = [share for share in shares if np.isfinite(share)]
            if finite:
                self.latest[release] = float(np.mean(finite))
        self.trend.advance(gauge, age)

    def _waiting(self) -> list[int]:
        """The indexes of the candidate's instances that belong to no compared batch yet."""
        columns = enumerate(self.instances.columns)
        return [index for index, column in columns if column.release == self.context.new and index not in self._members]

    @property
    def shows_leak(self) -> bool:
        """Whether the newest instances have been compared for long enough; not while some wait for the end of their
        warm-up."""
        return self.trend.shows_leak and not self._waiting()

    def evalue(self) -> Array:
        """The e-value against the concurrent baseline [1]."""
        return self.trend.evalue()
