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
from tidegate.engine.rollout_cache import RolloutCache
from tidegate.engine.tick_context import TickContext, TickResult, back_off, report_recovery
from tidegate.errors import DriverError, StoreError
from tidegate.ports import Clock, Drivers, EngineStore

__all__ = ["RolloutCache", "TickResult", "tick"]

LEASE_SECONDS = 15.0  # what a lone tick renews its lease for
MAX_RECORDED = 10  # marks and moves in one transaction
NOTHING_OBSERVED = ObservedState((), RouterState())


def tick(
    claim: Claim,
    store: EngineStore,
    drivers: Drivers,
    clock: Clock,
    *,
    cache: RolloutCache | None = None,
    guard: Callable[[], None] | None = None,
    prober: Prober | None = None,
) -> TickResult:
    """Make the single next move of the claimed rollout.

    `cache` is what this process remembers of it, handed in again with each tick. `guard` is asked before each effect and
    raises `LeaseLost` when the rollout is not ours any more; left out, the store is asked. `prober` asks the service from
    outside meanwhile.

    Raises `LeaseLost`; every failure of an outside part is in the answer.
    """
    guard = guard or (lambda: store.renew(claim, LEASE_SECONDS))
    context = TickContext(claim, store, drivers, clock, cache or RolloutCache(), guard, prober)
    context.cache.record_claim(claim.fence)
    try:
        rollout, signals = store.load(claim.rollout)
    except DriverError as error:
        context.cache.record_failed_observation()
        return _retry(context, error)
    if not rollout.phase.live:
        return TickResult(f"it is {rollout.phase} already", finished=True)
    context.probe(rollout)
    observed, decision = None, None
    try:
        decision = _decide_unobserved(context, rollout, signals)
        if decision is None:
            observed = context.observe(rollout)
            context.cache.record_observation(RolloutState(rollout, observed, signals, context.clock(), context.since))
            decision = _decide(context, rollout, observed, signals)
        done = _carry_out(context, rollout, signals, observed or NOTHING_OBSERVED, decision)
        report_recovery(context)
    except DriverError as error:
        return _handle_error(context, rollout, signals, observed, decision, error)
    return done


def _decide_unobserved(context: TickContext, rollout: Rollout, signals: Sequence[Signal]) -> Decision | None:
    """What can be decided without looking: all that comes before anything moves, and that engines died too often.

    The latter comes before the look, since it may be the look that they die of.
    """
    if rollout.phase is Phase.PENDING:
        return _decide(context, rollout, NOTHING_OBSERVED, signals)
    return limit_takeovers(RolloutState(rollout, NOTHING_OBSERVED, signals, context.clock(), context.since))


def _decide(context: TickContext, rollout: Rollout, observed: ObservedState, signals: Sequence[Signal]) -> Decision:
    return decide(
        rollout, observed, signals, context.clock(), context.since, context.frozen(rollout), context.peers(rollout)
    )


def _carry_out(
    context: TickContext, rollout: Rollout, signals: Sequence[Signal], observed: ObservedState, decision: Decision
) -> TickResult:
    """One write or one effect."""
    match decision:
        case Wait():
            return _wait(context, rollout, decision)
        case Mark() | Move():
            return _record(context, rollout, signals, observed, decision)
        case Pin():
            return _begin(context, rollout)
        case Judge():
            return _judge(context, rollout, signals, observed, decision)
        case Run():
            return _run(context, rollout, observed, decision)
        case Start() | Shift() | Stop():
            return _act(context, rollout, observed, decision)


def _wait(context: TickContext, rollout: Rollout, decision: Wait) -> TickResult:
    context.cache.forget_observation()
    context.note_frozen(rollout, decision.why)
    return TickResult(decision.why, decision.until)


# -- writes -----------------------------------------------------------------------------------------------------------


