"""What a tick works with, what it remembers, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from tidegate.analysis.analysis import CanaryAnalysis
from tidegate.analysis.measurement import Measurement
from tidegate.analysis.verdict import Verdict
from tidegate.clock import Time
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Event, Instance, InstanceState, ObservedState, Rollout
from tidegate.core.phases import Phase
from tidegate.core.records import Claim, Freeze
from tidegate.core.rollout_state import Peer, RolloutState
from tidegate.core.routing import Backend, RouterState
from tidegate.engine import events
from tidegate.engine.prober import Prober
from tidegate.errors import StoreError
from tidegate.ports import Clock, Drivers, EngineStore

logger = structlog.get_logger("tidegate.engine")

FRESH_SECONDS = 0.1  # a look this young serves the next decision too, where nothing was done to what it shows
BACKOFF_SECONDS = 0.25  # after the first failure; doubled with each further one
MAX_BACKOFF_SECONDS = 10.0
REPEATED_EVENT_SECONDS = 60.0  # the same trouble is told again after this
LASTING_ERROR_SECONDS = 5.0  # and after this when it was over in between: the story must not end with that it works again
FREE_REPEATS = 3  # the same effect upon the same world, so often without a pause
REPEAT_SECONDS = 0.05  # then this, doubled with each further one
MAX_REPEAT_SECONDS = 5.0
MAX_REPEATS = 200  # different effects remembered in one step

Position = tuple[Phase, int]


@dataclass(frozen=True, slots=True)
class TickResult:
    """What came of a tick.

    `due` is when to look again; None means at once. `finished`: never again. `trouble`: an outside part, or Tidegate
    itself, failed.
    """

    message: str
    due: Time | None = None
    finished: bool = False
    trouble: bool = False


@dataclass
class RolloutCache:
    """What one process remembers of one rollout between ticks.

    Nothing in it is needed to go on rightly: it keeps the story short, the pauses growing and the looks few.
    """

    about: Mapping[str, str] | None = None  # what the log says of it; None: this process did not drive it before
    apart: float | None = None  # how far the clock was from one that only goes forward, when it drove it last
    instances: tuple[Instance, ...] | None = None
    routed: RouterState | None = None
    preview: RouterState | None = None
    looked: Time = 0.0
    unobserved_since: Time | None = None  # the last look, while no other succeeded since
    since: Time = float("-inf")  # waiting for instances counts from here at the earliest
    failures: int = 0  # in a row
    failing_since: Time = 0.0  # the first of them
    stuck_since: Time | None = None  # since when it fails in a way that waiting does not mend
    told: str = ""
    event_noted_at: Time = float("-inf")
    logged: set[str] = field(default_factory=set)  # instances whose last lines were told
    step: Position | None = None
    trial: CanaryAnalysis | None = None  # the judge, as it was after the last look that was saved
    looks: int = 0  # saved ones that the trial knows of
    fence: int = 0  # of the last claim
    passed: bool = False  # another engine had a claim since the trial's last look
    frozen: str = ""  # the freeze that was told and is waited for
    revived: bool = False  # a look had to start the proxy, which is still to be told
    repeats: dict[Hashable, tuple[int, Time]] = field(default_factory=dict)

    def claimed(self, fence: int) -> None:
        """Under this fence now, which is one more than the last where nobody else drove the rollout meanwhile."""
        self.passed |= fence > self.fence + 1
        self.fence = fence

    def forget_observation(self) -> None:
        """The next tick looks anew."""
        self.instances = self.routed = self.preview = None

    def shift_clock(self, seconds: float) -> None:
        """The clock jumped, and its moments with it. The judge begins with what was saved, for its next question asks from
        where the last one ended."""
        self.failing_since += seconds
        self.since += seconds
        self.unobserved_since = None if self.unobserved_since is None else self.unobserved_since + seconds
        self.event_noted_at += seconds
        self.stuck_since = None if self.stuck_since is None else self.stuck_since + seconds
        self.trial = None
        self.repeats = {}
        self.forget_observation()

    def mark_stopping(self, gone: Collection[Instance]) -> None:
        """What the platform will say of these from now on, until they are gone."""
        if self.instances is not None:
            ids = {each.id for each in gone}
            stopping = (replace(each, state=InstanceState.STOPPING) if each.id in ids else each for each in self.instances)
            self.instances = tuple(stopping)

    def observed(self, view: RolloutState) -> None:
        """A look succeeded. What is waited for has the time of its deadline in our sight, from when it was last all there:
        instances that went with their host long after the step began have it, too."""
        if self.unobserved_since is not None:
            start = view.counted_from
            self.since = start + max(0.0, view.now - max(start, self.unobserved_since))
            self.unobserved_since = None
        elif view.stands:
            self.since = view.now

    def observation_failed(self) -> None:
        """A look failed."""
        self.unobserved_since = self.looked if self.unobserved_since is None else self.unobserved_since

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


@dataclass(frozen=True)
class TickContext:
    """What a tick works with. `guard` raises `LeaseLost` when the rollout is no longer ours to drive."""

    claim: Claim
    store: EngineStore
    parts: Drivers
    clock: Clock
    memory: RolloutCache
    guard: Callable[[], None]
    prober: Prober | None = None
    freezes: dict[str, Freeze | None] = field(default_factory=dict)  # by environment, as far as they were asked for

    @property
    def since(self) -> Time:
        """From when waiting for instances counts at the earliest; this engine's own downtime does not."""
        return max(self.claim.since, self.memory.since)

    def frozen(self, rollout: Rollout) -> str:
        """By whom and why its environment is frozen, else empty; asked only where something could be kept back, once."""
        begins = rollout.phase is Phase.PENDING or (rollout.phase is Phase.RUNNING and rollout.settled is not None)
        if not begins:
            return ""
        environment = rollout.service.partition("/")[0]
        if environment not in self.freezes:
            self.freezes[environment] = self.store.frozen(environment)
        freeze = self.freezes[environment]
        return freeze.message if freeze else ""

    def note_frozen(self, rollout: Rollout, why: str) -> None:
        """Once, while it is a freeze that it waits for."""
        waits = why if why and why == self.frozen(rollout) else ""
        if waits and self.memory.frozen != waits:
            self.note(events.simple(EventKind.FROZEN, f"waits, since {waits}", rollout, self.clock()))
        self.memory.frozen = waits

    def note(self, *told: Event) -> None:
        """Events alone, under our fence. Raises `LeaseLost`."""
        self.store.note(self.claim.rollout, self._with_probes(told), self.claim.fence)

    def save(
        self, rollout: Rollout, told: Sequence[Event], verdict: Verdict | None = None, look: Measurement | None = None
    ) -> Rollout:
        """The rollout as it now stands, under our fence. Raises `LeaseLost`."""
        told = self._with_probes(told)
        return self.store.save(rollout, told, self.claim.fence, verdict=verdict, look=look)

    def _with_probes(self, told: Sequence[Event]) -> Sequence[Event]:
        prober = self.prober
        return told if prober is None else events.with_probes(told, prober.counts(self.claim.rollout))

    def probe(self, rollout: Rollout) -> None:
        """Ask the service from outside while the rollout moves anything; what it counts decides nothing."""
        if self.prober is not None and rollout.probe is not None and rollout.phase is not Phase.PENDING:
            self.prober.begin(rollout.id, rollout.probe)

    def look(self, service: str, backend: Backend) -> ObservedState:
        """The world, asked from the world; a very young look at what was not touched since serves again."""
        memory, now = self.memory, self.clock()
        if not 0.0 <= now - memory.looked < FRESH_SECONDS:
            memory.forget_observation()
        if memory.instances is None:
            memory.looked = now
            memory.instances = self.parts.platform.instances(service)
        return ObservedState(memory.instances, *self.read_proxy(backend))

    def read_proxy(self, backend: Backend) -> tuple[RouterState, RouterState]:
        """What the proxy does for the service and for its preview, as far as it was not just asked."""
        memory, place = self.memory, backend.previewed
        if memory.routed is None:
            memory.routed = self.parts.router.read(backend)
            memory.revived |= memory.routed.revived
        if memory.preview is None:
            memory.preview = RouterState() if place is None else self.parts.router.read(place)
            memory.revived |= memory.preview.revived
        return memory.routed, memory.preview

    def peers(self, rollout: Rollout) -> tuple[Peer, ...]:
        """The other rollouts of its group, as they stand."""
        if not rollout.group:
            return ()
        others = self.store.peers(rollout.id, rollout.group)
        return tuple(Peer(each.service, each.phase, each.arrived, each.reason) for each in others)


