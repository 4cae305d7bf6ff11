"""Watches the builds of live rollouts, so that none outlives its build unnoticed.

Each environment with a CI has its own thread, as in the outbox. A CI that does not answer, or does not know the build,
changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

import structlog
from structlog.contextvars import bound_contextvars

from tidegate.core import build_watch
from tidegate.core.build import Build, BuildState
from tidegate.core.build_watch import BuildEndRules, BuildWatch, WatchResult
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Event, Rollout, Signal
from tidegate.core.records import AuditEntry
from tidegate.engine.background import BackgroundThread
from tidegate.engine.log_context import build_label, log_events, log_fields
from tidegate.errors import CIError, DriverError, IllegalMove
from tidegate.ports import CI, Clock
from tidegate.store_port import Store

logger = structlog.get_logger("tidegate.builds")

POLL_SECONDS = 10.0  # between two questions about the same build
MAX_PAUSE_SECONDS = 300.0  # between two of them while the answers do not say whether it runs
IDLE_SECONDS = 1.0
LEASE_SECONDS = 60.0  # another engine's watcher takes a build over after this
MISSING = "the CI does not know it, or may not show it"


class BuildWatcher:
    """Watches builds inside its `with` block. `cis` and `rules` are by environment; `default` are the rules where there is
    no CI: then only builds that do not poll are reported."""

    def __init__(
        self,
        store: Store,
        cis: Mapping[str, CI],
        rules: Mapping[str, BuildEndRules],
        default: BuildEndRules,
        clock: Clock,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._threads = [_Watcher(store, clock, ci, rules[name], poll_seconds, name, ()) for name, ci in cis.items()]
        self._threads.append(_Watcher(store, clock, None, default, poll_seconds, "", tuple(cis)))

    def __enter__(self) -> BuildWatcher:
        for thread in self._threads:
            thread.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for thread in self._threads:
            thread.stop()
        for thread in self._threads:
            thread.__exit__(kind, error, trace)


class _Watcher(BackgroundThread):
    """The builds of one environment; of all but those `without`, which have a CI, if it is empty."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ci: CI | None,
        rules: BuildEndRules,
        poll_seconds: float,
        environment: str,
        without: tuple[str, ...],
    ) -> None:
        super().__init__(f"builds {environment}")
        self._store, self._clock, self._ci, self._rules = store, clock, ci, rules
        self._poll_seconds, self._environment, self._without = poll_seconds, environment, without

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                watch = self._store.next_build_watch(LEASE_SECONDS, self._environment, self._without)
                if watch is not None:
                    self._watch(watch)
                    continue
            except DriverError as error:
                logger.warning("cannot read the builds to watch", error=error.message)
            except Exception:  # a bug that one build triggers must not stop the others
                logger.exception("watching a build failed unexpectedly")
            self._stopping.wait(min(IDLE_SECONDS, self._poll_seconds))

    def _watch(self, watch: BuildWatch) -> None:
        rollout, signals = self._store.load(watch.rollout)
        with bound_contextvars(**log_fields(rollout)):
            now = self._clock()
            if rollout.build is None or not build_watch.needs_build(rollout, now):
                self._store.end_build_watch(rollout.id)
                return
            result, state = WatchResult(watch), None
            if self._ci is not None:
                result, state = self._ask(self._ci, rollout, rollout.build, signals, watch)
            if not result.is_over:
                build, watched = rollout.build, result.watch
                silence = build_watch.report_silence(rollout, build, signals, watched, state, self._rules, now)
                events = (*result.events, *silence.events)
                result = WatchResult(silence.watch, events, result.signal)
            self._record(rollout, result, state)

    def _ask(
        self, ci: CI, rollout: Rollout, build: Build, signals: Sequence[Signal], watch: BuildWatch
    ) -> tuple[WatchResult, BuildState | None]:
        try:
            state, problem = ci.read_build(build), MISSING
        except CIError as error:
            state, problem = None, error.message
        now = self._clock()
        if state is None:
            return build_watch.after_no_answer(build, watch, problem, now), None
        return build_watch.after_answer(rollout, build, signals, watch, state, self._rules, now), state

    def _record(self, rollout: Rollout, result: WatchResult, state: BuildState | None) -> None:
        """Record what was seen, then what follows: after a crash in between, the next answer leads to the same."""
        ended = [event for event in result.events if event.kind == EventKind.BUILD_ENDED]
        audit = self._audit(rollout, state, ended[0]) if ended and state is not None and state.person else None
        pause = min(MAX_PAUSE_SECONDS, self._poll_seconds * 2.0 ** min(result.watch.unknown, 10))
        self._store.record_build_watch(result.watch, self._clock() + pause, result.events, audit=audit)
        log_events(result.events)
        if result.signal is not None:
            self._request(rollout, result.signal)
        if result.is_over:
            self._store.end_build_watch(rollout.id)

    def _request(self, rollout: Rollout, signal: Signal) -> None:
        action, label = f"{signal.kind.value} after the end of its build", build_label(rollout.build)
        entry = AuditEntry(signal.at, action, rollout.service, signal.by, "", "", signal.reason, rollout.id, label)
        try:
            self._store.signal(rollout.id, signal, audit=entry)
        except IllegalMove:  # it has ended meanwhile
            logger.info("the rollout ended before its build was found to be over")

    def _audit(self, rollout: Rollout, state: BuildState, event: Event) -> AuditEntry:
        """Who stopped the build, as the CI says."""
        label = build_label(rollout.build)
        return AuditEntry(event.at, "stop build", rollout.service, state.person, "", "", state.cause, rollout.id, label)
