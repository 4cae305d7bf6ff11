"""Readiness, restarts and memory of single instances. Pure."""

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
    """Each look is a probe of each instance: bad when one that was ready is not, or was restarted since."""

    def __init__(self, context: AnalysisContext) -> None:
        self.context = context
        self.totals = ComparisonTotals()
        self._indexes: dict[str, int] = {}
        self._first_seen: list[Time] = []
        self._restarts: dict[str, int] = {}
        self._batches: set[int] = set()
        none = np.zeros((1, 30, 1))
        self.process: EProcess | None = None
        if context.batches:
            self.process = EProcess(
                readiness_model(),
                readiness_calibration(none, none, context.parameters),
                np.zeros(1),
                dt=context.rollout.policy.interval_seconds,
                batches=context.batches,
                planned=context.planned_instances,
                parameters=context.parameters,
            )

    def add(self, measurement: Measurement) -> None:
        """One probe of all."""
        for each in measurement.instances:
            if each.instance not in self._indexes and each.ready:
                self._indexes[each.instance] = len(self._indexes)
                self._first_seen.append(measurement.at)
        seen = self._counts(measurement)
        self._restarts = {each.instance: each.restarts for each in measurement.instances}
        if self.process is None or not seen.old.any():
            return
        for step, at in self.context.concurrent_since.items():
            if step not in self._batches and measurement.at >= at + self.context.parameters.warmup_seconds:
                self.process.begin_batch()
                self._batches.add(step)
        self.process.advance(seen.bad, seen.exposure, seen.warm, seen.old)
        self.totals.add(seen, held=False)

    def _counts(self, measurement: Measurement) -> InstanceCounts:
        shape = (1, len(self._indexes))
        bad, exposure = np.zeros(shape), np.zeros(shape)
        new, old = np.zeros(shape[1], bool), np.zeros(shape[1], bool)
        for each in measurement.instances:
            place = self._indexes.get(each.instance)
            if place is None:
                continue
            exposure[0, place] = 1.0
            again = each.restarts > self._restarts.get(each.instance, each.restarts)
            bad[0, place] = float(not each.ready or again)
            new[place], old[place] = each.release == self.context.new, each.release == self.context.old
        warm = np.array(
            [measurement.at - first >= self.context.parameters.warmup_seconds for first in self._first_seen], bool
        )
        return InstanceCounts(measurement.at, bad, exposure, new & warm, new, old)

    def evalue(self) -> Array:
        """[1]."""
        return np.ones(1) if self.process is None else self.process.evalue()


class MemoryCheck:
    """A gauge of each instance as a share of `limit`, with the labels `release` and `ordinal`."""

    def __init__(self, check: Check, context: AnalysisContext) -> None:
        self.check, self.context = check, context
        self.instances = InstanceIndex(context.releases)
        self.dt = context.rollout.policy.interval_seconds
        self.sums = IntervalSums(context.origin, self.dt)
        self.trend = MemoryTrend(1, self.dt, max(1, context.batches), context.parameters)
        self.failure: QueryFailure | None = None
        self.last_sample_at = context.origin
        self.query_texts: tuple[str, ...] = ()
        self.latest: dict[str, float] = {}  # by release: the mean share of the limit
        self._batches: set[int] = set()
        self._members: set[int] = set()

    def queries(self, now: Time) -> tuple[Query, ...]:
        """What was scraped since."""
        query = fill_query(self.check.query, self.context.rollout, self.context.new, Window(now - self.dt, now))
        return (samples_query(self.check.name, query, self.last_sample_at, now),)

    def add(self, measurement: Measurement, answers: Iterable[tuple[Query, QueryResult]]) -> None:
        """Take in the gauge's samples."""
        self.failure = None
        for query, answer in answers:
            self.query_texts = (query.query,)
            if isinstance(answer, QueryFailure):
                self.failure = answer
                continue
            self.instances.add(answer)
            newest = self.last_sample_at
            for series in answer:
                place = self.instances.index_of(series.labels)
                for at, number in series.samples if place is not None else ():
                    if at > self.last_sample_at and np.isfinite(number):
                        assert place is not None
                        self.sums.add(at, SUM, place, number / (self.check.maximum or 1.0))
                        self.sums.add(at, COUNT, place, 1.0)
                        newest = max(newest, at)
            self.last_sample_at = newest
        for start, cell in self.sums.pop_ended(self.last_sample_at):
            self._advance(start, cell)

    def _advance(self, start: Time, cell: Mapping[tuple[str, int], float]) -> None:
        columns = self.instances.columns
        gauge = np.full((1, len(columns)), np.nan)
        for place in range(len(columns)):
            if (COUNT, place) in cell:
                gauge[0, place] = cell[SUM, place] / cell[COUNT, place]
        new = np.array([column.release == self.context.new for column in columns], bool)
        age = np.where(new, [start - column.first_seen for column in columns], -1.0) if columns else np.zeros(0)
        for step, at in self.context.concurrent_since.items():
            members = [int(place) for place in np.flatnonzero(new) if place not in self._members]
            if step not in self._batches and start >= at + self.context.parameters.warmup_seconds and members:
                self._batches.add(step)
                self._members |= set(members)
                self.trend.begin_batch(members, int((~new).sum()))
        for release in self.context.releases:
            mine = [gauge[0, place] for place, column in enumerate(columns) if column.release == release]
            known = [number for number in mine if np.isfinite(number)]
            if known:
                self.latest[release] = float(np.mean(known))
        self.trend.advance(gauge, age)

    def evalue(self) -> Array:
        """[1]."""
        return self.trend.evalue()
