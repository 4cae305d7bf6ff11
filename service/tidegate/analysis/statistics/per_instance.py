"""Detects one bad instance of many: an e-process for each candidate instance against the whole baseline, in blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.analysis.statistics.baseline_rate import CurrentRate
from tidegate.analysis.statistics.calibration import Calibration, widen_margin
from tidegate.analysis.statistics.effect_grid import CAP_NATS, Array, EffectGrid, log_evalue
from tidegate.analysis.statistics.likelihood import IntervalCounts, log_likelihood
from tidegate.analysis.statistics.parameters import Parameters

Mask = NDArray[np.bool_]
MAX_INTERVALS = 2  # a block adds at most the log evidence of this many intervals


class InstanceProcesses:
    """The evidence is the mean over `planned` instances, so that a single one needs `planned` times as much."""

    def __init__(
        self,
        grid: EffectGrid,
        margin: Callable[[Array], Array],
        calibration: Calibration,
        dt: float,
        planned: int,
        rare: bool,
        parameters: Parameters,
    ) -> None:
        self._grid, self._margin, self._calibration = grid, margin, calibration
        self._planned, self._rare, self._parameters = planned, rare, parameters
        self._length = max(1, round(parameters.instance_block_seconds / dt))
        self._host_log_ratio = calibration.host_log_ratio(parameters.host_chance / planned)
        self._sums: dict[int, Array] = {}
        self._intervals = 0
        self._evalue = np.ones(len(calibration.rate))

    def advance(
        self, bad: Array, exposure: Array, new: Mask, old_bad: Array, old_exposure: Array, now: CurrentRate, old_count: int
    ) -> None:
        """Add an interval [R, instances] and the sums of the baseline [R] over its `old_count` instances."""
        if self._intervals == 0:
            self._now, self._disturbed, self._old_count = now, now.is_disturbed.copy(), old_count
            self._new, self._bad, self._exposure = new.copy(), bad * new, (exposure * new).astype(float)
            self._old_bad, self._old_exposure = old_bad.copy(), old_exposure.copy()
        else:
            self._disturbed, self._new = self._disturbed | now.is_disturbed, _pad_instances(self._new, len(new)) & new
            self._bad = _pad_instances(self._bad, len(new)) + bad * new
            self._exposure = _pad_instances(self._exposure, len(new)) + exposure * new
            self._old_bad, self._old_exposure = self._old_bad + old_bad, self._old_exposure + old_exposure
        self._intervals += 1
        if self._intervals == self._length:
            self._intervals = 0
            self._end_block()

    def _end_block(self) -> None:
        chosen = np.flatnonzero(self._new)
        if not len(chosen):
            return
        now = CurrentRate(self._now.rate, self._now.shape, self._disturbed)
        log_ratio = log_likelihood(
            IntervalCounts(self._bad[:, chosen].T, self._exposure[:, chosen].T, self._old_bad, self._old_exposure),
            widen_margin(self._margin(now.rate), self._host_log_ratio * np.sqrt(1 + 1 / self._old_count), now.rate),
            now,
            self._calibration.dispersion,
            self._grid,
            self._parameters,
            rare=self._rare,
            max_nats=self._parameters.interval_nats * min(self._length, MAX_INTERVALS),
        )
        for row, instance in enumerate(chosen):
            self._sums[int(instance)] = self._sums.get(int(instance), 0.0) + log_ratio[row]
        self._evalue = sum(self.evalues().values(), np.zeros_like(self._evalue))
        self._evalue = (self._evalue + max(0, self._planned - len(self._sums))) / max(self._planned, len(self._sums))

    def evalues(self) -> dict[int, Array]:
        """The e-value [R] of each instance that was compared, by its index."""
        return {key: np.exp(np.minimum(log_evalue(sums, self._grid), CAP_NATS)) for key, sums in self._sums.items()}

    def evalue(self) -> Array:
        """The e-value [R]: the mean over the planned instances; one that was not compared yet counts as 1."""
        return self._evalue


def _pad_instances(values: NDArray[Any], instances: int) -> NDArray[Any]:
    """Zeros added up to so many instances: [..., instances]."""
    missing = instances - values.shape[-1]
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)]) if missing else values
