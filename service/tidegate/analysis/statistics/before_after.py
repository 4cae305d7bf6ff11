"""Evidence without a concurrent baseline: the candidate against the time just before the switch.

Causes shared by both releases cannot be separated here: an outage of a dependency looks like a bad release. So margins are
widened by how much the service varied over time, and messages say that the comparison is with the time before.
"""

from __future__ import annotations

import numpy as np

from tidegate.analysis.statistics.calibration import MIN_DISPERSION, Calibration, widen_margin
from tidegate.analysis.statistics.effect_grid import CAP_NATS, Array, log_evalue
from tidegate.analysis.statistics.eprocess import MetricModel
from tidegate.analysis.statistics.parameters import Parameters

REFERENCE_SECONDS = 1800.0  # the baseline is the half hour before the switch
HISTORY_SECONDS = 7200.0  # the history from which the variation over time is estimated
BLOCK_SECONDS, SHORT_SECONDS = 300.0, 60.0
ERRORS_SD, LATENCY_SD = 0.20, 0.06  # prior sd of the log rate between a block and the half hour before it
WEIGHTS = {"errors": 0.55, "latency": 0.45}
DOUBT = 500.0  # exposures that the prior of a rate adds, with half an event


def calibrate_in_time(bad: Array, exposure: Array, dt: float, prior_sd: float, parameters: Parameters) -> Calibration:
    """The calibration from the service's totals [R, intervals of dt seconds] before the switch: each block is compared with
    the half hour before it, by moments, drawn to the prior.

    `host_sd` of the result is the standard deviation of the log rate over time.
    """
    block, span = max(1, int(BLOCK_SECONDS / dt)), int(REFERENCE_SECONDS / BLOCK_SECONDS)
    blocks, exposures = _sum_blocks(bad, block), _sum_blocks(exposure, block).astype(float)
    before, exposure_before = _window_before(blocks, span), _window_before(exposures, span)
    expected = exposures[:, span:] * (before + 0.5) / (exposure_before + DOUBT)
    dispersion = _dispersion(bad, exposure, dt, parameters)
    excess = (blocks[:, span:] - expected) ** 2 - dispersion[:, None] * expected * (1 + expected / np.maximum(before, 1))
    variance = np.maximum(0, excess.sum(1) / np.maximum((expected**2).sum(1), 1e-9))
    reliable = (prior_sd**2 / (prior_sd**2 + dispersion / np.maximum(expected.mean(1), 1e-9))) ** 2
    freedom, prior = (blocks.shape[1] - span) / 3 * reliable, parameters.host_weight
    sd = np.sqrt((prior * prior_sd**2 + freedom * variance) / (prior + freedom))
    reference = int(REFERENCE_SECONDS / dt)
    recent, requests = bad[:, -reference:].sum(1), exposure[:, -reference:].sum(1).astype(float)
    return Calibration((recent + 0.5) / (requests + DOUBT), dispersion, sd, prior + freedom, requests)


def _sum_blocks(counts: Array, length: int) -> Array:
    """Sums of whole blocks of intervals, from the end backwards."""
    whole = counts.shape[1] // length
    return np.asarray(counts[:, counts.shape[1] - whole * length :].reshape(len(counts), whole, length).sum(2))


def _window_before(blocks: Array, span: int) -> Array:
    """For each block after the first `span`, the sum of the `span` blocks before it."""
    running = np.concatenate([np.zeros((len(blocks), 1)), np.cumsum(blocks, 1)], 1)
    return np.asarray(running[:, span:-1] - running[:, : -span - 1])


def _dispersion(bad: Array, exposure: Array, dt: float, parameters: Parameters) -> Array:
    """Variance over mean [R], from differences of successive minutes, drawn to the prior."""
    minute = max(1, int(SHORT_SECONDS / dt))
    blocks, exposures = _sum_blocks(bad, minute), _sum_blocks(exposure, minute).astype(float)
    rate = blocks.sum(1) / np.maximum(exposures.sum(1), 1)
    expected = exposures * rate[:, None]
    spread = (np.diff(blocks - expected, axis=1) ** 2).sum(1)
    estimate = spread / np.maximum((expected[:, 1:] + expected[:, :-1]).sum(1), 1e-9)
    weight, prior = np.minimum(expected, 1).sum(1), parameters.dispersion_weight
    drawn = (prior * parameters.dispersion * (1 - rate) + weight * estimate) / (prior + weight)
    return np.asarray(np.maximum(drawn, np.maximum(1 - rate, MIN_DISPERSION)))


class BeforeAfter:
    """One count after the switch against the totals before it, interval by interval."""

    def __init__(self, model: MetricModel, calibration: Calibration, parameters: Parameters) -> None:
        self.model, self.calibration, self._parameters = model, calibration, parameters
        self.margin = self.margin_at(calibration.rate)
        self._old_bad = np.maximum(0.0, calibration.rate * (calibration.exposure + DOUBT) - 0.5)
        self._bad = self._exposure = np.zeros(len(calibration.rate))
        self._last = self._sums = np.zeros((len(calibration.rate), len(model.grid.theta)))

    def margin_at(self, rate: Array, *, usual: bool = False) -> Array:
        """The tolerated rate ratio [R] at a rate of the baseline [R]; `usual`: widened by usual variation only."""
        chance = self._parameters.usual_host_chance if usual else self._parameters.host_chance
        return widen_margin(self.model.margin(rate), self.calibration.host_log_ratio(chance), rate)

    def advance(self, bad: Array, exposure: Array) -> None:
        """Add the totals of the service [R] in an interval after the warm-up."""
        self._bad, self._exposure = self._bad + bad, self._exposure + exposure
        grid, total = self.model.grid, self._bad + self._old_bad
        weighted = self.calibration.exposure[:, None] + (self._exposure * self.margin)[:, None] * np.exp(grid.theta)
        log_ratio = self._bad[:, None] * grid.theta - total[:, None] * np.log(np.maximum(weighted, 1e-9))
        log_ratio = log_ratio / self.calibration.dispersion[:, None]
        log_ratio = log_ratio - log_ratio[:, grid.zero : grid.zero + 1]
        self._sums = self._sums + np.minimum(log_ratio - self._last, self._parameters.interval_nats)
        self._last = log_ratio

    def evalue(self) -> Array:
        """The e-value [R]."""
        return np.asarray(np.exp(np.minimum(log_evalue(self._sums, self.model.grid), CAP_NATS)))

    @property
    def log_sums(self) -> Array:
        """[R, K]: the log-likelihood of each theta so far."""
        return self._sums
