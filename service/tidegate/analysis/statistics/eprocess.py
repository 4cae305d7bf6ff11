"""The evidence of one count: an e-process of the candidate's instances together, and one of each instance alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.analysis.statistics.baseline_rate import BaselineRate
from tidegate.analysis.statistics.calibration import Calibration, widen_margin
from tidegate.analysis.statistics.effect_grid import CAP_NATS, Array, EffectGrid, log_evalue
from tidegate.analysis.statistics.likelihood import IntervalCounts, log_likelihood
from tidegate.analysis.statistics.parameters import Parameters
from tidegate.analysis.statistics.per_instance import InstanceProcesses

Mask = NDArray[np.bool_]
Margin = Callable[[Array], Array]  # from the baseline's rate [R] to the tolerated rate ratio [R], above 1


@dataclass(frozen=True, eq=False)
class MetricModel:
    """What is fixed for one count before the rollout.

    `rare`: the total is evidence, too. `disturbed`: the factor above which the baseline counts as disturbed, None for a
    count that is never held. `margin_alone`: the wider one of a single instance, None where single ones are not looked at.
    """

    grid: EffectGrid
    margin: Margin
    margin_alone: Margin | None = None
    rare: bool = False
    disturbed: float | None = None


class EProcess:
    """Fed interval by interval. `batches` judged batches are planned, with `planned` instances of the candidate in all."""

    def __init__(
        self,
        model: MetricModel,
        calibration: Calibration,
        exposure_per_second: Array,
        *,
        dt: float,
        batches: int,
        planned: int,
        parameters: Parameters,
    ) -> None:
        self.model, self.calibration, self.parameters = model, calibration, parameters
        self.baseline_rate = BaselineRate(calibration, exposure_per_second, dt, parameters, model.disturbed)
        self._batches = batches
        replicates, points = len(calibration.rate), len(model.grid.theta)
        self._sums: Array = np.zeros((1, replicates, points))  # the first for all, one more for each instance left out
        self._begins: list[Array] = []
        self._left_out: list[int] = []
        self._several = False
        self._effective = np.zeros(replicates)
        self.is_disturbed: Mask = np.zeros(
            replicates, bool
        )  # whether the last interval said nothing: the baseline was disturbed
        self._luck = calibration.host_log_ratio(parameters.host_chance)
        self.margin: Array = np.ones(replicates)  # that applied last
        self.per_instance = None
        if model.margin_alone is not None and planned:
            self.per_instance = InstanceProcesses(
                model.grid, model.margin_alone, calibration, dt, planned, model.rare, parameters
            )

    def begin_batch(self) -> None:
        """A batch of the candidate is from now on compared: a process starts with it."""
        self._begins.append(self._sums.copy())

    def advance(self, bad: Array, exposure: Array, new: Mask, old: Mask) -> None:
        """Take in an interval: counts [R, instances], and which instances are compared on either side."""
        now = self.baseline_rate.current()
        old_bad, old_exposure = (bad * old).sum(1), (exposure * old).sum(1).astype(float)
        compared, beside = max(1, int(new.sum())), max(1, int(old.sum()))
        luck = self._luck * np.sqrt(1 / compared + 1 / beside)
        self.margin = widen_margin(self.model.margin(now.rate), luck, now.rate)
        self._track_new_instances(new)
        seen = self._without_each(bad, exposure, new, old_bad, old_exposure)
        self._sums = self._sums + log_likelihood(
            seen,
            self.margin,
            now,
            self.calibration.dispersion,
            self.model.grid,
            self.parameters,
            rare=self.model.rare,
            max_nats=self.parameters.interval_nats,
        )
        self._several = int(new.sum()) >= 2
        self.is_disturbed = now.is_disturbed
        counted = seen.bad[0] + old_bad
        self._effective = self._effective + counted / self.calibration.dispersion * ~now.is_disturbed
        if self.per_instance is not None:
            self.per_instance.advance(bad, exposure, new, old_bad, old_exposure, now, beside)
        self.baseline_rate.update(old_bad, old_exposure, now.is_disturbed)

    def _track_new_instances(self, new: Mask) -> None:
        """While few are new, each has a process without it from its beginning on."""
        if not 0 < int(new.sum()) <= self.parameters.max_leave_one_out:
            return
        for instance in np.flatnonzero(new):
            if instance not in self._left_out:
                self._left_out.append(int(instance))
                self._sums = np.concatenate([self._sums, self._sums[:1]])
                self._begins = [np.concatenate([each, each[:1]]) for each in self._begins]

    def _without_each(self, bad: Array, exposure: Array, new: Mask, old_bad: Array, old_exposure: Array) -> IntervalCounts:
        """The candidate's counts with all its instances, then without each that is left out: [1 + J, R]."""
        mine, spent = bad * new, exposure * new
        without = [0.0 * mine[:, 0], *(mine[:, each] for each in self._left_out)]
        unspent = [0.0 * spent[:, 0], *(spent[:, each] for each in self._left_out)]
        return IntervalCounts(mine.sum(1) - np.stack(without), spent.sum(1) - np.stack(unspent), old_bad, old_exposure)

    def _group(self) -> Array:
        """[1 + J, R]: the mean over the batches' processes; one that has not begun counts as 1."""
        result = np.zeros(self._sums.shape[:2])
        for number in range(self._batches):
            weight = self._weight(number)
            if number < len(self._begins):
                since = log_evalue(self._sums - self._begins[number], self.model.grid)
                result += weight * np.exp(np.minimum(since, CAP_NATS))
            else:
                result += weight
        return np.maximum(result, 1e-300)

    def _weight(self, number: int) -> float:
        if self._batches == 1:
            return 1.0
        first = self.parameters.first_weight
        return first if number == 0 else (1 - first) / (self._batches - 1)

    def group_evalue(self) -> Array:
        """[R]: of all instances together, and not much more than without any one of them."""
        result = self._group()
        if not self._several or len(result) == 1:
            return np.asarray(result[0])
        return np.asarray(np.minimum(result[0], self.parameters.leave_out_factor * result[1:].min(0)))

    def evalue(self) -> Array:
        """[R]: the e-value of this count. Half of it is the group's, half the single instances'."""
        group = self.group_evalue()
        return group if self.per_instance is None else 0.5 * group + 0.5 * self.per_instance.evalue()

    @property
    def log_sums(self) -> Array:
        """[R, K]: the log-likelihood of each theta so far, all instances together."""
        return np.asarray(self._sums[0])

    @property
    def log_ratio(self) -> Array:
        """[R]: the greatest log-likelihood of harm (theta >= 0), bounded by leave-one-out as the e-value is."""
        result = self._sums[..., self.model.grid.zero :].max(-1)
        if not self._several or len(result) == 1:
            return np.asarray(result[0])
        return np.asarray(np.minimum(result[0], result[1:].min(0) + np.log(self.parameters.leave_out_factor)))

    @property
    def effective_events(self) -> Array:
        """[R]: bad events so far, without those while held, over their dispersion."""
        return self._effective
