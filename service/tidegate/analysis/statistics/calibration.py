"""The noise of the baseline from its history: rate, dispersion, and differences between instances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from tidegate.analysis.statistics.effect_grid import Array
from tidegate.analysis.statistics.parameters import Parameters

MIN_DISPERSION = 0.05  # if nearly every event is bad
ENOUGH_BLOCKS = 10.0  # of history, to know the dispersion of a count
UNKNOWN_DISPERSION = 10.0  # factor on the dispersion without any history
MAX_MARGIN_SHARE = 0.9  # margins reach at most this far (in the log) towards "all of them are bad"
PRIOR_RATE = 1e-3  # of errors
HOST_BLOCKS = 5  # blocks of history that are summed before instances are compared


@dataclass(frozen=True, eq=False)
class Calibration:
    """`rate` [R]: bad events per exposure. `dispersion` [R]: variance over mean. `host_sd` [R]: standard deviation of the
    log rate between instances, with `freedom` [R] degrees of freedom. `exposure` [R]: exposures in the history."""

    rate: Array
    dispersion: Array
    host_sd: Array
    freedom: Array
    exposure: Array
    blocks: float = ENOUGH_BLOCKS  # of history with any exposure

    @property
    def disturbance_dispersion(self) -> Array:
        """The dispersion [R] that a disturbance has to exceed; larger with little history."""
        lacking = max(0.0, 1 - self.blocks / ENOUGH_BLOCKS)
        return self.dispersion * (1 + (UNKNOWN_DISPERSION - 1) * lacking)

    def host_log_ratio(self, chance: float) -> Array:
        """The log ratio [R] that an instance exceeds with this chance because of its host: a quantile of Student's t."""
        return np.asarray(stdtrit(self.freedom, 1.0 - chance) * self.host_sd)


def widen_margin(margin: Array, host_log_ratio: Array, rate: Array) -> Array:
    """The tolerated rate ratio [R], widened for the log ratio that differences between hosts explain.

    It stays below the ratio at which every event is bad, since no harm could exceed that.
    """
    return np.asarray(
        np.maximum(margin, np.exp(np.minimum(host_log_ratio, MAX_MARGIN_SHARE * np.log(1 / np.minimum(rate, 1.0)))))
    )


def calibrate(
    bad: Array, exposure: Array, host_sd: float, parameters: Parameters, prior_rate: float = PRIOR_RATE
) -> Calibration:
    """The calibration from blocks of history, both [R, blocks, instances]. All estimates are drawn to their priors, so
    little history only widens the margins.

    `prior_rate`, in (0, 1), has the weight of half a bad event: the assumed rate without history.
    """
    service_rate = bad.sum(2) / np.maximum(exposure.sum(2), 1)
    expected = exposure * service_rate[..., None]
    share = exposure / np.maximum(exposure.sum(2, keepdims=True), 1)
    residual = (bad - expected) / np.sqrt(np.maximum(1 - share, 1e-3))
    total = exposure.sum((1, 2))
    pooled = bad.sum((1, 2)) / np.maximum(total, 1)
    dispersion = _dispersion(residual, expected, pooled, parameters)
    sd, freedom = _instance_deviation(residual, expected, dispersion, host_sd, parameters)
    rate = (bad.sum((1, 2)) + 0.5) / (total + 0.5 / prior_rate)
    blocks = float((exposure.sum((0, 2)) > 0).sum())
    return Calibration(rate, dispersion, sd, freedom, total.astype(float), blocks)


def _dispersion(residual: Array, expected: Array, rate: Array, parameters: Parameters) -> Array:
    """Variance over mean [R], from differences of successive blocks, so that a slow drift does not count.

    Drawn to the prior with the weight of `dispersion_weight` events; at least 1 - rate, that of independent requests.
    """
    spread = (np.diff(residual, axis=1) ** 2).sum((1, 2))
    estimate = spread / np.maximum((expected[:, 1:] + expected[:, :-1]).sum((1, 2)), 1e-9)
    weight = np.minimum(expected, 1).sum((1, 2))
    prior = parameters.dispersion_weight
    drawn = (prior * parameters.dispersion * (1 - rate) + weight * estimate) / (prior + weight)
    return np.asarray(np.maximum(drawn, np.maximum(1 - rate, MIN_DISPERSION)))


def _instance_deviation(
    residual: Array, expected: Array, dispersion: Array, prior_sd: float, parameters: Parameters
) -> tuple[Array, Array]:
    """The standard deviation of the log rate between instances and its degrees of freedom, both [R]; by moments, drawn to
    the prior."""
    replicates, blocks, instances = residual.shape
    groups = blocks // HOST_BLOCKS
    shape = (replicates, groups, HOST_BLOCKS, instances)
    summed = residual[:, : groups * HOST_BLOCKS].reshape(shape).sum(2)
    mean = expected[:, : groups * HOST_BLOCKS].reshape(shape).sum(2)
    excess = (summed**2 - dispersion[:, None, None] * mean).sum((1, 2))
    variance = np.maximum(0, excess / np.maximum((mean**2).sum((1, 2)), 1e-9))
    per_instance = expected.sum(1).mean(1)
    reliable = (prior_sd**2 / (prior_sd**2 + dispersion / np.maximum(per_instance, 1e-9))) ** 2
    estimated_freedom = (instances - 1) * reliable
    prior = parameters.host_weight
    freedom = prior + estimated_freedom
    sd = np.sqrt((prior * prior_sd**2 + estimated_freedom * variance) / freedom)
    return np.asarray(sd), np.asarray(freedom)
