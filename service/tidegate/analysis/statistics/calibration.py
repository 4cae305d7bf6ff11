"""What the baseline's history says of its own noise: rate, dispersion, and how much instances differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from tidegate.analysis.statistics.effect_grid import Array
from tidegate.analysis.statistics.parameters import Parameters

MIN_DISPERSION = 0.05  # where nearly every event is bad
ENOUGH_BLOCKS = 10.0  # of history, to know how unsteady a count is
UNKNOWN_DISPERSION = 10.0  # how many times as unsteady it may be where nothing is known
MAX_MARGIN_SHARE = 0.9  # margins reach at most this far (in the log) towards "all of them are bad"
PRIOR_RATE = 1e-3  # of errors
HOST_BLOCKS = 5  # blocks of history that are added up before instances are compared


@dataclass(frozen=True, eq=False)
class Calibration:
    """`rate` [R]: bad events per exposure. `dispersion` [R]: variance over mean. `host_sd` [R]: standard deviation of the
    log rate between instances, known with `freedom` [R] degrees of freedom. `exposure` [R]: how much was seen."""

    rate: Array
    dispersion: Array
    host_sd: Array
    freedom: Array
    exposure: Array
    blocks: float = ENOUGH_BLOCKS  # of history with anything in them

    @property
    def unsteadiness(self) -> Array:
        """[R]: the dispersion that a disturbance has to stand out from; larger where there was little history."""
        lacking = max(0.0, 1 - self.blocks / ENOUGH_BLOCKS)
        return self.dispersion * (1 + (UNKNOWN_DISPERSION - 1) * lacking)

    def host_log_ratio(self, chance: float) -> Array:
        """The log ratio that one instance exceeds by luck with its host with this chance only; Student's t."""
        return np.asarray(stdtrit(self.freedom, 1.0 - chance) * self.host_sd)


def widen_margin(margin: Array, luck: Array, rate: Array) -> Array:
    """The tolerated rate ratio [R], widened for the log ratio that luck explains; so far that harm can be seen, which
    it cannot be where no more than all of them are bad."""
    return np.asarray(np.maximum(margin, np.exp(np.minimum(luck, MAX_MARGIN_SHARE * np.log(1 / np.minimum(rate, 1.0))))))


def calibrate(
    bad: Array, exposure: Array, host_sd: float, parameters: Parameters, prior_rate: float = PRIOR_RATE
) -> Calibration:
    """From blocks of history, both [R, blocks, instances]. Little history only widens: all is drawn to its prior.

    `prior_rate`, in (0, 1), is worth half a bad event: the rate that is assumed while hardly anything was seen.
    """
    service_rate = bad.sum(2) / np.maximum(exposure.sum(2), 1)
    expected = exposure * service_rate[..., None]
    share = exposure / np.maximum(exposure.sum(2, keepdims=True), 1)
    residual = (bad - expected) / np.sqrt(np.maximum(1 - share, 1e-3))
    seen = exposure.sum((1, 2))
    pooled = bad.sum((1, 2)) / np.maximum(seen, 1)
    dispersion = _dispersion(residual, expected, pooled, parameters)
    sd, freedom = _instance_deviation(residual, expected, dispersion, host_sd, parameters)
    rate = (bad.sum((1, 2)) + 0.5) / (seen + 0.5 / prior_rate)
    blocks = float((exposure.sum((0, 2)) > 0).sum())
    return Calibration(rate, dispersion, sd, freedom, seen.astype(float), blocks)


def _dispersion(residual: Array, expected: Array, rate: Array, parameters: Parameters) -> Array:
    """Variance over mean, [R], from differences of successive blocks, so that a slow drift does not count.

    Drawn to the prior with the weight of some events, and never below that of independent requests, 1 - rate.
    """
    spread = (np.diff(residual, axis=1) ** 2).sum((1, 2))
    result = spread / np.maximum((expected[:, 1:] + expected[:, :-1]).sum((1, 2)), 1e-9)
    weight = np.minimum(expected, 1).sum((1, 2))
    prior = parameters.dispersion_weight
    drawn = (prior * parameters.dispersion * (1 - rate) + weight * result) / (prior + weight)
    return np.asarray(np.maximum(drawn, np.maximum(1 - rate, MIN_DISPERSION)))


def _instance_deviation(
    residual: Array, expected: Array, dispersion: Array, prior_sd: float, parameters: Parameters
) -> tuple[Array, Array]:
    """Standard deviation of the log rate between instances, and its degrees of freedom; by moments, drawn to the prior."""
    replicates, blocks, instances = residual.shape
    groups = blocks // HOST_BLOCKS
    shape = (replicates, groups, HOST_BLOCKS, instances)
    summed = residual[:, : groups * HOST_BLOCKS].reshape(shape).sum(2)
    mean = expected[:, : groups * HOST_BLOCKS].reshape(shape).sum(2)
    excess = (summed**2 - dispersion[:, None, None] * mean).sum((1, 2))
    variance = np.maximum(0, excess / np.maximum((mean**2).sum((1, 2)), 1e-9))
    per_instance = expected.sum(1).mean(1)
    reliable = (prior_sd**2 / (prior_sd**2 + dispersion / np.maximum(per_instance, 1e-9))) ** 2
    result = (instances - 1) * reliable
    prior = parameters.host_weight
    sd = np.sqrt((prior * prior_sd**2 + result * variance) / (prior + result))
    return np.asarray(sd), np.asarray(prior + result)
