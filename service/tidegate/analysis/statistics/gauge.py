"""Evidence from one value per release and measurement, such as the user's own query: one is worse by more than the margin.

The noise of such a value is unknown, so it is estimated from the history of the baseline and during the rollout. Calibrated
by simulation (docs/analysis.md), not a theorem.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tidegate.analysis.statistics.effect_grid import CAP_NATS, Array

BLOCK_SECONDS = 30.0
SPREAD, FREEDOM = 0.15, 6.0  # prior: standard deviation of the relative difference of a block; Student's t
HOST_DIFFERENCE = 0.05  # prior: lasting relative difference between the hosts of the two releases
CORRELATION, CORRELATION_WEIGHT = 0.5, 10.0  # prior: correlation of successive blocks, and its weight in blocks
INDEPENDENT = (0.05, 1.0)  # bounds of the weight of a block
MAX_NATS = 2.0  # the most that a block adds
EFFECTS = np.exp(np.linspace(np.log(0.02), np.log(10.0), 60))  # grid of relative differences beyond the margin


@dataclass(frozen=True, eq=False)
class GaugeNoise:
    """`spread` [R]: standard deviation of the relative difference between two releases in a block, with `freedom` degrees
    of freedom; `independence` [R]: the information of a block given the one before it, in (0, 1]."""

    spread: Array
    freedom: float
    independence: Array


def estimate_noise(past: Array) -> GaugeNoise:
    """The noise from the baseline's values in blocks [R, blocks] before the rollout; NaN if missing. Drawn to the prior."""
    known = np.isfinite(past)
    count = known.sum(1)
    mean = np.where(known, past, 0.0).sum(1) / np.maximum(count, 1)
    scale = np.where(mean != 0, np.abs(mean), 1.0)
    deviation = np.where(known, (past - mean[:, None]) / scale[:, None], 0.0)
    squares = (deviation**2).sum(1)
    products = (deviation[:, 1:] * deviation[:, :-1]).sum(1)
    correlation = (CORRELATION_WEIGHT * CORRELATION * SPREAD**2 / 2 + products) / (
        CORRELATION_WEIGHT * SPREAD**2 / 2 + np.maximum(squares, 1e-12)
    )
    correlation = np.clip(correlation, 0.0, 0.95)
    independence = np.clip((1 - correlation) / (1 + correlation), *INDEPENDENT)
    effective = float(count.min()) * float(independence.min())
    spread = np.sqrt((FREEDOM * SPREAD**2 + 2 * squares * independence) / (FREEDOM + effective))
    return GaugeNoise(spread, FREEDOM + effective, independence)


class GaugeComparison:
    """`margin`: the tolerated difference relative to the baseline; `sign`: +1 if higher is worse, else -1; `quantile`: the
    margin is widened by this many standard deviations of the difference between hosts."""

    def __init__(self, dt: float, margin: float, sign: float, quantile: float, noise: GaugeNoise) -> None:
        self._length = max(1, round(BLOCK_SECONDS / dt))
        self._noise, self._margin, self._sign = noise, margin + quantile * HOST_DIFFERENCE, sign
        self.blocks = 0  # compared so far
        self._values: list[Array] = []
        self._blocks: list[Array] = []
        self._sums = np.zeros((len(noise.spread), len(EFFECTS)))

    def advance(self, candidate: Array, baseline: Array) -> None:
        """Add the values of one measurement [R]; NaN where missing."""
        with np.errstate(invalid="ignore", divide="ignore"):
            self._values.append(self._sign * (candidate - baseline) / np.abs(baseline))
        if len(self._values) == self._length:
            usable = np.isfinite(self._values)
            total = np.where(usable, self._values, 0.0).sum(0)
            with np.errstate(invalid="ignore"):
                self._end_block(np.where(usable.any(0), total / np.maximum(usable.sum(0), 1), np.nan))
            self._values = []

    def _end_block(self, mean: Array) -> None:
        spread, freedom = self._spread()
        beyond = mean - self._margin
        log_ratio = _log_student((beyond[:, None] - EFFECTS) / spread[:, None], freedom)
        log_ratio = log_ratio - _log_student(beyond / spread, freedom)[:, None]
        log_ratio = np.minimum(self._noise.independence[:, None] * log_ratio, MAX_NATS)
        self._sums = self._sums + np.where(np.isfinite(log_ratio), log_ratio, 0.0)
        self.blocks += bool(np.isfinite(mean).any())
        self._blocks = [*self._blocks[-29:], mean]

    def _spread(self) -> tuple[Array, float]:
        """The standard deviation [R] and its degrees of freedom, from the history and the blocks before this one."""
        noise = self._noise
        if len(self._blocks) < 2:
            return noise.spread, noise.freedom
        blocks = np.nan_to_num(np.stack(self._blocks))
        squares = ((blocks - blocks.mean(0)) ** 2).sum(0)
        more = (len(blocks) - 1) * float(noise.independence.min())
        squares = squares * noise.independence
        spread = np.sqrt((noise.freedom * noise.spread**2 + squares) / (noise.freedom + more))
        return np.asarray(spread), noise.freedom + more

    def evalue(self) -> Array:
        """The e-value [R]: the mean over the grid of effects."""
        return np.asarray(np.exp(np.minimum(self._sums, CAP_NATS)).mean(1))


def blocks_needed(evalue: float) -> int:
    """The number of blocks without which no difference could reach this e-value: half of the effects are near any one."""
    return int(np.ceil(np.log(2.0 * evalue) / MAX_NATS))


def _log_student(x: Array, freedom: float) -> Array:
    """The log density of Student's t, without its constant."""
    return np.asarray(-(freedom + 1) / 2 * np.log1p(x**2 / freedom))
