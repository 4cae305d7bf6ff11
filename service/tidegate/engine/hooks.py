"""Doing the tasks of a step: hooks as short-lived containers, and the comparison of what two releases promise.

A hook is known to its platform by rollout and name, so that an engine that takes over finds the one that was begun, or how
it ended: no hook runs twice. What came of it is saved before its container is removed.
"""

from __future__ import annotations

from collections.abc import Mapping

from tidegate.clock import Time
from tidegate.core.decisions import Run
from tidegate.core.hooks import BLOCKING, COMPARE, Job, ReleaseRole, TaskRun, TaskState
from tidegate.core.model import Event, InstanceState, ObservedState, Rollout
from tidegate.engine import events
from tidegate.engine.tick_context import TickContext
from tidegate.errors import DocumentError
from tidegate.openapi_diff.diff import diff_documents
from tidegate.openapi_diff.result import CompareOptions, DiffOutcome, DiffResult, conclude
from tidegate.ports import DocumentFetcher

MAX_POLL_SECONDS = 2.0
MAX_CHANGES = 20  # of a comparison, in the event
STATES = {
    DiffOutcome.PASSED: TaskState.PASSED,
    DiffOutcome.SKIPPED: TaskState.PASSED,
    DiffOutcome.WARNED: TaskState.WARNED,
    DiffOutcome.FAILED: TaskState.FAILED,
    DiffOutcome.UNKNOWN: TaskState.UNKNOWN,
}


def advance(context: TickContext, rollout: Rollout, observed: ObservedState, effect: Run) -> tuple[TaskRun, list[Event]]:
    """Begin the task, or see how it stands: what is to be recorded of it, and what is to be told."""
    before = next((task for task in rollout.tasks if task.name == effect.task), None)
    if effect.task == COMPARE:
        return _run_comparison(context, rollout, observed)
    return _hook(context, rollout, observed, effect.task, before)


def next_poll(run: TaskRun, now: Time) -> Time:
    """When to look at one that still runs: soon in the beginning, less often the longer it takes."""
    return now + min(MAX_POLL_SECONDS, max(0.05, (now - run.begun) / 10))


def remove_containers(context: TickContext, rollout: Rollout) -> None:
    """Leave no container of a hook behind."""
    if any(task.name != COMPARE for task in rollout.tasks):
        context.guard()
        context.drivers.platform.clear(rollout.service, rollout.id)


# -- hooks ------------------------------------------------------------------------------------------------------------
def _hook(
    context: TickContext, rollout: Rollout, observed: ObservedState, name: str, before: TaskRun | None
) -> tuple[TaskRun, list[Event]]:
    """Recorded as begun before it is: so its time counts from the first attempt, whatever happens to the engine."""
    if before is None:
        begun = TaskRun(name, TaskState.RUNNING, context.clock(), message=f"{name} runs")
        return begun, [events.task(begun, rollout)]
    job = _job(context, rollout, observed, name)
    context.guard()
    state = context.drivers.platform.run(job)
    now, limit = context.clock(), job.hook.timeout_seconds
    if state.status is None:
        if now - before.begun <= limit:
            return before, []
        context.guard()
        context.drivers.platform.end(job)
        state = context.drivers.platform.run(job)
        return _ended(before, rollout, f"{name} did not end within {limit:g} s", state.log, now)
    if state.status == 0:
        done = TaskRun(name, TaskState.PASSED, before.begun, now, f"{name} succeeded")
        return done, [events.task(done, rollout, {"log": state.log})]
    why = state.detail or f"exit status {state.status}"
    return _ended(before, rollout, f"{name} failed: {why}", state.log, now)


def _ended(begun: TaskRun, rollout: Rollout, message: str, log: str, now: Time) -> tuple[TaskRun, list[Event]]:
    """One that failed. Where traffic was moved already that is no reason to turn back, but one to tell."""
    state = TaskState.FAILED if begun.name in BLOCKING else TaskState.WARNED
    done = TaskRun(begun.name, state, begun.begun, now, message)
    return done, [events.task(done, rollout, {"log": log})]


def _job(context: TickContext, rollout: Rollout, observed: ObservedState, name: str) -> Job:
    hook = rollout.hooks[name]
    wanted = rollout.old if hook.side is ReleaseRole.OLD and rollout.old else rollout.new
    release = context.store.get_release(rollout.service, wanted).release
    return Job(rollout.id, rollout.service, name, release, hook, _variables(rollout, observed, name))


