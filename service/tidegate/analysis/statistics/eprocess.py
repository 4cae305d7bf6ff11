"""The evidence of one count: an e-process for all candidate instances together, and one for each instance."""

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
    """The model of one count, fixed before the rollout.

    `rare`: the total number of bad events is evidence, too. `disturbed`: the factor above which the baseline counts as
    disturbed, None for never. `margin_alone`: the wider margin of a single instance, None to analyse no single instances.
    """

    grid: EffectGrid
    margin: Margin
    margin_alone: Margin | None = None
    rare: bool = False
    disturbed: float | None = None


class EProcess:
    """Takes intervals. `batches` analysed batches are planned, with `planned` candidate instances in total."""

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
        self._sums: Array = np.zeros((1, replicates, points))  # for all instances, then without each one left out
        self._begins: list[Array] = []
        self._left_out: list[int] = []
        self._several = False
        self._effective = np.zeros(replicates)
        self.is_disturbed: Mask = np.zeros(replicates, bool)  # whether the baseline was in the last interval
        chances = (parameters.host_chance, parameters.usual_host_chance)
        self._host_log_ratios = [calibration.host_log_ratio(chance) for chance in chances]
        self._hosts = 1.0  # how much more the means of so few instances differ than two instances
        self.margin: Array = np.ones(replicates)  # of the last interval
        self.per_instance = None
        if model.margin_alone is not None and planned:
            self.per_instance = InstanceProcesses(
                model.grid, model.margin_alone, calibration, dt, planned, model.rare, parameters
            )

    def begin_batch(self) -> None:
        """Start a process: from now on a further batch of the candidate is compared."""
        self._begins.append(self._sums.copy())

    def advance(self, bad: Array, exposure: Array, new: Mask, old: Mask) -> None:
        """Add an interval: counts [R, instances], and masks [instances] of the compared instances of both releases."""
        now = self.baseline_rate.current()
        old_bad, old_exposure = (bad * old).sum(1), (exposure * old).sum(1).astype(float)
        new_count, old_count = max(1, int(new.sum())), max(1, int(old.sum()))
        self._hosts = np.sqrt(1 / new_count + 1 / old_count)
        self.margin = self.margin_at(now.rate)
        self._track_new_instances(new)
        counts = self._leave_one_out(bad, exposure, new, old_bad, old_exposure)
        self._sums = self._sums + log_likelihood(
            counts,
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
        events = counts.bad[0] + old_bad
        self._effective = self._effective + events / self.calibration.dispersion * ~now.is_disturbed
        if self.per_instance is not None:
            self.per_instance.advance(bad, exposure, new, old_bad, old_exposure, now, old_count)
        self.baseline_rate.update(old_bad, old_exposure, now.is_disturbed)

    def margin_at(self, rate: Array, *, usual: bool = False) -> Array:
        """The tolerated rate ratio [R] at a rate of the baseline [R], with the instances of the last interval; `usual`:
        widened by usual differences between hosts only."""
        return widen_margin(self.model.margin(rate), self._host_log_ratios[usual] * self._hosts, rate)

    def _track_new_instances(self, new: Mask) -> None:
        """While few instances are new, start a process that leaves each of them out."""
        if not 0 < int(new.sum()) <= self.parameters.max_leave_one_out:
            return
        for instance in np.flatnonzero(new):
            if instance not in self._left_out:
                self._left_out.append(int(instance))
                self._sums = np.concatenate([self._sums, self._sums[:1]])
                self._begins = [np.concatenate([sums, sums[:1]]) for sums in self._begins]

    def _leave_one_out(self, bad: Array, exposure: Array, new: Mask, old_bad: Array, old_exposure: Array) -> IntervalCounts:
        """The candidate's counts of all its instances, then without each left-out instance: [1 + J, R]."""
        new_bad, new_exposure = bad * new, exposure * new
        less_bad = [0.0 * new_bad[:, 0], *(new_bad[:, index] for index in self._left_out)]
        less_exposure = [0.0 * new_exposure[:, 0], *(new_exposure[:, index] for index in self._left_out)]
        return IntervalCounts(
            new_bad.sum(1) - np.stack(less_bad), new_exposure.sum(1) - np.stack(less_exposure), old_bad, old_exposure
        )

    def _group(self) -> Array:
        """[1 + J, R]: the mean over the processes of the batches; one that has not begun counts as 1."""
        evalues = np.zeros(self._sums.shape[:2])
        for number in range(self._batches):
            weight = self._weight(number)
            if number < len(self._begins):
                since = log_evalue(self._sums - self._begins[number], self.model.grid)
                evalues += weight * np.exp(np.minimum(since, CAP_NATS))
            else:
                evalues += weight
        return np.maximum(evalues, 1e-300)

    def _weight(self, number: int) -> float:
        if self._batches == 1:
            return 1.0
        first = self.parameters.first_weight
        return first if number == 0 else (1 - first) / (self._batches - 1)

    def group_evalue(self) -> Array:
        """The e-value [R] of all instances together: at most `leave_out_factor` times that without any one of them."""
        evalues = self._group()
        if not self._several or len(evalues) == 1:
            return np.asarray(evalues[0])
        return np.asarray(np.minimum(evalues[0], self.parameters.leave_out_factor * evalues[1:].min(0)))

    def evalue(self) -> Array:
        """The e-value of this count [R]: half that of the group, half that of the single instances."""
        group = self.group_evalue()
        return group if self.per_instance is None else 0.5 * group + 0.5 * self.per_instance.evalue()

    @property
    def group_share(self) -> float:
        """The weight of the first batch's process of all instances in the e-value, in (0, 1]."""
        return self._weight(0) * (1.0 if self.per_instance is None else 0.5)

    @property
    def log_sums(self) -> Array:
        """The log-likelihood of each theta so far [R, K], all instances together."""
        return np.asarray(self._sums[0])

    @property
    def log_ratio(self) -> Array:
        """The maximum log-likelihood of harm, theta >= 0 [R], bounded by leave-one-out as the e-value is."""
        maxima = self._sums[..., self.model.grid.zero :].max(-1)
        if not self._several or len(maxima) == 1:
            return np.asarray(maxima[0])
        return np.asarray(np.minimum(maxima[0], maxima[1:].min(0) + np.log(self.parameters.leave_out_factor)))

    @property
    def effective_events(self) -> Array:
        """Bad events so far over their dispersion [R], without those while the baseline was disturbed."""
        return self._effective
