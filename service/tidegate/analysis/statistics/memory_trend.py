"""Evidence that a gauge such as memory grows faster on the candidate, beyond the tolerated growth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tidegate.analysis.statistics.effect_grid import Array
from tidegate.analysis.statistics.parameters import Parameters

BLOCK_SECONDS = 30.0
MIN_WARMUPS = 3.0  # an instance younger than this many warm-ups still fills its caches
TOLERATED_GROWTH, HORIZON_SECONDS = 0.4, 3600.0  # tolerated growth as a share of the limit, in this time
SPREAD, FREEDOM = 0.02, 6.0  # sd of the gauge between instances of a release, as a share of the limit; Student's t
ALTERNATIVES = (np.arange(50) + 0.5) / 100  # growth beyond the tolerated: uniform, up to half of the limit


@dataclass(eq=False)
class _TrendBatch:
    """The instances of one batch, from their first settled block on."""

    members: tuple[int, ...]
    baseline_instances: int
    first_block: Array | None = None
    blocks: int = 0
    evalue: Array = field(default_factory=lambda: np.ones(1))


class MemoryTrend:
    """Takes a gauge as a share of its limit, and compares the change of new instances with that of old ones."""

    def __init__(self, replicates: int, dt: float, batches: int, parameters: Parameters) -> None:
        self._length = max(1, round(BLOCK_SECONDS / dt))
        self._block_seconds = self._length * dt
        self._settled = MIN_WARMUPS * parameters.warmup_seconds
        self._planned, self._batches = batches, list[_TrendBatch]()
        self._ones = np.ones(replicates)
        self._sum: Array | None = None
        self._intervals = 0

    def begin_batch(self, members: Sequence[int], baseline_instances: int) -> None:
        """Add a batch of instances that started together, compared with so many of the baseline."""
        self._batches.append(_TrendBatch(tuple(members), max(1, baseline_instances), evalue=self._ones))

    def advance(self, gauge: Array, age: Array) -> None:
        """Add an interval: the gauge [R, instances] as a share of its limit (NaN: unknown) and the ages [instances] in
        seconds, negative for instances of the baseline."""
        if self._intervals == 0:
            self._age, self._sum = age, gauge.copy()
        else:
            assert self._sum is not None
            self._sum = self._sum + gauge[:, : self._sum.shape[1]]  # new instances count from the next block on
        self._intervals += 1
        if self._intervals == self._length:
            mean, self._intervals = self._sum / self._length, 0
            for batch in self._batches:
                self._end_block(batch, mean)

    def _end_block(self, batch: _TrendBatch, mean: Array) -> None:
        """Update the evidence of a batch at the end of a block; unchanged once no old instance is left."""
        members = [index for index in batch.members if index < len(self._age)]
        if not members or self._age[members].min() < self._settled or not (self._age < 0).any():
            return
        if batch.first_block is None:
            batch.first_block = mean
        old = np.flatnonzero(self._age[: batch.first_block.shape[1]] < 0)
        change = mean[:, : batch.first_block.shape[1]] - batch.first_block
        old_change = np.ma.masked_invalid(change[:, old]).mean(1)
        new_change = np.ma.median(np.ma.masked_invalid(change[:, members]), axis=1)  # type: ignore[no-untyped-call]
        beyond = np.ma.filled(new_change - old_change, np.nan)
        beyond = beyond - TOLERATED_GROWTH / HORIZON_SECONDS * batch.blocks * self._block_seconds
        batch.blocks += 1
        scale = SPREAD * np.sqrt(1 / len(batch.members) + 1 / batch.baseline_instances)
        ratio = (_student_density(beyond[:, None] - ALTERNATIVES, scale) / _student_density(beyond, scale)[:, None]).mean(1)
        batch.evalue = np.where(np.isfinite(ratio), ratio, batch.evalue)

    def evalue(self) -> Array:
        """The e-value [R]: the mean over the planned batches; one that is not settled counts as 1."""
        total = sum((batch.evalue for batch in self._batches), 0.0 * self._ones)
        return np.asarray((total + max(0, self._planned - len(self._batches))) / max(self._planned, len(self._batches), 1))


def _student_density(x: Array, scale: float) -> Array:
    """The density of Student's t, without its constant."""
    return np.asarray((1 + (x / scale) ** 2 / FREEDOM) ** (-(FREEDOM + 1) / 2))
