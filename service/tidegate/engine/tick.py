"""One tick of one rollout: load, observe, decide, then either one write or one effect.

All state is in the database, the platform and the proxy, so the next tick recovers from a crash at any point.

What happens when a driver fails:

| Failure of | Retryable error | Other error |
|---|---|---|
| anything, while pending | retry; after 10 min `refused` | `refused`, with the driver's message; a repair is `failed` |
| observing | retry; nothing is changed meanwhile | retry; after the healthy deadline `failed`: halted, traffic stays |
| `Start` | retry until its deadline | roll back at once; during a rollback halt |
| `Shift` | retry | retry; after the healthy deadline roll back or halt |
| `Stop` | retry | retry; after the healthy deadline `failed`: a leftover instance is no reason to move traffic |
| the metrics | the check is inconclusive | the same |
| the database | retry; nothing is changed | the same |

A rejected `Shift` also checks the lease, since a router rejects a fencing token older than the last one that it saw. The
deadline counts from the first of consecutive failures in this process, and not while paused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from tidegate.analysis.verdict import Verdict
from tidegate.core.decide import decide, limit_takeovers
from tidegate.core.decisions import (
    Analyze,
    Decision,
    Mark,
    Move,
    Pin,
    Run,
    Shift,
    Start,
    Stop,
    Track,
    Wait,
    apply_mark,
    apply_move,
    apply_track,
    record_task,
    record_verdict,
)
from tidegate.core.model import Event, Instance, InstanceState, ObservedState, Rollout, RolloutKind, Signal, SignalKind
from tidegate.core.phases import Phase
from tidegate.core.planner import roll_back_or_halt
from tidegate.core.records import Claim
from tidegate.core.rollback_cause import RollbackCause
from tidegate.core.rollout_state import RolloutState
from tidegate.core.routing import RouterState
from tidegate.core.waits import WaitingFor, WaitKind
from tidegate.engine import effects, events, hooks
from tidegate.engine.background import Turns
from tidegate.engine.prober import Prober
from tidegate.engine.rollout_cache import RolloutCache
from tidegate.engine.tick_context import LASTING_ERROR_SECONDS, TickContext, TickResult, back_off, report_recovery
from tidegate.errors import DriverError, StoreError
from tidegate.ports import Clock, Drivers
from tidegate.store_port import EngineStore

__all__ = ["RolloutCache", "TickResult", "tick"]

MAX_PENDING_ERROR_SECONDS = 600.0  # of errors that may pass, before anything was changed
LEASE_SECONDS = 15.0  # renewal when no `guard` is given
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
    turns: Turns | None = None,
) -> TickResult:
    """Make the next single move of the claimed rollout.

    `cache` is this process's state of the rollout; pass the same one to every tick. `guard` is called before every effect
    and raises `LeaseLost` when another engine drives the rollout; by default it renews the lease in the store. `prober`
    probes the service meanwhile. `turns`: lets other rollouts be driven during calls that may be slow.

    Raises `LeaseLost`. Errors of drivers and of the database are in the result.
    """
    guard = guard or (lambda: store.renew(claim, LEASE_SECONDS))
    context = TickContext(claim, store, drivers, clock, cache or RolloutCache(), guard, prober, turns)
    context.cache.record_claim(claim.fence)
    try:
        rollout, signals = store.load(claim.rollout)
    except DriverError as error:
        context.cache.record_failed_observation()
        return _retry(context, error)
    if not rollout.phase.live:
        return TickResult(f"rollout has ended: {rollout.phase}", finished=True)
    context.probe(rollout)
    observed, decision = None, None
    try:
        decision = _decide_unobserved(context, rollout, signals)
        if decision is None:
            observed = context.observe(rollout)
            context.note_memory_kills(rollout, observed.instances)
            context.cache.record_observation(RolloutState(rollout, observed, signals, context.clock(), context.since))
            decision = _decide(context, rollout, observed, signals)
        done = _carry_out(context, rollout, signals, observed or NOTHING_OBSERVED, decision)
        report_recovery(context)
    except DriverError as error:
        return _handle_error(context, rollout, signals, observed, decision, error)
    return done


def _decide_unobserved(context: TickContext, rollout: Rollout, signals: Sequence[Signal]) -> Decision | None:
    """The decision, where it needs no observation: everything while pending, and the limit of takeovers.

    The latter comes before observing, because observing may be what engines crash on.
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
        case Mark() | Move() | Track():
            return _record(context, rollout, signals, observed, decision)
        case Pin():
            return _begin(context, rollout)
        case Analyze():
            return _judge(context, rollout, signals, observed, decision)
        case Run():
            return _run(context, rollout, observed, decision)
        case Start() | Shift() | Stop():
            return _act(context, rollout, observed, decision)


def _wait(context: TickContext, rollout: Rollout, decision: Wait) -> TickResult:
    context.cache.forget_observation()
    context.record_wait(rollout, decision.waiting_for)
    return TickResult(decision.reason, decision.until)


