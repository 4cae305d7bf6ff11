"""The context that all checks of a rollout share. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from tidegate.analysis.statistics.parameters import Parameters
from tidegate.clock import Time
from tidegate.core.model import Rollout

BEFORE_AFTER_SHARE = 0.2  # of the evidence, if a part of the rollout has a concurrent baseline


@dataclass
class AnalysisContext:
    """`origin`: when the new release first took traffic. `concurrent_since`: when each step with a concurrent baseline
    shifted its traffic; `switched_at`: when the first step without one did; `shifted_at`: when the latest step did."""

    rollout: Rollout
    parameters: Parameters
    origin: Time
    concurrent_since: dict[int, Time] = field(default_factory=dict)
    switched_at: Time | None = None
    shifted_at: Time | None = None

    @property
    def old(self) -> str:
        """The baseline release; empty in a first deploy."""
        return self.rollout.old or ""

    @property
    def new(self) -> str:
        """The candidate release."""
        return self.rollout.new

    @property
    def releases(self) -> tuple[str, ...]:
        """The releases to query."""
        return (self.old, self.new) if self.old else (self.new,)

    @property
    def _concurrent(self) -> list[int]:
        """The instances of the new release that work, for each analysed step with a concurrent baseline."""
        steps = (step for step in self.rollout.plan if step.gate.analyzed and self.old in step.serving)
        return [count for step in steps if (count := step.serving.get(self.new, 0))]

    @property
    def batches(self) -> int:
        """The number of analysed steps with a concurrent baseline."""
        return len(self._concurrent)

    @property
    def planned_instances(self) -> int:
        """The number of candidate instances compared in the last of these steps."""
        return max(self._concurrent, default=0)

    @property
    def before_after_share(self) -> float:
        """The weight of the comparison with the time before the switch, in [0, 1]."""
        return BEFORE_AFTER_SHARE if self.batches else 1.0
