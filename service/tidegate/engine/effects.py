"""The engine's effects on the platform and the proxy. Each one checks the lease immediately before it acts.

An effect of an engine that has lost its lease is harmless: `write` carries the fencing token, `stop` names its instances
and skips those that receive traffic or have requests in flight, and `start` skips instances that exist.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from tidegate.analysis.bake_length import needs_counters, observe_traffic, rollout_warnings, traffic_query
from tidegate.analysis.measurement import InstanceSample, Measurement
from tidegate.analysis.queries import Query, QueryFailure, QueryPurpose, QueryResult
from tidegate.analysis.verdict import Reason, Verdict
from tidegate.core.container import Health
from tidegate.core.decisions import Analyze, Shift, Start, Stop
from tidegate.core.event_kinds import EventKind
from tidegate.core.image_reference import PinnedImage
from tidegate.core.model import (
    Event,
    InconclusiveAction,
    Instance,
    InstanceState,
    ObservedState,
    Policy,
    Release,
    Rollout,
    RolloutKind,
)
from tidegate.core.phases import Phase
from tidegate.core.routing import Backend, Member, RouterState
from tidegate.core.waits import WaitingFor, WaitKind
from tidegate.engine import events
from tidegate.engine.rollout_cache import Pull
from tidegate.engine.tick_context import TickContext, places
from tidegate.errors import MetricsError, PlatformError, RouterError, UnknownService
from tidegate.ports import MetricsSource, Platform

if TYPE_CHECKING:
    from tidegate.analysis.analysis import CanaryAnalysis

LOG_LINES = 20
MAX_LOGS = 3  # instances whose log is recorded when a release is rolled back
MAX_CONCURRENT_FETCHES = 4  # concurrent queries to the metrics source
FETCH_SECONDS = 30.0  # for all queries of one verdict; a query without a result by then is inconclusive
PROMPT_SECONDS = 0.25  # an image that is there already is resolved in this time
PULL_POLL_SECONDS = 5.0  # between two polls of a pull; its end makes the rollout due at once
MAX_PULL_SECONDS = 3600.0
GRACE_SECONDS = 10.0  # stop timeout for an instance whose release is not in the database


def pull_images(context: TickContext, rollout: Rollout) -> Pull:
    """Begin to resolve and pull the images of both releases and of the hooks, or find out whether that is done.

    Images that are there already need no further tick. Raises `PlatformError` if it takes longer than `MAX_PULL_SECONDS`.
    """
    cache, platform = context.cache, context.drivers.platform
    if cache.pull is None:
        new, old = context.store.get_release(rollout.service, rollout.new).release, _old_release(context, rollout)
        future = context.in_background(rollout, lambda: _pull(platform, new, old, _hook_images(rollout)))
        cache.pull = Pull(future, context.clock())
        if not wait([future], timeout=PROMPT_SECONDS).done:
            future.add_done_callback(lambda _: context.tick_soon(rollout))
    pull = cache.pull
    if not pull.future.done() and context.clock() - pull.since > MAX_PULL_SECONDS:
        cache.pull = None
        text = f"Cannot pull {_images(rollout)}: not complete after {MAX_PULL_SECONDS / 60:g} min"
        raise PlatformError(f"{text}. Pull it on the Docker hosts, or make it smaller", retryable=False)
    return pull


def _pull(
    platform: Platform, new: Release, old: Release | str | None, hook_images: Collection[str]
) -> tuple[PinnedImage, str]:
    """The new image, and the problem of the old release. Hooks need no pull later: a rollback would have to wait for it."""
    pinned, problem = platform.pin(new), _problem_of_old_release(platform, old)
    container = replace(new.container, health=Health("/"), healthcheck=None)  # a hook needs no readiness check
    for image in hook_images:
        with suppress(PlatformError):  # the hook reports it
            platform.pin(replace(new, image=image, digest="", container=container))
    return pinned, problem


def _hook_images(rollout: Rollout) -> list[str]:
    return sorted({hook.image for hook in rollout.hooks.values() if hook.image})


def _images(rollout: Rollout) -> str:
    return f"image {rollout.image}" + (" or those of its hooks" if _hook_images(rollout) else "")


def waiting_for_pull(rollout: Rollout, pull: Pull) -> WaitingFor:
    """The wait for images that are being pulled."""
    reason, before = f"Pulling {_images(rollout)}", rollout.waiting_for
    since = before.since if before is not None and before.reason == reason else pull.since
    return WaitingFor(WaitKind.PART, reason, since, since + MAX_PULL_SECONDS, "the rollout is refused")


def pin(context: TickContext, rollout: Rollout, pull: Pull) -> tuple[Rollout, list[Event]]:
    """Record the digest of the pulled image, and check everything that the rollout and a rollback need.

    The proxy is written with its present members. That moves no traffic, but detects a port in use and a configuration
    that the proxy rejects. Raises `DriverError` for everything that would stop the rollout.

    Returns the rollout with the digest, the ids of the instances of this release that exist already and the deadline that
    the HEALTHCHECK of the image needs, and the events.
    """
    context.cache.pull = None  # a further attempt resolves the tag again
    pinned, problem = pull.future.result()
    digest, observed = pinned.digest, context.observe(rollout)
    release = context.store.get_release(rollout.service, rollout.new).release
    context.guard()
    for place, state in places(rollout.backend, observed):
        _write(context, place, state.members)
    if digest != release.digest:
        context.store.set_digest(rollout.service, release.id, digest, context.claim.fence, rollout.id)
    now = context.clock()
    there = tuple(instance.id for instance in observed.instances)
    policy, late = _healthy_deadline(rollout.policy, pinned)
    warnings = filter(None, (*rollout.warnings, pinned.warning, late, problem))
    new_events = [events.simple(EventKind.WARNING, text, rollout, now) for text in warnings]
    new_events += _check_bake(context, rollout)
    is_new = _is_new(context, rollout, replace(release, digest=digest))
    new_events.append(events.pinned(rollout, release.image, digest, is_new, now - pull.since, now))
    return replace(rollout, digest=digest, preexisting=there, policy=policy), new_events


def _healthy_deadline(policy: Policy, pinned: PinnedImage) -> tuple[Policy, str]:
    """The policy with a default deadline that is as long as the HEALTHCHECK of the image needs; for one that the service
    sets, a warning if it is shorter."""
    needed, deadline = pinned.ready_within_seconds, policy.healthy_deadline_seconds
    if needed <= deadline:
        return policy, ""
    if deadline == Policy().healthy_deadline_seconds:
        return replace(policy, healthy_deadline_seconds=needed), ""
    text = f"healthy_deadline is {deadline:g} s, but the HEALTHCHECK of the image may take {needed:g} s"
    return policy, f"{text} to find an instance healthy: a good release may be rolled back."


def _is_new(context: TickContext, rollout: Rollout, release: Release) -> bool:
    """Whether the release differs from the live one in anything that runs."""
    if rollout.old is None or rollout.old == rollout.new:
        return True
    try:
        live = context.store.get_release(rollout.service, rollout.old).release
    except UnknownService:
        return True
    return (live.digest, live.replicas, live.container) != (release.digest, release.replicas, release.container)


def _old_release(context: TickContext, rollout: Rollout) -> Release | str | None:
    """The old release; a message if the database does not have it, None if there is none."""
    if rollout.old is None:
        return None
    try:
        return context.store.get_release(rollout.service, rollout.old).release
    except UnknownService as error:
        return f"A rollback may fail: {rollout.old} could not be started again: {error.message}"


def _problem_of_old_release(platform: Platform, old: Release | str | None) -> str:
    """A warning when the old release could not be started again. The rollout continues all the same."""
    if not isinstance(old, Release):
        return old or ""
    try:
        platform.pin(old)
    except PlatformError as error:
        return f"A rollback may fail: {old.id} could not be started again: {error.message}"
    return ""


def _check_bake(context: TickContext, rollout: Rollout) -> list[Event]:
    """Warnings when the bake is too short for how often the proxy is scraped and for the traffic. Without an answer, none:
    the analysis itself reports what is missing."""
    if rollout.kind is not RolloutKind.RELEASE or rollout.old is None or not needs_counters(rollout.checks):
        return []
    assert rollout.backend is not None, "only a service with a proxy has checks of its requests"
    now = context.clock()
    query, window = traffic_query(rollout.backend.name, now)
    with context.slow_call():
        (result,) = _fetch_all(context.drivers.metrics, [Query("", QueryPurpose.SAMPLES, query, window)]).values()
    traffic = None if isinstance(result, QueryFailure) else observe_traffic(result)
    texts = [] if traffic is None else rollout_warnings(rollout, traffic)
    return [events.simple(EventKind.WARNING, text, rollout, now) for text in texts]


def start(context: TickContext, rollout: Rollout, observed: ObservedState, effect: Start) -> list[Event]:
    """Create instances. The platform skips those that exist already."""
    begun = context.clock()
    release = context.store.get_release(rollout.service, effect.release).release
    context.guard()
    context.cache.forget_observation()
    with context.slow_call():
        context.drivers.platform.start(release, effect.ordinals)
    now = context.clock()
    return [events.started(effect, rollout, observed.router, now - begun, now)]


def shift(context: TickContext, rollout: Rollout, observed: ObservedState, effect: Shift) -> list[Event]:
    """Write the proxy's members with our fencing token. After an error check the lease: another engine may have written."""
    begun = context.clock()
    context.guard()
    place, _ = places(rollout.backend, observed)[effect.preview]
    _write(context, effect.place or place, effect.members)
    now = context.clock()
    event = events.traffic_shifted(effect, rollout, observed.router, now - begun, now)
    if effect.place is None:
        return [event]
    context.save(replace(rollout, backend=effect.place, next_listen=""), [event])
    return []


