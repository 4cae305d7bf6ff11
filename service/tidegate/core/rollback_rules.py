"""The rule of `decide` that rolls a rollout back: on request, or for what was found. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tidegate.core.approvals import is_inconclusive
from tidegate.core.decisions import Decision
from tidegate.core.gates import failed_task, rolled_back_peer, task_cause
from tidegate.core.health import describe_unhealthy, failed_too_often, unhealthy_candidates
from tidegate.core.model import (
    FailureAction,
    InconclusiveAction,
    Instance,
    InstanceState,
    RolloutKind,
    Signal,
    SignalKind,
)
from tidegate.core.phases import Phase
from tidegate.core.planner import has_served, roll_back_or_halt
from tidegate.core.rollback_cause import RollbackCause
from tidegate.core.rollout_state import RolloutState, format_names


def roll_back(state: RolloutState) -> Decision | None:
    """Roll back on request, after a failed analysis or hook, when the new release does not run, or with the group."""
    if state.rollout.phase is not Phase.RUNNING:
        return None
    for reason, cause in _causes(state):
        if reason:
            return roll_back_or_halt(state.rollout, state.observed, reason, cause)
    return None


def _causes(state: RolloutState) -> Iterator[tuple[str, RollbackCause]]:
    """The reasons to roll back, empty where there is none, the first one first."""
    request = state.latest_signal(SignalKind.ROLLBACK)
    if request:
        yield _requested(state, request)
    yield _failed_analysis(state), RollbackCause.CHECKS
    yield _inconclusive_analysis(state), RollbackCause.INCONCLUSIVE
    yield _failed_candidate(state), health_cause(state)
    yield failed_task(state), task_cause(state)
    yield rolled_back_peer(state), RollbackCause.GROUP


def _requested(state: RolloutState, request: Signal) -> tuple[str, RollbackCause]:
    """A request is no finding, unless it follows a verdict of FAIL: the checks found that."""
    reason, verdict = request_reason(request), state.rollout.verdict
    if verdict is not None and state.rollout.failed_verdict:
        return f"{reason}. {verdict.message}", RollbackCause.CHECKS
    rejects = request.cause is RollbackCause.REQUEST and state.rollout.approval_since is not None
    return reason, RollbackCause.APPROVAL_REJECTED if rejects else request.cause


def request_reason(signal: Signal) -> str:
    """Why a rollback was requested, and by whom."""
    return f"Rollback requested by {signal.by}" + (f": {signal.reason}" if signal.reason else "")


def health_cause(state: RolloutState) -> RollbackCause:
    """The cause of a rollback when new instances fail: no finding before they have taken requests of the service."""
    served = has_served(state.rollout, state.observed)
    return RollbackCause.HEALTH if served else RollbackCause.NEVER_SERVED


def _failed_analysis(state: RolloutState) -> str:
    verdict, policy = state.rollout.verdict, state.rollout.policy
    if state.is_forced or policy.failure_action is not FailureAction.ROLLBACK:
        return ""
    if verdict is None or not state.rollout.failed_verdict:
        return ""
    return verdict.message


def _inconclusive_analysis(state: RolloutState) -> str:
    """The reason to roll back because the final verdict is INCONCLUSIVE and the policy is to roll back; empty if not."""
    verdict = state.rollout.verdict
    wanted = state.rollout.policy.on_inconclusive is InconclusiveAction.ROLLBACK and not state.is_forced
    return verdict.message if wanted and verdict is not None and verdict.final and is_inconclusive(state.rollout) else ""


def _failed_candidate(state: RolloutState) -> str:
    """The reason to roll back because more new instances failed than `max_failure_ratio` tolerates; empty if not.

    An instance that was ready and no longer is has failed, whatever the step waits for.
    """
    rollout, policy = state.rollout, state.rollout.policy
    if rollout.kind is RolloutKind.REMOVE:
        return ""
    failed = [
        instance
        for instance in state.observed.instances
        if state.is_candidate(instance) and (instance.state is InstanceState.FAILED or failed_too_often(state, instance))
    ]
    unhealthy = [instance for instance in unhealthy_candidates(state) if instance not in failed]
    tolerated = policy.max_failure_ratio * state.step.fleet.get(rollout.new, 0)
    if len(failed) + len(unhealthy) <= tolerated:
        return ""
    if not failed:
        return f"{_count_new(state, unhealthy, 'became unhealthy')}: {describe_unhealthy(state, unhealthy[0])}"
    worst = failed[0]
    detail = worst.detail or failed_too_often(state, worst)
    return f"{_count_new(state, failed, 'failed')}: {detail}"


def _count_new(state: RolloutState, instances: Sequence[Instance], what: str) -> str:
    new = "new " * (state.rollout.kind is RolloutKind.RELEASE)
    return f"{len(instances)} {new}{'instance' if len(instances) == 1 else 'instances'} {what} ({format_names(instances)})"