def _record(
    context: TickContext, rollout: Rollout, signals: Sequence[Signal], observed: ObservedState, decision: Mark | Move
) -> TickResult:
    """Record a moment or a move, before anything follows from it; what failed says its last words first.

    What is to be recorded next of the same look is recorded with it, in one transaction: that the proxy serves what the
    step wants, that all stands, that the step is left. A change of phase is always the last.
    """
    first, before, new_events = decision, rollout, list[Event]()
    for _ in range(MAX_RECORDED):
        now = context.clock()
        if isinstance(decision, Mark):
            new_events += events.mark(decision, rollout, observed.routed, now)
            rollout = apply_mark(rollout, decision.mark, now)
        else:
            new_events += effects.tail_logs(context, rollout, _instances_to_tail(rollout, signals, observed, decision))
            new_events.append(
                events.move(decision, rollout, None if observed is NOTHING_OBSERVED else observed.routed, now)
            )
            rollout = apply_move(rollout, decision, now)
        if rollout.phase is not before.phase:
            break
        following = _decide(context, rollout, observed, signals)
        if not isinstance(following, Mark | Move):
            break
        decision = following
    if not rollout.phase.live:
        hooks.remove_containers(context, rollout)
    context.save(rollout, new_events)
    if (rollout.phase, rollout.cursor) != (before.phase, before.cursor):
        return TickResult(decision.why, finished=not rollout.phase.live)
    return _pace(context, rollout, observed, first)


def _instances_to_tail(
    rollout: Rollout, signals: Sequence[Signal], observed: ObservedState, decision: Move
) -> list[Instance]:
    """The instances that a turn for the worse is about, the failed ones first.

    One that is merely not ready yet is heard only when nothing else led to the turn: no verdict and no person.
    """
    if decision.phase not in (Phase.ROLLING_BACK, Phase.FAILED) or decision.phase is rollout.phase:
        return []
    driven = rollout.new if rollout.phase is Phase.RUNNING else rollout.old
    requested = any(signal.kind is SignalKind.ROLLBACK for signal in signals)
    late = rollout.phase is Phase.ROLLING_BACK or not (requested or rollout.failed_verdict)
    ours = [instance for instance in observed.instances if instance.release == driven]
    failed = [instance for instance in ours if instance.state is InstanceState.FAILED or instance.restarts > 0]
    return failed + [
        instance for instance in ours if late and instance.state is InstanceState.STARTING and instance not in failed
    ]


def _begin(context: TickContext, rollout: Rollout) -> TickResult:
    """The image is known and everything answers: from here on it runs."""
    digest, spared, new_events = effects.pin(context, rollout)
    rollout = replace(rollout, digest=digest, spared=spared)
    now = context.clock()
    refused = _quarantined(context, rollout)
    if refused is not None:
        context.save(apply_move(rollout, refused, now), [*new_events, events.move(refused, rollout, None, now)])
        return TickResult(refused.why, finished=True)
    begin = Move(Phase.RUNNING, f"step 1 of {len(rollout.plan)}")
    event = events.move(begin, rollout, None, now)
    context.save(apply_move(rollout, begin, now), [*new_events, event])
    return TickResult(begin.why)


def _quarantined(context: TickContext, rollout: Rollout) -> Move | None:
    """What was turned back before is not tried again unless somebody insists."""
    row = None if rollout.forced else context.store.quarantined(rollout.service, rollout.digest)
    if row is None:
        return None
    what = f"{rollout.image} is in quarantine: this image was turned back as {row.release.id}"
    return Move(Phase.ROLLED_BACK, f"{what}; deploy another one, or this one by force")


def _judge(
    context: TickContext, rollout: Rollout, signals: Sequence[Signal], observed: ObservedState, decision: Judge
) -> TickResult:
    """Ask the metrics and record the verdict. It is told when it is news.

    As a rule a wait follows, for which nothing has to be read again: a signal that came meanwhile makes it due at once.
    """
    verdict, measurement, analysis = effects.analyze(context, rollout, observed, decision)
    new_events = (
        [events.verdict(verdict, rollout, observed.routed, verdict.at)]
        if _is_news(rollout.verdict, verdict, signals)
        else []
    )
    saved = context.save(record_verdict(rollout, verdict), new_events, verdict if new_events else None, measurement)
    context.cache.analysis = analysis
    context.cache.measurements += 1
    following = _decide(context, saved, observed, signals)
    return _wait(context, saved, following) if isinstance(following, Wait) else _pace(context, rollout, observed, decision)


