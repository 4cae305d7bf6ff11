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

from tidegate.analysis.verdict import Verdict
from tidegate.core.decide import decide, limit_takeovers
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
    apply_mark,
    apply_move,
    record_task,
    record_verdict,
)
from tidegate.core.model import Event, Instance, InstanceState, ObservedState, Rollout, Signal, SignalKind
from tidegate.core.phases import Phase
from tidegate.core.planner import roll_back_or_halt
from tidegate.core.records import Claim
from tidegate.core.rollout_state import RolloutState
from tidegate.core.routing import RouterState
from tidegate.engine import effects, events, hooks
from tidegate.engine.prober import Prober
from tidegate.engine.tick_context import RolloutCache, TickContext, TickResult, back_off, report_recovery
from tidegate.errors import DriverError, StoreError
from tidegate.ports import Clock, Drivers, EngineStore

__all__ = ["RolloutCache", "TickResult", "tick"]

LEASE_SECONDS = 15.0  # what a lone tick renews its lease for
MAX_RECORDED = 10  # marks and moves in one transaction
NOTHING_OBSERVED = ObservedState((), RouterState())


def tick(
    claim: Claim,
    store: EngineStore,
    parts: Drivers,
    clock: Clock,
    *,
    memory: RolloutCache | None = None,
    guard: Callable[[], None] | None = None,
    prober: Prober | None = None,
) -> TickResult:
    """Make the single next move of the claimed rollout.

    `memory` is what this process remembers of it, handed in again with each tick. `guard` is asked before each effect and
    raises `LeaseLost` when the rollout is not ours any more; left out, the store is asked. `prober` asks the service from
    outside meanwhile.

    Raises `LeaseLost`; every failure of an outside part is in the answer.
    """
    guard = guard or (lambda: store.renew(claim, LEASE_SECONDS))
    turn = TickContext(claim, store, parts, clock, memory or RolloutCache(), guard, prober)
    turn.memory.claimed(claim.fence)
    try:
        rollout, signals = store.load(claim.rollout)
    except DriverError as error:
        turn.memory.observation_failed()
        return _retry(turn, error)
    if not rollout.phase.live:
        return TickResult(f"it is {rollout.phase} already", finished=True)
    turn.probe(rollout)
    seen, decision = None, None
    try:
        decision = _decide_unobserved(turn, rollout, signals)
        if decision is None:
            seen = turn.look(rollout.service, rollout.backend)
            turn.memory.observed(RolloutState(rollout, seen, signals, turn.clock(), turn.since))
            decision = _decide(turn, rollout, seen, signals)
        done = _carry_out(turn, rollout, signals, seen or NOTHING_OBSERVED, decision)
        report_recovery(turn)
    except DriverError as error:
        return _handle_error(turn, rollout, signals, seen, decision, error)
    return done


def _decide_unobserved(turn: TickContext, rollout: Rollout, signals: Sequence[Signal]) -> Decision | None:
    """What can be decided without looking: all that comes before anything moves, and that engines died too often.

    The latter comes before the look, since it may be the look that they die of.
    """
    if rollout.phase is Phase.PENDING:
        return _decide(turn, rollout, NOTHING_OBSERVED, signals)
    return limit_takeovers(RolloutState(rollout, NOTHING_OBSERVED, signals, turn.clock(), turn.since))


def _decide(turn: TickContext, rollout: Rollout, seen: ObservedState, signals: Sequence[Signal]) -> Decision:
    return decide(rollout, seen, signals, turn.clock(), turn.since, turn.frozen(rollout), turn.peers(rollout))


def _carry_out(
    turn: TickContext, rollout: Rollout, signals: Sequence[Signal], seen: ObservedState, decision: Decision
) -> TickResult:
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


def _wait(turn: TickContext, rollout: Rollout, decision: Wait) -> TickResult:
    turn.memory.forget_observation()
    turn.note_frozen(rollout, decision.why)
    return TickResult(decision.why, decision.until)


# -- writes -----------------------------------------------------------------------------------------------------------


def _record(
    turn: TickContext, rollout: Rollout, signals: Sequence[Signal], seen: ObservedState, decision: Mark | Move
) -> TickResult:
    """Record a moment or a move, before anything follows from it; what failed says its last words first.

    What is to be recorded next of the same look is recorded with it, in one transaction: that the proxy serves what the
    step wants, that all stands, that the step is left. A change of phase is always the last.
    """
    first, before, told = decision, rollout, list[Event]()
    for _ in range(MAX_RECORDED):
        now = turn.clock()
        if isinstance(decision, Mark):
            told += events.mark(decision, rollout, seen.routed, now)
            rollout = apply_mark(rollout, decision.mark, now)
        else:
            told += effects.tail_logs(turn, rollout, _instances_to_tail(rollout, signals, seen, decision))
            told.append(events.move(decision, rollout, None if seen is NOTHING_OBSERVED else seen.routed, now))
            rollout = apply_move(rollout, decision, now)
        if rollout.phase is not before.phase:
            break
        following = _decide(turn, rollout, seen, signals)
        if not isinstance(following, Mark | Move):
            break
        decision = following
    if not rollout.phase.live:
        hooks.remove_containers(turn, rollout)
    turn.save(rollout, told)
    if (rollout.phase, rollout.cursor) != (before.phase, before.cursor):
        return TickResult(decision.why, finished=not rollout.phase.live)
    return _pace(turn, rollout, seen, first)


def _instances_to_tail(rollout: Rollout, signals: Sequence[Signal], seen: ObservedState, decision: Move) -> list[Instance]:
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