def _write(context: TickContext, place: Backend, members: Collection[Member]) -> None:
    context.cache.router = context.cache.preview = None
    try:
        context.drivers.router.write(place, members, context.claim.fence)
    except RouterError:
        context.note()  # raises LeaseLost when another engine drives the rollout
        raise


def stop(context: TickContext, rollout: Rollout, effect: Stop) -> list[Event]:
    """Read the proxy again, then stop the instances that it does not route to and that are idle; busy ones only if
    overdue."""
    begun = context.clock()
    new_events = tail_logs(
        context, rollout, [instance for instance in effect.instances if instance.state is InstanceState.FAILED]
    )
    grace = max(_grace(context, rollout, release) for release in {instance.release for instance in effect.instances})
    context.guard()
    context.cache.router = context.cache.preview = None
    router_state, preview = context.read_proxy(rollout.backend)
    gone = [
        instance
        for instance in effect.instances
        if not _is_in_use(instance, (router_state, preview), overdue=effect.overdue)
    ]
    left = [instance for instance in effect.instances if instance not in gone]
    if not gone:
        context.cache.forget_observation()
        return new_events
    context.drivers.platform.stop(gone, grace)
    context.cache.mark_stopping(gone)
    now = context.clock()
    return [*new_events, events.stopped(gone, left, rollout, router_state, now - begun, now)]


