"""One tick of one rollout: load, look, decide, then either one write or one effect.

Everything that matters is in the database and in the world, so a crash anywhere is healed by the next tick.

What follows from a failure of an outside part:

| What failed | Waiting may help | Waiting does not help |
|---|---|---|
| anything, before anything moved | again, with growing pauses | `failed`, with the part's sentence |
| looking | again; nothing is touched while blind | again; after the healthy deadline `failed`: halted, traffic stays |
| `Start` | again, until its deadline | gives up at once: turns back, or on the way back halts |
| `Shift` | again | again; after the healthy deadline gives up |
| `Stop` | again | again; after the healthy deadline `failed`: a leftover is no reason to move traffic |
| the metrics | only its check is inconclusive | the same |
| the database | again; nothing is touched | the same |

A refused `Shift` also asks whether the lease is still ours, for a router refuses a fence older than the last it saw. The
deadline counts from the first of the failures in this process, and not while paused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tidegate.core.deciding import decide, worn_out
from tidegate.core.decisions import (
    Decision,
    Judge,
    Mark,
    Move,
    Pin,
    Run,
    Shift,
    Start,
    Stop,
    Wait,
    judged,
    marked,
    moved,
    ran,
)
from tidegate.core.judge.verdict import Verdict
from tidegate.core.model import Event, Instance, InstanceState, Rollout, Seen, Signal, SignalKind
from tidegate.core.phases import Phase
from tidegate.core.records import Claim
from tidegate.core.routing import Routed
from tidegate.core.turning import give_up
from tidegate.core.view import View
from tidegate.engine import effects, events, tasks
from tidegate.engine.probing import Prober
from tidegate.engine.turn import Memory, Tick, Turn, back_off, recover
from tidegate.errors import DriverError, StoreError
from tidegate.ports import Clock, EngineStore, Parts

__all__ = ["Memory", "Tick", "tick"]

LEASE_SECONDS = 15.0  # what a lone tick renews its lease for
MOST_RECORDED = 10  # marks and moves in one transaction
NOTHING = Seen((), Routed())


def tick(
    claim: Claim,
    store: EngineStore,
    parts: Parts,
    clock: Clock,
    *,
    memory: Memory | None = None,
    guard: Callable[[], None] | None = None,
    prober: Prober | None = None,
) -> Tick:
    """Make the single next move of the claimed rollout.

    `memory` is what this process remembers of it, handed in again with each tick. `guard` is asked before each effect and
    raises `LeaseLost` when the rollout is not ours any more; left out, the store is asked. `prober` asks the service from
    outside meanwhile.

    Raises `LeaseLost`; every failure of an outside part is in the answer.
    """
    guard = guard or (lambda: store.renew(claim, LEASE_SECONDS))
    turn = Turn(claim, store, parts, clock, memory or Memory(), guard, prober)
    turn.memory.claimed(claim.fence)
    try:
        rollout, signals = store.load(claim.rollout)
    except DriverError as error:
        turn.memory.sees_nothing()
        return _again(turn, error)
    if not rollout.phase.live:
        return Tick(f"it is {rollout.phase} already", finished=True)
    turn.probe(rollout)
    seen, decision = None, None
    try:
        decision = _unseen(turn, rollout, signals)
        if decision is None:
            seen = turn.look(rollout.service, rollout.backend)
            turn.memory.saw(View(rollout, seen, signals, turn.clock(), turn.since))
            decision = _decided(turn, rollout, seen, signals)
        done = _carry_out(turn, rollout, signals, seen or NOTHING, decision)
        recover(turn)
    except DriverError as error:
        return _failed(turn, rollout, signals, seen, decision, error)
    return done


def _unseen(turn: Turn, rollout: Rollout, signals: Sequence[Signal]) -> Decision | None:
    """What can be decided without looking: all that comes before anything moves, and that engines died too often.

    The latter comes before the look, since it may be the look that they die of.
    """
    if rollout.phase is Phase.PENDING:
        return _decided(turn, rollout, NOTHING, signals)
    return worn_out(View(rollout, NOTHING, signals, turn.clock(), turn.since))


def _decided(turn: Turn, rollout: Rollout, seen: Seen, signals: Sequence[Signal]) -> Decision:
    return decide(rollout, seen, signals, turn.clock(), turn.since, turn.frozen(rollout), turn.peers(rollout))


def _carry_out(turn: Turn, rollout: Rollout, signals: Sequence[Signal], seen: Seen, decision: Decision) -> Tick:
    """One write or one effect."""
    match decision:
        case Wait():
            return _wait(turn, rollout, decision)
        case Mark() | Move():
            return _record(turn, rollout, signals, seen, decision)
        case Pin():
            return _begin(turn, rollout)
        case Judge():
            return _judge(turn, rollout, signals, seen, decision)
        case Run():
            return _run(turn, rollout, seen, decision)
        case Start() | Shift() | Stop():
            return _act(turn, rollout, seen, decision)


def _wait(turn: Turn, rollout: Rollout, decision: Wait) -> Tick:
    turn.memory.forget_look()
    turn.tell_frozen(rollout, decision.why)
    return Tick(decision.why, decision.until)


# -- writes -----------------------------------------------------------------------------------------------------------


def _record(turn: Turn, rollout: Rollout, signals: Sequence[Signal], seen: Seen, decision: Mark | Move) -> Tick:
    """Record a moment or a move, before anything follows from it; what failed says its last words first.

    What is to be recorded next of the same look is recorded with it, in one transaction: that the proxy serves what the
    step wants, that all stands, that the step is left. A change of phase is always the last.
    """
    first, before, told = decision, rollout, list[Event]()
    for _ in range(MOST_RECORDED):
        now = turn.clock()
        if isinstance(decision, Mark):
            told += events.mark(decision, rollout, seen.routed, now)
            rollout = marked(rollout, decision.mark, now)
        else:
            told += effects.last_words(turn, rollout, _to_be_heard(rollout, signals, seen, decision))
            told.append(events.move(decision, rollout, None if seen is NOTHING else seen.routed, now))
            rollout = moved(rollout, decision, now)
        if rollout.phase is not before.phase:
            break
        following = _decided(turn, rollout, seen, signals)
        if not isinstance(following, Mark | Move):
            break
        decision = following
    if not rollout.phase.live:
        tasks.clear(turn, rollout)
    turn.save(rollout, told)
    if (rollout.phase, rollout.cursor) != (before.phase, before.cursor):
        return Tick(decision.why, finished=not rollout.phase.live)
    return _paced(turn, rollout, seen, first)


def _to_be_heard(rollout: Rollout, signals: Sequence[Signal], seen: Seen, decision: Move) -> list[Instance]:
    """The instances that a turn for the worse is about, the failed ones first.

    One that is merely not ready yet is heard only when nothing else led to the turn: no verdict and no person.
    """
    if decision.phase not in (Phase.ROLLING_BACK, Phase.FAILED) or decision.phase is rollout.phase:
        return []
    driven = rollout.new if rollout.phase is Phase.RUNNING else rollout.old
    asked = any(signal.kind is SignalKind.ROLLBACK for signal in signals)
    late = rollout.phase is Phase.ROLLING_BACK or not (asked or rollout.failed_verdict)
    ours = [each for each in seen.instances if each.release == driven]
    failed = [each for each in ours if each.state is InstanceState.FAILED or each.restarts > 0]
    return failed + [each for each in ours if late and each.state is InstanceState.STARTING and each not in failed]


def _begin(turn: Turn, rollout: Rollout) -> Tick:
    """The image is known and everything answers: from here on it runs."""
    digest, spared, told = effects.pin(turn, rollout)
    rollout = replace(rollout, digest=digest, spared=spared)
    now = turn.clock()
    refused = _quarantined(turn, rollout)
    if refused is not None:
        turn.save(moved(rollout, refused, now), [*told, events.move(refused, rollout, None, now)])
        return Tick(refused.why, finished=True)
    begin = Move(Phase.RUNNING, f"step 1 of {len(rollout.plan)}")
    event = events.move(begin, rollout, None, now)
    turn.save(moved(rollout, begin, now), [*told, event])
    return Tick(begin.why)


def _quarantined(turn: Turn, rollout: Rollout) -> Move | None:
    """What was turned back before is not tried again unless somebody insists."""
    row = None if rollout.forced else turn.store.quarantined(rollout.service, rollout.digest)
    if row is None:
        return None
    what = f"{rollout.image} is in quarantine: this image was turned back as {row.release.id}"
    return Move(Phase.ROLLED_BACK, f"{what}; deploy another one, or this one by force")


def _judge(turn: Turn, rollout: Rollout, signals: Sequence[Signal], seen: Seen, decision: Judge) -> Tick:
    """Ask the metrics and record the verdict. It is told when it is news.

    As a rule a wait follows, for which nothing has to be read again: a signal that came meanwhile makes it due at once.
    """
    verdict, look, trial = effects.judged(turn, rollout, seen, decision)
    told = (
        [events.verdict(verdict, rollout, seen.routed, verdict.at)] if _is_news(rollout.verdict, verdict, signals) else []
    )
    saved = turn.save(judged(rollout, verdict), told, verdict if told else None, look)
    turn.memory.trial = trial
    turn.memory.looks += 1
    following = _decided(turn, saved, seen, signals)
    return _wait(turn, saved, following) if isinstance(following, Wait) else _paced(turn, rollout, seen, decision)


def _run(turn: Turn, rollout: Rollout, seen: Seen, decision: Run) -> Tick:
    """Record how the task stands, when that is news."""
    run, told = tasks.step(turn, rollout, seen, decision)
    turn.memory.forget_look()
    if told:
        saved = turn.save(ran(rollout, run), told)
        if run.state.ended:
            tasks.clear(turn, saved)
        return Tick(run.sentence)
    return Tick(run.sentence, tasks.poll_after(run, turn.clock()))


def _is_news(before: Verdict | None, after: Verdict, signals: Sequence[Signal]) -> bool:
    """Whether the outcome or a reason changed, it is the first final one, or somebody asked for it."""
    if before is None or (after.final and not before.final):
        return True
    if any(signal.kind is SignalKind.VERIFY and before.at < signal.at <= after.at for signal in signals):
        return True
    return _gist(before) != _gist(after)


def _gist(verdict: Verdict) -> object:
    return verdict.outcome, [(each.check, each.outcome, each.reason) for each in verdict.findings]


# -- effects ----------------------------------------------------------------------------------------------------------


def _act(turn: Turn, rollout: Rollout, seen: Seen, decision: Start | Shift | Stop) -> Tick:
    """Do it, then tell it."""
    match decision:
        case Start():
            told = effects.start(turn, rollout, seen, decision)
        case Shift():
            told = effects.shift(turn, rollout, seen, decision)
        case Stop():
            told = effects.stop(turn, rollout, decision)
    if told:
        turn.note(*told)
    return _paced(turn, rollout, seen, decision)


def _paced(turn: Turn, rollout: Rollout, seen: Seen, decision: Decision) -> Tick:
    """Again at once; after a pause when the same is done to the same world again and again."""
    now = turn.clock()
    world = (seen.instances, seen.routed.members, frozenset(seen.routed.draining))
    pause = turn.memory.pause_after((rollout.phase, rollout.cursor), (decision, world), now)
    return Tick(decision.why, now + pause if pause else None)


# -- failures ---------------------------------------------------------------------------------------------------------


def _failed(
    turn: Turn,
    rollout: Rollout,
    signals: Sequence[Signal],
    seen: Seen | None,
    decision: Decision | None,
    error: DriverError,
) -> Tick:
    """What follows from a failure; see the table at the top of this file."""
    if seen is None:
        turn.memory.sees_nothing()
    way_out = _way_out(turn, rollout, seen, decision, error)
    if way_out is None:
        return _again(turn, error)
    try:
        done = _record(turn, rollout, signals, seen or NOTHING, way_out)
    except DriverError as another:
        return _again(turn, another)
    turn.memory.failures, turn.memory.stuck_from = 0, None
    return done


def _way_out(turn: Turn, rollout: Rollout, seen: Seen | None, decision: Decision | None, error: DriverError) -> Move | None:
    """The change of direction that a failure leads to; None means to try again."""
    if error.retryable or isinstance(error, StoreError):
        return None
    if rollout.phase is Phase.PENDING:
        return Move(Phase.FAILED, error.message)
    if isinstance(decision, Start) and seen is not None:
        return give_up(rollout, seen, error.message)
    begun, limit = turn.memory.stuck_from, rollout.policy.healthy_deadline_seconds
    if begun is None or rollout.paused or turn.clock() - begun <= limit:
        return None
    if isinstance(decision, Shift) and seen is not None:
        return give_up(rollout, seen, f"traffic could not be moved for {limit:g} s: {error.message}")
    return Move(Phase.FAILED, f"halted after {limit:g} s: {error.message}")


def _again(turn: Turn, error: DriverError) -> Tick:
    """Nothing is touched; look again after a pause."""
    if isinstance(error, StoreError):
        turn.memory.logged.clear()  # what was to be told with it was not
    return back_off(turn.claim, turn.store, turn.clock, turn.memory, error.message, retryable=error.retryable)
