"""The rules of `decide` that guard the end of a step: analysis, bake, drain, hooks, groups, approval."""

from __future__ import annotations

from collections.abc import Sequence

from tidegate.analysis.verdict import Outcome
from tidegate.clock import Time
from tidegate.core.approvals import Expiry
from tidegate.core.decisions import Decision, Judge, Mark, MarkKind, Move, Run, Wait
from tidegate.core.hooks import BLOCKING, COMPARE, TaskState
from tidegate.core.model import FailureAction, InconclusiveAction, InstanceState, SignalKind
from tidegate.core.phases import Phase
from tidegate.core.planner import roll_back_or_halt
from tidegate.core.rollout_state import RolloutState, format_names

MIN_APPROVAL_INTERVAL_SECONDS = 30.0  # at least, between two looks while a person is waited for


def run_analysis(view: RolloutState) -> Decision | None:
    """Rung 10: look at the metrics, during the bake, at its end, and on while a person is waited for.

    A FAIL is never judged again: a decision cannot change its mind.
    """
    if not view.step.gate.judged or view.rollout.failed_verdict or view.forced:
        return None
    verdict, end, asked = view.rollout.verdict, _bake_end(view), view.wished(SignalKind.VERIFY)
    last = verdict.at if verdict else (view.rollout.settled or view.now)
    undecided = verdict is None or verdict.at < end
    final = view.now >= end
    demanded = asked is not None and last < asked.at <= view.now  # one that seems to come was told by another clock
    if (final and undecided) or demanded or view.now - last >= _interval_seconds(view):
        return Judge(final, "asking the metrics")
    return None


def _interval_seconds(view: RolloutState) -> float:
    """Between two looks: when the bake is over and a person is waited for, they need not be so many."""
    look = view.rollout.policy.look_seconds
    return look if view.now < _bake_end(view) else max(look, MIN_APPROVAL_INTERVAL_SECONDS)


def _bake_end(view: RolloutState) -> Time:
    """When the step has stood long enough; every extension is one more bake."""
    return (view.rollout.settled or view.now) + view.step.gate.bake_seconds * (1 + view.rollout.extensions)


def wait_for_bake(view: RolloutState) -> Decision | None:
    """Rung 9: still baking. A FAIL that waits for a person does not wait for the bake."""
    end = _bake_end(view)
    if view.now >= end or view.rollout.failed_verdict or view.forced:
        return None
    if view.step.gate.keeps and _keep_old_ended(view):
        return None
    doing = f"keeping {view.rollout.old} warm" if view.step.gate.keeps else "baking"
    return _wait_and_observe(view, min(end, _next_measurement(view)), f"{doing}, {end - view.now:.0f} s to go")


def _wait_and_observe(view: RolloutState, until: Time, why: str) -> Wait:
    """Wait, and look at the world meanwhile: a proxy or an instance that goes in a long bake or hold must not wait for its
    end."""
    return Wait(min(until, view.now + view.rollout.policy.look_seconds), why)


def _keep_old_ended(view: RolloutState) -> bool:
    """Whether somebody ends the keeping. An approval of all holds does not: that the old release is kept is none."""
    kind, step = SignalKind.PROMOTE, view.rollout.cursor
    return any(signal.kind is kind and signal.step == step for signal in view.signals)


def _next_measurement(view: RolloutState) -> Time:
    """When the metrics are asked again."""
    verdict = view.rollout.verdict
    last = verdict.at if verdict else (view.rollout.settled or view.now)
    return max(view.now, last + _interval_seconds(view)) if view.step.gate.judged else view.now + 86_400.0


def wait_for_drain(view: RolloutState) -> Decision | None:
    """Rung 9: unrouted instances still have requests in flight and have not had their drain time, or are not gone yet."""
    kept_busy = [each for each in view.kept if not view.reachable(each) and not view.released(each)]
    if kept_busy:
        return poll_soon(view, f"draining {format_names(kept_busy)}")
    leaving = [
        instance for instance in view.surplus if instance.state is not InstanceState.STOPPING or view.step.gate.cleared
    ]
    if leaving:
        return poll_soon(view, f"waiting for {format_names(leaving)} to be gone")
    if view.step.gate.cleared and (view.seen.routed.draining or view.seen.preview.draining):
        return poll_soon(view, "waiting for the last requests in flight")
    return None


def extend_bake(view: RolloutState) -> Decision | None:
    """Rung 11: inconclusive, so bake longer; bounded."""
    policy = view.rollout.policy
    if policy.on_inconclusive is not InconclusiveAction.EXTEND or not is_inconclusive(view) or _is_approved(view):
        return None
    if view.rollout.extensions >= policy.max_extensions:
        return None
    return Mark(MarkKind.BAKE_EXTENDED, "inconclusive, baking longer")


def is_inconclusive(view: RolloutState) -> bool:
    """Whether nothing can be said where something has to be: not while the old release is merely kept warm."""
    verdict = view.rollout.verdict
    if view.step.gate.keeps:
        return False
    return view.step.gate.judged and verdict is not None and verdict.outcome is Outcome.INCONCLUSIVE


def wait_for_approval(view: RolloutState) -> Decision | None:
    """Rungs 11 and 12: a person is asked: by the plan, after an inconclusive verdict, or after a FAIL by policy."""
    why = _approval_reason(view)
    if not why or _is_approved(view):
        return None
    if view.rollout.held is None:
        return Mark(MarkKind.WAITING_FOR_APPROVAL, why)
    end = view.rollout.held + view.rollout.policy.approval.expires_seconds
    if view.now < end or view.rollout.paused:
        return _wait_and_observe(view, min(max(end, view.now + 1.0), _next_measurement(view)), why)
    return _expire_approval(view, why)


