"""Generates rolling updates: the counts of each instance at each scrape, for R rollouts at once.

The same size, noise, fault, number of replicates and state of the random generator give the same numbers, so the order of
the draws must not change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tidegate.simulation.distributions import (
    BUCKET_BOUNDS,
    Counts,
    Floats,
    autoregressive_levels,
    overdispersed_counts,
    slow_counts,
    slow_shares,
)
from tidegate.simulation.history import draw_history
from tidegate.simulation.outages import InstanceOutages, draw_outages
from tidegate.simulation.scenarios import Fault, RolloutNoise, ServiceSize
from tidegate.simulation.schedule import BatchSchedule

__all__ = ["BUCKET_BOUNDS", "GeneratedRollout", "generate_rollout"]

LOAD_SECONDS, LOAD_DEVIATION = 120.0, 0.08  # time constant and sd of the log traffic of the service
MEMORY_SECONDS, MEMORY_DEVIATION = 120.0, 0.01  # and of the memory of an instance
MAX_ERROR_SHARE = 0.95  # upper bound of the failed share
MIN_CRASH_ERROR_SHARE = 0.5  # lower bound in the interval before a crash


@dataclass(frozen=True, eq=False)
class GeneratedRollout:
    """R rollouts of n instances in T scrape intervals, and 30 blocks of 60 s before them.

    An interval without a sample (a failed scrape, an instance that is down) has no requests.
    """

    N: Counts  # [R, T, n] requests
    X: Counts  # [R, T, n] failed requests
    S: Counts  # [R, T, n, bounds] requests slower than each of BUCKET_BOUNDS
    miss: Counts  # [R, T, n] 1 where the scrape failed
    mem: Floats  # [R, T, n] memory, as a share of its limit
    age: Floats  # [T, n] seconds since the instance was replaced; below 0 it is the old release; NaN: it does not exist
    t: Floats  # [T] the middle of the interval, in seconds since the start of the rollout
    Hn: Counts  # [R, 30, n] history: requests
    He: Counts  # [R, 30, n] failed requests
    Hs: Counts  # [R, 30, n, bounds] requests slower than each of BUCKET_BOUNDS
    Hm: Counts  # [R, 30, n] failed scrapes
    Hmn: Counts  # [R, 30, n] scrapes
    dt: float  # seconds of an interval
    window: float  # seconds from one batch to the next
    n: int  # instances; with a control the arrays have one more, but not the history
    batches: int
    analyzed_batches: int  # batches with a concurrent baseline: without a control all but the last
    batch: Counts  # [n] the batch of each instance, from 0


@dataclass(frozen=True, eq=False)
class _InstanceLevels:
    """Additions to the log error rate, to the log latency, and to the error share, of both releases."""

    errors: Floats  # [R, T, n]
    latency: Floats  # [R, T, n]
    added: Floats  # [R, T, n], or [R, T, 1] without a shock


def generate_rollout(
    size: ServiceSize, noise: RolloutNoise, fault: Fault, replicates: int, rng: np.random.Generator
) -> GeneratedRollout:
    """Draw `replicates` rollouts."""
    schedule = BatchSchedule.of(size)
    load = np.exp(rng.standard_normal((replicates, len(schedule.batch))) * noise.load_cv)
    load /= load[:, : size.n].sum(1, keepdims=True)
    hosts = _host_levels(rng, load.shape)
    history = draw_history(rng, size, noise, load[:, : size.n], (hosts[0][:, : size.n], hosts[1][:, : size.n]))
    levels = _levels(rng, schedule, noise, hosts)
    harmed = _faulty_instances(rng, schedule, fault, replicates)
    traffic = _traffic(rng, schedule, noise, replicates)
    outages = draw_outages(rng, schedule, noise, fault, harmed)
    requests = rng.poisson(traffic * outages.rerouted(load))
    share = _error_share(size, fault, levels, harmed, outages)
    failed = np.minimum(overdispersed_counts(rng, requests * share, noise.phi), requests)
    slow = levels.latency + harmed * math.log(fault.lat_mult)
    shares = slow_shares(size.med, size.sig, slow, harmed * fault.tail_frac, fault.tail_mult)
    slower = slow_counts(rng, requests, shares)
    return GeneratedRollout(
        N=np.where(outages.down, 0, requests),
        X=np.where(outages.down, 0, failed),
        S=np.where(outages.down[..., None], 0, slower),
        miss=outages.down.astype(np.int64),
        mem=_memory(rng, schedule, fault, harmed),
        age=schedule.age,
        t=schedule.time,
        Hn=history.requests,
        He=history.failed,
        Hs=history.slower,
        Hm=history.missed,
        Hmn=history.scrapes,
        dt=size.scrape,
        window=size.window,
        n=size.n,
        batches=schedule.batches,
        analyzed_batches=schedule.analyzed_batches,
        batch=schedule.batch,
    )


def _host_levels(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """The lasting differences of the errors and the latency of each instance, each [R, n], in standard deviations."""
    return rng.standard_normal(shape), rng.standard_normal(shape)


def _levels(
    rng: np.random.Generator, schedule: BatchSchedule, noise: RolloutNoise, old: tuple[Floats, Floats]
) -> _InstanceLevels:
    """Hosts, autocorrelated levels, drift, shocks, warm-up and a noisy neighbour. A replaced instance gets a new host."""
    replicates, instances = old[0].shape
    shape = (replicates, schedule.intervals, instances)
    new = _host_levels(rng, old[0].shape)
    parts = []
    for before, after, host, own in ((old[0], new[0], noise.sd_e, noise.ar_e), (old[1], new[1], noise.sd_u, noise.ar_u)):
        lasting = np.where(schedule.is_new, after[:, None] * host, before[:, None] * host)
        parts.append(lasting + autoregressive_levels(rng, shape, schedule.size.scrape, noise.ar_tc, own))
    drift = _drift(schedule, noise)
    errors, latency = parts[0] + drift / 2, parts[1] + drift / 3
    added, latency = _shocks(rng, schedule, noise, latency)
    fading = schedule.fading(noise.warm_tc)
    latency, errors = latency + noise.warm_lat * fading, errors + noise.warm_err * fading
    if noise.bad_lat or noise.bad_err:
        bad = _one_of(rng, replicates, instances, instances)
        latency, errors = latency + noise.bad_lat * bad, errors + noise.bad_err * bad
    return _InstanceLevels(errors, latency, added)


def _drift(schedule: BatchSchedule, noise: RolloutNoise) -> Floats:
    """[1, T, 1]: the drift so far."""
    return np.asarray(noise.drift * (schedule.time / schedule.time[-1])[None, :, None])


def _shocks(
    rng: np.random.Generator, schedule: BatchSchedule, noise: RolloutNoise, latency: Floats
) -> tuple[Floats, Floats]:
    """Outages of a shared dependency: the error share that they add, and the log latency with them."""
    replicates, intervals, instances = latency.shape
    added: Floats = np.zeros((replicates, intervals, 1))
    time = schedule.time[None]
    for _ in range(noise.shock_n):
        begins = rng.uniform(0, max(schedule.time[-1] - noise.shock_len, 1), replicates)
        lasts = noise.shock_len * rng.uniform(0.5, 1.5, replicates)
        during = ((time >= begins[:, None]) & (time < (begins + lasts)[:, None]))[..., None]
        suffers = np.exp(rng.standard_normal((replicates, 1, instances)) * noise.shock_sens)
        added = added + during * noise.shock_pp * suffers
        latency = latency + during * noise.shock_lat * suffers
    return added, latency


def _one_of(rng: np.random.Generator, replicates: int, instances: int, candidates: int) -> Floats:
    """[R, 1, n]: 1 for one instance of the first `candidates`, 0 for the others."""
    chosen = np.zeros((replicates, 1, instances))
    chosen[np.arange(replicates), 0, rng.integers(0, candidates, replicates)] = 1
    return chosen


def _faulty_instances(rng: np.random.Generator, schedule: BatchSchedule, fault: Fault, replicates: int) -> Floats:
    """[R, T, n]: 1 where an instance has the fault."""
    active = schedule.is_new & (schedule.time[:, None] >= fault.onset)
    faulty = np.broadcast_to(active[None], (replicates, *active.shape)).astype(float)
    if not fault.one_of_k:
        return faulty
    return faulty * _one_of(rng, replicates, len(schedule.batch), int((schedule.batch == 0).sum()))


def _traffic(rng: np.random.Generator, schedule: BatchSchedule, noise: RolloutNoise, replicates: int) -> Floats:
    """[R, T, 1]: the expected requests of all instances in an interval."""
    size = schedule.size
    level = autoregressive_levels(rng, (replicates, schedule.intervals, 1), size.scrape, LOAD_SECONDS, LOAD_DEVIATION)
    return np.asarray(size.rps * size.scrape * np.exp(_drift(schedule, noise) * 0.6) * np.exp(level))


def _error_share(
    size: ServiceSize, fault: Fault, levels: _InstanceLevels, harmed: Floats, outages: InstanceOutages
) -> Floats:
    """[R, T, n]: the expected failed share of requests."""
    factor = 1 + harmed * (fault.err_mult - 1)
    share = size.p0 * np.exp(levels.errors) * factor + harmed * fault.err_pp + levels.added
    share = np.clip(share, 0, MAX_ERROR_SHARE)
    return np.where(outages.crashing, np.maximum(share, MIN_CRASH_ERROR_SHARE), share)


def _memory(rng: np.random.Generator, schedule: BatchSchedule, fault: Fault, harmed: Floats) -> Floats:
    """[R, T, n]: a new instance grows within minutes from 20 % to 50 % of its limit; a leak grows without end."""
    replicates, intervals, instances = harmed.shape
    since = np.maximum(np.nan_to_num(schedule.age), 0)
    usual = np.where(schedule.is_new, 0.5 - 0.3 * np.exp(-since / 60), 0.5)[None]
    level = autoregressive_levels(
        rng, (replicates, intervals, instances), schedule.size.scrape, MEMORY_SECONDS, MEMORY_DEVIATION
    )
    leaked = harmed * fault.leak * since[None] / 60
    memory = usual + level + leaked + 0.01 * rng.standard_normal((replicates, 1, instances))
    return np.where(schedule.exists, memory, np.nan)
