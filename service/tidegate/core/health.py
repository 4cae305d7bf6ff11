"""The rules of `decide` on single instances: readiness after they took traffic, and time since they left the route.

An instance that was ready and no longer is leaves the route while another one is ready. It returns when it is ready
again. If it is of the new release, the rollout rolls back; a repair and a scaling replace it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tidegate.clock import Time
from tidegate.core.container import InstanceHealth
from tidegate.core.decisions import Decision, Shift, Track, Wait
from tidegate.core.gates import poll_soon
from tidegate.core.model import Instance, InstanceState
from tidegate.core.rollout_state import RolloutState, format_names, member_of
from tidegate.core.waits import WaitKind

Health = dict[str, InstanceHealth]

#: Two instances that fail of one cause are seen to fail within this time of each other: a probe notices it after two
#: failures (2 s by default), and Docker stops the containers of a host one after the other.
SAME_FAILURE_SECONDS = 5.0
UNSTABLE_SECONDS = 600.0  # failures that follow each other sooner than this are of one cause
STABLE_SECONDS = 30.0  # a new instance that failed once must stay ready for so long before the step is left


# -- what is recorded -------------------------------------------------------------------------------------------------


def track_instances(state: RolloutState) -> Decision | None:
    """Record which instances became ready, stopped being ready, or left the route, before anything follows from it."""
    unrouted, health = _unrouted(state), _health(state)
    if set(unrouted) == set(state.rollout.unrouted_at) and health == state.rollout.health:
        return None
    return Track(unrouted, tuple(health.items()), "Recording what was observed of the instances")


def _unrouted(state: RolloutState) -> tuple[str, ...]:
    """The instances that the proxy knows and that receive no requests."""
    known = {**state.observed.router.draining, **state.observed.preview.draining}
    return tuple(instance for instance in known if instance not in state.members and instance not in state.preview_members)


def _health(state: RolloutState) -> Health:
    health = {instance.id: _health_of(state, instance) for instance in state.alive_instances}
    return {name: entry for name, entry in health.items() if entry is not None}


def _health_of(state: RolloutState, instance: Instance) -> InstanceHealth | None:
    """What is known of the instance now; None before it is ready for the first time. One that is in the route was ready
    when it was added, and one from before the rollout by the rollout that started it."""
    before = state.rollout.health.get(instance.id)
    if state.is_ready(instance):
        if before is None:
            return InstanceHealth(instance.restarts, start=instance.start)
        is_same_start = (before.restarts, before.start) == (instance.restarts, instance.start)
        if before.unhealthy_since is None and is_same_start:
            return before
        return _recovered(state, instance, before)
    if before is None:
        was_ready = state.is_address_current(instance) or instance.id in state.rollout.preexisting
        return InstanceHealth(instance.restarts, state.now, 1, instance.start) if was_ready else None
    if before.unhealthy_since is None:
        return replace(before, unhealthy_since=state.now, failures=before.failures + 1)
    return before


def _recovered(state: RolloutState, instance: Instance, before: InstanceHealth) -> InstanceHealth:
    """Of one that is ready again. Between two observations it may have ended and become ready again."""
    since = state.now if before.unhealthy_since is None else before.unhealthy_since
    own = before.own_failures
    if state.is_candidate(instance) and not _has_failed_with_another(state, since):
        is_news = before.recovered_at is None or since - before.recovered_at > UNSTABLE_SECONDS
        own = 1 if is_news else own + 1
    return InstanceHealth(instance.restarts, None, before.failures, instance.start, state.now, own)


def _has_failed_with_another(state: RolloutState, since: Time) -> bool:
    """Whether an instance from before the rollout failed within seconds of this time, or was stopped from outside, as by a
    Docker daemon that shuts down."""
    others = [each for each in state.observed.instances if not state.is_candidate(each)]
    known = (state.rollout.health[each.id] for each in others if each.id in state.rollout.health)
    stopped = any(each.state is InstanceState.STOPPED for each in others)
    return stopped or any(_failed_together(health, since, state.now) for health in known)


# -- what follows -----------------------------------------------------------------------------------------------------


def unhealthy_candidates(state: RolloutState) -> list[Instance]:
    """Instances of the rollout that were ready and no longer are.

    None while no other instance is ready either: moving traffic would not help. One that became unhealthy together with an
    instance from before the rollout is left to the deadline: a host or a dependency may have failed under both.
    """
    if is_failure_shared(state):
        return []
    unhealthy = [each for each in state.alive_instances if state.is_candidate(each) and state.is_unhealthy(each)]
    return [instance for instance in unhealthy if not _may_be_shared(state, instance)]


def _may_be_shared(state: RolloutState, instance: Instance) -> bool:
    """Whether an instance from before the rollout failed at the same time, or still may be found to have failed.

    Only where a ready instance takes the requests, or will at once: otherwise they are lost as long as the engine waits.
    """
    since = state.rollout.health[instance.id].unhealthy_since
    ready = [each for each in state.alive_instances if state.is_ready(each)]
    if since is None or not any(state.is_routed(each) or each.release in state.serving for each in ready):
        return False
    return state.now < since + SAME_FAILURE_SECONDS or _has_failed_with_another(state, since)


def _failed_together(other: InstanceHealth, since: Time, now: Time) -> bool:
    if other.unhealthy_since is not None:
        return abs(other.unhealthy_since - since) <= SAME_FAILURE_SECONDS
    recovered_at = other.recovered_at
    return recovered_at is not None and since <= recovered_at and now < recovered_at + SAME_FAILURE_SECONDS


def is_failure_shared(state: RolloutState) -> bool:
    """Whether no instance from before the rollout is ready either, which does not speak against the new release."""
    others = [instance for instance in state.alive_instances if not state.is_candidate(instance)]
    return bool(others) and not any(map(state.is_ready, others))


def failed_too_often(state: RolloutState, instance: Instance) -> str:
    """Why a new instance that is or will be ready again counts as failed: it restarted, or stopped being ready, more than
    `max_restarts` times; empty if it does not."""
    allowed, health = state.rollout.policy.max_restarts, state.rollout.health.get(instance.id)
    if instance.restarts > allowed:
        return f"restarted {instance.restarts} times, {allowed} allowed"
    if health is not None and health.own_failures > allowed:
        return f"stopped being ready {health.own_failures} times, {allowed} allowed (max_restarts)"
    return ""


def wait_until_stable(state: RolloutState) -> Decision | None:
    """Before the step is left, wait until new instances that failed and are ready again have stayed so for a while: one
    that ends every few seconds is ready most of the time, and would be so by chance when the step is left."""
    if not state.is_forward_release:
        return None
    until, waited = 0.0, list[Instance]()
    for instance in state.desired:
        health = state.rollout.health.get(instance.id)
        if health is None or not health.own_failures or failed_too_often(state, instance) or health.recovered_at is None:
            continue  # those that failed too often are tolerated: `max_failure_ratio`
        if state.now < health.recovered_at + STABLE_SECONDS:
            until = max(until, health.recovered_at + STABLE_SECONDS)
            waited.append(instance)
    if not waited:
        return None
    reason = f"Waiting for {format_names(waited)} to stay ready for {STABLE_SECONDS:g} s after a failure"
    waiting = state.waiting_for(WaitKind.READINESS, reason, "the rollout continues", until=until)
    return Wait(min(until, state.now + state.rollout.policy.interval_seconds), waiting)


def describe_unhealthy(state: RolloutState, instance: Instance) -> str:
    """`GET /health answered 503, for 12 s`: what its probe reported, and for how long it has not been ready."""
    health = state.rollout.health.get(instance.id)
    since = state.now if health is None or health.unhealthy_since is None else health.unhealthy_since
    lasting = f", for {state.now - since:.0f} s" if state.now - since >= 1.0 else ""
    return (instance.detail or "not ready") + lasting


def remove_unready_members(state: RolloutState) -> Decision | None:
    """Take instances that are not ready out of the route, while at least one other in it is ready."""
    ready = [instance for instance in state.alive_instances if state.is_ready(instance)]
    if not any(state.is_address_current(instance) for instance in ready):
        return None
    unready = [instance for instance in state.alive_instances if not state.is_ready(instance) and state.is_routed(instance)]
    if not unready:
        return None
    leaving = {instance.id for instance in unready}
    staying = tuple(member for member in state.observed.router.members if member.instance not in leaving)
    return Shift(staying, f"Taking {format_names(unready)} out of the route: {describe_unhealthy(state, unready[0])}")


def return_recovered_members(state: RolloutState) -> Decision | None:
    """Put instances that are ready again back into the route, and others in the place of those that are not.

    The step continues: its bake and its verdict stay.
    """
    if not state.members:
        return None
    returning = [instance for instance in _absent(state) if _has_recovered(state, instance)]
    returning += _substitutes(state, returning)
    if not returning:
        return None
    weights = {member.release: member.weight for member in (*state.desired_members, *state.observed.router.members)}
    added = tuple(member_of(instance, weights.get(instance.release, 1)) for instance in returning)
    return Shift((*state.observed.router.members, *added), f"Putting {format_names(returning)} into the route: ready")


def _absent(state: RolloutState) -> list[Instance]:
    return [each for each in state.desired_routed if state.is_ready(each) and not state.is_routed(each)]


def _has_recovered(state: RolloutState, instance: Instance) -> bool:
    health = state.rollout.health.get(instance.id)
    return health is not None and health.failures > 0


def _substitutes(state: RolloutState, returning: Sequence[Instance]) -> list[Instance]:
    """Instances of the old release that run outside the route, at most one for each of that release that is not ready."""
    if not state.is_forward_release or state.rollout.old is None:
        return []
    old = state.rollout.old
    sick = {each.id for each in state.alive_instances if each.release == old and not state.is_ready(each)}
    present = [member.release for member in state.observed.router.members if member.instance not in sick]
    present += [instance.release for instance in returning]
    wanted = state.route.get(old, 0) - present.count(old)
    free = [each for each in _absent(state) if each.release == old and each not in returning]
    return free[: max(0, min(wanted, len(sick)))]


def are_replacements_ready(state: RolloutState) -> bool:
    """Whether old instances may be stopped: all new ones that took their place in earlier steps are ready."""
    if not state.is_forward_release or state.rollout.cursor == 0:
        return True
    new = [instance for instance in state.alive_instances if instance.release == state.rollout.new]
    wanted = state.rollout.plan[state.rollout.cursor - 1].serving.get(state.rollout.new, 0)
    if any(instance.id in state.rollout.health and not state.is_ready(instance) for instance in new):
        return False
    return sum(1 for instance in new if state.is_ready(instance)) >= wanted


def wait_until_recovered(state: RolloutState) -> Decision | None:
    """In a repair and a scaling: wait for instances that are not ready, then replace them."""
    unready = state.recovering_instances
    if not unready:
        return None
    deadline = {instance.id: _replaced_at(state, instance) for instance in unready}
    late = tuple(instance for instance in unready if state.now >= deadline[instance.id])
    if late and not state.rollout.paused:
        what = f"Replacing {format_names(late)}: {describe_unhealthy(state, late[0])}"
        ids = tuple(instance.id for instance in late)
        return Track(_unrouted(state), tuple(state.rollout.health.items()), what, ids)
    reason = f"Waiting for {format_names(unready)} to become ready again"
    until = None if state.rollout.paused else max(state.now, min(deadline.values()))
    then = "`tidegate resume` continues the rollout" if until is None else "unready instances are replaced"
    return poll_soon(state, state.waiting_for(WaitKind.READINESS, reason, then, until=until))


def _replaced_at(state: RolloutState, instance: Instance) -> float:
    health = state.rollout.health[instance.id]
    since = state.now if health.unhealthy_since is None else health.unhealthy_since
    return max(since, state.deadline_start) + state.rollout.policy.healthy_deadline_seconds
