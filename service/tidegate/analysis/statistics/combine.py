"""The evidence of a whole rollout: the average over its checks, and the fixed test at the end of each batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from tidegate.analysis.statistics.effect_grid import CAP_NATS, Array
from tidegate.analysis.statistics.eprocess import EProcess
from tidegate.analysis.statistics.parameters import Parameters

Flags = NDArray[np.bool_]


class EvidenceSource(Protocol):
    """Anything with an e-value."""

    def evalue(self) -> Array:
        """The e-value [R]."""


@dataclass(frozen=True, eq=False)
class EvidencePart:
    """A part of the evidence with its weight. `fixed_test`: the process for the test at the end of a batch, if any."""

    name: str
    weight: float
    source: EvidenceSource
    fixed_test: EProcess | None = None


class CombinedEvidence:
    """E = sum of weight * E_part. Averaging e-values needs no independence (Vovk & Wang, *E-values: calibration,
    combination and applications*, 2021).

    If no part is worse than its margin, the chance that E ever reaches `parameters.threshold` is at most 1 / threshold
    (Ville's inequality), however often it is checked. The fixed tests have the rest of the budget.
    """

    def __init__(self, parts: Sequence[EvidencePart], batches: int, parameters: Parameters) -> None:
        self.parts = tuple(parts)
        self._batches, self._parameters = batches, parameters
        self._total_weight = sum(part.weight for part in parts)

    def share(self, part: EvidencePart) -> float:
        """The weight of a part among all parts, in (0, 1]."""
        return part.weight / self._total_weight

    def contributions(self) -> Array:
        """What each part adds to the evidence [parts, R]."""
        cap = np.exp(CAP_NATS)
        return np.stack([self.share(part) * np.minimum(part.source.evalue(), cap) for part in self.parts])

    def evalue(self) -> Array:
        """The e-value [R]."""
        return np.asarray(self.contributions().sum(0))

    def reaches_threshold(self) -> Flags:
        """Whether the evidence reaches the threshold now [R]."""
        return np.asarray(self.evalue() >= self._parameters.threshold)

    def fixed_test(self) -> dict[str, Flags]:
        """Whether each part with a fixed test fails it [R]. To be called once, at the end of each analysed batch.

        The test compares the signed-root likelihood ratio with its normal quantile. The budget is divided over parts and
        batches (Bonferroni).
        """
        return {
            part.name: self._fixed_test_fails(part, part.fixed_test) for part in self.parts if part.fixed_test is not None
        }

    def _fixed_test_fails(self, part: EvidencePart, process: EProcess) -> Flags:
        chance = self._parameters.budget * self._parameters.fixed_test_share * self.share(part) / self._batches
        enough = process.effective_events >= self._parameters.fixed_test_events
        return np.asarray((process.log_ratio >= ndtri(chance) ** 2 / 2) & enough)
