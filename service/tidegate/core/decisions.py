"""The next moves that `decide` can name, and what the recorded ones do to a rollout. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from tidegate.analysis.verdict import Verdict
from tidegate.clock import Time
from tidegate.core.hooks import TaskRun
from tidegate.core.model import Instance, Plan, Rollout
from tidegate.core.phases import LIVE, Phase, move
from tidegate.core.routing import Member


class MarkKind(StrEnum):
    """The moments of a step that are recorded."""

    STEP_STARTED = "step_started"
    SHIFTING_TRAFFIC = (
        "shifting_traffic"  # the proxy is about to be written: no earlier drain time counts for those who now leave it
    )
    TRAFFIC_CONFIRMED = "traffic_confirmed"
    TRAFFIC_DIVERGED = "traffic_diverged"  # the proxy has to be written again: what counted from the old shift starts anew
    STEP_READY = "step_ready"
    BAKE_EXTENDED = "bake_extended"  # another bake, because the verdict was inconclusive
    WAITING_FOR_APPROVAL = "waiting_for_approval"  # a person is waited for
    WAITING_FOR_GROUP = "waiting_for_group"  # at a point where the rollouts of its group wait for each other


@dataclass(frozen=True, slots=True)
class Pin:
    """Resolve the new release's image to a digest and make sure that it can run, before anything moves."""

    reason: str


@dataclass(frozen=True, slots=True)
class Start:
    """Create these instances."""

    release: str
    ordinals: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Shift:
    """Make the proxy send traffic to exactly these; with `preview` that of the preview's address."""

    members: tuple[Member, ...]
    reason: str
    preview: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """Begin this task, or see how it stands."""

    task: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop and remove these instances: they take no traffic and have none in flight, or have had their drain time."""

    instances: tuple[Instance, ...]
    reason: str
    overdue: bool = False  # some still have requests in flight, and their drain time is over


@dataclass(frozen=True, slots=True)
class Judge:
    """Ask the metrics. `final`: the bake is over, the answer opens or shuts the gate."""

    final: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Record a moment of the present step."""

    mark: MarkKind
    reason: str


@dataclass(frozen=True, slots=True)
class Move:
    """Go to another step, another phase, or both. `plan` replaces the present one."""

    phase: Phase
    reason: str
    cursor: int = 0
    plan: Plan | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until`."""

    until: Time
    reason: str


Decision = Pin | Start | Shift | Stop | Run | Judge | Mark | Move | Wait


def apply_mark(rollout: Rollout, mark: MarkKind, now: Time) -> Rollout:
    """The rollout with one more moment recorded."""
    match mark:
        case MarkKind.STEP_STARTED:
            return replace(rollout, step_started_at=now)
        case MarkKind.SHIFTING_TRAFFIC:
            return replace(rollout, drain_started_at=None)
        case MarkKind.TRAFFIC_CONFIRMED:
            return replace(rollout, traffic_confirmed_at=now, drain_started_at=now)
        case MarkKind.TRAFFIC_DIVERGED:
            return replace(
                rollout,
                traffic_confirmed_at=None,
                step_ready_at=None,
                drain_started_at=None,
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


def shift_marks(rollout: Rollout, seconds: float) -> Rollout:
    """The rollout after a clock jumped: its marks as that clock would have told them."""

    def then(mark: Time | None) -> Time | None:
        return None if mark is None else mark + seconds

    verdict = None if rollout.verdict is None else replace(rollout.verdict, at=rollout.verdict.at + seconds)
    tasks = tuple(
        task if task.state.ended else replace(task, started_at=task.started_at + seconds) for task in rollout.tasks
    )
    return replace(
        rollout,
        step_started_at=then(rollout.step_started_at),
        traffic_confirmed_at=then(rollout.traffic_confirmed_at),
        step_ready_at=then(rollout.step_ready_at),
        approval_since=then(rollout.approval_since),
        drain_started_at=then(rollout.drain_started_at),
        verdict=verdict,
        tasks=tasks,
    )


def apply_move(rollout: Rollout, to: Move, now: Time) -> Rollout:
    """The rollout after a move; raises `IllegalMove` when the phase table does not allow it.

    A step that is left without a recorded shift may have shifted all the same, just before a crash: its drain counts
    from now. On the way back, however many steps it takes, the reason stays why it turned.
    """
    phase = move(rollout.phase, to.phase)
    further = phase is rollout.phase is Phase.ROLLING_BACK
    if phase not in LIVE:
        return replace(rollout, phase=phase, reason=to.reason, finished=now)
    return replace(
        rollout,
        phase=phase,
        reason=rollout.reason if further else to.reason,
        plan=rollout.plan if to.plan is None else to.plan,
        cursor=to.cursor,
        step_started_at=None,
        traffic_confirmed_at=None,
        step_ready_at=None,
        approval_since=None,
        drain_started_at=rollout.drain_started_at if rollout.traffic_confirmed_at is not None else now,
        extensions=0,
        verdict=None,
    )


def record_task(rollout: Rollout, run: TaskRun) -> Rollout:
    """The rollout with what is now known of a task."""
    return replace(rollout, tasks=(*(task for task in rollout.tasks if task.name != run.name), run))


def record_verdict(rollout: Rollout, verdict: Verdict) -> Rollout:
    """The rollout with a verdict on its present step."""
    return replace(rollout, verdict=verdict)
