"""One measurement: the queries, their results, and the state of the rollout at that moment.

Measurements are stored. The analysis depends on nothing else, so a verdict can be repeated: after a crash, or with other
margins.
"""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.analysis.queries import Query, QueryResult
from tidegate.clock import Time


@dataclass(frozen=True, slots=True)
class InstanceSample:
    """An instance as the platform reported it. `restarts`: since it was created."""

    instance: str
    release: str
    ordinal: int
    ready: bool
    restarts: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measurement of a step. `traffic_shifted_at`: when the step shifted its traffic; `bake_started_at`: when its bake
    began.

    `concurrent`: both releases take traffic. `routed_count`: how many instances of the new release take traffic. `final`:
    the bake is over. `extendable`: an INCONCLUSIVE verdict would then extend it.
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
    extendable: bool = False

    @property
    def is_preview(self) -> bool:
        """Whether the new release takes no traffic yet."""
        return self.routed_count == 0
