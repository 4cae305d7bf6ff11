"""The state machine: one ladder; the first rung that applies names the next move.

    decide(rollout, seen, signals, now, since) -> Decision

Make before break: instances are started, waited for, put into the route, and only then are others taken out, drained and
stopped. The same ladder serves every plan, every crash and every drift, because it asks only what is wanted and what is
there. `docs/architecture.md` has the table of the rungs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tidegate.core.decisions import Decision, Mark, MarkKind, Move, Pin, Shift, Start, Stop, Wait
from tidegate.core.gating import bake, drain, extend, go_on, hold, inconclusive, judge, soon
from tidegate.core.joining import arrive, peer_turned
from tidegate.core.judge.verdict import Time
from tidegate.core.model import (
    FailureAction,
    InconclusiveAction,
    InstanceState,
    Rollout,
    RolloutKind,
    Seen,
    Signal,
    SignalKind,
)
from tidegate.core.phases import Phase
from tidegate.core.tasking import run_before, run_tasks, task_failed
from tidegate.core.turning import give_up
from tidegate.core.view import Peer, View, names


def decide(
    rollout: Rollout,
    seen: Seen,
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
    view = View(rollout, seen, signals, now, since, frozen, peers)
    ladder = PENDING if rollout.phase is Phase.PENDING else LADDER
    found = (rung(view) for rung in ladder)
    return next(decision for decision in found if decision is not None)


# -- before anything moves --------------------------------------------------------------------------------------------


def called_off(view: View) -> Decision | None:
    """A rollback that is asked before anything was touched ends it at once, as does a turn of its group."""
    asked = view.wished(SignalKind.ROLLBACK)
    reason = _asked(asked) if asked else peer_turned(view)
    return Move(Phase.ROLLED_BACK, reason) if reason else None


def pin(view: View) -> Decision | None:
    """The image is resolved first, so that every instance of the release is the same."""
    if view.rollout.paused:
        return Wait(view.now + view.rollout.policy.look_seconds, "paused")
    if view.frozen and not view.rollout.forced:
        return Wait(view.now + view.rollout.policy.look_seconds, view.frozen)
    return Pin(f"resolving the image of {view.rollout.new}")


# -- direction --------------------------------------------------------------------------------------------------------


def worn_out(view: View) -> Decision | None:
    """Engines that keep dying over one rollout never reach a deadline, so their number is bounded."""
    if view.rollout.resumes <= view.rollout.policy.max_resumes:
        return None
    return Move(Phase.FAILED, f"halted: engines died {view.rollout.resumes} times while driving this rollout")


def enter(view: View) -> Decision | None:
    """Rung 1: a new step."""
    return Mark(MarkKind.ENTERED, "step entered") if view.rollout.entered is None else None


def turn_back(view: View) -> Decision | None:
    """Rung 2: asked for, judged bad, or the candidate does not stand."""
    if view.rollout.phase is not Phase.RUNNING:
        return None
    asked = view.wished(SignalKind.ROLLBACK)
    found = (_judged_bad, _never_known, _candidate_failed, task_failed, peer_turned)
    reason = _asked(asked) if asked else next((said for look in found if (said := look(view))), "")
    return give_up(view.rollout, view.seen, reason) if reason else None


def _asked(signal: Signal) -> str:
    return f"rollback asked by {signal.by}" + (f": {signal.reason}" if signal.reason else "")


def _judged_bad(view: View) -> str:
    verdict, policy = view.rollout.verdict, view.rollout.policy
    if view.forced or policy.failure_action is not FailureAction.ROLLBACK:
        return ""
    if verdict is None or not view.rollout.failed_verdict:
        return ""
    return verdict.sentence


def _never_known(view: View) -> str:
    """One sentence when nothing could be said by the end of the bake, and the policy is to turn back then."""
    verdict = view.rollout.verdict
    wanted = view.rollout.policy.on_inconclusive is InconclusiveAction.ROLLBACK and not view.forced
    return verdict.sentence if wanted and verdict is not None and verdict.final and inconclusive(view) else ""


def _candidate_failed(view: View) -> str:
    """One sentence when more instances of the new release have failed than are tolerated."""
    rollout, policy = view.rollout, view.rollout.policy
    failed = [
        each
        for each in view.seen.instances
        if each.release == rollout.new
        and each.id not in rollout.spared
        and (each.state is InstanceState.FAILED or each.restarts > policy.max_restarts)
    ]
    tolerated = policy.max_failure_ratio * view.step.fleet.get(rollout.new, 0)
    if len(failed) <= tolerated:
        return ""
    worst = failed[0]
    detail = worst.detail or f"restarted {worst.restarts} times"
    whose = " of the new release" if rollout.kind is RolloutKind.RELEASE else ""
    return f"{names(failed)}{whose} failed: {detail}"


# -- the proxy, kept true ---------------------------------------------------------------------------------------------


def mark_shifted(view: View) -> Decision | None:
    """Rung 3: the proxy matches and no mark says so."""
    stands = view.matches and view.preview_matches
    if view.rollout.shifted is None and stands and view.stands:
        return Mark(MarkKind.SHIFTED, f"traffic goes to {_counts(view)}")
    return None


def drop_dead(view: View) -> Decision | None:
    """A member whose instance is gone leaves the route at once, since its address may be given to another container.

    When no member is alive the route is left as it is: what seems to be dead may be our own blindness.
    """
    living, preview = view.living_members, view.living_preview
    if len(preview) < len(view.previewed):
        return Shift(preview, "taking those out of the preview that no longer run", preview=True)
    if not living or len(living) == len(view.members):
        return None
    gone = sorted(set(view.members) - {each.instance for each in living})
    return Shift(living, f"taking out {len(gone)} that no longer run")


def forget_idle(view: View) -> Decision | None:
    """An unrouted instance without requests is struck from the proxy; that it agrees is the proof of the drain."""
    for routed, preview in ((view.seen.routed, False), (view.seen.preview, True)):
        idle = [instance for instance, count in routed.draining.items() if count == 0]
        if idle:
            return Shift(routed.members, f"{len(idle)} drained, striking from the proxy", preview)
    return None


# -- instances --------------------------------------------------------------------------------------------------------


def stop_surplus(view: View) -> Decision | None:
    """Rung 4: neither wanted nor routed, and idle or drained. Frees room before anything new is started."""
    free = [
        each
        for each in view.surplus
        if not view.reachable(each) and each.state is not InstanceState.STOPPING and view.released(each)
    ]
    if not free:
        return None
    overdue = any(view.in_flight(each) for each in free)
    return Stop(tuple(free), f"stopping {names(free)}", overdue)


def start_missing(view: View) -> Decision | None:
    """Rung 5: wanted instances are missing."""
    if not view.missing:
        return None
    if view.overdue:
        return give_up(view.rollout, view.seen, _late(view, "instances could not be started"))
    room = _no_room_yet(view)
    if room is not None:
        return room
    release, ordinals = next(iter(view.missing.items()))
    return Start(release, ordinals, f"starting {len(ordinals)} of {release}")


def _no_room_yet(view: View) -> Decision | None:
    """Without room for a surge, what is leaving must be gone before anything new comes."""
    if view.rollout.in_place and view.surplus and not any(view.reachable(each) for each in view.surplus):
        return soon(view, f"waiting for {names(view.surplus)} to be gone")
    return None


def await_ready(view: View) -> Decision | None:
    """Rung 6: instances about to serve are not ready."""
    if not view.awaited:
        return None
    if view.overdue:
        detail = next((each.detail for each in view.awaited if each.detail), "")
        return give_up(view.rollout, view.seen, _late(view, f"{names(view.awaited)} not ready", detail))
    return soon(view, f"waiting for {names(view.awaited)} to be ready")


def _late(view: View, what: str, detail: str = "") -> str:
    return f"{what} within {view.rollout.policy.healthy_deadline_seconds:g} s" + (f": {detail}" if detail else "")


def shift(view: View) -> Decision | None:
    """Rung 7: the proxy does not match. What counted from an earlier shift of this step starts anew."""
    if view.matches:
        return None
    if view.rollout.paused:
        return Wait(view.now + view.rollout.policy.look_seconds, "paused before moving traffic")
    if view.rollout.shifted is not None or view.rollout.settled is not None:
        return Mark(MarkKind.REOPENED, "the proxy no longer serves what this step wants")
    if view.rollout.drain_from is not None:
        return Mark(MarkKind.SHIFTING, "about to write the proxy")
    return Shift(view.wanted_members, f"moving traffic to {_counts(view)}")


def shift_preview(view: View) -> Decision | None:
    """The preview does not lead where it shall; the service's own traffic is not touched by it."""
    if view.preview_matches:
        return None
    to = names(each for each in view.alive if any(each.id == wanted.instance for wanted in view.wanted_preview))
    return Shift(view.wanted_preview, f"the preview leads to {to or 'nothing'}", preview=True)


def _counts(view: View) -> str:
    return ", ".join(f"{count} of {release}" for release, count in view.route.items()) or "nothing"


def settle(view: View) -> Decision | None:
    """Rung 8: all stands as wanted."""
    return Mark(MarkKind.SETTLED, "all stands as wanted") if view.rollout.settled is None else None


Rung = Callable[[View], Decision | None]

PENDING: tuple[Rung, ...] = (worn_out, called_off, pin)
LADDER: tuple[Rung, ...] = (
    worn_out,
    enter,
    turn_back,
    mark_shifted,
    drop_dead,
    forget_idle,
    stop_surplus,
    run_before,
    start_missing,
    await_ready,
    shift,
    shift_preview,
    settle,
    judge,
    bake,
    drain,
    run_tasks,
    extend,
    arrive,
    hold,
    go_on,
)