def _run(context: TickContext, rollout: Rollout, observed: ObservedState, decision: Run) -> TickResult:
    """Record how the task stands, when that is news."""
    run, new_events = hooks.advance(context, rollout, observed, decision)
    context.cache.forget_observation()
    if new_events:
        saved = context.save(record_task(rollout, run), new_events)
        if run.state.ended:
            hooks.remove_containers(context, saved)
        return TickResult(run.message)
    return TickResult(run.message, hooks.next_poll(run, context.clock()))


def _is_news(before: Verdict | None, after: Verdict, signals: Sequence[Signal]) -> bool:
    """Whether the outcome or a reason changed, it is the first final one, or somebody asked for it."""
    if before is None or (after.final and not before.final):
        return True
    if any(signal.kind is SignalKind.VERIFY and before.at < signal.at <= after.at for signal in signals):
        return True
    return _summary(before) != _summary(after)


def _summary(verdict: Verdict) -> object:
    return verdict.outcome, [(finding.check, finding.outcome, finding.reason) for finding in verdict.findings]


# -- effects ----------------------------------------------------------------------------------------------------------


def _act(context: TickContext, rollout: Rollout, observed: ObservedState, decision: Start | Shift | Stop) -> TickResult:
    """Do it, then tell it."""
    match decision:
        case Start():
            new_events = effects.start(context, rollout, observed, decision)
        case Shift():
            new_events = effects.shift(context, rollout, observed, decision)
        case Stop():
            new_events = effects.stop(context, rollout, decision)
    if new_events:
        context.note(*new_events)
    return _pace(context, rollout, observed, decision)


def _pace(context: TickContext, rollout: Rollout, observed: ObservedState, decision: Decision) -> TickResult:
    """Again at once; after a pause when the same is done to the same world again and again."""
    now = context.clock()
    world = (observed.instances, observed.routed.members, frozenset(observed.routed.draining))
    pause = context.cache.pause_after((rollout.phase, rollout.cursor), (decision, world), now)
    return TickResult(decision.why, now + pause if pause else None)


# -- failures ---------------------------------------------------------------------------------------------------------


def _handle_error(
    context: TickContext,
    rollout: Rollout,
    signals: Sequence[Signal],
    observed: ObservedState | None,
    decision: Decision | None,
    error: DriverError,
) -> TickResult:
    """What follows from a failure; see the table at the top of this file."""
    if observed is None:
        context.cache.record_failed_observation()
    way_out = _move_after_error(context, rollout, observed, decision, error)
    if way_out is None:
        return _retry(context, error)
    try:
        done = _record(context, rollout, signals, observed or NOTHING_OBSERVED, way_out)
    except DriverError as another:
        return _retry(context, another)
    context.cache.failures, context.cache.stuck_since = 0, None
    return done


def _move_after_error(
    context: TickContext, rollout: Rollout, observed: ObservedState | None, decision: Decision | None, error: DriverError
) -> Move | None:
    """The change of direction that a failure leads to; None means to try again."""
    if error.retryable or isinstance(error, StoreError):
        return None
    if rollout.phase is Phase.PENDING:
        return Move(Phase.FAILED, error.message)
    if isinstance(decision, Start) and observed is not None:
        return roll_back_or_halt(rollout, observed, error.message)
    begun, limit = context.cache.stuck_since, rollout.policy.healthy_deadline_seconds
    if begun is None or rollout.paused or context.clock() - begun <= limit:
        return None
    if isinstance(decision, Shift) and observed is not None:
        return roll_back_or_halt(rollout, observed, f"traffic could not be moved for {limit:g} s: {error.message}")
    return Move(Phase.FAILED, f"halted after {limit:g} s: {error.message}")


def _retry(context: TickContext, error: DriverError) -> TickResult:
    """Nothing is touched; look again after a pause."""
    if isinstance(error, StoreError):
        context.cache.tailed.clear()  # what was to be told with it was not
    return back_off(context.claim, context.store, context.clock, context.cache, error.message, retryable=error.retryable)
