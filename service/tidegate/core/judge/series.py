"""Samples as they come from a metrics source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tidegate.core.judge.verdict import Time

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Series:
    """Samples of one series: (time in seconds since the epoch, value), oldest first. NaN and Inf are kept."""

    labels: Labels
    samples: tuple[tuple[Time, float], ...]
