"""The course of a generated rolling update, the same in all replicates: which instance is replaced when."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tidegate.simulation.distributions import Counts, Floats, Mask
from tidegate.simulation.scenarios import ServiceSize


@dataclass(frozen=True, eq=False)
class BatchSchedule:
    """Batch after batch, `window` seconds each, up to where the last batch would begin: it has no old instance beside it.

    `batch` [n]: the batch of each instance, from 0. `judged`: how many batches are judged.
    """

    size: ServiceSize
    batch: Counts
    judged: int

    @classmethod
    def of(cls, size: ServiceSize) -> BatchSchedule:
        """The course for a service of this size; batches are equal but for the last."""
        together = max(1, math.ceil(size.n / size.batches))
        batches = math.ceil(size.n / together)
        return cls(size, np.minimum(np.arange(size.n) // together, batches - 1), batches - 1)

    @property
    def intervals(self) -> int:
        """T, the number of scrape intervals."""
        return round(self.judged * self.size.window / self.size.scrape)

    @cached_property
    def time(self) -> Floats:
        """[T]: the middle of each interval, in seconds from the start."""
        return np.asarray((np.arange(self.intervals) + 0.5) * self.size.scrape, dtype=np.float64)

    @cached_property
    def age(self) -> Floats:
        """[T, n]: seconds since the instance was replaced; below 0 it is still the old release."""
        return self.time[:, None] - (self.batch * self.size.window)[None, :]

    @property
    def is_new(self) -> Mask:
        """[T, n]: already replaced."""
        return self.age >= 0

    def fading(self, time_constant: float) -> Floats:
        """[1, T, n]: 1 when an instance is replaced, exponentially fading; 0 for the old release."""
        return np.where(self.is_new, np.exp(-np.maximum(self.age, 0) / time_constant), 0.0)[None]
