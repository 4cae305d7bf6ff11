"""The state machine: one ladder; the first rung that applies names the next move.

    decide(rollout, seen, signals, now, since) -> Decision

Make before break: instances are started, waited for, put into the route, and only then are others taken out, drained and
stopped. The same ladder serves every plan, every crash and every drift, because it asks only what is wanted and what is
there. `docs/architecture.md` has the table of the rungs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tidegate.clock import Time
from tidegate.core.decisions import Decision, Mark, MarkKind, Move, Pin, Shift, Start, Stop, Wait
from tidegate.core.gates import (
    extend_bake,
    failed_task,
    is_inconclusive,
    next_step,
    poll_soon,
    rolled_back_peer,
    run_analysis,
    run_hooks,
    run_hooks_before,
    wait_for_approval,
    wait_for_bake,
    wait_for_drain,
    wait_for_group,
)
from tidegate.core.model import (
    FailureAction,
    InconclusiveAction,
    InstanceState,
    ObservedState,
    Rollout,
    RolloutKind,
    Signal,
    SignalKind,
)
from tidegate.core.phases import Phase
from tidegate.core.planner import roll_back_or_halt
from tidegate.core.rollout_state import Peer, RolloutState, format_names


def decide(
    rollout: Rollout,
    observed: ObservedState,
    signals: Sequence[Signal],
    now: Time,
    since: Time,
    frozen: str = "",
    peers: Sequence[Peer] = (),
) -> Decision:
    """The single next move for a live rollout.

    `observed` is the world as just read, `signals` every wish recorded so far in their order, `since` the moment from which
    waiting for instances may count: when this engine took the rollout over, all stood at last, or it saw again. `frozen` is
    why nothing is moved forward in its environment, `peers` the others of its group.
    """
    state = RolloutState(rollout, observed, signals, now, since, frozen, peers)
    rules = PENDING_RULES if rollout.phase is Phase.PENDING else RULES
    decisions = (rule(state) for rule in rules)
    return next(decision for decision in decisions if decision is not None)


# -- before anything moves --------------------------------------------------------------------------------------------


def end_before_start(state: RolloutState) -> Decision | None:
    """A rollback that is asked before anything was touched ends it at once, as does a turn of its group."""
    asked = state.latest_signal(SignalKind.ROLLBACK)
    reason = _rollback_reason(asked) if asked else rolled_back_peer(state)
    return Move(Phase.ROLLED_BACK, reason) if reason else None


def pin_image(state: RolloutState) -> Decision | None:
    """The image is resolved first, so that every instance of the release is the same."""
    if state.rollout.paused:
        return Wait(state.now + state.rollout.policy.interval_seconds, "paused")
    if state.frozen and not state.rollout.forced:
        return Wait(state.now + state.rollout.policy.interval_seconds, state.frozen)
    return Pin(f"resolving the image of {state.rollout.new}")


# -- direction --------------------------------------------------------------------------------------------------------


def limit_takeovers(state: RolloutState) -> Decision | None:
    """Engines that keep dying over one rollout never reach a deadline, so their number is bounded."""
    if state.rollout.takeovers <= state.rollout.policy.max_takeovers:
        return None
    return Move(Phase.FAILED, f"halted: engines died {state.rollout.takeovers} times while driving this rollout")


def enter_step(state: RolloutState) -> Decision | None:
    """Rung 1: a new step."""
    return Mark(MarkKind.STEP_STARTED, "step entered") if state.rollout.step_started_at is None else None


def roll_back(state: RolloutState) -> Decision | None:
    """Rung 2: asked for, judged bad, or the candidate does not stand."""
    if state.rollout.phase is not Phase.RUNNING:
        return None
    request = state.latest_signal(SignalKind.ROLLBACK)
    causes = (_failed_analysis, _inconclusive_analysis, _failed_candidate, failed_task, rolled_back_peer)
    reason = _rollback_reason(request) if request else next((reason for find in causes if (reason := find(state))), "")
    return roll_back_or_halt(state.rollout, state.observed, reason) if reason else None


def _rollback_reason(signal: Signal) -> str:
    return f"rollback asked by {signal.by}" + (f": {signal.reason}" if signal.reason else "")


def _failed_analysis(state: RolloutState) -> str:
    verdict, policy = state.rollout.verdict, state.rollout.policy
    if state.is_forced or policy.failure_action is not FailureAction.ROLLBACK:
        return ""
    if verdict is None or not state.rollout.failed_verdict:
        return ""
    return verdict.message


def _inconclusive_analysis(state: RolloutState) -> str:
    """One sentence when nothing could be said by the end of the bake, and the policy is to turn back then."""
    verdict = state.rollout.verdict
    wanted = state.rollout.policy.on_inconclusive is InconclusiveAction.ROLLBACK and not state.is_forced
    return verdict.message if wanted and verdict is not None and verdict.final and is_inconclusive(state) else ""


def _failed_candidate(state: RolloutState) -> str:
    """One sentence when more instances of the new release have failed than are tolerated."""
    rollout, policy = state.rollout, state.rollout.policy
    failed = [
        instance
        for instance in state.observed.instances
        if instance.release == rollout.new
        and instance.id not in rollout.preexisting
        and (instance.state is InstanceState.FAILED or instance.restarts > policy.max_restarts)
    ]
    tolerated = policy.max_failure_ratio * state.step.fleet.get(rollout.new, 0)
    if len(failed) <= tolerated:
        return ""
    worst = failed[0]
    detail = worst.detail or f"restarted {worst.restarts} times"
    whose = " of the new release" if rollout.kind is RolloutKind.RELEASE else ""
    return f"{format_names(failed)}{whose} failed: {detail}"


# -- the proxy, kept true ---------------------------------------------------------------------------------------------


def mark_traffic_shifted(state: RolloutState) -> Decision | None:
    """Rung 3: the proxy matches and no mark says so."""
    stands = state.router_matches and state.preview_matches
    if state.rollout.traffic_confirmed_at is None and stands and state.is_complete:
        return Mark(MarkKind.TRAFFIC_CONFIRMED, f"traffic goes to {_format_counts(state)}")
    return None


def remove_dead_members(state: RolloutState) -> Decision | None:
    """A member whose instance is gone leaves the route at once, since its address may be given to another container.

    When no member is alive the route is left as it is: what seems to be dead may be our own blindness.
    """
    living, preview = state.alive_members, state.alive_preview
    if len(preview) < len(state.preview_members):
        return Shift(preview, "taking those out of the preview that no longer run", preview=True)
    if not living or len(living) == len(state.members):
        return None
    gone = sorted(set(state.members) - {member.instance for member in living})
    return Shift(living, f"taking out {len(gone)} that no longer run")


def remove_drained_members(state: RolloutState) -> Decision | None:
    """An unrouted instance without requests is struck from the proxy; that it agrees is the proof of the drain."""
    for routed, preview in ((state.observed.router, False), (state.observed.preview, True)):
        idle = [instance for instance, count in routed.draining.items() if count == 0]
        if idle:
            return Shift(routed.members, f"{len(idle)} drained, striking from the proxy", preview)
    return None


# -- instances --------------------------------------------------------------------------------------------------------


def stop_surplus(state: RolloutState) -> Decision | None:
    """Rung 4: neither wanted nor routed, and idle or drained. Frees room before anything new is started."""
    free = [
        instance
        for instance in state.surplus_instances
        if not state.is_reachable(instance) and instance.state is not InstanceState.STOPPING and state.is_drained(instance)
    ]
    if not free:
        return None
    overdue = any(state.has_requests_in_flight(each) for each in free)
    return Stop(tuple(free), f"stopping {format_names(free)}", overdue)


def start_missing(state: RolloutState) -> Decision | None:
    """Rung 5: wanted instances are missing."""
    if not state.missing_ordinals:
        return None
    if state.is_overdue:
        return roll_back_or_halt(state.rollout, state.observed, _deadline_message(state, "instances could not be started"))
    room = _wait_for_room(state)
    if room is not None:
        return room
    release, ordinals = next(iter(state.missing_ordinals.items()))
    return Start(release, ordinals, f"starting {len(ordinals)} of {release}")


def _wait_for_room(state: RolloutState) -> Decision | None:
    """Without room for a surge, what is leaving must be gone before anything new comes."""
    if (
        state.rollout.in_place
        and state.surplus_instances
        and not any(state.is_reachable(instance) for instance in state.surplus_instances)
    ):
        return poll_soon(state, f"waiting for {format_names(state.surplus_instances)} to be gone")
    return None


def wait_until_ready(state: RolloutState) -> Decision | None:
    """Rung 6: instances about to serve are not ready."""
    if not state.awaited_instances:
        return None
    if state.is_overdue:
        detail = next((instance.detail for instance in state.awaited_instances if instance.detail), "")
        return roll_back_or_halt(
            state.rollout,
            state.observed,
            _deadline_message(state, f"{format_names(state.awaited_instances)} not ready", detail),
        )
    return poll_soon(state, f"waiting for {format_names(state.awaited_instances)} to be ready")


def _deadline_message(state: RolloutState, what: str, detail: str = "") -> str:
    return f"{what} within {state.rollout.policy.healthy_deadline_seconds:g} s" + (f": {detail}" if detail else "")


def shift_traffic(state: RolloutState) -> Decision | None:
    """Rung 7: the proxy does not match. What counted from an earlier shift of this step starts anew."""
    if state.router_matches:
        return None
    if state.rollout.paused:
        return Wait(state.now + state.rollout.policy.interval_seconds, "paused before moving traffic")
    if state.rollout.traffic_confirmed_at is not None or state.rollout.step_ready_at is not None:
        return Mark(MarkKind.TRAFFIC_DIVERGED, "the proxy no longer serves what this step wants")
    if state.rollout.drain_started_at is not None:
        return Mark(MarkKind.SHIFTING_TRAFFIC, "about to write the proxy")
    return Shift(state.desired_members, f"moving traffic to {_format_counts(state)}")


def shift_preview(state: RolloutState) -> Decision | None:
    """The preview does not lead where it shall; the service's own traffic is not touched by it."""
    if state.preview_matches:
        return None
    to = format_names(
        instance
        for instance in state.alive_instances
        if any(instance.id == wanted.instance for wanted in state.desired_preview)
    )
    return Shift(state.desired_preview, f"the preview leads to {to or 'nothing'}", preview=True)


def _format_counts(state: RolloutState) -> str:
    return ", ".join(f"{count} of {release}" for release, count in state.route.items()) or "nothing"


def settle_step(state: RolloutState) -> Decision | None:
    """Rung 8: all stands as wanted."""
    return Mark(MarkKind.STEP_READY, "all stands as wanted") if state.rollout.step_ready_at is None else None


Rule = Callable[[RolloutState], Decision | None]

PENDING_RULES: tuple[Rule, ...] = (limit_takeovers, end_before_start, pin_image)
RULES: tuple[Rule, ...] = (
    limit_takeovers,
    enter_step,
    roll_back,
    mark_traffic_shifted,
    remove_dead_members,
    remove_drained_members,
    stop_surplus,
    run_hooks_before,
    start_missing,
    wait_until_ready,
    shift_traffic,
    shift_preview,
    settle_step,
    run_analysis,
    wait_for_bake,
    wait_for_drain,
    run_hooks,
    extend_bake,
    wait_for_group,
    wait_for_approval,
    next_step,
)
