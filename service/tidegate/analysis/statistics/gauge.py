"""A value of each side at every look, such as the user's own query: evidence that one is worse by more than the margin.

How unsteady such a value is cannot be known beforehand, so it is learned from the baseline's own past, and what was not
seen there is learned on the way. Calibrated by simulation (docs/judge.md), not a theorem.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tidegate.analysis.statistics.effect_grid import CAP_NATS, Array

BLOCK_SECONDS = 30.0
SPREAD, FREEDOM = 0.15, 6.0  # prior: standard deviation of the relative difference of a block; Student's t
HOST_DIFFERENCE = 0.05  # prior: what the two releases' hosts differ by for good
CORRELATION, CORRELATION_WEIGHT = 0.5, 10.0  # prior: correlation of successive blocks, and how many blocks it is worth
INDEPENDENT = (0.05, 1.0)  # how much a block may count for
MAX_NATS = 2.0
EFFECTS = np.exp(np.linspace(np.log(0.02), np.log(10.0), 60))  # relative differences beyond the margin that are tried


@dataclass(frozen=True, eq=False)
class GaugeNoise:
    """`spread` [R]: standard deviation of the relative difference of two releases' blocks, known with `freedom`;
    `independence` [R]: how much a block says beside the one before it, in (0, 1]."""

    spread: Array
    freedom: float
    independence: Array


def estimate_noise(past: Array) -> GaugeNoise:
    """From the baseline's value in blocks [R, blocks] before the rollout; NaN where there was none. Nothing: the prior."""
    known = np.isfinite(past)
    count = known.sum(1)
    mean = np.where(known, past, 0.0).sum(1) / np.maximum(count, 1)
    scale = np.where(mean != 0, np.abs(mean), 1.0)
    deviation = np.where(known, (past - mean[:, None]) / scale[:, None], 0.0)
    squares = (deviation**2).sum(1)
    together = (deviation[:, 1:] * deviation[:, :-1]).sum(1)
    alike = (CORRELATION_WEIGHT * CORRELATION * SPREAD**2 / 2 + together) / (
        CORRELATION_WEIGHT * SPREAD**2 / 2 + np.maximum(squares, 1e-12)
    )
    alike = np.clip(alike, 0.0, 0.95)
    independent = np.clip((1 - alike) / (1 + alike), *INDEPENDENT)
    seen = float(count.min()) * float(independent.min())
    spread = np.sqrt((FREEDOM * SPREAD**2 + 2 * squares * independent) / (FREEDOM + seen))
    return GaugeNoise(spread, FREEDOM + seen, independent)


class GaugeComparison:
    """`margin`: what may be lost, relative to the baseline's value; `worse` is +1 where higher is worse, else -1. `luck`:
    how many standard deviations the hosts of the two releases may differ by."""

    def __init__(self, dt: float, margin: float, worse: float, luck: float, noise: GaugeNoise) -> None:
        self._length = max(1, round(BLOCK_SECONDS / dt))
        self._known, self._margin, self._worse = noise, margin + luck * HOST_DIFFERENCE, worse
        self._values: list[Array] = []
        self._blocks: list[Array] = []
        self._sums = np.zeros((len(noise.spread), len(EFFECTS)))

    def advance(self, candidate: Array, baseline: Array) -> None:
        """Take in one look's values [R]; NaN where there is none."""
        with np.errstate(invalid="ignore", divide="ignore"):
            self._values.append(self._worse * (candidate - baseline) / np.abs(baseline))
        if len(self._values) == self._length:
            usable = np.isfinite(self._values)
            total = np.where(usable, self._values, 0.0).sum(0)
            with np.errstate(invalid="ignore"):
                self._end_block(np.where(usable.any(0), total / np.maximum(usable.sum(0), 1), np.nan))
            self._values = []

    def _end_block(self, mean: Array) -> None:
        spread, freedom = self._spread()
        beyond = mean - self._margin
        result = _log_student((beyond[:, None] - EFFECTS) / spread[:, None], freedom)
        result = result - _log_student(beyond / spread, freedom)[:, None]
        result = np.minimum(self._known.independence[:, None] * result, MAX_NATS)
        self._sums = self._sums + np.where(np.isfinite(result), result, 0.0)
        self._blocks = [*self._blocks[-29:], mean]

    def _spread(self) -> tuple[Array, float]:
        """What was known before, and what the difference did on the way; only blocks before this one."""
        known = self._known
        if len(self._blocks) < 2:
            return known.spread, known.freedom
        seen = np.nan_to_num(np.stack(self._blocks))
        squares = ((seen - seen.mean(0)) ** 2).sum(0)
        more = (len(seen) - 1) * float(known.independence.min())
        squares = squares * known.independence
        spread = np.sqrt((known.freedom * known.spread**2 + squares) / (known.freedom + more))
        return np.asarray(spread), known.freedom + more

    def evalue(self) -> Array:
        """[R]: the mean over the effects that are tried."""
        return np.asarray(np.exp(np.minimum(self._sums, CAP_NATS)).mean(1))


def _log_student(x: Array, freedom: float) -> Array:
    """The log density of Student's t, but for its constant."""
    return np.asarray(-(freedom + 1) / 2 * np.log1p(x**2 / freedom))
