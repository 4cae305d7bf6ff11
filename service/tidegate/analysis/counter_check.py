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

    known: Calibration
    per_second: Array
    bad: Array
    exposure: Array


class CounterCheck(ABC):
    """Fed with looks. What a kind of check adds: its selectors, the slots of a series, and its arms."""

    def __init__(self, check: Check, context: AnalysisContext) -> None:
        self.check, self.ground = check, context
        self.counters, self.roster = Counters(), InstanceIndex([context.old, context.new])
        self.cells: IntervalSums | None = None
        self.past: Sequence[Mapping[tuple[str, int], float]] = ()  # the history's minutes
        self.recalled = False
        self.failure: QueryFailure | None = None
        self.arms: Sequence[Comparison] = ()
        self.known_until: Time = context.origin
        self.queries: tuple[str, ...] = ()
        self._early: list[Increase] = []  # before the scrape interval is known
        self._step = -1

    @property
    def dt(self) -> float:
        """Seconds in an interval."""
        return self.cells.dt if self.cells else self.ground.rollout.policy.look_seconds

    # -- asked ------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def selector(self) -> str:
        """What is asked at each look."""

    def history_selector(self) -> str:
        """What is asked about the time before."""
        return self.selector()

    def questions(self, now: Time) -> tuple[Query, ...]:
        """The history until it was answered, and what is new."""
        query = [] if self.recalled else [history_query(self.check.name, self.history_selector(), self.ground.origin)]
        return (*query, samples_query(self.check.name, self.selector(), self.known_until, now))

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

    def take(self, measurement: Measurement, answers: Iterable[tuple[Query, QueryResult]]) -> None:
        """Take in the answers to this check's questions."""
        self.failure = None
        for query, answer in answers:
            if isinstance(answer, QueryFailure):
                self.failure = self.failure or answer
            elif query.part is QueryPurpose.HISTORY:
                self._recall(answer)
            else:
                self.queries = (query.query,)
                self._feed(answer, measurement.at)
        if measurement.step != self._step:
            self._step = measurement.step
            for comparison in self.arms:
                comparison.step = ComparisonTotals()
        if self.recalled and self.cells is not None and not self.arms:
            self.arms = self.prepare([self._counts(cell) for cell in self.past])
        if self.arms and self.cells is not None:
            for start, cell in self.cells.ended(self.counters.complete_until(measurement.at)):
                self._advance(start, cell)

    def _recall(self, found: Sequence[Series]) -> None:
        self.recalled = True
        minutes = IntervalSums(self.ground.origin - HISTORY_SECONDS, HISTORY_STEP_SECONDS)
        self._add(minutes, Counters().feed(found))
        self.past = [cell for _, cell in minutes.ended(self.ground.origin)]

    def _feed(self, found: Sequence[Series], now: Time) -> None:
        grown = list(self.counters.feed(found))
        self.roster.seen(found)
        self.known_until = self.counters.newest or self.known_until
        if self.cells is None:
            interval = self.counters.interval_seconds
            if interval is None:
                self._early += grown
                return
            self.cells = IntervalSums(self.ground.origin, max(self.dt, interval))
            grown, self._early = self._early + grown, []
        self._add(self.cells, grown)

    def _add(self, cells: IntervalSums, grown: Iterable[Increase]) -> None:
        for each in grown:
            place = self.roster.place(each.labels)
            if place is not None:
                for slot in self.slots(each.labels):
                    cells.add(each.at, slot, place, each.amount)

    def _counts(self, cell: Mapping[tuple[str, int], float]) -> Counts:
        """By slot: [1, instances], 0 where there is nothing."""
        result: dict[str, Array] = {}
        for (slot, place), amount in cell.items():
            result.setdefault(slot, np.zeros((1, len(self.roster.columns))))[0, place] = amount
        return result

    def _advance(self, start: Time, cell: Mapping[tuple[str, int], float]) -> None:
        assert self.cells is not None
        columns, end, warmup = self.roster.columns, start + self.cells.dt, self.ground.options.warmup_seconds
        there = [column.first <= end and column.last >= start for column in columns]
        new = np.array(
            [here and column.release == self.ground.new for here, column in zip(there, columns, strict=True)], bool
        )
        old = np.array(
            [here and column.release == self.ground.old for here, column in zip(there, columns, strict=True)], bool
        )
        warm = np.array([end - column.first >= warmup for column in columns], bool)
        counts = self._counts(cell)
        for comparison in self.arms:
            bad, exposure = self.split(comparison, counts)
            comparison.advance(InstanceCounts(start, bad, exposure, new & warm, new, old))

    def arm(
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
        context, options = self.ground, self.ground.options
        beside = before = None
        if context.batches:
            batches = 1 if warming else context.batches
            beside = EProcess(
                model, past.known, past.per_second, dt=self.dt, batches=batches, planned=context.planned, parameters=options
            )
        if not warming:
            before = BaselineHistory(model, past.bad, past.exposure, steady, options)
        return Comparison(name, weight, context, beside, before, warming=warming, harm=harm)

    # -- of the history ---------------------------------------------------------------------------------------------------

    def nothing(self) -> Array:
        """[1, instances] zeros."""
        return np.zeros((1, len(self.roster.columns)))

    def blocks(self, past: Sequence[Counts], slot: str, count: int = HISTORY_BLOCKS) -> Array:
        """[1, blocks, old instances]: the last minutes of the history."""
        old = [place for place, column in enumerate(self.roster.columns) if column.release == self.ground.old]
        rows = [counts.get(slot, self.nothing())[:, old] for counts in past[-count:]]
        return np.stack(rows, axis=1) if old and rows else np.zeros((1, count, 1))

    def past_of(self, past: Sequence[Counts], bad: str, calibrate: Callable[[Array, Array], Calibration]) -> CountHistory:
        """What is known of a count before the rollout."""
        exposure = self.blocks(past, ALL_REQUESTS)
        minutes = max(1, int((exposure.sum((0, 2)) > 0).sum()))
        return CountHistory(
            calibrate(self.blocks(past, bad), exposure),
            exposure.sum((1, 2)) / (HISTORY_STEP_SECONDS * minutes),
            self.blocks(past, bad, len(past)).sum(2),
            self.blocks(past, ALL_REQUESTS, len(past)).sum(2),
        )
