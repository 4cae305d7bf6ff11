"""The state machine of a rollout: an ordered list of rules. The first rule that applies names the next move.

    decide(rollout, observed, signals, now, since) -> Decision

Instances are started, become ready and enter the route before others leave it, are drained and stopped. The same rules
serve every plan, every crash and every drift, because they compare the desired state with the observed state only.
`docs/architecture.md` has a table of the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tidegate.clock import Time
from tidegate.core.decisions import Decision, Mark, MarkKind, Move, Pin, Shift, Start, Stop
from tidegate.core.gates import (
    extend_bake,
    next_step,
    poll_soon,
    rolled_back_peer,
    run_analysis,
    run_hooks,
    run_hooks_before,
    stopping,
    wait_for_approval,
    wait_for_bake,
    wait_for_drain,
    wait_for_group,
)
from tidegate.core.health import (
    are_replacements_ready,
    is_failure_shared,
    remove_unready_members,
    return_recovered_members,
    track_instances,
    wait_until_recovered,
    wait_until_stable,
)
from tidegate.core.model import (
    Instance,
    InstanceState,
    ObservedState,
    Rollout,
    RolloutKind,
    Signal,
    SignalKind,
)
from tidegate.core.phases import Phase
from tidegate.core.planner import roll_back_or_halt
from tidegate.core.port_handover import take_port
from tidegate.core.records import Peer
from tidegate.core.rollback_cause import RollbackCause
from tidegate.core.rollback_rules import health_cause, request_reason, roll_back
from tidegate.core.rollout_state import RolloutState, format_names
from tidegate.core.waits import WaitKind


def decide(
    rollout: Rollout,
    observed: ObservedState,
    signals: Sequence[Signal],
    now: Time,
    since: Time,
    frozen: str = "",
    peers: Sequence[Peer] = (),
) -> Decision:
    """The single next move of a live rollout.

    `observed` is the observed state, `signals` every signal recorded so far, oldest first. `since` is the moment from which
    deadlines may count: when this engine took over, when the step was last complete, or when observation worked again.
    `frozen` is the message of the freeze of its environment, empty without one; `peers` are the other rollouts of its
    group.
    """
    state = RolloutState(rollout, observed, signals, now, since, frozen, peers)
    rules = PENDING_RULES if rollout.phase is Phase.PENDING else RULES
    decisions = (rule(state) for rule in rules)
    return next(decision for decision in decisions if decision is not None)


# -- before anything moves --------------------------------------------------------------------------------------------


def end_before_start(state: RolloutState) -> Decision | None:
    """A rollback that is requested before anything was changed ends the rollout at once. So does one of its group."""
    asked = state.latest_signal(SignalKind.ROLLBACK)
    if asked:
        return Move(Phase.ROLLED_BACK, request_reason(asked), cause=asked.cause)
    reason = rolled_back_peer(state)
    refused = any(peer.phase is Phase.REFUSED for peer in state.peers)
    end = Phase.REFUSED if refused else Phase.ROLLED_BACK
    return Move(end, reason, cause=RollbackCause.GROUP) if reason else None


def pin_image(state: RolloutState) -> Decision | None:
    """Resolve the image first, so that every instance of the release is the same."""
    if state.rollout.paused:
        return state.wait_while_paused()
    if state.frozen and not state.rollout.forced:
        return state.wait_while_frozen()
    if state.rollout.kind is RolloutKind.REMOVE:  # starts nothing, so that a lost image is no obstacle
        return Move(Phase.RUNNING, f"step 1 of {len(state.rollout.plan)}")
    return Pin(f"Resolving the image of {state.rollout.new}")


# -- direction --------------------------------------------------------------------------------------------------------


def limit_takeovers(state: RolloutState) -> Decision | None:
    """Limit how many engines may die over one rollout, since such a rollout never reaches a deadline."""
    if state.rollout.takeovers <= state.rollout.policy.max_takeovers:
        return None
    return Move(Phase.FAILED, f"Halted: engines died {state.rollout.takeovers} times while driving this rollout")


def enter_step(state: RolloutState) -> Decision | None:
    """Record the start of a new step."""
    return Mark(MarkKind.STEP_STARTED, "Step started") if state.rollout.step_started_at is None else None


# -- the proxy ---------------------------------------------------------------------------------------------------------


def mark_traffic_shifted(state: RolloutState) -> Decision | None:
    """Record that the proxy matches the step."""
    stands = state.step.route is not None and state.router_matches and state.preview_matches
    if state.rollout.traffic_confirmed_at is None and stands and state.is_complete:
        return Mark(MarkKind.TRAFFIC_CONFIRMED, f"Traffic confirmed by the proxy: {_format_counts(state)}")
    return None


def remove_dead_members(state: RolloutState) -> Decision | None:
    """Remove members whose instance is gone at once, since their address may be assigned to another container.

    If no member is alive, the route stays as it is: the observation may be wrong.
    """
    living, preview = state.alive_members, state.alive_preview
    if len(preview) < len(state.preview_members):
        return Shift(preview, "Removing dead instances from the preview", preview=True)
    if not living or len(living) == len(state.members):
        return None
    gone = sorted(set(state.members) - {member.instance for member in living})
    return Shift(living, f"Removing {len(gone)} dead {_instances(len(gone))} from the proxy")


def remove_drained_members(state: RolloutState) -> Decision | None:
    """Remove idle instances outside the route from the proxy. That the proxy agrees proves the drain."""
    for routed, preview in ((state.observed.router, False), (state.observed.preview, True)):
        idle = [instance for instance, count in routed.draining.items() if count == 0]
        if idle:
            return Shift(routed.members, f"Removing {len(idle)} drained {_instances(len(idle))} from the proxy", preview)
    return None


# -- instances --------------------------------------------------------------------------------------------------------


def stop_surplus(state: RolloutState) -> Decision | None:
    """Stop instances that are neither wanted nor routed, and are idle or past their drain time. This makes room before new
    ones start. Healthy ones are kept while an instance that took their place is not ready."""
    kept = _kept_instances(state)
    free = [
        instance
        for instance in state.surplus_instances
        if instance not in kept
        and not state.is_reachable(instance)
        and instance.state is not InstanceState.STOPPING
        and state.is_drained(instance)
    ]
    if not free:
        return None
    overdue = any(state.has_requests_in_flight(each) for each in free)
    return Stop(tuple(free), f"Stopping {format_names(free)}", overdue)


def _kept_instances(state: RolloutState) -> list[Instance]:
    """Surplus instances that keep working. Requests leave an instance when others are ready; without a proxy it works until
    it is stopped."""
    waits = bool(state.missing_ordinals or state.awaited_instances)
    if state.step.route is None and waits and not state.rollout.in_place:
        return [instance for instance in state.surplus_instances if state.is_ready(instance)]
    if state.runs_alone or are_replacements_ready(state):
        return []
    return [each for each in state.surplus_instances if each.release == state.rollout.old and state.is_ready(each)]


def stop_before_start(state: RolloutState) -> Decision | None:
    """Where no two instances may run at once, one that is not wanted leaves the route before another starts."""
    if not state.runs_alone or not state.missing_ordinals:
        return None
    leaving = [instance for instance in state.surplus_instances if state.is_reachable(instance)]
    if not leaving:
        return None
    if state.rollout.paused:
        return state.wait_while_paused()
    names = {instance.id for instance in leaving}
    reason = f"Taking {format_names(leaving)} out of the route: no two instances may run at once"
    for routed, preview in ((state.observed.preview, True), (state.observed.router, False)):
        staying = tuple(member for member in routed.members if member.instance not in names)
        if len(staying) < len(routed.members):
            return Shift(staying, reason, preview=preview)
    return None


def start_missing(state: RolloutState) -> Decision | None:
    """Start missing instances. Their deadline does not count before the first attempt: a slow platform may need longer than
    that for what comes before it."""
    if not state.missing_ordinals:
        return None
    room = _wait_for_room(state)
    if state.rollout.starting_at is None:  # what stops has its whole grace period, however long that is
        return room or Mark(MarkKind.STARTING, "Starting instances")
    if state.is_overdue:
        return _give_up(state, _deadline_message(state, "Instances could not be started"))
    if room is not None:
        return room
    release, ordinals = next(iter(state.missing_ordinals.items()))
    return Start(release, ordinals, f"Starting {len(ordinals)} {_instances(len(ordinals))} of {release}")


def _wait_for_room(state: RolloutState) -> Decision | None:
    """Without room for a surge, leaving instances must be gone before new ones start."""
    kept = _kept_instances(state)
    leaving = [instance for instance in state.surplus_instances if instance not in kept]
    if state.rollout.in_place and leaving and not any(state.is_reachable(instance) for instance in leaving):
        return poll_soon(state, stopping(state, f"Waiting for {format_names(leaving)} to stop"))
    return None


def wait_until_ready(state: RolloutState) -> Decision | None:
    """Wait for instances that are about to take traffic, and for those of the new release as long as it is rolled out."""
    if not state.awaited_instances:
        return None
    if state.is_overdue:
        detail = next((instance.detail for instance in state.awaited_instances if instance.detail), "")
        what = f"{format_names(state.awaited_instances)} did not become ready"
        return _give_up(state, _deadline_message(state, what, detail))
    reason = f"Waiting for {format_names(state.awaited_instances)} to become ready"
    until = None if state.rollout.paused else state.deadline_start + state.rollout.policy.healthy_deadline_seconds
    can_roll_back = state.rollout.phase is Phase.RUNNING and state.rollout.kind is not RolloutKind.REPAIR
    then = "the rollout rolls back" if can_roll_back else "the rollout halts"
    then = "`tidegate resume` continues the rollout" if until is None else then
    return poll_soon(state, state.waiting_for(WaitKind.READINESS, reason, then, until=until))


def _give_up(state: RolloutState, reason: str) -> Move:
    """Roll back or halt because instances do not start or become ready."""
    cause = RollbackCause.UNAVAILABLE if is_failure_shared(state) else health_cause(state)
    return roll_back_or_halt(state.rollout, state.observed, reason, cause)


def _deadline_message(state: RolloutState, what: str, detail: str = "") -> str:
    return f"{what} within {state.rollout.policy.healthy_deadline_seconds:g} s" + (f": {detail}" if detail else "")


def shift_traffic(state: RolloutState) -> Decision | None:
    """Write the proxy if it does not match the step. Bake and verdict of an earlier shift do not count any more."""
    if state.router_matches:
        return None
    if state.rollout.paused:
        return state.wait_while_paused()
    if state.rollout.traffic_confirmed_at is not None or state.rollout.step_ready_at is not None:
        return Mark(MarkKind.TRAFFIC_DIVERGED, "The proxy no longer matches this step")
    return Shift(state.desired_members, f"Shifting traffic to {_format_counts(state)}")


def shift_preview(state: RolloutState) -> Decision | None:
    """Write the preview if it does not match the step; the traffic of the service is not affected."""
    if state.preview_matches:
        return None
    to = format_names(
        instance
        for instance in state.alive_instances
        if any(instance.id == wanted.instance for wanted in state.desired_preview)
    )
    return Shift(state.desired_preview, f"Preview leads to {to or 'no instance'}", preview=True)


def _instances(count: int) -> str:
    return "instance" if count == 1 else "instances"


def _format_counts(state: RolloutState) -> str:
    return ", ".join(f"{count} of {release}" for release, count in state.route.items()) or "nothing"


def settle_step(state: RolloutState) -> Decision | None:
    """Record that the step is ready: the bake starts."""
    return Mark(MarkKind.STEP_READY, "Desired state reached") if state.rollout.step_ready_at is None else None


Rule = Callable[[RolloutState], Decision | None]

PENDING_RULES: tuple[Rule, ...] = (limit_takeovers, end_before_start, pin_image)
RULES: tuple[Rule, ...] = (
    limit_takeovers,
    enter_step,
    track_instances,
    take_port,
    roll_back,
    mark_traffic_shifted,
    remove_dead_members,
    remove_unready_members,
    return_recovered_members,
    remove_drained_members,
    stop_surplus,
    run_hooks_before,
    stop_before_start,
    start_missing,
    wait_until_ready,
    shift_traffic,
    shift_preview,
    wait_until_recovered,
    settle_step,
    run_analysis,
    wait_for_bake,
    wait_for_drain,
    run_hooks,
    extend_bake,
    wait_for_group,
    wait_for_approval,
    wait_until_stable,
    next_step,
)
