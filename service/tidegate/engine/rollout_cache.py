"""What a process remembers of a rollout between ticks."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field, replace

from tidegate.analysis.analysis import CanaryAnalysis
from tidegate.clock import Time
from tidegate.core.model import Instance, InstanceState
from tidegate.core.phases import Phase
from tidegate.core.rollout_state import RolloutState
from tidegate.core.routing import RouterState

MAX_OBSERVATION_AGE_SECONDS = 0.1  # a look this young serves the next decision too, where nothing was done to what it shows
FREE_REPEATS = 3  # the same effect upon the same world, so often without a pause
REPEAT_SECONDS = 0.05  # then this, doubled with each further one
MAX_REPEAT_SECONDS = 5.0
MAX_REPEATS = 200  # different effects remembered in one step
Position = tuple[Phase, int]


@dataclass
class RolloutCache:
    """What one process remembers of one rollout between ticks.

    Nothing in it is needed to go on rightly: it keeps the story short, the pauses growing and the looks few.
    """

    log_fields: Mapping[str, str] | None = None  # what the log says of it; None: this process did not drive it before
    clock_offset: float | None = None  # how far the clock was from one that only goes forward, when it drove it last
    instances: tuple[Instance, ...] | None = None
    router: RouterState | None = None
    preview: RouterState | None = None
    observed_at: Time = 0.0
    unobserved_since: Time | None = None  # the last look, while no other succeeded since
    since: Time = float("-inf")  # waiting for instances counts from here at the earliest
    failures: int = 0  # in a row
    failing_since: Time = 0.0  # the first of them
    stuck_since: Time | None = None  # since when it fails in a way that waiting does not mend
    last_error: str = ""
    event_noted_at: Time = float("-inf")
    tailed: set[str] = field(default_factory=set)  # instances whose last lines were told
    step: Position | None = None
    analysis: CanaryAnalysis | None = None  # the judge, as it was after the last look that was saved
    measurements: int = 0  # saved ones that the trial knows of
    fence: int = 0  # of the last claim
    interrupted: bool = False  # another engine had a claim since the trial's last look
    frozen: str = ""  # the freeze that was told and is waited for
    proxy_restarted: bool = False  # a look had to start the proxy, which is still to be told
    repeats: dict[Hashable, tuple[int, Time]] = field(default_factory=dict)

    def record_claim(self, fence: int) -> None:
        """Under this fence now, which is one more than the last where nobody else drove the rollout meanwhile."""
        self.interrupted |= fence > self.fence + 1
        self.fence = fence

    def forget_observation(self) -> None:
        """The next tick looks anew."""
        self.instances = self.router = self.preview = None

    def shift_clock(self, seconds: float) -> None:
        """The clock jumped, and its moments with it. The judge begins with what was saved, for its next question asks from
        where the last one ended."""
        self.failing_since += seconds
        self.since += seconds
        self.unobserved_since = None if self.unobserved_since is None else self.unobserved_since + seconds
        self.event_noted_at += seconds
        self.stuck_since = None if self.stuck_since is None else self.stuck_since + seconds
        self.analysis = None
        self.repeats = {}
        self.forget_observation()

    def mark_stopping(self, gone: Collection[Instance]) -> None:
        """What the platform will say of these from now on, until they are gone."""
        if self.instances is not None:
            ids = {instance.id for instance in gone}
            stopping = (
                replace(instance, state=InstanceState.STOPPING) if instance.id in ids else instance
                for instance in self.instances
            )
            self.instances = tuple(stopping)

    def record_observation(self, state: RolloutState) -> None:
        """A look succeeded. What is waited for has the time of its deadline in our sight, from when it was last all there:
        instances that went with their host long after the step began have it, too."""
        if self.unobserved_since is not None:
            start = state.counted_from
            self.since = start + max(0.0, state.now - max(start, self.unobserved_since))
            self.unobserved_since = None
        elif state.stands:
            self.since = state.now

    def record_failed_observation(self) -> None:
        """A look failed."""
        self.unobserved_since = self.observed_at if self.unobserved_since is None else self.unobserved_since

    def pause_after(self, step: Position, effect: Hashable, now: Time) -> float:
        """Seconds to wait after this effect: none as a rule, more and more when it is repeated and changes nothing."""
        if step != self.step or len(self.repeats) > MAX_REPEATS:
            self.step, self.repeats = step, {}
        count, last = self.repeats.get(effect, (0, now))
        if now - last > max(2 * _repeat_pause(count), MAX_REPEAT_SECONDS / 10):
            count = 0  # it is repeated, but slowly
        self.repeats[effect] = (count + 1, now)
        return _repeat_pause(count + 1)


def _repeat_pause(count: int) -> float:
    over = count - FREE_REPEATS
    return 0.0 if over <= 0 else min(MAX_REPEAT_SECONDS, REPEAT_SECONDS * 2.0 ** min(over - 1, 10))
