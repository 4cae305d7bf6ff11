"""The current rate of the baseline before each interval, and whether the baseline itself is disturbed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.analysis.statistics.calibration import Calibration
from tidegate.analysis.statistics.effect_grid import Array
from tidegate.analysis.statistics.parameters import Parameters

RATE_RANGE = (1e-7, 0.95)
MIN_RATE = 1e-4
GAMMA_SPAN = 1.44  # 1 / ln 2: an exponential filter remembers half-life / ln 2 of data


@dataclass(frozen=True, eq=False)
class CurrentRate:
    """The baseline before an interval: `rate` [R] (bad events per exposure), the `shape` [R] of its gamma posterior, and
    whether it `is_disturbed` [R]."""

    rate: Array
    shape: Array
    is_disturbed: NDArray[np.bool_]


class BaselineRate:
    """Estimates the rate with a gamma filter that forgets, seeded from the history, and detects disturbances.

    `disturbed`: the factor above the expected count that is a disturbance; None detects none.
    """

    def __init__(
        self,
        calibration: Calibration,
        exposure_per_second: Array,
        dt: float,
        parameters: Parameters,
        disturbed: float | None,
    ) -> None:
        self._calibration, self._parameters, self._dt, self._disturbed = calibration, parameters, dt, disturbed
        self._inverse = 1 / np.maximum(calibration.rate, MIN_RATE)
        span = exposure_per_second * parameters.rate_halflife_seconds * GAMMA_SPAN
        seeded = np.minimum(calibration.exposure, span)
        self._shape, self._size = calibration.rate * seeded + 0.5, seeded + 0.5 * self._inverse
        self._recent_bad = self._recent = self._last_bad = self._last = np.zeros_like(seeded)
        self._cooling = np.zeros_like(seeded)
        self._forget = 0.5 ** (dt / parameters.rate_halflife_seconds)
        self._forget_recent = 0.5 ** (dt / parameters.disturbed_halflife_seconds)

    def current(self) -> CurrentRate:
        """The state before the next interval, from past intervals only."""
        rate = np.clip(self._shape / self._size, *RATE_RANGE)
        if self._disturbed is not None:
            base = np.maximum(self._calibration.rate, self._shape / self._size)
            for bad, exposure in ((self._recent_bad, self._recent), (self._last_bad, self._last)):
                self._detect_disturbance(bad, base * exposure)
        return CurrentRate(rate, self._shape, self._cooling > 0)

    def _detect_disturbance(self, bad: Array, expected: Array) -> None:
        """Start or restart a disturbance where the baseline had clearly more bad events than expected."""
        assert self._disturbed is not None
        dispersion = self._calibration.disturbance_dispersion
        limit = self._disturbed * expected + 4 * np.sqrt(dispersion * expected + dispersion)
        self._cooling = np.where(bad > limit, self._parameters.disturbed_cool_seconds, self._cooling)

    def update(self, bad: Array, exposure: Array, disturbed: NDArray[np.bool_]) -> None:
        """Add an interval of the baseline, with less weight while it is disturbed."""
        self._cooling = self._cooling - self._dt
        self._last_bad, self._last = bad, exposure
        self._recent_bad = self._forget_recent * self._recent_bad + bad
        self._recent = self._forget_recent * self._recent + exposure
        speed = np.where(disturbed, self._parameters.disturbed_learning, 1.0)
        keep = self._forget**speed
        self._shape = keep * self._shape + (1 - keep) * 0.5 + speed * bad
        self._size = keep * self._size + (1 - keep) * 0.5 * self._inverse + speed * exposure