def _is_in_use(instance: Instance, places: Sequence[RouterState], *, overdue: bool) -> bool:
    """Whether it receives requests, or has some in flight that must be waited for. An unknown number counts as some."""
    if any(member.instance == instance.id for router_state in places for member in router_state.members):
        return True
    return not overdue and any(router_state.draining.get(instance.id, 0) != 0 for router_state in places)


def free_route(context: TickContext, rollout: Rollout) -> None:
    """Remove the place of a removed service in the proxy, before the end of its removal is recorded."""
    if rollout.kind is RolloutKind.REMOVE and rollout.phase is Phase.SUCCEEDED and rollout.backend is not None:
        context.guard()
        context.cache.router = context.cache.preview = None
        context.drivers.router.remove(rollout.backend, context.claim.fence)


def _grace(context: TickContext, rollout: Rollout, release: str) -> float:
    try:
        return context.store.get_release(rollout.service, release).release.container.stop_grace_seconds
    except UnknownService:
        return GRACE_SECONDS


def tail_logs(context: TickContext, rollout: Rollout, instances: Sequence[Instance]) -> list[Event]:
    """An event with the last log lines of each instance, once for each, while the instances still exist."""
    new_events: list[Event] = []
    for instance in instances[:MAX_LOGS]:
        if instance.id in context.cache.tailed:
            continue
        try:
            lines = context.drivers.platform.tail_logs(instance, LOG_LINES)
        except PlatformError as error:
            lines = f"(cannot read the log: {error.message})"
        context.cache.tailed.add(instance.id)
        new_events.append(events.log(instance, lines, rollout, context.clock()))
    return new_events