# -- trouble ----------------------------------------------------------------------------------------------------------


def back_off(
    claim: Claim,
    store: EngineStore,
    clock: Clock,
    memory: RolloutCache,
    message: str,
    *,
    kind: EventKind = EventKind.TROUBLE,
    retryable: bool = True,
) -> TickResult:
    """Something failed and nothing was touched: tell it, but not the same again and again, and pause, each time longer.

    Raises `LeaseLost`: what failed may have failed because another engine drives the rollout by now.
    """
    now = clock()
    memory.forget_observation()
    if memory.failures == 0:
        memory.failing_since = now
    memory.failures += 1
    memory.stuck_since = None if retryable else now if memory.stuck_since is None else memory.stuck_since
    pause = min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2.0 ** min(memory.failures - 1, 10))
    lasts = memory.event_noted_at < memory.failing_since <= now - LASTING_ERROR_SECONDS
    if message != memory.told or lasts or now - memory.event_noted_at >= REPEATED_EVENT_SECONDS:
        memory.told, memory.event_noted_at = message, now
        logger.warning(kind.value, error=message, retryable=retryable, pause_seconds=pause)
        _note(claim, store, events.error(kind, message, pause, retryable, now))
    return TickResult(message, now + pause, trouble=True)


def _note(claim: Claim, store: EngineStore, event: Event) -> None:
    """Note it if the database can; the log has it in any case."""
    try:
        store.note(claim.rollout, [event], claim.fence)
    except StoreError as error:
        logger.warning("the database does not take the event", error=error.message)


def report_recovery(turn: TickContext) -> None:
    """After a tick that worked: trouble that was told is told to be over, and a proxy that ended is told of."""
    memory = turn.memory
    if memory.revived:
        logger.warning("the proxy did not run and was started")
        turn.note(events.proxy_restarted(turn.clock()))
        memory.revived = False
    if memory.failures == 0:
        return
    now = turn.clock()
    if memory.event_noted_at >= memory.failing_since:
        turn.note(events.recovered(now - memory.failing_since, now))
    memory.failures, memory.stuck_since = 0, None
