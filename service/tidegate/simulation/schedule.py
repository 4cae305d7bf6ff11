"""The schedule of a generated rolling update, equal in all replicates: which instance is replaced when."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tidegate.simulation.distributions import Counts, Floats, Mask
from tidegate.simulation.scenarios import ServiceSize


@dataclass(frozen=True, eq=False)
class BatchSchedule:
    """One batch after the other, `window` seconds each.

    `batch` [n]: the batch in which each instance is replaced, from 0. With a control, the instance before the last one
    stays old (its batch is `batches`), and the last one is its replacement, which does not exist before its batch.
    `analyzed_batches`: how many batches have a concurrent baseline.
    """

    size: ServiceSize
    batch: Counts
    batches: int
    analyzed_batches: int

    @classmethod
    def of(cls, size: ServiceSize) -> BatchSchedule:
        """The schedule for a service of this size. Only the last batch may be smaller."""
        batch_size = max(1, math.ceil(size.n / size.batches))
        batches = math.ceil(size.n / batch_size)
        batch = np.arange(size.n) // batch_size
        if not size.control:
            return cls(size, batch, batches, batches - 1)
        return cls(size, np.append(batch[:-1], [batches, batches - 1]), batches, batches)

    @property
    def intervals(self) -> int:
        """T: the number of scrape intervals."""
        return round(self.batches * self.size.window / self.size.scrape)

    @cached_property
    def time(self) -> Floats:
        """[T]: the middle of each interval, in seconds from the start."""
        return np.asarray((np.arange(self.intervals) + 0.5) * self.size.scrape, dtype=np.float64)

    @cached_property
    def age(self) -> Floats:
        """[T, n]: seconds since the instance was replaced; below 0 it is old; NaN while it does not exist."""
        age = self.time[:, None] - (self.batch * self.size.window)[None, :]
        if self.size.control:
            age[:, -1] = np.where(age[:, -1] < 0, np.nan, age[:, -1])
        return np.asarray(age)

    @property
    def is_new(self) -> Mask:
        """[T, n]: whether the instance is of the new release."""
        return self.age >= 0

    def fading(self, time_constant: float) -> Floats:
        """[1, T, n]: exponential decay from 1 at the replacement of an instance; 0 for the old release."""
        return np.where(self.is_new, np.exp(-np.maximum(self.age, 0) / time_constant), 0.0)[None]

    @property
    def exists(self) -> Mask:
        """[T, n]: whether the instance exists."""
        return ~np.isnan(self.age)
