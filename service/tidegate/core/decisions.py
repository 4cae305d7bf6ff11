"""The next moves that `decide` can return, and how the recorded ones change a rollout. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from tidegate.analysis.verdict import Verdict
from tidegate.clock import Time
from tidegate.core.approvals import number_question
from tidegate.core.container import InstanceHealth
from tidegate.core.hooks import TaskRun
from tidegate.core.model import (
    Instance,
    Rollout,
    Signal,
    SignalKind,
)
from tidegate.core.phases import LIVE, Phase, move
from tidegate.core.plan import Plan
from tidegate.core.rollback_cause import RollbackCause
from tidegate.core.routing import Backend, Member
from tidegate.core.waits import WaitingFor


class MarkKind(StrEnum):
    """The recorded moments of a step."""

    STEP_STARTED = "step_started"
    STARTING = "starting"  # nothing keeps missing instances from being started any more
    TRAFFIC_CONFIRMED = "traffic_confirmed"
    TRAFFIC_DIVERGED = "traffic_diverged"  # the proxy must be written again: bake and verdict start again
    STEP_READY = "step_ready"
    BAKE_EXTENDED = "bake_extended"  # another bake after an INCONCLUSIVE verdict
    WAITING_FOR_APPROVAL = "waiting_for_approval"  # a person must answer
    WAITING_FOR_GROUP = "waiting_for_group"  # at a point where its group waits


@dataclass(frozen=True, slots=True)
class Pin:
    """Resolve the image of the new release to a digest and check that it can run, before anything changes."""

    reason: str


@dataclass(frozen=True, slots=True)
class Start:
    """Create these instances."""

    release: str
    ordinals: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Shift:
    """Make the proxy send new requests to exactly these members; with `preview`, on the preview backend. `place`: the
    backend with other addresses, which the rollout has from then on."""

    members: tuple[Member, ...]
    reason: str
    preview: bool = False
    place: Backend | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """Start this task, or read its state."""

    task: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop and remove these instances. They take no traffic, and are idle or past their drain time."""

    instances: tuple[Instance, ...]
    reason: str
    overdue: bool = False  # some still have requests in flight after their drain time


@dataclass(frozen=True, slots=True)
class Analyze:
    """Query the metrics and compute a verdict. `final`: the bake is over, so the verdict decides."""

    final: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Record a moment of the current step."""

    mark: MarkKind
    reason: str


@dataclass(frozen=True, slots=True)
class Move:
    """Go to another step, another phase, or both. `plan` replaces the current one."""

    phase: Phase
    reason: str
    cursor: int = 0
    plan: Plan | None = None
    cause: RollbackCause | None = None  # of a rollback


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until`, when the rollout is observed again. `waiting_for` says what it waits for."""

    until: Time
    waiting_for: WaitingFor

    @property
    def reason(self) -> str:
        """What it waits for."""
        return self.waiting_for.reason


@dataclass(frozen=True, slots=True)
class Track:
    """Record what was observed of single instances.

    `unrouted`: those that the proxy knows and that receive no requests. `health`: of each instance that was ready.
    `replaced`: those that are replaced from now on, since they stayed unhealthy.
    """

    unrouted: tuple[str, ...]
    health: tuple[tuple[str, InstanceHealth], ...]
    reason: str
    replaced: tuple[str, ...] = ()


Decision = Pin | Start | Shift | Stop | Run | Analyze | Mark | Move | Track | Wait


def apply_mark(rollout: Rollout, mark: MarkKind, now: Time) -> Rollout:
    """The rollout with this moment recorded. Any wait is over."""
    return number_question(rollout, _with_mark(replace(rollout, waiting_for=None), mark, now))


