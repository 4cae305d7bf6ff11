"""What the engine does to the world, one call at a time. Each checks the lease and what it depends on just before.

An effect of an engine that lost its lease does no harm: `write` carries the fence, `stop` names its instances and leaves
what takes traffic or has requests in flight, `start` leaves alone what exists.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from tidegate.analysis.analysis import CanaryAnalysis
from tidegate.analysis.measurement import InstanceSample, Measurement
from tidegate.analysis.queries import Query, QueryFailure, QueryResult
from tidegate.analysis.verdict import Reason, Verdict
from tidegate.core.decisions import Judge, Shift, Start, Stop
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Event, Instance, InstanceState, ObservedState, Rollout
from tidegate.core.routing import Backend, Member, RouterState
from tidegate.engine import events
from tidegate.engine.tick_context import TickContext
from tidegate.errors import MetricsError, PlatformError, RouterError, UnknownService
from tidegate.ports import MetricsSource

LOG_LINES = 20
MAX_LOGS = 3  # of one release, when it is turned back: more of the same help nobody
MAX_CONCURRENT_FETCHES = 4  # questions asked of the metrics at a time
FETCH_SECONDS = 30.0  # for all questions of one verdict; what is not answered by then counts as not known
GRACE_SECONDS = 10.0  # for an instance of a release that the database does not know


def pin(context: TickContext, rollout: Rollout) -> tuple[str, tuple[str, ...], list[Event]]:
    """Resolve the new release's image to its digest, and see that all works that will be needed, the way back included.

    The proxy is told to go on as it does, which moves nothing, but finds a port that is taken or a configuration that
    cannot be kept true. Raises `DriverError` for anything that would keep the rollout from going on.

    Also gives the instances of this release that are there already.
    """
    platform, begun = context.drivers.platform, context.clock()
    observed = context.observe(rollout.service, rollout.backend)
    release = context.store.get_release(rollout.service, rollout.new).release
    digest = platform.pin(release)
    context.guard()
    _write(context, rollout.backend, observed.routed.members)
    if rollout.backend.previewed is not None:
        _write(context, rollout.backend.previewed, observed.preview.members)
    if digest != release.digest:
        context.store.pinned(rollout.service, release.id, digest, context.claim.fence, rollout.id)
    now = context.clock()
    there = tuple(instance.id for instance in observed.instances if instance.release == rollout.new)
    return (
        digest,
        there,
        [*_check_old_release(context, rollout), events.pinned(rollout, release.image, digest, now - begun, now)],
    )


def _check_old_release(context: TickContext, rollout: Rollout) -> list[Event]:
    """A warning when the old release could not be started again. It does not keep the rollout from going on."""
    if rollout.old is None:
        return []
    try:
        context.drivers.platform.pin(context.store.get_release(rollout.service, rollout.old).release)
    except (PlatformError, UnknownService) as error:
        message = f"turning back may fail, since {rollout.old} could not be started again: {error.message}"
        return [events.simple(EventKind.WARNING, message, rollout, context.clock())]
    return []


def start(context: TickContext, rollout: Rollout, observed: ObservedState, effect: Start) -> list[Event]:
    """Create instances. Those that exist already are left alone by the platform."""
    begun = context.clock()
    release = context.store.get_release(rollout.service, effect.release).release
    context.guard()
    context.cache.forget_observation()
    context.drivers.platform.start(release, effect.ordinals)
    now = context.clock()
    return [events.started(effect, rollout, observed.routed, now - begun, now)]


def shift(context: TickContext, rollout: Rollout, observed: ObservedState, effect: Shift) -> list[Event]:
    """Write the proxy under our fence. A refusal may mean that another engine wrote after us, so the lease is asked."""
    begun = context.clock()
    context.guard()
    place = rollout.backend.previewed if effect.preview else rollout.backend
    assert place is not None, "a preview is only written where there is one"
    _write(context, place, effect.members)
    now = context.clock()
    return [events.shifted(effect, rollout, observed.routed, now - begun, now)]


def _write(context: TickContext, place: Backend, members: Collection[Member]) -> None:
    context.cache.router = context.cache.preview = None
    try:
        context.drivers.router.write(place, members, context.claim.fence)
    except RouterError:
        context.note()  # raises LeaseLost when it is so
        raise


def stop(context: TickContext, rollout: Rollout, effect: Stop) -> list[Event]:
    """Read the proxy again, and stop of these what it does not know or knows to be idle; busy ones only when overdue."""
    begun = context.clock()
    new_events = tail_logs(
        context, rollout, [instance for instance in effect.instances if instance.state is InstanceState.FAILED]
    )
    grace = max(_grace(context, rollout, release) for release in {instance.release for instance in effect.instances})
    context.guard()
    context.cache.router = context.cache.preview = None
    routed, preview = context.read_proxy(rollout.backend)
    gone = [
        instance for instance in effect.instances if not _is_in_use(instance, (routed, preview), overdue=effect.overdue)
    ]
    left = [instance for instance in effect.instances if instance not in gone]
    if not gone:
        context.cache.forget_observation()
        return new_events
    context.drivers.platform.stop(gone, grace)
    context.cache.mark_stopping(gone)
    now = context.clock()
    return [*new_events, events.stopped(gone, left, rollout, routed, now - begun, now)]


def _is_in_use(instance: Instance, places: Sequence[RouterState], *, overdue: bool) -> bool:
    """Whether it takes requests, or has some in flight that are still to be waited for. Not known counts as some."""
    if any(member.instance == instance.id for routed in places for member in routed.members):
        return True
    return not overdue and any(routed.draining.get(instance.id, 0) != 0 for routed in places)


def _grace(context: TickContext, rollout: Rollout, release: str) -> float:
    try:
        return context.store.get_release(rollout.service, release).release.container.stop_grace_seconds
    except UnknownService:
        return GRACE_SECONDS


def tail_logs(context: TickContext, rollout: Rollout, instances: Sequence[Instance]) -> list[Event]:
    """The last log lines of these, each told once, while they are still there to be asked."""
    new_events: list[Event] = []
    for instance in instances[:MAX_LOGS]:
        if instance.id in context.cache.tailed:
            continue
        try:
            lines = context.drivers.platform.tail(instance, LOG_LINES)
        except PlatformError as error:
            lines = f"(its log could not be read: {error.message})"
        context.cache.tailed.add(instance.id)
        new_events.append(events.log(instance, lines, rollout, context.clock()))
    return new_events


# -- judging ----------------------------------------------------------------------------------------------------------


def analyze(
    context: TickContext, rollout: Rollout, observed: ObservedState, effect: Judge
) -> tuple[Verdict, Measurement, CanaryAnalysis]:
    """Ask every question and judge the answers, with all that came before. A question without an answer harms its own check
    only. The look has to be saved with the verdict; an engine that takes over begins with the saved ones."""
    analysis = _restore_analysis(context, rollout)
    context.cache.analysis = None  # until the look is saved, this engine knows no more than the database
    now = context.clock()
    answers = _fetch_all(context.drivers.metrics, analysis.questions(now))
    measurement = _measurement(rollout, observed, effect.final, now, answers)
    return analysis.take(measurement), measurement, analysis


def _restore_analysis(context: TickContext, rollout: Rollout) -> CanaryAnalysis:
    """The judge with all looks that were saved: the remembered one, with those that another engine took meanwhile."""
    cache, unseen = context.cache, not rollout.step.route.get(rollout.new)
    analysis = cache.analysis
    if analysis is None or analysis.unseen is not unseen:
        saved = context.store.measurements(rollout.id)
        analysis, cache.measurements = (
            CanaryAnalysis.recalled(rollout, saved, _shifted(rollout, context.clock()), unseen=unseen),
            len(saved),
        )
    elif cache.interrupted:
        saved = context.store.measurements(rollout.id, cache.measurements)
        analysis.catch_up(saved)
        cache.measurements += len(saved)
    cache.interrupted = False
    return analysis


def _shifted(rollout: Rollout, now: float) -> float:
    return now if rollout.shifted is None else rollout.shifted


def _measurement(
    rollout: Rollout, observed: ObservedState, final: bool, now: float, answers: Mapping[Query, QueryResult]
) -> Measurement:
    step = rollout.step
    return Measurement(
        at=now,
        step=rollout.cursor,
        shifted=_shifted(rollout, now),
        settled=now if rollout.settled is None else rollout.settled,
        concurrent=rollout.old is not None and rollout.old in step.route and rollout.new in step.route,
        routed=step.route.get(rollout.new, 0),
        final=final,
        present=tuple(
            InstanceSample(
                instance.id, instance.release, instance.ordinal, instance.state is InstanceState.READY, instance.restarts
            )
            for instance in observed.instances
            if instance.state is not InstanceState.STOPPING
        ),
        answers=tuple(answers.items()),
    )


def _fetch_all(metrics: MetricsSource | None, queries: Sequence[Query]) -> dict[Query, QueryResult]:
    """Some at a time, all within a bounded time."""
    if metrics is None:
        return dict.fromkeys(queries, QueryFailure(Reason.SOURCE_DOWN, "this environment has no metrics source"))
    if not queries:
        return {}
    pool = ThreadPoolExecutor(min(MAX_CONCURRENT_FETCHES, len(queries)), "metrics")
    try:
        futures = {question: pool.submit(_fetch, metrics, question) for question in queries}
        wait(futures.values(), timeout=FETCH_SECONDS)
        return {question: _result(future) for question, future in futures.items()}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _result(future: Future[QueryResult]) -> QueryResult:
    if future.done():
        return future.result()
    return QueryFailure(Reason.TIMEOUT, f"the metrics source did not answer within {FETCH_SECONDS:g} s")


def _fetch(metrics: MetricsSource, question: Query) -> QueryResult:
    try:
        return metrics.fetch(question.query, question.window, question.step_seconds)
    except MetricsError as error:
        return QueryFailure(_reason(error.reason), error.message)


def _reason(code: str) -> Reason:
    """A driver of somebody else may use another code; then the source is simply down."""
    try:
        return Reason(code)
    except ValueError:
        return Reason.SOURCE_DOWN
