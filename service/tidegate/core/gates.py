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


def run_analysis(state: RolloutState) -> Decision | None:
    """Rung 10: look at the metrics, during the bake, at its end, and on while a person is waited for.

    A FAIL is never judged again: a decision cannot change its mind.
    """
    if not state.step.gate.analyzed or state.rollout.failed_verdict or state.is_forced:
        return None
    verdict, end, asked = state.rollout.verdict, _bake_end(state), state.latest_signal(SignalKind.VERIFY)
    last = verdict.at if verdict else (state.rollout.step_ready_at or state.now)
    undecided = verdict is None or verdict.at < end
    final = state.now >= end
    demanded = asked is not None and last < asked.at <= state.now  # one that seems to come was told by another clock
    if (final and undecided) or demanded or state.now - last >= _interval_seconds(state):
        return Judge(final, "asking the metrics")
    return None


def _interval_seconds(state: RolloutState) -> float:
    """Between two looks: when the bake is over and a person is waited for, they need not be so many."""
    interval = state.rollout.policy.interval_seconds
    return interval if state.now < _bake_end(state) else max(interval, MIN_APPROVAL_INTERVAL_SECONDS)


def _bake_end(state: RolloutState) -> Time:
    """When the step has stood long enough; every extension is one more bake."""
    return (state.rollout.step_ready_at or state.now) + state.step.gate.bake_seconds * (1 + state.rollout.extensions)


def wait_for_bake(state: RolloutState) -> Decision | None:
    """Rung 9: still baking. A FAIL that waits for a person does not wait for the bake."""
    end = _bake_end(state)
    if state.now >= end or state.rollout.failed_verdict or state.is_forced:
        return None
    if state.step.gate.keeps_old and _keep_old_ended(state):
        return None
    doing = f"keeping {state.rollout.old} warm" if state.step.gate.keeps_old else "baking"
    return _wait_and_observe(state, min(end, _next_measurement(state)), f"{doing}, {end - state.now:.0f} s to go")


def _wait_and_observe(state: RolloutState, until: Time, why: str) -> Wait:
    """Wait, and look at the world meanwhile: a proxy or an instance that goes in a long bake or hold must not wait for its
    end."""
    return Wait(min(until, state.now + state.rollout.policy.interval_seconds), why)


def _keep_old_ended(state: RolloutState) -> bool:
    """Whether somebody ends the keeping. An approval of all holds does not: that the old release is kept is none."""
    kind, step = SignalKind.PROMOTE, state.rollout.cursor
    return any(signal.kind is kind and signal.step == step for signal in state.signals)


def _next_measurement(state: RolloutState) -> Time:
    """When the metrics are asked again."""
    verdict = state.rollout.verdict
    last = verdict.at if verdict else (state.rollout.step_ready_at or state.now)
    return max(state.now, last + _interval_seconds(state)) if state.step.gate.analyzed else state.now + 86_400.0


def wait_for_drain(state: RolloutState) -> Decision | None:
    """Rung 9: unrouted instances still have requests in flight and have not had their drain time, or are not gone yet."""
    kept_busy = [each for each in state.desired if not state.is_reachable(each) and not state.is_drained(each)]
    if kept_busy:
        return poll_soon(state, f"draining {format_names(kept_busy)}")
    leaving = [
        instance
        for instance in state.surplus_instances
        if instance.state is not InstanceState.STOPPING or state.step.gate.surplus_gone
    ]
    if leaving:
        return poll_soon(state, f"waiting for {format_names(leaving)} to be gone")
    if state.step.gate.surplus_gone and (state.observed.router.draining or state.observed.preview.draining):
        return poll_soon(state, "waiting for the last requests in flight")
    return None


def extend_bake(state: RolloutState) -> Decision | None:
    """Rung 11: inconclusive, so bake longer; bounded."""
    policy = state.rollout.policy
    if policy.on_inconclusive is not InconclusiveAction.EXTEND or not is_inconclusive(state) or _is_approved(state):
        return None
    if state.rollout.extensions >= policy.max_extensions:
        return None
    return Mark(MarkKind.BAKE_EXTENDED, "inconclusive, baking longer")


def is_inconclusive(state: RolloutState) -> bool:
    """Whether nothing can be said where something has to be: not while the old release is merely kept warm."""
    verdict = state.rollout.verdict
    if state.step.gate.keeps_old:
        return False
    return state.step.gate.analyzed and verdict is not None and verdict.outcome is Outcome.INCONCLUSIVE


def wait_for_approval(state: RolloutState) -> Decision | None:
    """Rungs 11 and 12: a person is asked: by the plan, after an inconclusive verdict, or after a FAIL by policy."""
    why = _approval_reason(state)
    if not why or _is_approved(state):
        return None
    if state.rollout.approval_since is None:
        return Mark(MarkKind.WAITING_FOR_APPROVAL, why)
    end = state.rollout.approval_since + state.rollout.policy.approval.expires_seconds
    if state.now < end or state.rollout.paused:
        return _wait_and_observe(state, min(max(end, state.now + 1.0), _next_measurement(state)), why)
    return _expire_approval(state, why)


def _is_approved(state: RolloutState) -> bool:
    """Whether as many as are needed have approved, or somebody skips the analysis."""
    return state.is_forced or state.deciding_approval is not None


