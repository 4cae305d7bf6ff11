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
    seen: ObservedState,
    signals: Sequence[Signal],
    now: Time,
    since: Time,
    frozen: str = "",
    peers: Sequence[Peer] = (),
) -> Decision:
    """The single next move for a live rollout.

    `seen` is the world as just read, `signals` every wish recorded so far in their order, `since` the moment from which
    waiting for instances may count: when this engine took the rollout over, all stood at last, or it saw again. `frozen` is
    why nothing is moved forward in its environment, `peers` the others of its group.
    """
    view = RolloutState(rollout, seen, signals, now, since, frozen, peers)
    ladder = PENDING_RULES if rollout.phase is Phase.PENDING else RULES
    result = (rung(view) for rung in ladder)
    return next(decision for decision in result if decision is not None)


# -- before anything moves --------------------------------------------------------------------------------------------


def end_before_start(view: RolloutState) -> Decision | None:
    """A rollback that is asked before anything was touched ends it at once, as does a turn of its group."""
    asked = view.wished(SignalKind.ROLLBACK)
    reason = _rollback_reason(asked) if asked else rolled_back_peer(view)
    return Move(Phase.ROLLED_BACK, reason) if reason else None


def pin_image(view: RolloutState) -> Decision | None:
    """The image is resolved first, so that every instance of the release is the same."""
    if view.rollout.paused:
        return Wait(view.now + view.rollout.policy.look_seconds, "paused")
    if view.frozen and not view.rollout.forced:
        return Wait(view.now + view.rollout.policy.look_seconds, view.frozen)
    return Pin(f"resolving the image of {view.rollout.new}")


# -- direction --------------------------------------------------------------------------------------------------------


def limit_takeovers(view: RolloutState) -> Decision | None:
    """Engines that keep dying over one rollout never reach a deadline, so their number is bounded."""
    if view.rollout.resumes <= view.rollout.policy.max_resumes:
        return None
    return Move(Phase.FAILED, f"halted: engines died {view.rollout.resumes} times while driving this rollout")


def enter_step(view: RolloutState) -> Decision | None:
    """Rung 1: a new step."""
    return Mark(MarkKind.STEP_STARTED, "step entered") if view.rollout.entered is None else None


def roll_back(view: RolloutState) -> Decision | None:
    """Rung 2: asked for, judged bad, or the candidate does not stand."""
    if view.rollout.phase is not Phase.RUNNING:
        return None
    asked = view.wished(SignalKind.ROLLBACK)
    result = (_failed_analysis, _inconclusive_analysis, _failed_candidate, failed_task, rolled_back_peer)
    reason = _rollback_reason(asked) if asked else next((said for look in result if (said := look(view))), "")
    return roll_back_or_halt(view.rollout, view.seen, reason) if reason else None


def _rollback_reason(signal: Signal) -> str:
    return f"rollback asked by {signal.by}" + (f": {signal.reason}" if signal.reason else "")


def _failed_analysis(view: RolloutState) -> str:
    verdict, policy = view.rollout.verdict, view.rollout.policy
    if view.forced or policy.failure_action is not FailureAction.ROLLBACK:
        return ""
    if verdict is None or not view.rollout.failed_verdict:
        return ""
    return verdict.message


def _inconclusive_analysis(view: RolloutState) -> str:
    """One sentence when nothing could be said by the end of the bake, and the policy is to turn back then."""
    verdict = view.rollout.verdict
    wanted = view.rollout.policy.on_inconclusive is InconclusiveAction.ROLLBACK and not view.forced
    return verdict.message if wanted and verdict is not None and verdict.final and is_inconclusive(view) else ""


def _failed_candidate(view: RolloutState) -> str:
    """One sentence when more instances of the new release have failed than are tolerated."""
    rollout, policy = view.rollout, view.rollout.policy
    failed = [
        instance
        for instance in view.seen.instances
        if instance.release == rollout.new
        and instance.id not in rollout.spared
        and (instance.state is InstanceState.FAILED or instance.restarts > policy.max_restarts)
    ]
    tolerated = policy.max_failure_ratio * view.step.fleet.get(rollout.new, 0)
    if len(failed) <= tolerated:
        return ""
    worst = failed[0]
    detail = worst.detail or f"restarted {worst.restarts} times"
    whose = " of the new release" if rollout.kind is RolloutKind.RELEASE else ""
    return f"{format_names(failed)}{whose} failed: {detail}"


# -- the proxy, kept true ---------------------------------------------------------------------------------------------


def mark_traffic_shifted(view: RolloutState) -> Decision | None:
    """Rung 3: the proxy matches and no mark says so."""
    stands = view.matches and view.preview_matches
    if view.rollout.shifted is None and stands and view.stands:
        return Mark(MarkKind.TRAFFIC_CONFIRMED, f"traffic goes to {_format_counts(view)}")
    return None