def _begin(turn: TickContext, rollout: Rollout) -> TickResult:
    """The image is known and everything answers: from here on it runs."""
    digest, spared, told = effects.pin(turn, rollout)
    rollout = replace(rollout, digest=digest, spared=spared)
    now = turn.clock()
    refused = _quarantined(turn, rollout)
    if refused is not None:
        turn.save(apply_move(rollout, refused, now), [*told, events.move(refused, rollout, None, now)])
        return TickResult(refused.why, finished=True)
    begin = Move(Phase.RUNNING, f"step 1 of {len(rollout.plan)}")
    event = events.move(begin, rollout, None, now)
    turn.save(apply_move(rollout, begin, now), [*told, event])
    return TickResult(begin.why)


def _quarantined(turn: TickContext, rollout: Rollout) -> Move | None:
    """What was turned back before is not tried again unless somebody insists."""
    row = None if rollout.forced else turn.store.quarantined(rollout.service, rollout.digest)
    if row is None:
        return None
    what = f"{rollout.image} is in quarantine: this image was turned back as {row.release.id}"
    return Move(Phase.ROLLED_BACK, f"{what}; deploy another one, or this one by force")


def _judge(
    turn: TickContext, rollout: Rollout, signals: Sequence[Signal], seen: ObservedState, decision: Judge
) -> TickResult:
    """Ask the metrics and record the verdict. It is told when it is news.

    As a rule a wait follows, for which nothing has to be read again: a signal that came meanwhile makes it due at once.
    """
    verdict, look, trial = effects.analyze(turn, rollout, seen, decision)
    told = (
        [events.verdict(verdict, rollout, seen.routed, verdict.at)] if _is_news(rollout.verdict, verdict, signals) else []
    )
    saved = turn.save(record_verdict(rollout, verdict), told, verdict if told else None, look)
    turn.memory.trial = trial
    turn.memory.looks += 1
    following = _decide(turn, saved, seen, signals)
    return _wait(turn, saved, following) if isinstance(following, Wait) else _pace(turn, rollout, seen, decision)


def _run(turn: TickContext, rollout: Rollout, seen: ObservedState, decision: Run) -> TickResult:
    """Record how the task stands, when that is news."""
    run, told = hooks.advance(turn, rollout, seen, decision)
    turn.memory.forget_observation()
    if told:
        saved = turn.save(record_task(rollout, run), told)
        if run.state.ended:
            hooks.remove_containers(turn, saved)
        return TickResult(run.message)
    return TickResult(run.message, hooks.next_poll(run, turn.clock()))


def _is_news(before: Verdict | None, after: Verdict, signals: Sequence[Signal]) -> bool:
    """Whether the outcome or a reason changed, it is the first final one, or somebody asked for it."""
    if before is None or (after.final and not before.final):
        return True
    if any(signal.kind is SignalKind.VERIFY and before.at < signal.at <= after.at for signal in signals):
        return True
    return _summary(before) != _summary(after)


def _summary(verdict: Verdict) -> object:
    return verdict.outcome, [(each.check, each.outcome, each.reason) for each in verdict.findings]


# -- effects ----------------------------------------------------------------------------------------------------------


def _act(turn: TickContext, rollout: Rollout, seen: ObservedState, decision: Start | Shift | Stop) -> TickResult:
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
    return _pace(turn, rollout, seen, decision)


def _pace(turn: TickContext, rollout: Rollout, seen: ObservedState, decision: Decision) -> TickResult:
    """Again at once; after a pause when the same is done to the same world again and again."""
    now = turn.clock()
    world = (seen.instances, seen.routed.members, frozenset(seen.routed.draining))
    pause = turn.memory.pause_after((rollout.phase, rollout.cursor), (decision, world), now)
    return TickResult(decision.why, now + pause if pause else None)


# -- failures ---------------------------------------------------------------------------------------------------------


def _handle_error(
    turn: TickContext,
    rollout: Rollout,
    signals: Sequence[Signal],
    seen: ObservedState | None,
    decision: Decision | None,
    error: DriverError,
) -> TickResult:
    """What follows from a failure; see the table at the top of this file."""
    if seen is None:
        turn.memory.observation_failed()
    way_out = _move_after_error(turn, rollout, seen, decision, error)
    if way_out is None:
        return _retry(turn, error)
    try:
        done = _record(turn, rollout, signals, seen or NOTHING_OBSERVED, way_out)
    except DriverError as another:
        return _retry(turn, another)
    turn.memory.failures, turn.memory.stuck_since = 0, None
    return done


def _move_after_error(
    turn: TickContext, rollout: Rollout, seen: ObservedState | None, decision: Decision | None, error: DriverError
) -> Move | None:
    """The change of direction that a failure leads to; None means to try again."""
    if error.retryable or isinstance(error, StoreError):
        return None
    if rollout.phase is Phase.PENDING:
        return Move(Phase.FAILED, error.message)
    if isinstance(decision, Start) and seen is not None:
        return roll_back_or_halt(rollout, seen, error.message)
    begun, limit = turn.memory.stuck_since, rollout.policy.healthy_deadline_seconds
    if begun is None or rollout.paused or turn.clock() - begun <= limit:
        return None
    if isinstance(decision, Shift) and seen is not None:
        return roll_back_or_halt(rollout, seen, f"traffic could not be moved for {limit:g} s: {error.message}")
    return Move(Phase.FAILED, f"halted after {limit:g} s: {error.message}")


def _retry(turn: TickContext, error: DriverError) -> TickResult:
    """Nothing is touched; look again after a pause."""
    if isinstance(error, StoreError):
        turn.memory.logged.clear()  # what was to be told with it was not
    return back_off(turn.claim, turn.store, turn.clock, turn.memory, error.message, retryable=error.retryable)
