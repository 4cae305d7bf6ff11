"""The engine's main loop: claims due rollouts and ticks them in a thread pool until it is stopped."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import monotonic

import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars

from tidegate import __version__
from tidegate.clock import Time
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Rollout
from tidegate.core.records import Claim
from tidegate.engine import clock_jumps, events
from tidegate.engine.background import Turns
from tidegate.engine.drift_watcher import DriftWatcher
from tidegate.engine.leases import Heartbeat, HeldLease
from tidegate.engine.log_context import log_event, log_fields
from tidegate.engine.metrics import EngineMetrics
from tidegate.engine.prober import Prober
from tidegate.engine.readiness_watcher import ReadinessWatcher
from tidegate.engine.rollout_cache import RolloutCache
from tidegate.engine.tick import tick
from tidegate.engine.tick_context import TickResult, back_off
from tidegate.errors import DriverError, LeaseLost
from tidegate.ports import Clock, Drivers
from tidegate.store_port import EngineStore

logger = structlog.get_logger("tidegate.engine")

SHORT_WAIT_SECONDS = 0.25  # a claim is kept over waits up to this
MAX_TURN_SECONDS = 5.0  # after this, the next wait of any length gives the thread to other rollouts
CONTENDED_TURN_SECONDS = 0.5  # the same while no thread is idle: rollouts unknown to this process may be due
MAX_CLAIM_PAUSE_SECONDS = 10.0  # while the database fails
RELEASE_PAUSES_SECONDS = (0.1, 0.4, 1.0)  # between attempts to release a claim
HEARTBEAT_SECONDS = 5.0  # between two heartbeats of the engine in the database
MAX_CACHES = 5000  # rollouts with cached state


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """`lease_seconds`: how long before another engine takes over from one that has died. `threads`: rollouts driven
    concurrently in each environment. `poll_seconds`: between two queries for due rollouts while nothing wakes the worker.
    `drift_interval_seconds`: between two drift checks of a service without a live rollout; None disables them."""

    lease_seconds: float = 15.0
    threads: int = 4
    poll_seconds: float = 0.5
    drift_interval_seconds: float | None = None


class Worker:
    """Drives rollouts. `run` blocks; `stop` and `wake` may be called from any thread and from a signal handler.

    `environments` are the drivers by environment; `owner` identifies this process and is new with each start. The caller
    closes the store and the drivers. `prober` probes services during their rollouts; `meter` has the metrics. `steady` is a
    monotonic clock, against which jumps of `clock` are detected.
    """

    def __init__(
        self,
        store: EngineStore,
        environments: Mapping[str, Drivers],
        options: WorkerOptions,
        clock: Clock,
        owner: str,
        prober: Prober | None = None,
        meter: EngineMetrics | None = None,
        steady: Clock | None = None,
    ) -> None:
        self._store, self._environments, self._options = store, environments, options
        self._clock, self._owner, self._prober = clock, owner, prober
        self._meter, self._steady = meter or EngineMetrics(), steady or clock
        self._clock_offset = self._clock() - self._steady()
        self._stopping = threading.Event()
        self._wakeups: SimpleQueue[None] = SimpleQueue()  # its `put`, unlike an Event's `set`, may interrupt its own `get`
        self._heartbeat = Heartbeat(options.lease_seconds)
        self._turns = Turns(options.threads, len(environments), self.wake)
        self._lock = threading.Lock()  # guards the two below
        self._caches: dict[str, RolloutCache] = {}
        self._due: dict[str, Time] = {}  # by rollout, of those that this process released
        self._claim_failures = 0
        self._last_heartbeat = float("-inf")
        self._meter.driven.set_function(self._count_driven)

    def run(self) -> None:
        """Drive due rollouts until `stop`; then finish the effects in progress and release all claims."""
        logger.info("engine started", owner=self._owner, threads=self._options.threads)
        with self._heartbeat, self._watchers(), self._pool() as pool:
            while not self._stopping.is_set():
                self._adjust_for_clock_jump()
                self._send_heartbeat()
                claim = self._claim()
                if claim is None:
                    self._wait_for_work()
                    continue
                lease = HeldLease(claim, self._store, self._options.lease_seconds)
                self._heartbeat.add(lease)
                pool.submit(self._drive, lease)
        if self._prober is not None:
            self._prober.close()
        with suppress(DriverError):  # the engine is then reported as not shut down cleanly, which is true
            self._store.remove_engine(self._owner)
        logger.info("engine stopped", owner=self._owner)

    def _pool(self) -> ThreadPoolExecutor:
        """Threads for each environment, so that one whose Docker or proxy does not respond cannot take those of others, and
        as many for environments that are not in the settings."""
        return ThreadPoolExecutor(self._turns.capacity, "rollout")

    def _watchers(self) -> AbstractContextManager[object]:
        every = self._options.drift_interval_seconds
        if every is None:
            return nullcontext()
        watchers = ExitStack()
        drift = watchers.enter_context(DriftWatcher(self._store, self._environments, self._clock, self.wake, every))

        def observe(environment: str) -> None:
            drift.wake(environment)
            self.wake()

        watchers.enter_context(ReadinessWatcher(self._store, self._environments, self._meter, observe))
        return watchers

    def stop(self) -> None:
        """Make `run` return as soon as the effects in progress are done."""
        self._stopping.set()
        self._wakeups.put(None)

    def wake(self) -> None:
        """Query for due rollouts now."""
        self._wakeups.put(None)

    def _adjust_for_clock_jump(self) -> None:
        """Move due times and leases in the database after a jump of the clock. Rollouts are adjusted with their ticks."""
        clock_offset = self._clock() - self._steady()
        if not (seconds := clock_jumps.jump_seconds(self._clock_offset, clock_offset)):
            return
        logger.warning("the system clock jumped", seconds=round(seconds, 1))
        try:
            self._store.shift_clock(seconds, self._options.lease_seconds)
        except DriverError as error:
            logger.warning("cannot adjust times in the database to the clock jump; will retry", error=error.message)
            return
        self._clock_offset, self._last_heartbeat = clock_offset, float("-inf")

    def _send_heartbeat(self) -> None:
        """Write the engine's heartbeat. The loop that claims work sends it, so that it proves more than a live process."""
        if monotonic() - self._last_heartbeat < HEARTBEAT_SECONDS:
            return
        self._last_heartbeat = monotonic()
        try:
            self._store.heartbeat(self._owner, __version__)
        except DriverError as error:
            logger.warning("cannot write the engine heartbeat to the database", error=error.message)
        except Exception:
            logger.exception("cannot write the engine heartbeat to the database")

    # -- finding work -------------------------------------------------------------------------------------------------

    def _claim(self) -> Claim | None:
        """A due rollout of an environment that has an idle thread."""
        full = self._turns.full()
        if full is None:
            return None
        try:
            claim = self._store.claim(self._owner, self._options.lease_seconds, full)
        except DriverError as error:
            self._claim_failures += 1
            logger.warning("cannot claim rollouts", error=error.message)
            return None
        except Exception:
            self._claim_failures += 1
            logger.exception("cannot claim rollouts")
            return None
        self._claim_failures = 0
        if claim is not None:
            if claim.due is not None:
                self._meter.claimed(self._clock() - claim.due)
            self._turns.begin(claim.environment)
            with self._lock:
                self._due.pop(claim.rollout, None)
        return claim

    def _count_driven(self) -> int:
        """The rollouts that this engine drives: those in its threads, and those that it will take up again when due."""
        now = self._clock()
        with self._lock:
            return self._turns.count() + sum(due > now for due in self._due.values())

    def _wait_for_work(self) -> None:
        """Wait until `wake`, until a known rollout is due, or for the poll interval."""
        try:
            self._wakeups.get(timeout=self._wait_seconds())
            while True:
                self._wakeups.get_nowait()
        except Empty:
            return

    def _wait_seconds(self) -> float:
        poll, now = min(HEARTBEAT_SECONDS, self._options.poll_seconds), self._clock()
        if self._claim_failures:
            return min(MAX_CLAIM_PAUSE_SECONDS, poll * 2.0 ** min(self._claim_failures, 10))
        with self._lock:
            ahead = [due - now for due in self._due.values() if due > now]
            self._due = {rollout: due for rollout, due in self._due.items() if due > now}
        return min([poll, *ahead])

    # -- one rollout --------------------------------------------------------------------------------------------------

    def _drive(self, lease: HeldLease) -> None:
        """Tick a rollout while its waits are short, then release it. The thread is idle again afterwards in any case."""
        claim = lease.claim
        bind_contextvars(rollout=claim.rollout, fence=claim.fence)
        try:
            self._release(lease, self._tick_while_due(lease))
        except LeaseLost:
            self._meter.leases_lost.inc()
            logger.warning("lease lost; another engine drives the rollout")
            self._drop_cache(claim.rollout, lost=True)
        except DriverError as error:
            logger.warning("cannot release the lease; it will expire", error=error.message)
        except Exception:
            self._meter.internal_errors.inc()
            logger.exception("driving the rollout failed; its lease will expire")
        finally:
            self._heartbeat.drop(lease)
            clear_contextvars()
            self._turns.end(claim.environment)

    def _release(self, lease: HeldLease, wait: float | None) -> None:
        """Release the lease; the rollout is due again after `wait` seconds, or never for None.

        Renewal stops first, so that it does not report the release as a lost lease. Short failures of the database are
        retried, because an expired lease looks like a dead engine.
        """
        self._heartbeat.drop(lease)
        due = None if wait is None else self._clock() + wait
        for pause in RELEASE_PAUSES_SECONDS:
            try:
                self._store.release(lease.claim, due)
                break
            except DriverError as error:
                logger.warning("cannot release the lease; retrying", error=error.message)
                self._stopping.wait(pause)
        else:
            self._store.release(lease.claim, due)
        if due is None:
            self._drop_cache(lease.claim.rollout)
            return
        with self._lock:
            self._due[lease.claim.rollout] = due

    def _tick_while_due(self, lease: HeldLease) -> float | None:
        """Tick until the next wait is long; returns it in seconds, or None when the rollout has ended."""
        begun = monotonic()
        while not self._stopping.is_set():
            clock = self._jump_free_clock()
            done = self._tick(lease, clock)
            self._meter.ticked(failed=done.failed)
            if done.finished:
                return None
            wait = 0.0 if done.due is None else done.due - clock()
            if wait <= 0.0:
                continue
            turn_seconds = monotonic() - begun
            if wait > SHORT_WAIT_SECONDS or turn_seconds > MAX_TURN_SECONDS:
                return wait
            if self._is_contended(lease.claim.environment, turn_seconds):
                return SHORT_WAIT_SECONDS  # rollouts that poll often would otherwise keep all threads busy
            self._stopping.wait(wait)
        return 0.0

    def _jump_free_clock(self) -> Clock:
        """The clock without jumps for one tick: a jump in the middle of a tick is handled before the next one."""
        clock_offset = self._clock() - self._steady()
        return lambda: self._steady() + clock_offset

    def _is_contended(self, environment: str, turn_seconds: float) -> bool:
        """Whether another rollout needs the thread of a turn that has lasted `turn_seconds`."""
        now = self._clock()
        if not self._turns.is_full(environment):
            return False
        with self._lock:
            return turn_seconds > CONTENDED_TURN_SECONDS or any(due <= now for due in self._due.values())

    def _tick(self, lease: HeldLease, clock: Clock) -> TickResult:
        """One tick. An unexpected error is recorded and delays only this rollout. Raises `LeaseLost`."""
        claim, cache = lease.claim, self._cache_of(lease.claim.rollout)
        try:
            drivers = self._drivers(lease, cache)
            if drivers is None:
                known = ", ".join(sorted(self._environments)) or "none"
                environment = lease.log_fields["environment"]
                what = f"Environment {environment} is not in this engine's settings (it has: {known}). Add it."
                return back_off(claim, self._store, clock, cache, what)
            clock_jumps.adjust(claim, self._store, cache, clock() - self._steady(), clock())
            guard, prober = lease.guard, self._prober
            return tick(claim, self._store, drivers, clock, cache=cache, guard=guard, prober=prober, turns=self._turns)
        except LeaseLost:
            raise
        except DriverError as error:
            return back_off(claim, self._store, clock, cache, error.message, retryable=error.retryable)
        except Exception as error:
            self._meter.internal_errors.inc()
            logger.exception("a tick failed unexpectedly")
            message = f"Internal error: {type(error).__name__}: {error}"
            return back_off(claim, self._store, clock, cache, message, kind=EventKind.INTERNAL_ERROR)

    def _drivers(self, lease: HeldLease, cache: RolloutCache) -> Drivers | None:
        """The drivers of the rollout's environment, looked up once for each claim; None when this engine has none."""
        if lease.drivers is None:
            if cache.log_fields is None:
                rollout, _ = self._store.load(lease.claim.rollout)
                cache.log_fields = log_fields(rollout)
                self._note_takeover(lease.claim, rollout)
            lease.log_fields = cache.log_fields
            bind_contextvars(**lease.log_fields)
            lease.drivers = self._environments.get(lease.log_fields["environment"])
        return lease.drivers

    def _note_takeover(self, claim: Claim, rollout: Rollout) -> None:
        """Record that this engine took over after the lease of another one expired; a normal handover is not recorded."""
        if not rollout.takeovers or not rollout.phase.live:
            return
        what = f"{self._owner} took over after the previous engine's lease expired."
        event = events.simple(EventKind.TAKEN_OVER, what, rollout, self._clock())
        self._store.add_events(rollout.id, [event], claim.fence)
        log_event(event, **log_fields(rollout))

    # -- caches -------------------------------------------------------------------------------------------------------

    def _cache_of(self, rollout: str) -> RolloutCache:
        with self._lock:
            known = self._caches.pop(rollout, None)
            if known is None and len(self._caches) >= MAX_CACHES:
                self._caches.pop(next(iter(self._caches)))  # the longest unused one: another engine probably ended it
            cache = self._caches[rollout] = known or RolloutCache()
            return cache

    def _drop_cache(self, rollout: str, *, lost: bool = False) -> None:
        """Forget the rollout. After a lost lease its clock is kept: a jump of the clock also expires the lease, and whoever
        claims it next has to know that the recorded times refer to the clock before."""
        with self._lock:
            cache = self._caches.pop(rollout, None)
            if cache is not None and lost:
                self._caches[rollout] = RolloutCache(fence=cache.fence, clock_offset=cache.clock_offset)
        if self._prober is not None:
            self._prober.end(rollout)