def remove_dead_members(view: RolloutState) -> Decision | None:
    """A member whose instance is gone leaves the route at once, since its address may be given to another container.

    When no member is alive the route is left as it is: what seems to be dead may be our own blindness.
    """
    living, preview = view.living_members, view.living_preview
    if len(preview) < len(view.previewed):
        return Shift(preview, "taking those out of the preview that no longer run", preview=True)
    if not living or len(living) == len(view.members):
        return None
    gone = sorted(set(view.members) - {member.instance for member in living})
    return Shift(living, f"taking out {len(gone)} that no longer run")


def remove_drained_members(view: RolloutState) -> Decision | None:
    """An unrouted instance without requests is struck from the proxy; that it agrees is the proof of the drain."""
    for routed, preview in ((view.seen.routed, False), (view.seen.preview, True)):
        idle = [instance for instance, count in routed.draining.items() if count == 0]
        if idle:
            return Shift(routed.members, f"{len(idle)} drained, striking from the proxy", preview)
    return None


# -- instances --------------------------------------------------------------------------------------------------------


def stop_surplus(view: RolloutState) -> Decision | None:
    """Rung 4: neither wanted nor routed, and idle or drained. Frees room before anything new is started."""
    free = [
        instance
        for instance in view.surplus
        if not view.reachable(instance) and instance.state is not InstanceState.STOPPING and view.released(instance)
    ]
    if not free:
        return None
    overdue = any(view.in_flight(each) for each in free)
    return Stop(tuple(free), f"stopping {format_names(free)}", overdue)


def start_missing(view: RolloutState) -> Decision | None:
    """Rung 5: wanted instances are missing."""
    if not view.missing:
        return None
    if view.overdue:
        return roll_back_or_halt(view.rollout, view.seen, _deadline_message(view, "instances could not be started"))
    room = _wait_for_room(view)
    if room is not None:
        return room
    release, ordinals = next(iter(view.missing.items()))
    return Start(release, ordinals, f"starting {len(ordinals)} of {release}")


def _wait_for_room(view: RolloutState) -> Decision | None:
    """Without room for a surge, what is leaving must be gone before anything new comes."""
    if view.rollout.in_place and view.surplus and not any(view.reachable(instance) for instance in view.surplus):
        return poll_soon(view, f"waiting for {format_names(view.surplus)} to be gone")
    return None


def wait_until_ready(view: RolloutState) -> Decision | None:
    """Rung 6: instances about to serve are not ready."""
    if not view.awaited:
        return None
    if view.overdue:
        detail = next((instance.detail for instance in view.awaited if instance.detail), "")
        return roll_back_or_halt(
            view.rollout, view.seen, _deadline_message(view, f"{format_names(view.awaited)} not ready", detail)
        )
    return poll_soon(view, f"waiting for {format_names(view.awaited)} to be ready")


def _deadline_message(view: RolloutState, what: str, detail: str = "") -> str:
    return f"{what} within {view.rollout.policy.healthy_deadline_seconds:g} s" + (f": {detail}" if detail else "")


def shift_traffic(view: RolloutState) -> Decision | None:
    """Rung 7: the proxy does not match. What counted from an earlier shift of this step starts anew."""
    if view.matches:
        return None
    if view.rollout.paused:
        return Wait(view.now + view.rollout.policy.look_seconds, "paused before moving traffic")
    if view.rollout.shifted is not None or view.rollout.settled is not None:
        return Mark(MarkKind.TRAFFIC_DIVERGED, "the proxy no longer serves what this step wants")
    if view.rollout.drain_from is not None:
        return Mark(MarkKind.SHIFTING_TRAFFIC, "about to write the proxy")
    return Shift(view.wanted_members, f"moving traffic to {_format_counts(view)}")


def shift_preview(view: RolloutState) -> Decision | None:
    """The preview does not lead where it shall; the service's own traffic is not touched by it."""
    if view.preview_matches:
        return None
    to = format_names(
        instance for instance in view.alive if any(instance.id == wanted.instance for wanted in view.wanted_preview)
    )
    return Shift(view.wanted_preview, f"the preview leads to {to or 'nothing'}", preview=True)


def _format_counts(view: RolloutState) -> str:
    return ", ".join(f"{count} of {release}" for release, count in view.route.items()) or "nothing"


def settle_step(view: RolloutState) -> Decision | None:
    """Rung 8: all stands as wanted."""
    return Mark(MarkKind.STEP_READY, "all stands as wanted") if view.rollout.settled is None else None


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
