"""The state that an engine process caches for a rollout between ticks."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tidegate.clock import Time
from tidegate.core.image_reference import PinnedImage
from tidegate.core.model import Instance, InstanceState
from tidegate.core.phases import Phase
from tidegate.core.rollout_state import RolloutState
from tidegate.core.routing import RouterState

if TYPE_CHECKING:
    from tidegate.analysis.analysis import CanaryAnalysis  # numpy and scipy are slow to import

MAX_OBSERVATION_AGE_SECONDS = 0.1  # a younger observation is reused if no effect changed what it shows
FREE_REPEATS = 3  # repeats of an effect on the same observed state without a pause
REPEAT_SECONDS = 0.05  # the pause after that, doubled with each further repeat
MAX_REPEAT_SECONDS = 5.0
MAX_REPEATS = 200  # different effects remembered for one step
Position = tuple[Phase, int]


@dataclass(frozen=True, slots=True)
class Pull:
    """Images of a rollout that are being pulled: the new one, and a warning if the old one could not be started."""

    future: Future[tuple[PinnedImage, str]]
    since: Time


@dataclass
class RolloutCache:
    """What one process remembers about one rollout between ticks.

    Correctness never depends on it. It avoids repeated events, lets pauses grow, and saves observations.
    """

    log_fields: Mapping[str, str] | None = None  # None: this process has not driven the rollout yet
    clock_offset: float | None = None  # from the clock to the monotonic clock, at the last tick
    instances: tuple[Instance, ...] | None = None
    router: RouterState | None = None
    preview: RouterState | None = None
    observed_at: Time = 0.0
    unobserved_since: Time | None = None  # the last observation before observing began to fail
    since: Time = float("-inf")  # waiting for instances counts from here at the earliest
    failures: int = 0  # consecutive
    failing_since: Time = 0.0  # the first of them
    stuck_since: Time | None = None  # the first of consecutive failures that a retry cannot fix
    last_error: str = ""
    event_noted_at: Time = float("-inf")
    tailed: set[str] = field(default_factory=set)  # ids of instances whose last log lines were recorded
    memory_kills: dict[str, int] = field(default_factory=dict)  # by instance, those that were recorded
    step: Position | None = None
    analysis: CanaryAnalysis | None = None  # as of the last saved measurement
    measurements: int = 0  # saved ones that `analysis` contains
    fence: int = 0  # of the last claim
    interrupted: bool = False  # another engine held a claim since the last measurement in `analysis`
    proxy_restarted: bool = False  # an observation restarted the proxy; the event is still to be recorded
    pull: Pull | None = None
    repeats: dict[Hashable, tuple[int, Time]] = field(default_factory=dict)

    def record_claim(self, fence: int) -> None:
        """Note the present fencing token. A gap to the previous one means that another engine drove the rollout."""
        self.interrupted |= fence > self.fence + 1
        self.fence = fence

    def forget_observation(self) -> None:
        """Make the next tick observe the platform and the proxy again."""
        self.instances = self.router = self.preview = None

    def shift_clock(self, seconds: float) -> None:
        """Move all times by a jump of the clock. The analysis is restored from the saved measurements, because its next
        query starts where the last one ended."""
        self.failing_since += seconds
        self.since += seconds
        self.unobserved_since = None if self.unobserved_since is None else self.unobserved_since + seconds
        self.event_noted_at += seconds
        self.stuck_since = None if self.stuck_since is None else self.stuck_since + seconds
        self.analysis = None
        self.repeats = {}
        self.forget_observation()

    def mark_stopping(self, gone: Collection[Instance]) -> None:
        """Show these instances as stopping until they are gone, as the platform will."""
        if self.instances is not None:
            ids = {instance.id for instance in gone}
            stopping = (
                replace(instance, state=InstanceState.STOPPING) if instance.id in ids else instance
                for instance in self.instances
            )
            self.instances = tuple(stopping)

    def record_observation(self, state: RolloutState) -> None:
        """Observing succeeded. The deadline for instances counts only time in which they could be observed, from when all
        were last there: so instances lost with their host long after the start of the step get the full deadline."""
        if self.unobserved_since is not None:
            start = state.deadline_start
            self.since = start + max(0.0, state.now - max(start, self.unobserved_since))
            self.unobserved_since = None
        elif state.is_complete:
            self.since = state.now

    def record_failed_observation(self) -> None:
        """Observing failed."""
        self.unobserved_since = self.observed_at if self.unobserved_since is None else self.unobserved_since

    def pause_after(self, step: Position, effect: Hashable, now: Time) -> float:
        """Seconds to wait after this effect: usually 0, growing when an effect is repeated and changes nothing."""
        if step != self.step or len(self.repeats) > MAX_REPEATS:
            self.step, self.repeats = step, {}
        count, last = self.repeats.get(effect, (0, now))
        if now - last > max(2 * _repeat_pause(count), MAX_REPEAT_SECONDS / 10):
            count = 0  # repeated, but slowly enough
        self.repeats[effect] = (count + 1, now)
        return _repeat_pause(count + 1)


def _repeat_pause(count: int) -> float:
    over = count - FREE_REPEATS
    return 0.0 if over <= 0 else min(MAX_REPEAT_SECONDS, REPEAT_SECONDS * 2.0 ** min(over - 1, 10))
