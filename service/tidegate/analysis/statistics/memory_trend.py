"""Evidence that a gauge such as memory grows faster on the candidate, beyond the tolerated growth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tidegate.analysis.statistics.effect_grid import Array
from tidegate.analysis.statistics.parameters import Parameters

BLOCK_SECONDS = 15.0
MIN_WARMUPS, FILLED_WARMUPS = 1.5, 3.0  # ages in warm-ups: compared from the first on; caches are filled at the second
FILLING_GROWTH = 0.1  # tolerated growth between these ages, as a share of the limit
TOLERATED_GROWTH, HORIZON_SECONDS = 0.4, 3600.0  # tolerated growth as a share of the limit, in this time
LEAK_PER_SECOND, VISIBLE_GROWTH = 0.2 / 60, 0.1  # a PASS needs time in which such a leak grows so far beyond the tolerated
SPREAD, FREEDOM = 0.02, 6.0  # sd of the gauge between instances of a release, as a share of the limit; Student's t
ALTERNATIVES = (np.arange(50) + 0.5) / 100  # growth beyond the tolerated: uniform, up to half of the limit


@dataclass(eq=False)
class _TrendBatch:
    """The instances of one batch, from their first settled block on."""

    members: tuple[int, ...]
    baseline_instances: int
    first_block: Array | None = None
    first_age: float = 0.0
    shows_leak: bool = False  # whether it has been compared for long enough
    evalue: Array = field(default_factory=lambda: np.ones(1))


class MemoryTrend:
    """Takes a gauge as a share of its limit, and compares the change of new instances with that of old ones."""

    def __init__(self, replicates: int, dt: float, batches: int, parameters: Parameters) -> None:
        self._length = max(1, round(BLOCK_SECONDS / dt))
        self._warmup_seconds = parameters.warmup_seconds
        self._planned, self._batches = batches, list[_TrendBatch]()
        self._ones = np.ones(replicates)
        self._sum, self._samples = np.zeros((replicates, 0)), np.zeros((replicates, 0))
        self._intervals = 0

    def begin_batch(self, members: Sequence[int], baseline_instances: int) -> None:
        """Add a batch of instances that started together, compared with so many of the baseline."""
        self._batches.append(_TrendBatch(tuple(members), max(1, baseline_instances), evalue=self._ones))

    def advance(self, gauge: Array, age: Array) -> None:
        """Add an interval: the gauge [R, instances] as a share of its limit (NaN: unknown) and the ages [instances] in
        seconds, negative for instances of the baseline."""
        if self._intervals == 0:
            self._age, self._sum, self._samples = age, np.zeros_like(gauge), np.zeros_like(gauge)
        known = gauge[:, : self._sum.shape[1]]  # new instances count from the next block on
        self._sum = self._sum + np.nan_to_num(known)
        self._samples = self._samples + np.isfinite(known)
        self._intervals += 1
        if self._intervals == self._length:
            mean = np.where(self._samples > 0, self._sum / np.maximum(self._samples, 1), np.nan)
            self._intervals = 0
            for batch in self._batches:
                self._end_block(batch, mean)

    @property
    def shows_leak(self) -> bool:
        """Whether the newest batch has been compared for so long that a leak of a fifth of the limit per minute shows."""
        return bool(self._batches) and self._batches[-1].shows_leak

    def _end_block(self, batch: _TrendBatch, mean: Array) -> None:
        """Update the evidence of a batch at the end of a block. Old instances that are gone have not changed."""
        members = [index for index in batch.members if index < len(self._age)]
        age = self._age[members].min(initial=np.inf)
        if not members or age < MIN_WARMUPS * self._warmup_seconds or not np.isfinite(mean[:, members]).any():
            return
        if batch.first_block is None:
            batch.first_block, batch.first_age = mean, age
            return
        old = np.flatnonzero(self._age[: batch.first_block.shape[1]] < 0)
        change = mean[:, : batch.first_block.shape[1]] - batch.first_block
        old_change = np.ma.filled(np.ma.masked_invalid(change[:, old]).mean(1), 0.0)
        new_change = np.ma.median(np.ma.masked_invalid(change[:, members]), axis=1)  # type: ignore[no-untyped-call]
        tolerated = self._tolerated(batch.first_age, age)
        batch.shows_leak = LEAK_PER_SECOND * (age - batch.first_age) - tolerated >= VISIBLE_GROWTH
        beyond = np.ma.filled(new_change, np.nan) - old_change - tolerated
        scale = SPREAD * np.sqrt(1 / len(batch.members) + 1 / batch.baseline_instances)
        ratio = (_student_density(beyond[:, None] - ALTERNATIVES, scale) / _student_density(beyond, scale)[:, None]).mean(1)
        batch.evalue = np.where(np.isfinite(ratio), ratio, batch.evalue)

    def _tolerated(self, first_age: float, age: float) -> float:
        """The tolerated growth between two ages, as a share of the limit."""
        begin, end = MIN_WARMUPS * self._warmup_seconds, FILLED_WARMUPS * self._warmup_seconds
        filling = (min(age, end) - min(first_age, end)) / (end - begin) if end else 0.0
        return FILLING_GROWTH * filling + TOLERATED_GROWTH / HORIZON_SECONDS * (age - first_age)

    def evalue(self) -> Array:
        """The e-value [R]: the mean over the planned batches; one that is not settled counts as 1."""
        total = sum((batch.evalue for batch in self._batches), 0.0 * self._ones)
        return np.asarray((total + max(0, self._planned - len(self._batches))) / max(self._planned, len(self._batches), 1))


def _student_density(x: Array, scale: float) -> Array:
    """The density of Student's t, without its constant."""
    return np.asarray((1 + (x / scale) ** 2 / FREEDOM) ** (-(FREEDOM + 1) / 2))
