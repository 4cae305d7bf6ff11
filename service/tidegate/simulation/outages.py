"""Instances that are down or whose scrape fails in a generated rollout: crash loops, restarts, lost scrapes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tidegate.simulation.distributions import Floats, Mask
from tidegate.simulation.scenarios import Fault, RolloutNoise
from tidegate.simulation.schedule import BatchSchedule

UP_SECONDS = 25.0  # a crashing instance works for so long
INITIAL_BACK_OFF, MAX_BACK_OFF = 10.0, 300.0  # before it is started again; doubled each time (Kubernetes' rule)
SPREAD_SECONDS = 10.0  # instances do not crash at the same moment


@dataclass(frozen=True, eq=False)
class InstanceOutages:
    """`down`: no sample of the interval. `crashing`: about to crash. `gone`: gets no traffic. All [R, T, n]."""

    down: Mask
    crashing: Mask
    gone: Mask

    def rerouted(self, load: Floats) -> Floats:
        """[R, T, n]: the shares `load` [R, n] of the traffic, taken over by the others where an instance is gone."""
        shares = load[:, None] * np.where(self.gone, 0, 1)
        return np.asarray(shares / np.maximum(shares.sum(2, keepdims=True), 1e-9))


def draw_outages(
    rng: np.random.Generator, schedule: BatchSchedule, noise: RolloutNoise, fault: Fault, harmed: Floats
) -> InstanceOutages:
    """`harmed` [R, T, n]: where the fault shows."""
    replicates, intervals, instances = harmed.shape
    down = rng.random(harmed.shape) < noise.miss_p
    crashing = np.zeros(harmed.shape, bool)
    if fault.crash:
        crashed, crashing = _crash_loop(rng, schedule, harmed)
        down |= crashed
    if noise.reset_p:
        restarts = rng.random((replicates, instances)) < noise.reset_p
        at = rng.integers(0, intervals, (replicates, instances))
        down |= restarts[:, None] & (np.arange(intervals)[None, :, None] == at[:, None])
    gone = down & (harmed > 0) if fault.crash else np.zeros_like(down)
    return InstanceOutages(down, crashing, gone)


def _crash_loop(rng: np.random.Generator, schedule: BatchSchedule, harmed: Floats) -> tuple[Mask, Mask]:
    """Where instances wait to be started again, and where they are about to crash. Both [R, T, n]."""
    replicates, _, instances = harmed.shape
    since = np.maximum(schedule.age, 0)[None] + rng.uniform(0, SPREAD_SECONDS, (replicates, 1, instances))
    crashed, crashing = np.zeros(harmed.shape, bool), np.zeros(harmed.shape, bool)
    started, back_off = 0.0, INITIAL_BACK_OFF
    while started < schedule.time[-1] + 60:  # beyond the end: `since` runs a little ahead of the time
        crashes = started + UP_SECONDS
        crashed |= (since >= crashes) & (since < crashes + back_off)
        crashing |= (since >= crashes - schedule.size.scrape) & (since < crashes)
        started += UP_SECONDS + back_off
        back_off = min(back_off * 2, MAX_BACK_OFF)
    return crashed & (harmed > 0), crashing & (harmed > 0)