# -- writes -----------------------------------------------------------------------------------------------------------


def _record(
    context: TickContext,
    rollout: Rollout,
    signals: Sequence[Signal],
    observed: ObservedState,
    decision: Mark | Move | Track,
) -> TickResult:
    """Record a mark, a move or the state of instances before anything follows from it, with the last log lines of failed
    instances.

    Further ones that follow from the same observation go into the same transaction: traffic confirmed, step
    ready, step left. A change of phase is always the last.
    """
    first, before, new_events = decision, rollout, list[Event]()
    for _ in range(MAX_RECORDED):
        now = context.clock()
        if isinstance(decision, Mark):
            new_events += events.mark(decision, rollout, observed.router, now)
            rollout = apply_mark(rollout, decision.mark, now)
        elif isinstance(decision, Track):
            new_events += events.track(decision, rollout, observed, now)
            rollout = apply_track(rollout, decision, now)
        else:
            new_events += effects.tail_logs(context, rollout, _instances_to_tail(rollout, signals, observed, decision))
            new_events.append(
                events.move(decision, rollout, None if observed is NOTHING_OBSERVED else observed.router, now)
            )
            rollout = apply_move(rollout, decision, now)
        if rollout.phase is not before.phase:
            break
        following = _decide(context, rollout, observed, signals)
        if isinstance(following, Wait):
            rollout, new_events = context.with_wait(rollout, new_events, following.waiting_for)
        if not isinstance(following, Mark | Move | Track):
            break
        decision = following
    if not rollout.phase.live:
        hooks.remove_containers(context, rollout)
        effects.free_route(context, rollout)
    context.save(rollout, new_events)
    if (rollout.phase, rollout.cursor) != (before.phase, before.cursor):
        return TickResult(decision.reason, finished=not rollout.phase.live)
    return _pace(context, rollout, observed, first)


