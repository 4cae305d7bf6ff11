"""The prober: sends requests to services during their rollouts, as their clients do, and counts the responses.

For each rollout it sends one request at a time, at most ten in a second, and does not make up for delays. It alternates
between a new and a kept-alive connection, since a switch must lose neither. The counts appear in the report and decide
nothing. It never raises into the engine.

An engine that takes over a rollout starts counting from zero; `ProbeStats.since` has the start time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import structlog

from tidegate.core.probes import MIN_INTERVAL_SECONDS, Probe, ProbeCounts, ProbeFailure, ProbeResult, ProbeStats
from tidegate.ports import Clock, ProbeClient

logger = structlog.get_logger("tidegate.probing")

MAX_ROLLOUTS = 32  # probed concurrently in each environment; further rollouts are not probed
MAX_RELEASES = 16  # release names taken from responses
MAX_NAME_LENGTH = 100
MAX_FAILURES = 5  # recorded with their reason, for each rollout
ABANDONED_SECONDS = 3600.0  # not ticked for so long: another engine probably drives the rollout
CLOSE_SECONDS = 5.0  # at most, for requests in flight on shutdown


@dataclass
class _ProbedRollout:
    """A rollout being probed, until its last request is done."""

    environment: str
    probe: Probe
    counts: ProbeStats
    last_used: float
    stopping: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


class Prober:
    """Probes rollouts, each in its own thread. Thread-safe."""

    def __init__(self, visitor: Callable[[Probe], ProbeClient], clock: Clock) -> None:
        self._visitor, self._clock = visitor, clock
        self._lock = threading.Lock()
        self._rollouts: dict[str, _ProbedRollout] = {}

    def begin(self, rollout: str, probe: Probe, environment: str = "") -> None:
        """Start probing a rollout of an environment. Call it with every tick.

        A rollout without calls for `ABANDONED_SECONDS` is dropped, and one whose URL is still probed for another rollout
        starts when that one ends.
        """
        with self._lock:
            known = self._rollouts.get(rollout)
            if known is not None:
                known.last_used = time.monotonic()
                return
            others = self._rollouts.values()
            count = sum(other.environment == environment for other in others)
            if count >= MAX_ROLLOUTS or any(other.probe.url == probe.url for other in others):
                return
            new = _ProbedRollout(environment, probe, ProbeStats(self._clock()), time.monotonic())
            new.thread = threading.Thread(target=self._run, args=(rollout, new), name="prober", daemon=True)
            self._rollouts[rollout] = new
            new.thread.start()

    def counts(self, rollout: str) -> ProbeStats | None:
        """The counts so far; None for a rollout that is not probed."""
        with self._lock:
            known = self._rollouts.get(rollout)
            return None if known is None or known.stopping.is_set() else known.counts

    def end(self, rollout: str) -> None:
        """Stop probing a rollout and drop its counts; does not wait. Does nothing when it is not probed."""
        with self._lock:
            known = self._rollouts.get(rollout)
            if known is not None:
                known.stopping.set()
                if known.thread is None:
                    del self._rollouts[rollout]

    def close(self) -> None:
        """Stop all probing; waits up to `CLOSE_SECONDS` for requests in flight."""
        with self._lock:
            rollouts = list(self._rollouts.values())
        for rollout in rollouts:
            rollout.stopping.set()
        deadline = time.monotonic() + CLOSE_SECONDS
        for rollout in rollouts:
            if (thread := rollout.thread) is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, rollout: str, probing: _ProbedRollout) -> None:
        """Probe until stopped or abandoned. After an unexpected error the rollout is not probed again."""
        broken = False
        try:
            self._probe(probing)
        except Exception:
            broken = True
            logger.exception("probing failed; stopped for this rollout", rollout=rollout, url=probing.probe.url)
        with self._lock:
            probing.thread = None
            if not broken or probing.stopping.is_set():
                del self._rollouts[rollout]

    def _probe(self, probing: _ProbedRollout) -> None:
        visitor, kept = self._visitor(probing.probe), False
        try:
            while not probing.stopping.is_set() and time.monotonic() - probing.last_used < ABANDONED_SECONDS:
                begun = time.monotonic()
                self._count(probing, visitor.probe(kept=kept))
                kept = not kept
                left = probing.probe.interval_seconds - (time.monotonic() - begun)
                probing.stopping.wait(max(MIN_INTERVAL_SECONDS, left))
        finally:
            visitor.close()

    def _count(self, probing: _ProbedRollout, visit: ProbeResult) -> None:
        now = self._clock()
        with self._lock:
            if not probing.stopping.is_set():
                probing.counts = add_result(probing.counts, probing.probe, visit, now)


def add_result(before: ProbeStats, probe: Probe, visit: ProbeResult, now: float) -> ProbeStats:
    """The counts with one more request, which ended at `now`."""
    failed = bool(visit.error)
    one = ProbeCounts(1, int(failed), int(not failed and visit.seconds > probe.slow_seconds))
    failures = before.failures
    if failed and len(failures) < MAX_FAILURES:
        failures = (*failures, ProbeFailure(now, visit.error))
    return replace(
        before,
        total=before.total.plus(one),
        by_release=_add_release(before.by_release, visit.release, one),
        failures=failures,
    )


def _add_release(before: Mapping[str, ProbeCounts], release: str, one: ProbeCounts) -> Mapping[str, ProbeCounts]:
    name = release.strip()[:MAX_NAME_LENGTH]
    if not name or (name not in before and len(before) >= MAX_RELEASES):
        return before
    return {**before, name: before.get(name, ProbeCounts()).plus(one)}
