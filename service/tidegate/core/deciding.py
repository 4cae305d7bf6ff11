"""The state machine: one ladder; the first rung that applies names the next move.

    decide(rollout, seen, signals, now, since) -> Decision

Make before break: instances are started, waited for, put into the route, and only then are others taken out, drained and
stopped. The same ladder serves every plan, every crash and every drift, because it asks only what is wanted and what is
there. `docs/architecture.md` has the table of the rungs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tidegate.core import planning
from tidegate.core.decisions import Decision, Judge, Mark, MarkKind, Move, Pin, Shift, Start, Stop, Wait
from tidegate.core.judge.verdict import Outcome, Time
from tidegate.core.model import (
    FailureAction,
    InconclusiveAction,
    InstanceState,
    Plan,
    Rollout,
    Seen,
    Signal,
    SignalKind,
)
from tidegate.core.phases import Phase
from tidegate.core.view import View, member, names

WAITING_LOOK_SECONDS = 30.0  # at least, between two looks while a person is waited for


def decide(rollout: Rollout, seen: Seen, signals: Sequence[Signal], now: Time, since: Time) -> Decision:
    """The single next move for a live rollout.

    `seen` is the world as just read, `signals` every wish recorded so far in their order, `since` the moment this engine
    took the rollout over.
    """
    view = View(rollout, seen, signals, now, since)
    ladder = PENDING if rollout.phase is Phase.PENDING else LADDER
    found = (rung(view) for rung in ladder)
    return next(decision for decision in found if decision is not None)


def give_up(rollout: Rollout, seen: Seen, reason: str) -> Move:
    """What follows when it cannot go on: turn back; already on the way back, halt. No traffic is moved by this itself."""
    if rollout.phase is Phase.RUNNING:
        return Move(Phase.ROLLING_BACK, reason, plan=way_back(rollout, seen))
    return Move(Phase.FAILED, reason)


def way_back(rollout: Rollout, seen: Seen) -> Plan:
    """The plan that undoes this rollout from where the world stands."""
    if rollout.old is None or not rollout.in_place:
        return planning.back(rollout.old, rollout.old_replicas)
    there = [each.release for each in seen.instances if each.state is not InstanceState.STOPPING]
    return planning.back_in_place(
        rollout.old,
        rollout.new,
        standing=min(there.count(rollout.old), rollout.old_replicas),
        replicas=rollout.old_replicas,
        present=there.count(rollout.new),
        batch=rollout.batch,
    )


# -- before anything moves --------------------------------------------------------------------------------------------


def called_off(view: View) -> Decision | None:
    """A rollback that is asked before anything was touched ends it at once."""
    asked = view.wished(SignalKind.ROLLBACK)
    return Move(Phase.ROLLED_BACK, _asked(asked)) if asked else None


def pin(view: View) -> Decision | None:
    """The image is resolved first, so that every instance of the release is the same."""
    if view.rollout.paused:
        return Wait(view.now + view.rollout.policy.look_seconds, "paused")
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
    reason = _asked(asked) if asked else _judged_bad(view) or _never_known(view) or _candidate_failed(view)
    return give_up(view.rollout, view.seen, reason) if reason else None


def _asked(signal: Signal) -> str:
    return f"rollback asked by {signal.by}" + (f": {signal.reason}" if signal.reason else "")


def _judged_bad(view: View) -> str:
    verdict, policy = view.rollout.verdict, view.rollout.policy
    if verdict is None or not view.rollout.failed_verdict or policy.failure_action is not FailureAction.ROLLBACK:
        return ""
    return verdict.sentence


def _never_known(view: View) -> str:
    """One sentence when nothing could be said by the end of the bake, and the policy is to turn back then."""
    verdict = view.rollout.verdict
    wanted = view.rollout.policy.on_inconclusive is InconclusiveAction.ROLLBACK
    return verdict.sentence if wanted and verdict is not None and verdict.final and _inconclusive(view) else ""


def _candidate_failed(view: View) -> str:
    """One sentence when more instances of the new release have failed than are tolerated."""
    rollout, policy = view.rollout, view.rollout.policy
    failed = [
        each
        for each in view.seen.instances
        if each.release == rollout.new and (each.state is InstanceState.FAILED or each.restarts > policy.max_restarts)
    ]
    tolerated = policy.max_failure_ratio * view.step.fleet.get(rollout.new, 0)
    if len(failed) <= tolerated:
        return ""
    worst = failed[0]
    detail = worst.detail or f"restarted {worst.restarts} times"
    return f"{names(failed)} of the new release failed: {detail}"


# -- the proxy, kept true ---------------------------------------------------------------------------------------------


def mark_shifted(view: View) -> Decision | None:
    """Rung 3: the proxy matches and no mark says so."""
    if view.rollout.shifted is None and view.matches and not view.missing and not view.awaited:
        return Mark(MarkKind.SHIFTED, f"traffic goes to {_counts(view)}")
    return None


def drop_dead(view: View) -> Decision | None:
    """A member whose instance is gone leaves the route at once, since its address may be given to another container.

    When no member is alive the route is left as it is: what seems to be dead may be our own blindness.
    """
    living = view.living_members
    if not living or len(living) == len(view.members):
        return None
    gone = sorted(set(view.members) - {each.instance for each in living})
    return Shift(living, f"taking out {len(gone)} that no longer run")


def forget_idle(view: View) -> Decision | None:
    """An unrouted instance without requests is struck from the proxy; that it agrees is the proof of the drain."""
    idle = [instance for instance, count in view.seen.routed.draining.items() if count == 0]
    if not idle:
        return None
    return Shift(view.seen.routed.members, f"{len(idle)} drained, striking from the proxy")


# -- instances --------------------------------------------------------------------------------------------------------


def stop_surplus(view: View) -> Decision | None:
    """Rung 4: neither wanted nor routed, and idle or drained. Frees room before anything new is started."""
    free = [
        each
        for each in view.surplus
        if not view.routed(each) and each.state is not InstanceState.STOPPING and (not view.in_flight(each) or view.drained)
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
    if view.rollout.in_place and view.surplus and not any(view.routed(each) for each in view.surplus):
        return _soon(view, f"waiting for {names(view.surplus)} to be gone")
    return None


def await_ready(view: View) -> Decision | None:
    """Rung 6: instances about to serve are not ready."""
    if not view.awaited:
        return None
    if view.overdue:
        detail = next((each.detail for each in view.awaited if each.detail), "")
        return give_up(view.rollout, view.seen, _late(view, f"{names(view.awaited)} not ready", detail))
    return _soon(view, f"waiting for {names(view.awaited)} to be ready")


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
    return Shift(tuple(member(each) for each in view.target), f"moving traffic to {_counts(view)}")


def _counts(view: View) -> str:
    return ", ".join(f"{count} of {release}" for release, count in view.route.items()) or "nothing"


def settle(view: View) -> Decision | None:
    """Rung 8: all stands as wanted."""
    return Mark(MarkKind.SETTLED, "all stands as wanted") if view.rollout.settled is None else None


# -- the gate ---------------------------------------------------------------------------------------------------------


def judge(view: View) -> Decision | None:
    """Rung 10: look at the metrics, during the bake, at its end, and on while a person is waited for.

    A FAIL is never judged again: a decision cannot change its mind.
    """
    if not view.step.gate.judged or view.rollout.failed_verdict:
        return None
    verdict, end, asked = view.rollout.verdict, _bake_end(view), view.wished(SignalKind.VERIFY)
    last = verdict.at if verdict else (view.rollout.settled or view.now)
    undecided = verdict is None or verdict.at < end
    final = view.now >= end
    demanded = asked is not None and asked.at > last
    if (final and undecided) or demanded or view.now - last >= _spacing_seconds(view):
        return Judge(final, "asking the metrics")
    return None


def _spacing_seconds(view: View) -> float:
    """Between two looks: when the bake is over and a person is waited for, they need not be so many."""
    look = view.rollout.policy.look_seconds
    return look if view.now < _bake_end(view) else max(look, WAITING_LOOK_SECONDS)


def _bake_end(view: View) -> Time:
    """When the step has stood long enough; every extension is one more bake."""
    return (view.rollout.settled or view.now) + view.step.gate.bake_seconds * (1 + view.rollout.extensions)


def bake(view: View) -> Decision | None:
    """Rung 9: still baking. A FAIL that waits for a person does not wait for the bake."""
    end = _bake_end(view)
    if view.now >= end or view.rollout.failed_verdict:
        return None
    return Wait(min(end, _next_look(view)), f"baking, {end - view.now:.0f} s to go")


def _next_look(view: View) -> Time:
    """When the metrics are asked again."""
    verdict = view.rollout.verdict
    last = verdict.at if verdict else (view.rollout.settled or view.now)
    return max(view.now, last + _spacing_seconds(view)) if view.step.gate.judged else view.now + 86_400.0


def drain(view: View) -> Decision | None:
    """Rung 9: unrouted instances still have requests in flight and have not had their drain time, or are not gone yet."""
    kept_busy = [each for each in view.kept if not view.routed(each) and view.in_flight(each)]
    if kept_busy and not view.drained:
        return _soon(view, f"draining {names(kept_busy)}")
    leaving = [each for each in view.surplus if each.state is not InstanceState.STOPPING or view.step.gate.cleared]
    if leaving:
        return _soon(view, f"waiting for {names(leaving)} to be gone")
    if view.step.gate.cleared and view.seen.routed.draining:
        return _soon(view, "waiting for the last requests in flight")
    return None


def extend(view: View) -> Decision | None:
    """Rung 11: inconclusive, so bake longer; bounded."""
    policy = view.rollout.policy
    if policy.on_inconclusive is not InconclusiveAction.EXTEND or not _inconclusive(view) or view.promoted:
        return None
    if view.rollout.extensions >= policy.max_extensions:
        return None
    return Mark(MarkKind.EXTENDED, "inconclusive, baking longer")


def _inconclusive(view: View) -> bool:
    verdict = view.rollout.verdict
    return view.step.gate.judged and verdict is not None and verdict.outcome is Outcome.INCONCLUSIVE


def hold(view: View) -> Decision | None:
    """Rungs 11 and 12: a person is asked: by the plan, after an inconclusive verdict, or after a FAIL by policy."""
    why = _asks_a_person(view)
    if not why or view.promoted:
        return None
    if view.rollout.held is None:
        return Mark(MarkKind.HELD, why)
    end = view.rollout.held + view.rollout.policy.hold_expires_seconds
    if view.now >= end and not view.rollout.paused:
        return give_up(view.rollout, view.seen, f"nobody answered in time; {why}")
    return Wait(min(max(end, view.now + 1.0), _next_look(view)), why)


def _asks_a_person(view: View) -> str:
    if view.rollout.failed_verdict and view.rollout.policy.failure_action is FailureAction.PAUSE:
        return "judged FAIL, waiting for a person: promote or roll back"
    if _inconclusive(view) and not _goes_on_unknown(view):
        return "inconclusive, waiting for a person: promote or roll back"
    return f"waiting for approval ({view.step.gate.hold})" if view.step.gate.hold else ""


def _goes_on_unknown(view: View) -> bool:
    """By policy, and only while a later step is still to be judged: no rollout ends on what nobody knows."""
    later = view.rollout.plan[view.rollout.cursor + 1 :]
    continues = view.rollout.policy.on_inconclusive is InconclusiveAction.CONTINUE
    return continues and any(step.gate.judged for step in later)


def go_on(view: View) -> Decision | None:
    """Rungs 12 and 13: the gate is open."""
    if view.rollout.paused:
        return Wait(view.now + view.rollout.policy.look_seconds, "paused")
    following = view.rollout.cursor + 1
    if following < len(view.rollout.plan):
        return Move(view.rollout.phase, f"step {following + 1} of {len(view.rollout.plan)}", cursor=following)
    if view.rollout.phase is Phase.ROLLING_BACK:
        return Move(Phase.ROLLED_BACK, view.rollout.reason)
    return Move(Phase.SUCCEEDED, f"{view.rollout.new} serves")


def _soon(view: View, why: str) -> Wait:
    """Look again soon: at once in the beginning, less often the longer it takes."""
    waited = view.now - (view.rollout.entered or view.now)
    return Wait(view.now + min(0.5, max(0.01, waited / 20)), why)


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
    start_missing,
    await_ready,
    shift,
    settle,
    judge,
    bake,
    drain,
    extend,
    hold,
    go_on,
)
