"""The rules of `decide` that guard the end of a step: analysis, bake, drain, hooks, groups, approval."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tidegate.clock import Time
from tidegate.core.approvals import (
    approval_reason,
    approval_wait,
    bake_end,
    is_inconclusive,
    required_answer,
    requires_decision,
)
from tidegate.core.decisions import Analyze, Decision, Mark, MarkKind, Move, Run, Wait
from tidegate.core.hooks import COMPARE, TaskRun, TaskState, is_blocking
from tidegate.core.model import Expiry, InconclusiveAction, InstanceState, RolloutKind, SignalKind
from tidegate.core.phases import Phase
from tidegate.core.planner import roll_back_or_halt
from tidegate.core.rollback_cause import RollbackCause
from tidegate.core.rollout_state import RolloutState, format_names
from tidegate.core.waits import WaitingFor, WaitKind

MIN_APPROVAL_INTERVAL_SECONDS = 30.0  # between two measurements while the rollout waits for a person
SECONDS_PER_DAY = 86_400.0
MAX_POLL_SECONDS = 0.5  # between two observations while instances start, stop or drain


def run_analysis(state: RolloutState) -> Decision | None:
    """Measure during the bake, at its end, and while the rollout waits for a person.

    A FAIL is final: the step is not analysed again.
    """
    if not state.step.gate.analyzed or state.rollout.failed_verdict or state.is_forced:
        return None
    verdict, end, request = state.rollout.verdict, _bake_end(state), state.latest_signal(SignalKind.VERIFY)
    last = verdict.at if verdict else (state.rollout.step_ready_at or state.now)
    is_due = verdict is None or not verdict.final or verdict.at < end  # one that began in the bake may end after it
    final = state.now >= end
    requested = request is not None and last < request.at <= state.now  # later than now: by a clock ahead of this one
    if (final and is_due) or requested or state.now - last >= _interval_seconds(state):
        return Analyze(final, "Querying the metrics")
    return None


def _interval_seconds(state: RolloutState) -> float:
    """Between two measurements; longer once the bake is over and the rollout waits for a person."""
    interval = state.rollout.policy.interval_seconds
    return interval if state.now < _bake_end(state) else max(interval, MIN_APPROVAL_INTERVAL_SECONDS)


def _bake_end(state: RolloutState) -> Time:
    return bake_end(state.rollout, state.now)


def wait_for_bake(state: RolloutState) -> Decision | None:
    """Wait for the end of the bake. A FAIL that waits for a decision does not wait for the bake."""
    end = _bake_end(state)
    if state.now >= end or state.rollout.failed_verdict or state.is_forced:
        return None
    keeps_old = state.step.gate.keeps_old
    if keeps_old and _keep_old_ended(state):
        return None
    reason = f"Keeping {state.rollout.old} running" if keeps_old else f"Baking step {state.position}"
    then = f"{state.rollout.old} is removed" if keeps_old else "the step ends if its checks have passed"
    waiting = state.waiting_for(WaitKind.BAKE, reason, then, since=state.rollout.step_ready_at, until=end)
    return _wait_and_observe(state, min(end, _next_measurement(state)), waiting)


def _wait_and_observe(state: RolloutState, until: Time, waiting: WaitingFor) -> Wait:
    """Wait, but observe at every interval: a proxy or an instance that fails during a long wait is replaced at once."""
    return Wait(min(until, state.now + state.rollout.policy.interval_seconds), waiting)


def _keep_old_ended(state: RolloutState) -> bool:
    """Whether an approval ended `keep_old`. An approval of all steps does not: keeping the old release asks for none."""
    kind, step = SignalKind.PROMOTE, state.rollout.cursor
    return any(signal.kind is kind and signal.step == step for signal in state.signals)


def _next_measurement(state: RolloutState) -> Time:
    """When the metrics are queried next."""
    verdict = state.rollout.verdict
    last = verdict.at if verdict else (state.rollout.step_ready_at or state.now)
    if not state.step.gate.analyzed:
        return state.now + SECONDS_PER_DAY
    return max(state.now, last + _interval_seconds(state))


def wait_for_drain(state: RolloutState) -> Decision | None:
    """Wait while instances outside the route have requests in flight within their drain time, or are still stopping."""
    busy = [instance for instance in state.desired if not state.is_reachable(instance) and not state.is_drained(instance)]
    if busy:
        ids = [instance.id for instance in busy]
        return poll_soon(state, _draining(state, ids, f"Draining {format_names(busy)}", "the rollout continues"))
    leaving = [
        instance
        for instance in state.surplus_instances
        if instance.state is not InstanceState.STOPPING or state.step.gate.surplus_gone
    ]
    draining = [instance for instance in leaving if instance.state is not InstanceState.STOPPING]
    if draining:
        ids = [instance.id for instance in draining]
        return poll_soon(state, _draining(state, ids, f"Draining {format_names(draining)}", "the instances are stopped"))
    if leaving:
        return poll_soon(state, stopping(state, f"Waiting for {format_names(leaving)} to stop"))
    if state.step.gate.surplus_gone and (left := state.leftover_requests):
        return poll_soon(state, _draining(state, left, "Draining the last requests in flight", "the rollout continues"))
    return None


def _draining(state: RolloutState, instances: Collection[str], reason: str, then: str) -> WaitingFor:
    starts = [state.rollout.unrouted_at.get(instance, state.now) for instance in instances]
    return state.waiting_for(WaitKind.DRAIN, reason, then, since=min(starts), until=max(starts) + state.max_drain_seconds)


def stopping(state: RolloutState, reason: str) -> WaitingFor:
    """A wait for instances that stop; the platform bounds it by their grace period."""
    return state.waiting_for(WaitKind.STOP, reason, "the rollout continues when the platform has removed them")


def extend_bake(state: RolloutState) -> Decision | None:
    """Bake again after an `INCONCLUSIVE` verdict, `max_extensions` times at most."""
    policy = state.rollout.policy
    if policy.on_inconclusive is not InconclusiveAction.EXTEND or not is_inconclusive(state.rollout) or _is_approved(state):
        return None
    if state.rollout.extensions >= policy.max_extensions:
        return None
    number = state.rollout.extensions + 1
    return Mark(MarkKind.BAKE_EXTENDED, f"Verdict INCONCLUSIVE: extending the bake ({number} of {policy.max_extensions})")


def wait_for_approval(state: RolloutState) -> Decision | None:
    """Wait for the answer that the approval rule requires; see `tidegate.core.approvals`."""
    rollout = state.rollout
    if required_answer(rollout) is None or _is_approved(state):
        return None
    if rollout.approval_since is None:
        return Mark(MarkKind.WAITING_FOR_APPROVAL, approval_reason(rollout))
    waiting = approval_wait(rollout, rollout.approval_since)
    if waiting.until is not None and state.now >= waiting.until:  # a pause holds up what follows then
        return state.wait_while_paused() if rollout.paused else _expire_approval(state)
    next_check = _next_measurement(state)
    if waiting.until is not None:
        next_check = min(max(waiting.until, state.now + 1.0), next_check)
    return _wait_and_observe(state, next_check, waiting)


def _is_approved(state: RolloutState) -> bool:
    """Whether enough people have approved, or the rest of the gates is skipped by force."""
    return state.is_forced or state.deciding_approval is not None


def _expire_approval(state: RolloutState) -> Decision | None:
    """What follows when nobody answered in time."""
    rollout = state.rollout
    if rollout.policy.approval.on_expiry is Expiry.PROMOTE and not requires_decision(rollout):
        return None
    reason = f"Approval timed out: {approval_reason(rollout)}"
    if rollout.verdict is not None and rollout.failed_verdict:
        return roll_back_or_halt(rollout, state.observed, f"{reason}. {rollout.verdict.message}", RollbackCause.CHECKS)
    return roll_back_or_halt(rollout, state.observed, reason, RollbackCause.APPROVAL_EXPIRED)


def next_step(state: RolloutState) -> Decision | None:
    """The gate is open: the next step, or the end."""
    if state.rollout.paused:
        return state.wait_while_paused()
    if _is_frozen(state):
        return state.wait_while_frozen()
    following = state.rollout.cursor + 1
    if following < len(state.rollout.plan):
        return Move(state.rollout.phase, f"Step {following + 1} of {len(state.rollout.plan)}", cursor=following)
    if state.rollout.phase is Phase.ROLLING_BACK:
        return Move(Phase.ROLLED_BACK, state.rollout.reason)
    is_removal = state.rollout.kind is RolloutKind.REMOVE
    return Move(Phase.SUCCEEDED, f"{state.rollout.service} is removed" if is_removal else f"{state.rollout.new} is live")


def _is_frozen(state: RolloutState) -> bool:
    """Whether a freeze blocks the next step. It never blocks the last step, which only cleans up, nor a rollback."""
    is_last = state.rollout.cursor + 1 >= len(state.rollout.plan)
    may_block = state.rollout.phase is Phase.RUNNING and not (is_last or state.is_forced or state.rollout.forced)
    return bool(state.frozen) and may_block


def poll_soon(state: RolloutState, waiting: WaitingFor) -> Wait:
    """Observe again soon: after 10 ms at the start of a step, after up to half a second later."""
    waited = state.now - (state.rollout.step_started_at or state.now)
    return Wait(state.now + min(MAX_POLL_SECONDS, max(0.01, waited / 20)), waiting)


def run_hooks_before(state: RolloutState) -> Decision | None:
    """Run the tasks that precede everything else of the step."""
    return _next_task(state, state.step.gate.tasks_before)


def run_hooks(state: RolloutState) -> Decision | None:
    """Run the tasks of a step that is ready."""
    return _next_task(state, state.step.gate.tasks)


def _next_task(state: RolloutState, names: Sequence[str]) -> Decision | None:
    """One task after the other, each once in a rollout. A paused rollout starts none but follows one that runs."""
    for name in names:
        run = state.task(name)
        if (run is not None and run.state.ended) or (name == COMPARE and state.is_forced):
            continue
        if run is None and state.rollout.paused:
            return state.wait_while_paused()
        return Run(name, f"Running {name}")
    return None


def failed_task(state: RolloutState) -> str:
    """The message of a failed task after which no traffic may move; empty if there is none."""
    return next((task.message for task in _failed_tasks(state)), "")


def task_cause(state: RolloutState) -> RollbackCause:
    """The cause of a rollback after a failed task: one that the platform could not start says nothing about the release."""
    names = [task.name for task in _failed_tasks(state) if task.started]
    if not names:
        return RollbackCause.UNAVAILABLE
    return RollbackCause.COMPARISON if names[0] == COMPARE else RollbackCause.HOOK


def _failed_tasks(state: RolloutState) -> list[TaskRun]:
    return [task for task in state.rollout.tasks if task.state is TaskState.FAILED and is_blocking(task.name)]


NOT_FORWARD = frozenset({Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.REFUSED, Phase.FAILED})
PEER_ENDS = {Phase.REFUSED: "was refused", Phase.FAILED: "halted"}


def rolled_back_peer(state: RolloutState) -> str:
    """The reason to roll back because another rollout of the group does; empty if none does."""
    peer = next((peer for peer in state.peers if peer.phase in NOT_FORWARD), None)
    if peer is None:
        return ""
    what = PEER_ENDS.get(peer.phase, "rolled back")
    return f"{peer.service}, in the same group, {what}" + (f": {peer.reason}" if peer.reason else "")


def wait_for_group(state: RolloutState) -> Decision | None:
    """Record that this rollout has reached a point of its group, then wait for the others. The approval that follows
    counts for all."""
    point = state.step.gate.group_point
    if not point or state.rollout.phase is not Phase.RUNNING:
        return None
    if state.rollout.group_point < point:
        return Mark(MarkKind.WAITING_FOR_GROUP, f"Ready at point {point} of 2 of its group")
    late = [peer.service for peer in state.peers if peer.group_point < point and peer.phase is not Phase.SUCCEEDED]
    if not late:
        return None
    then = "all rollouts of the group continue together"
    waiting = state.waiting_for(WaitKind.GROUP, f"Waiting for {', '.join(late)}, in the same group", then)
    return Wait(state.now + MAX_POLL_SECONDS, waiting)
