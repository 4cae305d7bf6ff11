"""What is the same for all checks of a rollout. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from tidegate.analysis.statistics.parameters import Parameters
from tidegate.clock import Time
from tidegate.core.model import Rollout

BEFORE_AFTER_SHARE = 0.2  # of the evidence, where a part of the rollout had a baseline beside the candidate


@dataclass
class AnalysisContext:
    """`origin`: when the new release was first routed. `concurrent_since`: when each step with a baseline beside it
    moved its traffic; `switched_at`: when the first step without one did."""

    rollout: Rollout
    parameters: Parameters
    origin: Time
    concurrent_since: dict[int, Time] = field(default_factory=dict)
    switched_at: Time | None = None

    @property
    def old(self) -> str:
        """The release that is compared with; empty in a first deploy."""
        return self.rollout.old or ""

    @property
    def new(self) -> str:
        """The release that is judged."""
        return self.rollout.new

    @property
    def releases(self) -> tuple[str, ...]:
        """Those that are asked about."""
        return (self.old, self.new) if self.old else (self.new,)

    @property
    def _concurrent(self) -> list[int]:
        """How many of the new release take traffic in each judged step that has a baseline beside it."""
        steps = (step for step in self.rollout.plan if step.gate.analyzed and self.old in step.route)
        return [count for step in steps if (count := step.route.get(self.new, 0))]

    @property
    def batches(self) -> int:
        """How many steps are judged against a baseline beside them."""
        return len(self._concurrent)

    @property
    def planned_instances(self) -> int:
        """How many instances are compared in the end."""
        return max(self._concurrent, default=0)

    @property
    def before_after_share(self) -> float:
        """The weight of the comparison with the time before the switch."""
        return BEFORE_AFTER_SHARE if self.batches else 1.0