def _is_approved(view: RolloutState) -> bool:
    """Whether as many as are needed have approved, or somebody skips the analysis."""
    return view.forced or view.promoted is not None


def _expire_approval(view: RolloutState, why: str) -> Decision | None:
    """Nobody answered in time. What is judged bad or not known never goes on by itself."""
    action = view.rollout.policy.approval.on_expiry
    if action is Expiry.WAIT:
        return _wait_and_observe(view, _next_measurement(view), why)
    unsure = view.rollout.failed_verdict or is_inconclusive(view) or inconclusive_task(view)
    if action is Expiry.PROMOTE and not unsure:
        return None
    return roll_back_or_halt(view.rollout, view.seen, f"nobody answered in time; {why}")


def _approval_reason(view: RolloutState) -> str:
    if view.rollout.failed_verdict and view.rollout.policy.failure_action is FailureAction.PAUSE:
        return "judged FAIL, waiting for a person: promote or roll back"
    if is_inconclusive(view) and not _continues_inconclusive(view):
        return "inconclusive, waiting for a person: promote or roll back"
    if unknown := inconclusive_task(view):
        return f"{unknown}, waiting for a person: promote or roll back"
    return f"waiting for approval ({view.step.gate.hold})" if view.step.gate.hold else ""


def _continues_inconclusive(view: RolloutState) -> bool:
    """By policy, and only while a later step is still to be judged: no rollout ends on what nobody knows."""
    later = view.rollout.plan[view.rollout.cursor + 1 :]
    continues = view.rollout.policy.on_inconclusive is InconclusiveAction.CONTINUE
    return continues and any(step.gate.judged for step in later)


def next_step(view: RolloutState) -> Decision | None:
    """Rungs 12 and 13: the gate is open."""
    if view.rollout.paused:
        return Wait(view.now + view.rollout.policy.look_seconds, "paused")
    if _is_frozen(view):
        return Wait(view.now + view.rollout.policy.look_seconds, view.frozen)
    following = view.rollout.cursor + 1
    if following < len(view.rollout.plan):
        return Move(view.rollout.phase, f"step {following + 1} of {len(view.rollout.plan)}", cursor=following)
    if view.rollout.phase is Phase.ROLLING_BACK:
        return Move(Phase.ROLLED_BACK, view.rollout.reason)
    return Move(Phase.SUCCEEDED, f"{view.rollout.new} serves")


def _is_frozen(view: RolloutState) -> bool:
    """A freeze keeps the next batch back. The last step only clears up after the switch, and a way back is never kept."""
    last = view.rollout.cursor + 1 >= len(view.rollout.plan)
    return bool(view.frozen) and view.rollout.phase is Phase.RUNNING and not (last or view.forced or view.rollout.forced)


def poll_soon(view: RolloutState, why: str) -> Wait:
    """Look again soon: at once in the beginning, less often the longer it takes."""
    waited = view.now - (view.rollout.entered or view.now)
    return Wait(view.now + min(0.5, max(0.01, waited / 20)), why)


def run_hooks_before(view: RolloutState) -> Decision | None:
    """What comes before anything of the step is done."""
    return _next_task(view, view.step.gate.before)


def run_hooks(view: RolloutState) -> Decision | None:
    """What is done once the step stands."""
    return _next_task(view, view.step.gate.tasks)


def _next_task(view: RolloutState, names: Sequence[str]) -> Decision | None:
    """One after the other; each once in a rollout. What is paused begins none, but one that runs is looked after."""
    for name in names:
        run = view.task(name)
        if (run is not None and run.state.ended) or (name == COMPARE and view.forced):
            continue
        if run is None and view.rollout.paused:
            return Wait(view.now + view.rollout.policy.look_seconds, f"paused before {name}")
        return Run(name, f"running {name}")
    return None


def failed_task(view: RolloutState) -> str:
    """One sentence when a task failed that traffic must not be moved after."""
    return next(
        (task.message for task in view.rollout.tasks if task.state is TaskState.FAILED and task.name in BLOCKING), ""
    )


def inconclusive_task(view: RolloutState) -> str:
    """One sentence when a task of this step ended without anything that can be said."""
    ended = (view.task(name) for name in view.step.gate.tasks)
    return next((each.message for each in ended if each is not None and each.state is TaskState.UNKNOWN), "")


NOT_FORWARD = frozenset({Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.FAILED})


def rolled_back_peer(view: RolloutState) -> str:
    """One sentence when another one of the group turned back."""
    turned = next((peer for peer in view.peers if peer.phase in NOT_FORWARD), None)
    if turned is None:
        return ""
    return f"together with {turned.service}, which turned back" + (f": {turned.reason}" if turned.reason else "")


def wait_for_group(view: RolloutState) -> Decision | None:
    """Come to the group's point, then wait until all have. The approval that follows is for all."""
    point = view.step.gate.together
    if not point or view.rollout.phase is not Phase.RUNNING:
        return None
    if view.rollout.arrived < point:
        return Mark(MarkKind.WAITING_FOR_GROUP, f"at point {point} of its group")
    late = [peer.service for peer in view.peers if peer.arrived < point and peer.phase is not Phase.SUCCEEDED]
    return Wait(view.now + 0.5, f"waiting for {', '.join(late)}") if late else None
