"""The evidence of a whole rollout: the average over its checks, and the fixed look at each batch's end."""

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
    """Whatever has an e-value."""

    def evalue(self) -> Array:
        """[R]."""


@dataclass(frozen=True, eq=False)
class EvidencePart:
    """One check's share of the evidence. `fixed_test`: it also takes part in the fixed look at a batch's end."""

    name: str
    weight: float
    source: EvidenceSource
    fixed_test: EProcess | None = None


class CombinedEvidence:
    """E = sum of weight * E_part: averaging e-values needs no independence (Vovk & Wang, *E-values*, 2021).

    Under "no part is worse than its margin" the chance that E ever reaches `options.threshold` is at most its inverse
    (Ville's inequality), however often it is looked at; the fixed looks take the rest of the budget.
    """

    def __init__(self, parts: Sequence[EvidencePart], batches: int, parameters: Parameters) -> None:
        self.parts = tuple(parts)
        self._batches, self._options = batches, parameters
        self._whole = sum(part.weight for part in parts)

    def share(self, part: EvidencePart) -> float:
        """A part's weight among those that there are, in (0, 1]."""
        return part.weight / self._whole

    def contributions(self) -> Array:
        """[parts, R]: what each adds to the evidence."""
        most = np.exp(CAP_NATS)
        return np.stack([self.share(part) * np.minimum(part.source.evalue(), most) for part in self.parts])

    def evalue(self) -> Array:
        """[R]."""
        return np.asarray(self.contributions().sum(0))

    def reaches_threshold(self) -> Flags:
        """[R]: whether the evidence suffices now."""
        return np.asarray(self.evalue() >= self._options.threshold)

    def fixed_test(self) -> dict[str, Flags]:
        """[R] for each part that is looked at: to be asked once, at the end of each judged batch.

        Signed-root likelihood ratio against its normal quantile, the budget shared by Bonferroni over parts and batches.
        """
        return {
            part.name: self._fixed_test_fails(part, part.fixed_test) for part in self.parts if part.fixed_test is not None
        }

    def _fixed_test_fails(self, part: EvidencePart, process: EProcess) -> Flags:
        chance = self._options.budget * self._options.fixed_test_share * self.share(part) / self._batches
        enough = process.effective_events >= self._options.fixed_test_events
        return np.asarray((process.log_ratio >= ndtri(chance) ** 2 / 2) & enough)
