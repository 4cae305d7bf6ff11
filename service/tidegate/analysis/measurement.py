"""One look at the metrics: what was asked, what came back, and what stood at that moment. The judge is a fold over looks.

Looks are stored, so that a verdict can be made again from them: after a crash, or with other margins.
"""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.analysis.queries import Query, QueryResult
from tidegate.clock import Time


@dataclass(frozen=True, slots=True)
class InstanceSample:
    """An instance as the platform showed it."""

    instance: str
    release: str
    ordinal: int
    ready: bool
    restarts: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """At a moment of a step. `traffic_shifted_at`: when its traffic was moved. `bake_started_at`: from when its bake
    counts.

    `concurrent`: the old release takes traffic beside the new one. `routed_count`: instances of the new release that take
    it. `final`: the bake is over.
    """

    at: Time
    step: int
    traffic_shifted_at: Time
    bake_started_at: Time
    concurrent: bool
    routed_count: int
    final: bool
    instances: tuple[InstanceSample, ...]
    results: tuple[tuple[Query, QueryResult], ...]

    @property
    def is_preview(self) -> bool:
        """Whether the new release takes no traffic yet, so that there is nothing to compare."""
        return self.routed_count == 0
