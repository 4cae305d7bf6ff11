"""The context and the result of a tick, and the back-off after errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

import structlog

from tidegate.analysis.measurement import Measurement
from tidegate.analysis.verdict import Verdict
from tidegate.clock import Time
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Event, Instance, ObservedState, Rollout
from tidegate.core.phases import Phase
from tidegate.core.records import Claim, Freeze, Peer
from tidegate.core.routing import Backend, RouterState
from tidegate.core.waits import WaitingFor, WaitKind
from tidegate.engine import events
from tidegate.engine.background import Turns
from tidegate.engine.log_context import log_event, log_events
from tidegate.engine.prober import Prober
from tidegate.engine.rollout_cache import MAX_OBSERVATION_AGE_SECONDS, RolloutCache
from tidegate.errors import StoreError
from tidegate.ports import Clock, Drivers
from tidegate.store_port import EngineStore

logger = structlog.get_logger("tidegate.engine")
T = TypeVar("T")
BACKOFF_SECONDS = 0.25  # after the first failure; doubled with each further one
MAX_BACKOFF_SECONDS = 10.0
REPEATED_EVENT_SECONDS = 60.0  # the event of a lasting error is repeated after this
LASTING_ERROR_SECONDS = 5.0  # or after this following a recovery, so that "recovered" is not the last event


@dataclass(frozen=True, slots=True)
class TickResult:
    """The result of a tick.

    `due` is when to tick again; None means at once. `finished`: the rollout has ended. `failed`: a driver, the database or
    Tidegate itself failed.
    """

    message: str
    due: Time | None = None
    finished: bool = False
    failed: bool = False


@dataclass(frozen=True)
class TickContext:
    """What a tick works with. `guard` raises `LeaseLost` when another engine drives the rollout."""

    claim: Claim
    store: EngineStore
    drivers: Drivers
    clock: Clock
    cache: RolloutCache
    guard: Callable[[], None]
    prober: Prober | None = None
    turns: Turns | None = None  # None: this rollout is driven alone
    freezes: dict[str, Freeze | None] = field(default_factory=dict)  # by environment, loaded on demand

    @property
    def since(self) -> Time:
        """Waiting for instances counts from here at the earliest, so that the downtime of engines does not count."""
        return max(self.claim.since, self.cache.since)

    def frozen(self, rollout: Rollout) -> str:
        """The message of the freeze of its environment, else empty. Loaded once, and only where a freeze has an effect."""
        begins = rollout.phase is Phase.PENDING or (rollout.phase is Phase.RUNNING and rollout.step_ready_at is not None)
        if not begins:
            return ""
        environment = rollout.service.partition("/")[0]
        if environment not in self.freezes:
            self.freezes[environment] = self.store.get_freeze(environment)
        freeze = self.freezes[environment]
        return freeze.message if freeze else ""

    def slow_call(self) -> AbstractContextManager[None]:
        """For a call that may take longer than a tick should: other rollouts are driven meanwhile. The lease is kept."""
        return nullcontext() if self.turns is None else self.turns.slow_call(self.claim.environment)

    def in_background(self, rollout: Rollout, call: Callable[[], T]) -> Future[T]:
        """Run a call that changes nothing of the rollout, and may take minutes."""
        if self.turns is not None:
            return self.turns.in_background(rollout.service, call, urgent=rollout.forced)
        future: Future[T] = Future()
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)
        return future

    def tick_soon(self, rollout: Rollout) -> None:
        """Make the rollout due now, from any thread. If the database fails, it is due at its next poll."""
        with suppress(StoreError):
            self.store.observe_soon(rollout.service)
        if self.turns is not None:
            self.turns.wake()

    def record_wait(self, rollout: Rollout, waiting: WaitingFor) -> None:
        """Record what the rollout waits for, if that is new. Raises `LeaseLost`."""
        if rollout.waiting_for != waiting:
            self.save(*self.with_wait(rollout, [], waiting))

    def with_wait(self, rollout: Rollout, new_events: Sequence[Event], waiting: WaitingFor) -> tuple[Rollout, list[Event]]:
        """The rollout with this wait, and the events with it: in the data of the last one, or an event for a freeze."""
        recorded = [*new_events]
        before = rollout.waiting_for
        if waiting.kind is WaitKind.FREEZE and (before is None or before.reason != waiting.reason):
            recorded.append(events.simple(EventKind.FROZEN, f"Waiting: {waiting.reason}", rollout, self.clock()))
        if recorded:
            recorded[-1] = events.with_wait(recorded[-1], waiting)
        return replace(rollout, waiting_for=waiting), recorded

    def note(self, *new_events: Event) -> None:
        """Record events under the fencing token. Raises `LeaseLost`."""
        self.store.add_events(self.claim.rollout, self._with_probes(new_events), self.claim.fence)
        log_events(new_events)

    def save(
        self,
        rollout: Rollout,
        new_events: Sequence[Event],
        verdict: Verdict | None = None,
        measurement: Measurement | None = None,
    ) -> Rollout:
        """Save the rollout with its events under the fencing token. Raises `LeaseLost`."""
        recorded = self._with_probes(new_events)
        saved = self.store.save(rollout, recorded, self.claim.fence, verdict=verdict, measurement=measurement)
        log_events(new_events)
        return saved

    def note_memory_kills(self, rollout: Rollout, instances: Sequence[Instance]) -> None:
        """Record an event for each instance that was killed for memory since the last observation. Raises `LeaseLost`."""
        fresh = [one.id for one in instances if one.release == rollout.new and one.id not in rollout.preexisting]
        killed, known = events.find_memory_kills(self.cache.memory_kills, instances, fresh)
        if killed:
            self.note(*(events.out_of_memory(instance, self.clock()) for instance in killed))
        self.cache.memory_kills = known

    def _with_probes(self, new_events: Sequence[Event]) -> Sequence[Event]:
        prober = self.prober
        return new_events if prober is None else events.with_probes(new_events, prober.counts(self.claim.rollout))

    def probe(self, rollout: Rollout) -> None:
        """Probe the service once the rollout runs. The counts decide nothing."""
        if self.prober is not None and rollout.probe is not None and rollout.phase is not Phase.PENDING:
            self.prober.begin(rollout.id, rollout.probe, rollout.service.partition("/")[0])

    def observe(self, rollout: Rollout) -> ObservedState:
        """The observed state of the platform and the proxy; very recent observations without an effect since are reused."""
        cache, now = self.cache, self.clock()
        if not 0.0 <= now - cache.observed_at < MAX_OBSERVATION_AGE_SECONDS:
            cache.forget_observation()
        if cache.instances is None:
            cache.observed_at = now
            self.drivers.platform.adopt(rollout.service, rollout.adopted)
            cache.instances = self.drivers.platform.instances(rollout.service, rollout.policy.max_restarts)
        return ObservedState(cache.instances, *self.read_proxy(rollout.backend))

    def read_proxy(self, backend: Backend | None) -> tuple[RouterState, RouterState]:
        """The proxy's state for the service and for its preview, from the cache where it is fresh; empty without one."""
        if backend is None:
            return RouterState(), RouterState()
        cache, place = self.cache, backend.preview_backend
        if cache.router is None:
            cache.router = self.drivers.router.read(backend)
            cache.proxy_restarted |= cache.router.restarted
        if cache.preview is None:
            cache.preview = RouterState() if place is None else self.drivers.router.read(place)
            cache.proxy_restarted |= cache.preview.restarted
        return cache.router, cache.preview

    def peers(self, rollout: Rollout) -> tuple[Peer, ...]:
        """The other rollouts of its group."""
        if not rollout.group:
            return ()
        others = self.store.peers(rollout.id, rollout.group)
        return tuple(Peer(other.service, other.phase, other.group_point, other.reason) for other in others)