def _variables(rollout: Rollout, observed: ObservedState, name: str) -> Mapping[str, str]:
    """What a hook is told, besides its own environment."""
    backend = rollout.backend
    variables = {
        "TIDEGATE_HOOK": name,
        "TIDEGATE_SERVICE": rollout.service,
        "TIDEGATE_ROLLOUT": rollout.id,
        "TIDEGATE_RELEASE": rollout.new,
        "TIDEGATE_OLD_RELEASE": rollout.old or "",
        "TIDEGATE_URL": _url(backend.listen),
    }
    if backend.preview is not None:
        variables["TIDEGATE_PREVIEW_URL"] = _url(backend.preview.listen)
        variables["TIDEGATE_PREVIEW_HEADER"] = backend.preview.header
    ready = [
        instance.address
        for instance in observed.instances
        if instance.release == rollout.new and instance.state is InstanceState.READY
    ]
    return {**variables, "TIDEGATE_INSTANCES": ",".join(ready)}


def _url(listen: str) -> str:
    """Where an owned proxy listens; a port alone is on every address of its machine."""
    if not listen:
        return ""
    host, _, port = listen.rpartition(":")
    return f"http://{host if host not in ('', '*') else '127.0.0.1'}:{port}"


# -- comparing --------------------------------------------------------------------------------------------------------
def _run_comparison(context: TickContext, rollout: Rollout, observed: ObservedState) -> tuple[TaskRun, list[Event]]:
    """It takes a moment only, so it begins and ends at once."""
    assert rollout.compare is not None
    now = context.clock()
    result = _comparison(context, rollout, observed)
    state = STATES[result.outcome]
    if state is TaskState.UNKNOWN and not result.stops(rollout.compare.on_breaking):
        state = TaskState.WARNED
    done = TaskRun(COMPARE, state, now, context.clock(), result.message)
    changes = [f"{change.effect.value}: {change.message} ({change.path})" for change in result.changes[:MAX_CHANGES]]
    return done, [events.task(done, rollout, {"changes": changes, "more": len(result.changes) - len(changes)})]


def _comparison(context: TickContext, rollout: Rollout, observed: ObservedState) -> DiffResult:
    """One instance of each release is asked."""
    assert rollout.compare is not None
    if rollout.old is None:
        return DiffResult(DiffOutcome.SKIPPED, "nothing served before, so there is nothing to compare")
    old, new = (_address(observed, release) for release in (rollout.old, rollout.new))
    if not old or not new:
        lacking = rollout.new if old else rollout.old
        return DiffResult(DiffOutcome.UNKNOWN, f"the APIs are not compared: no instance of {lacking} is ready to be asked")
    return compare_apis(old, new, rollout.compare, context.drivers.documents)


def _address(observed: ObservedState, release: str | None) -> str:
    ready = (
        instance for instance in observed.instances if instance.release == release and instance.state is InstanceState.READY
    )
    return next((instance.address for instance in ready if instance.address), "")


DOCUMENT_TIMEOUT_SECONDS = 10.0  # for each document


def compare_apis(old_address: str, new_address: str, wanted: CompareOptions, documents: DocumentFetcher) -> DiffResult:
    """What the new release's document breaks of the old one's. Never raises: a document that could not be had makes the
    outcome `UNKNOWN`, which `DiffResult.stops` takes for a breaking change where such a one fails."""
    try:
        old = documents.fetch(old_address, wanted.path, DOCUMENT_TIMEOUT_SECONDS)
        new = documents.fetch(new_address, wanted.path, DOCUMENT_TIMEOUT_SECONDS)
    except DocumentError as error:
        return DiffResult(DiffOutcome.UNKNOWN, f"the APIs are not compared: {error.message}")
    if old is None and new is None:
        return DiffResult(DiffOutcome.SKIPPED, f"neither release serves {wanted.path}: there is nothing to compare")
    if old is None or new is None:
        what = "the old release does not serve" if old is None else "the new release does not serve"
        return DiffResult(DiffOutcome.UNKNOWN, f"the APIs are not compared: {what} {wanted.path}")
    return conclude(diff_documents(old, new), wanted.on_breaking)
