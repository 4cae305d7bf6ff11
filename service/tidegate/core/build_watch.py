"""What follows when the build of a live rollout is over, or no longer polls for its rollout. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tidegate.clock import Time
from tidegate.core.approvals import awaited_answer
from tidegate.core.build import Build, BuildEndPolicy, BuildState
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Event, Rollout, Signal, SignalKind
from tidegate.core.phases import Phase
from tidegate.core.rollback_cause import RollbackCause

ENGINE = "tidegate"  # who requests what follows
MAX_UNKNOWN = 4  # answers in a row that do not say whether the build runs, before it is reported
MAX_WAIT_FOR_END_SECONDS = 600.0  # for the end of the build of a finished rollout, which says who rejected it
REJECTIONS = frozenset({RollbackCause.REQUEST, RollbackCause.APPROVAL_REJECTED})
SILENT, UNKNOWN = "silent", "unknown"


@dataclass(frozen=True, slots=True)
class BuildEndRules:
    """`policy` applies when a build has been over for `after_seconds`. A build that has not polled for its rollout for
    `silent_seconds` is reported; 0: never."""

    policy: BuildEndPolicy = BuildEndPolicy.ROLLBACK
    after_seconds: float = 60.0
    silent_seconds: float = 900.0


@dataclass(frozen=True, slots=True)
class BuildWatch:
    """What is known of the build of a rollout: since when it is over, when it last polled, how many answers in a row did
    not say whether it runs, and the problem that was reported last."""

    rollout: str
    polled_at: Time
    ended_at: Time | None = None
    unknown: int = 0
    reported: str = ""


@dataclass(frozen=True, slots=True)
class WatchResult:
    """The watch to store, and what follows. `is_over`: nothing is left to watch."""

    watch: BuildWatch
    events: tuple[Event, ...] = ()
    signal: Signal | None = None
    is_over: bool = False


def needs_build(rollout: Rollout, now: Time) -> bool:
    """Whether the state of the build matters: while the rollout is live, and then as long as the build may still say who
    rejected it."""
    if rollout.phase.live:
        return True
    since = rollout.finished or rollout.created
    return rollout.rollback_cause in REJECTIONS and now < since + MAX_WAIT_FOR_END_SECONDS


def after_answer(
    rollout: Rollout,
    build: Build,
    signals: Sequence[Signal],
    watch: BuildWatch,
    state: BuildState,
    rules: BuildEndRules,
    now: Time,
) -> WatchResult:
    """What follows from what the CI says about the build."""
    reported = "" if watch.reported == UNKNOWN else watch.reported
    watch = replace(watch, unknown=0, reported=reported)
    if state.is_running:
        return WatchResult(replace(watch, ended_at=None))
    if not rollout.phase.live:
        events = (_ended(build, state, "", now),) if state.cause else ()
        return WatchResult(watch, events, is_over=True)
    is_detached = any(signal.kind is SignalKind.DETACH for signal in signals)
    policy = BuildEndPolicy.DETACH if is_detached else build.on_end or rules.policy
    if watch.ended_at is None:
        then = _consequence(policy, rules.after_seconds)
        return WatchResult(replace(watch, ended_at=now), (_ended(build, state, then, now),))
    if now < watch.ended_at + rules.after_seconds or rollout.phase is Phase.ROLLING_BACK:
        return WatchResult(watch)
    if policy is BuildEndPolicy.DETACH:
        return WatchResult(watch, is_over=True)
    reason = f"{build.label} is over{_result(state)}"
    if policy is BuildEndPolicy.PAUSE:
        return WatchResult(watch, signal=Signal(SignalKind.PAUSE, now, ENGINE, reason), is_over=True)
    back = Signal(SignalKind.ROLLBACK, now, ENGINE, reason, cause=RollbackCause.BUILD_ENDED)
    return WatchResult(watch, signal=back)


def _ended(build: Build, state: BuildState, then: str, now: Time) -> Event:
    message = f"{build.label[0].upper()}{build.label[1:]} is over{_result(state)}{then}"
    data = {"result": state.result, "cause": state.cause, "by": state.person}
    return Event(EventKind.BUILD_ENDED, message, now, data=data)


def _result(state: BuildState) -> str:
    about = ", ".join(filter(None, (state.result, state.cause)))
    return f" ({about})" if about else ""


def _consequence(policy: BuildEndPolicy, seconds: float) -> str:
    what = {
        BuildEndPolicy.ROLLBACK: f"rolls back in {seconds:g} s",
        BuildEndPolicy.PAUSE: f"is paused in {seconds:g} s; `tidegate resume` or `tidegate rollback` decides",
        BuildEndPolicy.DETACH: "continues without it",
    }
    return f": the rollout {what[policy]} (on_build_end: {policy})"


def after_no_answer(build: Build, watch: BuildWatch, problem: str, now: Time) -> WatchResult:
    """An answer that does not say whether the build runs changes nothing. It is reported once it lasts."""
    watch = replace(watch, unknown=watch.unknown + 1)
    if watch.unknown < MAX_UNKNOWN or watch.reported == UNKNOWN:
        return WatchResult(watch)
    text = f"Unknown whether {build.label} still runs: {problem}. The rollout continues; Tidegate keeps asking."
    return WatchResult(replace(watch, reported=UNKNOWN), (Event(EventKind.WARNING, text, now),))


def report_silence(
    rollout: Rollout,
    build: Build,
    signals: Sequence[Signal],
    watch: BuildWatch,
    state: BuildState | None,
    rules: BuildEndRules,
    now: Time,
) -> WatchResult:
    """Report once that a build has not polled for its rollout for long.

    One that asks a person for the approval does not poll. One that should but does not ask, hangs: a controller that is
    killed right after the click loses the answer.
    """
    quiet = now - watch.polled_at
    waits = awaited_answer(rollout, signals) is not None
    may_ask = state is None or state.asks_for is None or rollout.id in state.asks_for
    is_detached = any(signal.kind is SignalKind.DETACH for signal in signals)
    expected = rules.silent_seconds and rollout.phase.live and not is_detached and not (waits and may_ask)
    if not expected or watch.ended_at is not None:
        return WatchResult(watch)
    if quiet < rules.silent_seconds:
        return WatchResult(replace(watch, reported="" if watch.reported == SILENT else watch.reported))
    if watch.reported == SILENT:
        return WatchResult(watch)
    text = (
        f"{build.label[0].upper()}{build.label[1:]} has not polled for this rollout for {quiet / 60:.0f} min"
        f"{' and has no open input for its approval' if waits else ''} (build_silent_after_seconds). If it hangs, abort it"
        f"{f'; to approve the rollout: tidegate promote {rollout.service}' if waits else ''}."
    )
    return WatchResult(replace(watch, reported=SILENT), (Event(EventKind.WARNING, text, now),))