def _expire_approval(state: RolloutState, why: str) -> Decision | None:
    """Nobody answered in time. What is judged bad or not known never goes on by itself."""
    action = state.rollout.policy.approval.on_expiry
    if action is Expiry.WAIT:
        return _wait_and_observe(state, _next_measurement(state), why)
    unsure = state.rollout.failed_verdict or is_inconclusive(state) or inconclusive_task(state)
    if action is Expiry.PROMOTE and not unsure:
        return None
    return roll_back_or_halt(state.rollout, state.observed, f"nobody answered in time; {why}")


def _approval_reason(state: RolloutState) -> str:
    if state.rollout.failed_verdict and state.rollout.policy.failure_action is FailureAction.PAUSE:
        return "judged FAIL, waiting for a person: promote or roll back"
    if is_inconclusive(state) and not _continues_inconclusive(state):
        return "inconclusive, waiting for a person: promote or roll back"
    if unknown := inconclusive_task(state):
        return f"{unknown}, waiting for a person: promote or roll back"
    return f"waiting for approval ({state.step.gate.approval})" if state.step.gate.approval else ""


def _continues_inconclusive(state: RolloutState) -> bool:
    """By policy, and only while a later step is still to be judged: no rollout ends on what nobody knows."""
    later = state.rollout.plan[state.rollout.cursor + 1 :]
    continues = state.rollout.policy.on_inconclusive is InconclusiveAction.CONTINUE
    return continues and any(step.gate.analyzed for step in later)


def next_step(state: RolloutState) -> Decision | None:
    """Rungs 12 and 13: the gate is open."""
    if state.rollout.paused:
        return Wait(state.now + state.rollout.policy.interval_seconds, "paused")
    if _is_frozen(state):
        return Wait(state.now + state.rollout.policy.interval_seconds, state.frozen)
    following = state.rollout.cursor + 1
    if following < len(state.rollout.plan):
        return Move(state.rollout.phase, f"step {following + 1} of {len(state.rollout.plan)}", cursor=following)
    if state.rollout.phase is Phase.ROLLING_BACK:
        return Move(Phase.ROLLED_BACK, state.rollout.reason)
    return Move(Phase.SUCCEEDED, f"{state.rollout.new} serves")


def _is_frozen(state: RolloutState) -> bool:
    """A freeze keeps the next batch back. The last step only clears up after the switch, and a way back is never kept."""
    last = state.rollout.cursor + 1 >= len(state.rollout.plan)
    return (
        bool(state.frozen)
        and state.rollout.phase is Phase.RUNNING
        and not (last or state.is_forced or state.rollout.forced)
    )


def poll_soon(state: RolloutState, why: str) -> Wait:
    """Look again soon: at once in the beginning, less often the longer it takes."""
    waited = state.now - (state.rollout.step_started_at or state.now)
    return Wait(state.now + min(0.5, max(0.01, waited / 20)), why)


def run_hooks_before(state: RolloutState) -> Decision | None:
    """What comes before anything of the step is done."""
    return _next_task(state, state.step.gate.tasks_before)


def run_hooks(state: RolloutState) -> Decision | None:
    """What is done once the step stands."""
    return _next_task(state, state.step.gate.tasks)


def _next_task(state: RolloutState, names: Sequence[str]) -> Decision | None:
    """One after the other; each once in a rollout. What is paused begins none, but one that runs is looked after."""
    for name in names:
        run = state.task(name)
        if (run is not None and run.state.ended) or (name == COMPARE and state.is_forced):
            continue
        if run is None and state.rollout.paused:
            return Wait(state.now + state.rollout.policy.interval_seconds, f"paused before {name}")
        return Run(name, f"running {name}")
    return None


def failed_task(state: RolloutState) -> str:
    """One sentence when a task failed that traffic must not be moved after."""
    return next(
        (task.message for task in state.rollout.tasks if task.state is TaskState.FAILED and task.name in BLOCKING), ""
    )


def inconclusive_task(state: RolloutState) -> str:
    """One sentence when a task of this step ended without anything that can be said."""
    ended = (state.task(name) for name in state.step.gate.tasks)
    return next((each.message for each in ended if each is not None and each.state is TaskState.UNKNOWN), "")


NOT_FORWARD = frozenset({Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.FAILED})


def rolled_back_peer(state: RolloutState) -> str:
    """One sentence when another one of the group turned back."""
    turned = next((peer for peer in state.peers if peer.phase in NOT_FORWARD), None)
    if turned is None:
        return ""
    return f"together with {turned.service}, which turned back" + (f": {turned.reason}" if turned.reason else "")


def wait_for_group(state: RolloutState) -> Decision | None:
    """Come to the group's point, then wait until all have. The approval that follows is for all."""
    point = state.step.gate.group_point
    if not point or state.rollout.phase is not Phase.RUNNING:
        return None
    if state.rollout.group_point < point:
        return Mark(MarkKind.WAITING_FOR_GROUP, f"at point {point} of its group")
    late = [peer.service for peer in state.peers if peer.group_point < point and peer.phase is not Phase.SUCCEEDED]
    return Wait(state.now + 0.5, f"waiting for {', '.join(late)}") if late else None
