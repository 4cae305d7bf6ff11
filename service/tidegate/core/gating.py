"""The rungs of `decide` that guard the way out of a step: judging, baking, draining, holding."""

from __future__ import annotations

from tidegate.core.approval import Expiry
from tidegate.core.decisions import Decision, Judge, Mark, MarkKind, Move, Wait
from tidegate.core.judge.verdict import Outcome, Time
from tidegate.core.model import FailureAction, InconclusiveAction, InstanceState, SignalKind
from tidegate.core.phases import Phase
from tidegate.core.tasking import unknown_task
from tidegate.core.turning import give_up
from tidegate.core.view import View, names

WAITING_LOOK_SECONDS = 30.0  # at least, between two looks while a person is waited for


def judge(view: View) -> Decision | None:
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
    if view.now >= end or view.rollout.failed_verdict or view.forced:
        return None
    if view.step.gate.keeps and _enough_kept(view):
        return None
    doing = f"keeping {view.rollout.old} warm" if view.step.gate.keeps else "baking"
    return _watching(view, min(end, _next_look(view)), f"{doing}, {end - view.now:.0f} s to go")


def _watching(view: View, until: Time, why: str) -> Wait:
    """Wait, and look at the world meanwhile: a proxy or an instance that goes in a long bake or hold must not wait for its
    end."""
    return Wait(min(until, view.now + view.rollout.policy.look_seconds), why)


def _enough_kept(view: View) -> bool:
    """Whether somebody ends the keeping. An approval of all holds does not: that the old release is kept is none."""
    kind, step = SignalKind.PROMOTE, view.rollout.cursor
    return any(each.kind is kind and each.step == step for each in view.signals)


def _next_look(view: View) -> Time:
    """When the metrics are asked again."""
    verdict = view.rollout.verdict
    last = verdict.at if verdict else (view.rollout.settled or view.now)
    return max(view.now, last + _spacing_seconds(view)) if view.step.gate.judged else view.now + 86_400.0


def drain(view: View) -> Decision | None:
    """Rung 9: unrouted instances still have requests in flight and have not had their drain time, or are not gone yet."""
    kept_busy = [each for each in view.kept if not view.reachable(each) and not view.released(each)]
    if kept_busy:
        return soon(view, f"draining {names(kept_busy)}")
    leaving = [each for each in view.surplus if each.state is not InstanceState.STOPPING or view.step.gate.cleared]
    if leaving:
        return soon(view, f"waiting for {names(leaving)} to be gone")
    if view.step.gate.cleared and (view.seen.routed.draining or view.seen.preview.draining):
        return soon(view, "waiting for the last requests in flight")
    return None


def extend(view: View) -> Decision | None:
    """Rung 11: inconclusive, so bake longer; bounded."""
    policy = view.rollout.policy
    if policy.on_inconclusive is not InconclusiveAction.EXTEND or not inconclusive(view) or _answered(view):
        return None
    if view.rollout.extensions >= policy.max_extensions:
        return None
    return Mark(MarkKind.EXTENDED, "inconclusive, baking longer")


def inconclusive(view: View) -> bool:
    """Whether nothing can be said where something has to be: not while the old release is merely kept warm."""
    verdict = view.rollout.verdict
    if view.step.gate.keeps:
        return False
    return view.step.gate.judged and verdict is not None and verdict.outcome is Outcome.INCONCLUSIVE


def hold(view: View) -> Decision | None:
    """Rungs 11 and 12: a person is asked: by the plan, after an inconclusive verdict, or after a FAIL by policy."""
    why = _asks_a_person(view)
    if not why or _answered(view):
        return None
    if view.rollout.held is None:
        return Mark(MarkKind.HELD, why)
    end = view.rollout.held + view.rollout.policy.hold_expires_seconds
    if view.now < end or view.rollout.paused:
        return _watching(view, min(max(end, view.now + 1.0), _next_look(view)), why)
    return _expired(view, why)


def _answered(view: View) -> bool:
    """Whether as many as are needed have approved, or somebody skips the analysis."""
    return view.forced or view.promoted is not None


def _expired(view: View, why: str) -> Decision | None:
    """Nobody answered in time. What is judged bad or not known never goes on by itself."""
    action = view.rollout.policy.approval.on_expiry
    if action is Expiry.WAIT:
        return _watching(view, _next_look(view), why)
    unsure = view.rollout.failed_verdict or inconclusive(view) or unknown_task(view)
    if action is Expiry.PROMOTE and not unsure:
        return None
    return give_up(view.rollout, view.seen, f"nobody answered in time; {why}")


def _asks_a_person(view: View) -> str:
    if view.rollout.failed_verdict and view.rollout.policy.failure_action is FailureAction.PAUSE:
        return "judged FAIL, waiting for a person: promote or roll back"
    if inconclusive(view) and not _goes_on_unknown(view):
        return "inconclusive, waiting for a person: promote or roll back"
    if unknown := unknown_task(view):
        return f"{unknown}, waiting for a person: promote or roll back"
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
    if _frozen(view):
        return Wait(view.now + view.rollout.policy.look_seconds, view.frozen)
    following = view.rollout.cursor + 1
    if following < len(view.rollout.plan):
        return Move(view.rollout.phase, f"step {following + 1} of {len(view.rollout.plan)}", cursor=following)
    if view.rollout.phase is Phase.ROLLING_BACK:
        return Move(Phase.ROLLED_BACK, view.rollout.reason)
    return Move(Phase.SUCCEEDED, f"{view.rollout.new} serves")


def _frozen(view: View) -> bool:
    """A freeze keeps the next batch back. The last step only clears up after the switch, and a way back is never kept."""
    last = view.rollout.cursor + 1 >= len(view.rollout.plan)
    return bool(view.frozen) and view.rollout.phase is Phase.RUNNING and not (last or view.forced or view.rollout.forced)


def soon(view: View, why: str) -> Wait:
    """Look again soon: at once in the beginning, less often the longer it takes."""
    waited = view.now - (view.rollout.entered or view.now)
    return Wait(view.now + min(0.5, max(0.01, waited / 20)), why)