# -- analysis ---------------------------------------------------------------------------------------------------------


def analyze(
    context: TickContext, rollout: Rollout, observed: ObservedState, effect: Analyze
) -> tuple[Verdict, Measurement, CanaryAnalysis]:
    """Run all queries and evaluate their results together with the earlier measurements.

    A failed query makes only its own check inconclusive. The caller saves the measurement together with the verdict: an
    engine that takes over restores the analysis from the saved measurements.
    """
    analysis = _restore_analysis(context, rollout)
    context.cache.analysis = None  # until the measurement is saved, the database has the truth
    now = context.clock()
    with context.slow_call():
        answers = _fetch_all(context.drivers.metrics, analysis.queries(now))
    measurement = _measurement(rollout, observed, effect.final, now, answers)
    return analysis.add(measurement), measurement, analysis


def _restore_analysis(context: TickContext, rollout: Rollout) -> CanaryAnalysis:
    """The analysis with all saved measurements: the cached one, plus those that another engine saved meanwhile."""
    from tidegate.analysis.analysis import CanaryAnalysis  # numpy and scipy are slow to import; many engines need neither

    cache, is_preview = context.cache, not rollout.step.serving.get(rollout.new)
    analysis = cache.analysis
    if analysis is None or analysis.is_preview is not is_preview:
        saved = context.store.measurements(rollout.id)
        analysis, cache.measurements = (
            CanaryAnalysis.from_measurements(
                rollout, saved, _traffic_shifted_at(rollout, context.clock()), is_preview=is_preview
            ),
            len(saved),
        )
    elif cache.interrupted:
        saved = context.store.measurements(rollout.id, cache.measurements)
        analysis.catch_up(saved)
        cache.measurements += len(saved)
    cache.interrupted = False
    return analysis


def _traffic_shifted_at(rollout: Rollout, now: float) -> float:
    return now if rollout.serving_since is None else rollout.serving_since


def _measurement(
    rollout: Rollout, observed: ObservedState, final: bool, now: float, answers: Mapping[Query, QueryResult]
) -> Measurement:
    step, policy = rollout.step, rollout.policy
    return Measurement(
        at=now,
        step=rollout.cursor,
        traffic_shifted_at=_traffic_shifted_at(rollout, now),
        bake_started_at=now if rollout.step_ready_at is None else rollout.step_ready_at,
        concurrent=rollout.old is not None and rollout.old in step.serving and rollout.new in step.serving,
        routed_count=step.serving.get(rollout.new, 0),
        final=final,
        instances=tuple(
            InstanceSample(
                instance.id, instance.release, instance.ordinal, instance.state is InstanceState.READY, instance.restarts
            )
            for instance in observed.instances
            if instance.state is not InstanceState.STOPPING
        ),
        results=tuple(answers.items()),
        extendable=policy.on_inconclusive is InconclusiveAction.EXTEND and rollout.extensions < policy.max_extensions,
    )


def _fetch_all(metrics: MetricsSource | None, queries: Sequence[Query]) -> dict[Query, QueryResult]:
    """Run the queries, some concurrently, all within `FETCH_SECONDS`."""
    if metrics is None:
        return dict.fromkeys(
            queries, QueryFailure(Reason.SOURCE_DOWN, "this environment has no metrics source; set one in the settings")
        )
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
    """The reason for a driver's error code. A third-party driver may use an unknown code: it counts as source down."""
    try:
        return Reason(code)
    except ValueError:
        return Reason.SOURCE_DOWN