def places(backend: Backend | None, observed: ObservedState) -> list[tuple[Backend, RouterState]]:
    """The service's places in the proxy, and their observed states; none without a proxy."""
    if backend is None:
        return []
    preview = backend.preview_backend
    return [(backend, observed.router)] + ([(preview, observed.preview)] if preview is not None else [])


# -- errors -----------------------------------------------------------------------------------------------------------


def back_off(
    claim: Claim,
    store: EngineStore,
    clock: Clock,
    cache: RolloutCache,
    message: str,
    *,
    kind: EventKind = EventKind.DRIVER_ERROR,
    retryable: bool = True,
) -> TickResult:
    """Record an error of a tick that changed nothing, without repeating the same event, and pause longer each time.

    Raises `LeaseLost`, which may be what caused the error.
    """
    now = clock()
    cache.forget_observation()
    if cache.failures == 0:
        cache.failing_since = now
    cache.failures += 1
    cache.stuck_since = None if retryable else now if cache.stuck_since is None else cache.stuck_since
    pause = min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2.0 ** min(cache.failures - 1, 10))
    lasts = cache.event_noted_at < cache.failing_since <= now - LASTING_ERROR_SECONDS
    if message != cache.last_error or lasts or now - cache.event_noted_at >= REPEATED_EVENT_SECONDS:
        cache.last_error, cache.event_noted_at = message, now
        event = events.error(kind, message, pause, retryable, now)
        log_event(event)
        _note(claim, store, event)
    return TickResult(message, now + pause, failed=True)


def _note(claim: Claim, store: EngineStore, event: Event) -> None:
    """Record the event; when the database fails, the log has it."""
    try:
        store.add_events(claim.rollout, [event], claim.fence)
    except StoreError as error:
        logger.warning("cannot write the event to the database", error=error.message)


def report_recovery(context: TickContext) -> None:
    """After a tick without errors: record the recovery from recorded errors, and a restart of the proxy."""
    cache = context.cache
    if cache.proxy_restarted:
        context.note(events.proxy_restarted(context.clock()))
        cache.proxy_restarted = False
    if cache.failures == 0:
        return
    now = context.clock()
    if cache.event_noted_at >= cache.failing_since:
        context.note(events.recovered(now - cache.failing_since, now))
    cache.failures, cache.stuck_since = 0, None
