"""Generates outages of instances: crash loops, restarts, and failed scrapes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tidegate.simulation.distributions import Floats, Mask
from tidegate.simulation.scenarios import Fault, RolloutNoise
from tidegate.simulation.schedule import BatchSchedule

UP_SECONDS = 25.0  # until a crash-looping instance crashes
INITIAL_BACK_OFF, MAX_BACK_OFF = 10.0, 300.0  # before a restart; doubled each time, as in Kubernetes
SPREAD_SECONDS = 10.0  # spread of the crash times of instances


@dataclass(frozen=True, eq=False)
class InstanceOutages:
    """`down`: no sample in the interval. `crashing`: the interval before a crash. `gone`: no traffic. All [R, T, n]."""

    down: Mask
    crashing: Mask
    gone: Mask

    def rerouted(self, load: Floats) -> Floats:
        """The shares `load` [R, n] of the traffic, with that of gone instances moved to the others: [R, T, n]."""
        shares = load[:, None] * np.where(self.gone, 0, 1)
        return np.asarray(shares / np.maximum(shares.sum(2, keepdims=True), 1e-9))


def draw_outages(
    rng: np.random.Generator, schedule: BatchSchedule, noise: RolloutNoise, fault: Fault, harmed: Floats
) -> InstanceOutages:
    """Draw the outages. `harmed` [R, T, n]: where an instance has the fault."""
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
    down, gone = down | ~schedule.exists, gone | ~schedule.exists
    return InstanceOutages(down, crashing, gone)


def _crash_loop(rng: np.random.Generator, schedule: BatchSchedule, harmed: Floats) -> tuple[Mask, Mask]:
    """Where instances wait for a restart, and where they are about to crash, each [R, T, n]."""
    replicates, _, instances = harmed.shape
    since = np.maximum(schedule.age, 0)[None] + rng.uniform(0, SPREAD_SECONDS, (replicates, 1, instances))
    crashed, crashing = np.zeros(harmed.shape, bool), np.zeros(harmed.shape, bool)
    started, back_off = 0.0, INITIAL_BACK_OFF
    while started < schedule.time[-1] + 60:  # beyond the end, since `since` is ahead of the time
        crashes = started + UP_SECONDS
        crashed |= (since >= crashes) & (since < crashes + back_off)
        crashing |= (since >= crashes - schedule.size.scrape) & (since < crashes)
        started += UP_SECONDS + back_off
        back_off = min(back_off * 2, MAX_BACK_OFF)
    return crashed & (harmed > 0), crashing & (harmed > 0)
