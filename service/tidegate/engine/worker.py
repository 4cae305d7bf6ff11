"""The engine: claims due rollouts and ticks them in a few threads until it is asked to stop."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
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
from tidegate.engine.drift_watcher import DriftWatcher
from tidegate.engine.leases import Heartbeat, HeldLease
from tidegate.engine.log_context import log_fields
from tidegate.engine.metrics import EngineMetrics
from tidegate.engine.prober import Prober
from tidegate.engine.rollout_cache import RolloutCache
from tidegate.engine.tick import tick
from tidegate.engine.tick_context import TickResult, back_off
from tidegate.errors import DriverError, LeaseLost
from tidegate.ports import Clock, Drivers, EngineStore

logger = structlog.get_logger("tidegate.engine")

SHORT_WAIT_SECONDS = 0.25  # waits up to this are waited for with the claim in hand
MAX_TURN_SECONDS = 5.0  # after this, the next wait of any length lets other rollouts have the thread
CONTENDED_TURN_SECONDS = 0.5  # the same where no thread is free: there may be one that nobody here knows of
MAX_CLAIM_PAUSE_SECONDS = 10.0  # while the database fails
RELEASE_PAUSES_SECONDS = (0.1, 0.4, 1.0)  # between attempts to give a claim back
HEARTBEAT_SECONDS = 5.0  # between two signs of life in the database
MAX_CACHES = 5000  # rollouts remembered


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """`lease_seconds`: after this without a sign of life another engine takes over. `threads`: rollouts driven at a time.
    `poll_seconds`: between two looks for due rollouts when nobody wakes the worker. `drift_interval_seconds`: between two
    checks of a service that has no live rollout; None: no checks."""

    lease_seconds: float = 15.0
    threads: int = 4
    poll_seconds: float = 0.5
    drift_interval_seconds: float | None = None


class Worker:
    """Drives rollouts. `run` blocks; `stop` and `wake` may be called from any thread and from a signal handler.

    `environments` are the drivers by environment; `owner` names this process, anew with each start. The store and the
    drivers are not closed: they belong to who built them. `prober` asks services from outside while their rollouts
    are live; `meter` counts what is done. Against `steady`, which only goes forward, it is seen that the clock jumps.
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
        self._lock = threading.Lock()  # guards the three below
        self._idle = options.threads
        self._caches: dict[str, RolloutCache] = {}
        self._due: dict[str, Time] = {}  # of rollouts that were given back, as far as this process knows
        self._claim_failures = 0
        self._last_heartbeat = float("-inf")

    def run(self) -> None:
        """Drive what is due until `stop`; then finish the effects that go on and give all claims back."""
        logger.info("engine started", owner=self._owner, threads=self._options.threads)
        with self._heartbeat, self._drift_watcher(), ThreadPoolExecutor(self._options.threads, "rollout") as pool:
            while not self._stopping.is_set():
                self._adjust_for_clock_jump()
                self._send_heartbeat()
                claim = self._claim()
                if claim is None:
                    self._wait_for_work()
                    continue
                held = HeldLease(claim, self._store, self._options.lease_seconds)
                self._heartbeat.add(held)
                pool.submit(self._drive, held)
        if self._prober is not None:
            self._prober.close()
        with suppress(DriverError):  # it is missed, then, which is true
            self._store.leave(self._owner)
        logger.info("engine stopped", owner=self._owner)

    def _drift_watcher(self) -> AbstractContextManager[object]:
        every = self._options.drift_interval_seconds
        if every is None:
            return nullcontext()
        return DriftWatcher(self._store, self._environments, self._clock, self.wake, every)

    def stop(self) -> None:
        """Ask `run` to end; it returns when the present effects are done."""
        self._stopping.set()
        self._wakeups.put(None)

    def wake(self) -> None:
        """Look for due rollouts now: something was asked for."""
        self._wakeups.put(None)

    def _adjust_for_clock_jump(self) -> None:
        """What is due by a clock that jumped would be due too early, or hardly ever. Rollouts follow by themselves."""
        clock_offset = self._clock() - self._steady()
        if not (seconds := clock_jumps.jump_seconds(self._clock_offset, clock_offset)):
            return
        logger.warning("the clock jumped", seconds=round(seconds, 1))
        try:
            self._store.shift_clock(seconds, self._options.lease_seconds)
        except DriverError as error:
            logger.warning("the database does not follow the clock yet", error=error.message)
            return
        self._clock_offset, self._last_heartbeat = clock_offset, float("-inf")

    def _send_heartbeat(self) -> None:
        """A sign of life from the loop that finds work, so that it tells more than that the process is there."""
        if monotonic() - self._last_heartbeat < HEARTBEAT_SECONDS:
            return
        self._last_heartbeat = monotonic()
        try:
            self._store.heartbeat(self._owner, __version__)
        except DriverError as error:
            logger.warning("the database does not take the engine's sign of life", error=error.message)
        except Exception:
            logger.exception("the database does not take the engine's sign of life")

    # -- finding work -------------------------------------------------------------------------------------------------

    def _claim(self) -> Claim | None:
        """A due rollout, when there is a thread for it."""
        with self._lock:
            if not self._idle:
                return None
        try:
            claim = self._store.claim(self._owner, self._options.lease_seconds)
        except DriverError as error:
            self._claim_failures += 1
            logger.warning("no rollout can be claimed", error=error.message)
            return None
        except Exception:
            self._claim_failures += 1
            logger.exception("no rollout can be claimed")
            return None
        self._claim_failures = 0
        if claim is not None:
            if claim.due is not None:
                self._meter.claimed(self._clock() - claim.due)
            with self._lock:
                self._idle -= 1
                self._due.pop(claim.rollout, None)
        return claim

    def _wait_for_work(self) -> None:
        """Until somebody rings, something known is due, or it is time to look anyway."""
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
            if not self._idle:
                return poll
            ahead = [due - now for due in self._due.values() if due > now]
            self._due = {rollout: due for rollout, due in self._due.items() if due > now}
        return min([poll, *ahead])

    # -- one rollout --------------------------------------------------------------------------------------------------

    def _drive(self, held: HeldLease) -> None:
        """Tick it while waits are short, then give it back. Whatever happens, the thread is free again afterwards."""
        claim = held.claim
        bind_contextvars(rollout=claim.rollout, fence=claim.fence)
        self._meter.leases_held.inc()
        try:
            self._release(held, self._tick_while_due(held))
        except LeaseLost:
            self._meter.leases_lost.inc()
            logger.warning("lease lost, another engine drives it now")
            self._drop_cache(claim.rollout)
        except DriverError as error:
            logger.warning("it could not be given back, its lease will run out", error=error.message)
        except Exception:
            self._meter.internal_errors.inc()
            logger.exception("it could not be driven, its lease will run out")
        finally:
            self._heartbeat.drop(held)
            self._meter.leases_held.dec()
            clear_contextvars()
            with self._lock:
                self._idle += 1
            self._wakeups.put(None)

    def _release(self, held: HeldLease, wait: float | None) -> None:
        """It is due again after so many seconds, or never. The heartbeat lets go first, so that it takes the end for no
        loss. A hiccup of the database is waited out: a lease that runs out looks like an engine that died."""
        self._heartbeat.drop(held)
        due = None if wait is None else self._clock() + wait
        for pause in RELEASE_PAUSES_SECONDS:
            try:
                self._store.release(held.claim, due)
                break
            except DriverError as error:
                logger.warning("it could not be given back yet", error=error.message)
                self._stopping.wait(pause)
        else:
            self._store.release(held.claim, due)
        if due is None:
            self._drop_cache(held.claim.rollout)
            return
        with self._lock:
            self._due[held.claim.rollout] = due

    def _tick_while_due(self, held: HeldLease) -> float | None:
        """After how many seconds it is due again; None when it is finished."""
        begun = monotonic()
        while not self._stopping.is_set():
            clock = self._jump_free_clock()
            done = self._tick(held, clock)
            self._meter.ticked(failed=done.failed)
            if done.finished:
                return None
            wait = 0.0 if done.due is None else done.due - clock()
            if wait <= 0.0:
                continue
            turn_seconds = monotonic() - begun
            if wait > SHORT_WAIT_SECONDS or turn_seconds > MAX_TURN_SECONDS:
                return wait
            if self._is_contended(turn_seconds):
                return SHORT_WAIT_SECONDS  # or those that look again and again would be a crowd by themselves
            self._stopping.wait(wait)
        return 0.0

    def _jump_free_clock(self) -> Clock:
        """The clock as it goes on from now, for one tick: a jump in its middle is followed before the next one."""
        clock_offset = self._clock() - self._steady()
        return lambda: self._steady() + clock_offset

    def _is_contended(self, turn_seconds: float) -> bool:
        """Whether another rollout needs the thread of a turn that has lasted so long."""
        now = self._clock()
        with self._lock:
            if self._idle:
                return False
            return turn_seconds > CONTENDED_TURN_SECONDS or any(due <= now for due in self._due.values())

    def _tick(self, held: HeldLease, clock: Clock) -> TickResult:
        """One tick. A mistake in our own code is told, and slows down this rollout only. Raises `LeaseLost`."""
        claim, cache = held.claim, self._cache_of(held.claim.rollout)
        try:
            drivers = self._drivers(held, cache)
            if drivers is None:
                known = ", ".join(sorted(self._environments)) or "none"
                what = f"its environment is not in this engine's settings; there are: {known}"
                return back_off(claim, self._store, clock, cache, what)
            clock_jumps.adjust(claim, self._store, cache, clock() - self._steady(), clock())
            guard, prober = held.guard, self._prober
            return tick(claim, self._store, drivers, clock, cache=cache, guard=guard, prober=prober)
        except LeaseLost:
            raise
        except DriverError as error:
            return back_off(claim, self._store, clock, cache, error.message, retryable=error.retryable)
        except Exception as error:
            self._meter.internal_errors.inc()
            logger.exception("a tick failed")
            message = f"internal error: {type(error).__name__}: {error}"
            return back_off(claim, self._store, clock, cache, message, kind=EventKind.INTERNAL_ERROR)

    def _drivers(self, held: HeldLease, cache: RolloutCache) -> Drivers | None:
        """The drivers of its environment, found once for each claim; None when this engine has no such environment."""
        if held.drivers is None:
            if cache.log_fields is None:
                rollout, _ = self._store.load(held.claim.rollout)
                cache.log_fields = log_fields(rollout)
                self._note_takeover(held.claim, rollout)
            held.log_fields = cache.log_fields
            bind_contextvars(**held.log_fields)
            held.drivers = self._environments.get(held.log_fields["environment"])
        return held.drivers

    def _note_takeover(self, claim: Claim, rollout: Rollout) -> None:
        """Only where an engine vanished: handing over in the ordinary way is no news."""
        if not rollout.resumes or not rollout.phase.live:
            return
        what = f"{self._owner} goes on where another engine vanished"
        logger.warning(what, resumes=rollout.resumes)
        self._store.note(rollout.id, [events.simple(EventKind.TAKEN_OVER, what, rollout, self._clock())], claim.fence)

    # -- memories -----------------------------------------------------------------------------------------------------

    def _cache_of(self, rollout: str) -> RolloutCache:
        with self._lock:
            known = self._caches.pop(rollout, None)
            if known is None and len(self._caches) >= MAX_CACHES:
                self._caches.pop(next(iter(self._caches)))  # longest unused: another engine ended it, most likely
            cache = self._caches[rollout] = known or RolloutCache()
            return cache

    def _drop_cache(self, rollout: str) -> None:
        with self._lock:
            self._caches.pop(rollout, None)
        if self._prober is not None:
            self._prober.end(rollout)