def _instances_to_tail(
    rollout: Rollout, signals: Sequence[Signal], observed: ObservedState, decision: Move
) -> list[Instance]:
    """The instances whose log explains a rollback or a failure, the failed ones first.

    Instances that are only not ready yet are included when neither a verdict nor a person caused the change.
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
    """Pin the image, check the drivers, and start the rollout.

    While images are pulled it is not driven, so that it takes no thread and a signal counts at once.
    """
    pull = effects.pull_images(context, rollout)
    if not pull.future.done():
        waiting = effects.waiting_for_pull(rollout, pull)
        context.record_wait(rollout, waiting)
        return TickResult(waiting.reason, context.clock() + effects.PULL_POLL_SECONDS)
    rollout, new_events = effects.pin(context, rollout, pull)
    now = context.clock()
    refused = _quarantined(context, rollout)
    if refused is not None:
        context.save(apply_move(rollout, refused, now), [*new_events, events.move(refused, rollout, None, now)])
        return TickResult(refused.reason, finished=True)
    begin = Move(Phase.RUNNING, f"step 1 of {len(rollout.plan)}")
    event = events.move(begin, rollout, None, now)
    context.save(apply_move(rollout, begin, now), [*new_events, event])
    return TickResult(begin.reason)


def _quarantined(context: TickContext, rollout: Rollout) -> Move | None:
    """The end of the rollout when its release is in quarantine and the request does not force it."""
    if rollout.forced:
        return None
    release = context.store.get_release(rollout.service, rollout.new).release
    row = context.store.find_quarantined(rollout.service, rollout.digest, release.container)
    return None if row is None else Move(Phase.REFUSED, row.quarantine_message(rollout.image))


def _judge(
    context: TickContext, rollout: Rollout, signals: Sequence[Signal], observed: ObservedState, decision: Analyze
) -> TickResult:
    """Query the metrics and record the verdict, with an event when it changed.

    Usually a wait follows, which needs no new observation: a signal that arrived meanwhile makes the rollout due at once.
    """
    verdict, measurement, analysis = effects.analyze(context, rollout, observed, decision)
    new_events = (
        [events.verdict(verdict, rollout, observed.router, verdict.at)]
        if _is_news(rollout.verdict, verdict, signals)
        else []
    )
    saved = context.save(record_verdict(rollout, verdict), new_events, verdict if new_events else None, measurement)
    context.cache.analysis = analysis
    context.cache.measurements += 1
    following = _decide(context, saved, observed, signals)
    return _wait(context, saved, following) if isinstance(following, Wait) else _pace(context, rollout, observed, decision)


def _run(context: TickContext, rollout: Rollout, observed: ObservedState, decision: Run) -> TickResult:
    """Start or poll a task, and record a change of its state."""
    run, new_events = hooks.advance(context, rollout, observed, decision)
    context.cache.forget_observation()
    if new_events:
        waiting = None if run.state.ended else hooks.waiting_for(rollout, run)
        saved = context.save(replace(record_task(rollout, run), waiting_for=waiting), new_events)
        if run.state.ended:
            hooks.remove_containers(context, saved)
        return TickResult(run.message)
    return TickResult(run.message, hooks.next_poll(run, context.clock()))


def _is_news(before: Verdict | None, after: Verdict, signals: Sequence[Signal]) -> bool:
    """Whether the outcome or a reason changed, the verdict is the first final one, or a person asked to verify."""
    if before is None or (after.final and not before.final):
        return True
    if any(signal.kind is SignalKind.VERIFY and before.at < signal.at <= after.at for signal in signals):
        return True
    return _summary(before) != _summary(after)


def _summary(verdict: Verdict) -> object:
    return verdict.outcome, [(finding.check, finding.outcome, finding.reason) for finding in verdict.findings]


# -- effects ----------------------------------------------------------------------------------------------------------


def _act(context: TickContext, rollout: Rollout, observed: ObservedState, decision: Start | Shift | Stop) -> TickResult:
    """Carry out the effect, then record its events."""
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
    """Tick again at once, or after a pause when the same effect on the same observed state repeats."""
    now = context.clock()
    state = (observed.instances, observed.router.members, frozenset(observed.router.draining))
    pause = context.cache.pause_after((rollout.phase, rollout.cursor), (decision, state), now)
    return TickResult(decision.reason, now + pause if pause else None)


# -- failures ---------------------------------------------------------------------------------------------------------


def _handle_error(
    context: TickContext,
    rollout: Rollout,
    signals: Sequence[Signal],
    observed: ObservedState | None,
    decision: Decision | None,
    error: DriverError,
) -> TickResult:
    """The result after an error; see the table at the top of this file."""
    if observed is None:
        context.cache.record_failed_observation()
    way_out = _move_after_error(context, rollout, observed, decision, error)
    if way_out is None:
        result = _retry(context, error)
        _record_failing_part(context, rollout, observed, decision, error)
        return result
    try:
        done = _record(context, rollout, signals, observed or NOTHING_OBSERVED, way_out)
    except DriverError as another:
        return _retry(context, another)
    context.cache.failures, context.cache.stuck_since = 0, None
    return done


def _move_after_error(
    context: TickContext, rollout: Rollout, observed: ObservedState | None, decision: Decision | None, error: DriverError
) -> Move | None:
    """The rollback or halt that an error leads to; None means retry."""
    if isinstance(error, StoreError):
        return None
    if rollout.phase is Phase.PENDING:  # nobody requested a repair, and it would not fix what is wrong: that is no refusal
        end = Phase.FAILED if rollout.kind is RolloutKind.REPAIR else Phase.REFUSED
        lasts = context.cache.failures and context.clock() - context.cache.failing_since > MAX_PENDING_ERROR_SECONDS
        return Move(end, error.message) if not error.retryable or (lasts and end is Phase.REFUSED) else None
    if error.retryable:
        return None
    if isinstance(decision, Start) and observed is not None:
        return roll_back_or_halt(rollout, observed, error.message, RollbackCause.UNAVAILABLE)
    begun, limit = context.cache.stuck_since, rollout.policy.healthy_deadline_seconds
    if begun is None or rollout.paused or context.clock() - begun <= limit:
        return None
    if isinstance(decision, Shift) and observed is not None:
        reason = f"Cannot move traffic for {limit:g} s: {error.message}"
        return roll_back_or_halt(rollout, observed, reason, RollbackCause.UNAVAILABLE)
    return Move(Phase.FAILED, f"Halted after {limit:g} s of errors: {error.message}")


def _record_failing_part(
    context: TickContext, rollout: Rollout, observed: ObservedState | None, decision: Decision | None, error: DriverError
) -> None:
    """Record that the rollout waits for the part that failed, once the error lasts."""
    cache = context.cache
    if isinstance(error, StoreError) or context.clock() - cache.failing_since < LASTING_ERROR_SECONDS:
        return
    until, then = None, "the rollout continues when it works again; `tidegate check` shows what is wrong"
    if rollout.phase is Phase.PENDING and rollout.kind is not RolloutKind.REPAIR:
        until, then = cache.failing_since + MAX_PENDING_ERROR_SECONDS, "the rollout is refused; nothing was changed"
    elif cache.stuck_since is not None and not rollout.paused and rollout.phase is not Phase.PENDING:
        until = cache.stuck_since + rollout.policy.healthy_deadline_seconds
        moves = isinstance(decision, Shift) and rollout.phase is Phase.RUNNING and observed is not None
        then = "the rollout rolls back" if moves and rollout.kind is not RolloutKind.REPAIR else "the rollout halts"
    with suppress(StoreError):  # the next tick records it
        context.record_wait(rollout, WaitingFor(WaitKind.PART, error.message, cache.failing_since, until, then))


def _retry(context: TickContext, error: DriverError) -> TickResult:
    """Change nothing and retry after a pause."""
    if isinstance(error, StoreError):
        context.cache.tailed.clear()  # the log events of this tick may not have been saved
    return back_off(context.claim, context.store, context.clock, context.cache, error.message, retryable=error.retryable)
