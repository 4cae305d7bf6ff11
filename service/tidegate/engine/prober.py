"""The prober: asks services from outside while their rollouts are live, as their clients do, and counts what comes.

Gentle and bounded: one request at a time for a rollout, never two closer than a tenth of a second, and none is made up for.
Every other request goes over a new connection, the rest over one that is kept: a switch must lose neither. What it counts
is for the report and decides nothing. It never raises into the engine.

An engine that takes a rollout over begins to count anew, which `ProbeStats.since` tells.
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

MAX_ROLLOUTS = 32  # rollouts at a time; of more nothing is counted
MAX_RELEASES = 16  # names that answers give
MAX_NAME_LENGTH = 100
MAX_FAILURES = 5  # told with their reason, of one rollout
ABANDONED_SECONDS = 3600.0  # without a word of the rollout: another engine drives it, most likely
CLOSE_SECONDS = 5.0  # at most, for requests that are still on their way when all ends


@dataclass
class _ProbedRollout:
    """One rollout that is being probed, or was until its last request is done."""

    probe: Probe
    counts: ProbeStats
    last_used: float
    stopping: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


class Prober:
    """Probes the rollouts that it is told of, each in a thread of its own. All of it may be called from any thread."""

    def __init__(self, visitor: Callable[[Probe], ProbeClient], clock: Clock) -> None:
        self._visitor, self._clock = visitor, clock
        self._lock = threading.Lock()
        self._rollouts: dict[str, _ProbedRollout] = {}

    def begin(self, rollout: str, probe: Probe) -> None:
        """Probe it from now on. To be repeated while the rollout is driven: one that nobody speaks of is given up, and one
        whose address is still asked for the rollout before waits for that to end."""
        with self._lock:
            known = self._rollouts.get(rollout)
            if known is not None:
                known.last_used = time.monotonic()
                return
            if len(self._rollouts) >= MAX_ROLLOUTS or any(
                other.probe.url == probe.url for other in self._rollouts.values()
            ):
                return
            new = _ProbedRollout(probe, ProbeStats(self._clock()), time.monotonic())
            new.thread = threading.Thread(target=self._run, args=(rollout, new), name="prober", daemon=True)
            self._rollouts[rollout] = new
            new.thread.start()

    def counts(self, rollout: str) -> ProbeStats | None:
        """What was counted so far; None for a rollout that is not probed: not known."""
        with self._lock:
            known = self._rollouts.get(rollout)
            return None if known is None or known.stopping.is_set() else known.counts

    def end(self, rollout: str) -> None:
        """Probe it no more and forget it; does not wait. No error when it is not probed."""
        with self._lock:
            known = self._rollouts.get(rollout)
            if known is not None:
                known.stopping.set()
                if known.thread is None:
                    del self._rollouts[rollout]

    def close(self) -> None:
        """End all. Requests that are still on their way are waited for a little."""
        with self._lock:
            rollouts = list(self._rollouts.values())
        for rollout in rollouts:
            rollout.stopping.set()
        deadline = time.monotonic() + CLOSE_SECONDS
        for rollout in rollouts:
            if (thread := rollout.thread) is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, rollout: str, probing: _ProbedRollout) -> None:
        """Until it is told to stop, or nobody spoke of the rollout for long. A mistake of ours is not made again."""
        broken = False
        try:
            self._probe(probing)
        except Exception:
            broken = True
            logger.exception("it is not probed", rollout=rollout, url=probing.probe.url)
        with self._lock:
            probing.thread = None
            if not broken or probing.stopping.is_set():
                del self._rollouts[rollout]

    def _probe(self, probing: _ProbedRollout) -> None:
        visitor, kept = self._visitor(probing.probe), False
        try:
            while not probing.stopping.is_set() and time.monotonic() - probing.last_used < ABANDONED_SECONDS:
                begun = time.monotonic()
                self._count(probing, visitor.visit(kept=kept))
                kept = not kept
                left = probing.probe.every_seconds - (time.monotonic() - begun)
                probing.stopping.wait(max(MIN_INTERVAL_SECONDS, left))
        finally:
            visitor.close()

    def _count(self, probing: _ProbedRollout, visit: ProbeResult) -> None:
        now = self._clock()
        with self._lock:
            if not probing.stopping.is_set():
                probing.counts = add_result(probing.counts, probing.probe, visit, now)


def add_result(before: ProbeStats, probe: Probe, visit: ProbeResult, now: float) -> ProbeStats:
    """With one more request, which ended now."""
    failed = bool(visit.trouble)
    one = ProbeCounts(1, int(failed), int(not failed and visit.seconds > probe.slow_seconds))
    failures = before.failures
    if failed and len(failures) < MAX_FAILURES:
        failures = (*failures, ProbeFailure(now, visit.trouble))
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
