"""The baseline's current rate, known before each interval, and whether the baseline itself is disturbed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.analysis.statistics.calibration import Calibration
from tidegate.analysis.statistics.effect_grid import Array
from tidegate.analysis.statistics.parameters import Parameters

RATE_RANGE = (1e-7, 0.95)
MIN_RATE = 1e-4
GAMMA_SPAN = 1.44  # an exponential filter sees half-life / ln 2 worth of data


@dataclass(frozen=True, eq=False)
class CurrentRate:
    """What is known before an interval: `rate` [R], the gamma filter's `shape` [R], and whether it is `is_disturbed`
    [R]."""

    rate: Array
    shape: Array
    is_disturbed: NDArray[np.bool_]


class BaselineRate:
    """A gamma filter with forgetting, seeded with the history; and the watch on the baseline's own disturbances."""

    def __init__(
        self,
        calibration: Calibration,
        exposure_per_second: Array,
        dt: float,
        parameters: Parameters,
        disturbed: float | None,
    ) -> None:
        self._known, self._options, self._dt, self._disturbed = calibration, parameters, dt, disturbed
        self._inverse = 1 / np.maximum(calibration.rate, MIN_RATE)
        span = exposure_per_second * parameters.rate_halflife_seconds * GAMMA_SPAN
        seeded = np.minimum(calibration.exposure, span)
        self._shape, self._size = calibration.rate * seeded + 0.5, seeded + 0.5 * self._inverse
        self._recent_bad = self._recent = self._last_bad = self._last = np.zeros_like(seeded)
        self._cooling = np.zeros_like(seeded)
        self._forget = 0.5 ** (dt / parameters.rate_halflife_seconds)
        self._forget_recent = 0.5 ** (dt / parameters.disturbed_halflife_seconds)

    def current(self) -> CurrentRate:
        """Before the next interval; only past intervals count."""
        rate = np.clip(self._shape / self._size, *RATE_RANGE)
        if self._disturbed is not None:
            base = np.maximum(self._known.rate, self._shape / self._size)
            for bad, exposure in ((self._recent_bad, self._recent), (self._last_bad, self._last)):
                self._detect_disturbance(bad, base * exposure)
        return CurrentRate(rate, self._shape, self._cooling > 0)

    def _detect_disturbance(self, bad: Array, expected: Array) -> None:
        """Begin to hold where the baseline had clearly more than it should have."""
        assert self._disturbed is not None
        dispersion = self._known.unsteadiness
        limit = self._disturbed * expected + 4 * np.sqrt(dispersion * expected + dispersion)
        self._cooling = np.where(bad > limit, self._options.disturbed_cool_seconds, self._cooling)

    def update(self, bad: Array, exposure: Array, held: NDArray[np.bool_]) -> None:
        """Take in the baseline's interval; slowly while held."""
        self._cooling = self._cooling - self._dt
        self._last_bad, self._last = bad, exposure
        self._recent_bad = self._forget_recent * self._recent_bad + bad
        self._recent = self._forget_recent * self._recent + exposure
        speed = np.where(held, self._options.disturbed_learning, 1.0)
        keep = self._forget**speed
        self._shape = keep * self._shape + (1 - keep) * 0.5 + speed * bad
        self._size = keep * self._size + (1 - keep) * 0.5 * self._inverse + speed * exposure