def _with_mark(rollout: Rollout, mark: MarkKind, now: Time) -> Rollout:
    match mark:
        case MarkKind.STEP_STARTED:
            return replace(rollout, step_started_at=now)
        case MarkKind.STARTING:
            return replace(rollout, starting_at=now)
        case MarkKind.TRAFFIC_CONFIRMED:
            return replace(rollout, traffic_confirmed_at=now)
        case MarkKind.TRAFFIC_DIVERGED:
            return replace(
                rollout,
                traffic_confirmed_at=None,
                step_ready_at=None,
                extensions=0,
                verdict=None,
                approval_since=None,
            )
        case MarkKind.STEP_READY:
            return replace(rollout, step_ready_at=now)
        case MarkKind.BAKE_EXTENDED:
            return replace(rollout, extensions=rollout.extensions + 1)
        case MarkKind.WAITING_FOR_APPROVAL:
            return replace(rollout, approval_since=now)
        case MarkKind.WAITING_FOR_GROUP:
            return replace(rollout, group_point=rollout.step.gate.group_point)


def apply_track(rollout: Rollout, track: Track, now: Time) -> Rollout:
    """The rollout with what was observed of its instances. Instances that are replaced have their own deadline."""
    rollout = replace(
        rollout,
        unrouted_at={instance: rollout.unrouted_at.get(instance, now) for instance in track.unrouted},
        health=dict(track.health),
    )
    if not track.replaced:
        return rollout
    return replace(
        rollout,
        replaced=(*rollout.replaced, *track.replaced),
        step_started_at=now,
        traffic_confirmed_at=None,
        step_ready_at=None,
    )


def shift_marks(rollout: Rollout, seconds: float) -> Rollout:
    """The rollout after the clock jumped by `seconds`: its times as that clock would have recorded them."""

    def then(mark: Time | None) -> Time | None:
        return None if mark is None else mark + seconds

    waiting = rollout.waiting_for
    if waiting is not None:
        waiting = replace(waiting, since=waiting.since + seconds, until=then(waiting.until))
    verdict = None if rollout.verdict is None else replace(rollout.verdict, at=rollout.verdict.at + seconds)
    tasks = tuple(
        task if task.state.ended else replace(task, started_at=task.started_at + seconds) for task in rollout.tasks
    )
    return replace(
        rollout,
        step_started_at=then(rollout.step_started_at),
        starting_at=then(rollout.starting_at),
        traffic_confirmed_at=then(rollout.traffic_confirmed_at),
        step_ready_at=then(rollout.step_ready_at),
        approval_since=then(rollout.approval_since),
        unrouted_at={instance: at + seconds for instance, at in rollout.unrouted_at.items()},
        health={
            instance: replace(health, unhealthy_since=then(health.unhealthy_since), recovered_at=then(health.recovered_at))
            for instance, health in rollout.health.items()
        },
        verdict=verdict,
        waiting_for=waiting,
        tasks=tasks,
    )


def apply_move(rollout: Rollout, to: Move, now: Time) -> Rollout:
    """The rollout after a move. Raises `IllegalMove` if the phase table does not allow it.

    During a rollback of several steps the reason stays the one that started it.
    """
    phase = move(rollout.phase, to.phase)
    further = phase is rollout.phase is Phase.ROLLING_BACK
    if phase not in LIVE:
        cause = rollout.rollback_cause or to.cause
        return replace(rollout, phase=phase, reason=to.reason, rollback_cause=cause, finished=now, waiting_for=None)
    return replace(
        rollout,
        phase=phase,
        reason=rollout.reason if further else to.reason,
        plan=rollout.plan if to.plan is None else to.plan,
        rollback_cause=rollout.rollback_cause if further else to.cause,
        cursor=to.cursor,
        step_started_at=None,
        starting_at=None,
        traffic_confirmed_at=None,
        step_ready_at=None,
        approval_since=None,
        extensions=0,
        verdict=None,
        waiting_for=None,
    )


def signals_of(request: Signal, *, paused: bool) -> tuple[Signal, ...]:
    """The signals that a request records. A rollback takes effect at once, so it ends a pause first."""
    if request.kind is SignalKind.ROLLBACK and paused:
        return replace(request, kind=SignalKind.RESUME, reason="to roll back"), request
    return (request,)


def record_task(rollout: Rollout, run: TaskRun) -> Rollout:
    """The rollout with the current state of a task."""
    return number_question(
        rollout, replace(rollout, tasks=(*(task for task in rollout.tasks if task.name != run.name), run))
    )


def record_verdict(rollout: Rollout, verdict: Verdict) -> Rollout:
    """The rollout with a verdict on its current step."""
    return number_question(rollout, replace(rollout, verdict=verdict))
