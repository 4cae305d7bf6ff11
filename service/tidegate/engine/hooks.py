"""The tasks of a step: hooks, which run as short-lived containers, and the comparison of two releases' OpenAPI documents.

The platform identifies a hook by rollout and name, so an engine that takes over finds the running hook or its exit status:
no hook runs twice. The result is saved before the container is removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tidegate.clock import Time
from tidegate.core.decisions import Run
from tidegate.core.hooks import COMPARE, Job, ReleaseRole, TaskRun, TaskState, is_blocking
from tidegate.core.model import Event, InstanceState, ObservedState, Rollout
from tidegate.core.waits import WaitingFor, WaitKind
from tidegate.engine import events
from tidegate.engine.tick_context import TickContext
from tidegate.errors import DocumentError
from tidegate.openapi_diff.diff import diff_documents
from tidegate.openapi_diff.result import CompareOptions, DiffOutcome, DiffResult, conclude
from tidegate.ports import DocumentFetcher

MAX_POLL_SECONDS = 2.0
MAX_CHANGES = 20  # in the event of one comparison
STATES = {
    DiffOutcome.PASSED: TaskState.PASSED,
    DiffOutcome.SKIPPED: TaskState.PASSED,
    DiffOutcome.WARNED: TaskState.WARNED,
    DiffOutcome.FAILED: TaskState.FAILED,
    DiffOutcome.UNKNOWN: TaskState.UNKNOWN,
}


def advance(context: TickContext, rollout: Rollout, observed: ObservedState, effect: Run) -> tuple[TaskRun, list[Event]]:
    """Start the task or poll it; returns its state and the events to record."""
    before = next((task for task in rollout.tasks if task.name == effect.task), None)
    if effect.task == COMPARE:
        return _run_comparison(context, rollout, observed)
    return _hook(context, rollout, observed, effect.task, before)


def next_poll(run: TaskRun, now: Time) -> Time:
    """When to poll a running task again: often at first, up to `MAX_POLL_SECONDS` later."""
    return now + min(MAX_POLL_SECONDS, max(0.05, (now - run.started_at) / 10))


def remove_containers(context: TickContext, rollout: Rollout) -> None:
    """Remove the containers of the rollout's hooks."""
    if any(task.name != COMPARE for task in rollout.tasks):
        context.guard()
        with context.slow_call():
            context.drivers.platform.remove_jobs(rollout.service, rollout.id)


# -- hooks ------------------------------------------------------------------------------------------------------------
def _hook(
    context: TickContext, rollout: Rollout, observed: ObservedState, name: str, before: TaskRun | None
) -> tuple[TaskRun, list[Event]]:
    """Run or poll one hook. It is recorded as started first, so that its timeout counts from the first attempt."""
    if before is None:
        begun = TaskRun(name, TaskState.RUNNING, context.clock())
        begun = replace(begun, message=f"{begun.title} started.")
        return begun, [events.task(begun, rollout)]
    job = _job(context, rollout, observed, name)
    context.guard()
    with context.slow_call():  # its image may have to be pulled
        state = context.drivers.platform.run_job(job)
    now, limit = context.clock(), job.hook.timeout_seconds
    if state.status is None:
        if now - before.started_at <= limit:
            return before, []
        context.guard()
        with context.slow_call():
            context.drivers.platform.stop_job(job)
            state = context.drivers.platform.run_job(job)
        return _ended(before, rollout, f"{before.title} did not finish within {limit:g} s.", state.log, now)
    if state.status == 0:
        done = TaskRun(name, TaskState.PASSED, before.started_at, now, f"{before.title} succeeded.")
        return done, [events.task(done, rollout, {"log": state.log})]
    why = state.detail or f"exit status {state.status}"
    return _ended(before, rollout, f"{before.title} failed: {why}.", state.log, now, started=state.started)


def waiting_for(rollout: Rollout, run: TaskRun) -> WaitingFor:
    """The wait for a task that runs."""
    hook = rollout.hooks.get(run.name)
    until = None if hook is None else run.started_at + hook.timeout_seconds
    then = "the rollout rolls back" if is_blocking(run.name) else "the rollout continues with a warning"
    return WaitingFor(WaitKind.HOOKS, f"Waiting for {run.name} to finish", run.started_at, until, then)


def _ended(
    begun: TaskRun, rollout: Rollout, message: str, log: str, now: Time, *, started: bool = True
) -> tuple[TaskRun, list[Event]]:
    """A hook that failed. After traffic has moved, a failed hook is a warning and does not roll back."""
    state = TaskState.FAILED if is_blocking(begun.name) else TaskState.WARNED
    done = TaskRun(begun.name, state, begun.started_at, now, message, started)
    return done, [events.task(done, rollout, {"log": log})]


def _job(context: TickContext, rollout: Rollout, observed: ObservedState, name: str) -> Job:
    hook = rollout.hooks[name]
    wanted = rollout.old if hook.release is ReleaseRole.OLD and rollout.old else rollout.new
    release = context.store.get_release(rollout.service, wanted).release
    return Job(rollout.id, rollout.service, name, release, hook, _variables(rollout, observed, name))


def _variables(rollout: Rollout, observed: ObservedState, name: str) -> Mapping[str, str]:
    """The environment variables that every hook gets in addition to its own."""
    backend, preview = rollout.backend, rollout.backend.preview if rollout.backend is not None else None
    variables = {
        "TIDEGATE_HOOK": name,
        "TIDEGATE_SERVICE": rollout.service,
        "TIDEGATE_ROLLOUT": rollout.id,
        "TIDEGATE_RELEASE": rollout.new,
        "TIDEGATE_OLD_RELEASE": rollout.old or "",
        "TIDEGATE_URL": _url(backend.listen if backend is not None else ""),
    }
    if preview is not None:
        variables["TIDEGATE_PREVIEW_URL"] = _url(preview.listen)
        variables["TIDEGATE_PREVIEW_HEADER"] = preview.header
    ready = [
        instance.address
        for instance in observed.instances
        if instance.release == rollout.new and instance.state is InstanceState.READY
    ]
    return {**variables, "TIDEGATE_INSTANCES": ",".join(ready)}


def _url(listen: str) -> str:
    """The URL of a listening address; a port without a host becomes one of the local machine."""
    if not listen:
        return ""
    host, _, port = listen.rpartition(":")
    return f"http://{host if host not in ('', '*') else '127.0.0.1'}:{port}"


# -- OpenAPI ----------------------------------------------------------------------------------------------------------
def _run_comparison(context: TickContext, rollout: Rollout, observed: ObservedState) -> tuple[TaskRun, list[Event]]:
    """Compare at once: it is short enough for one tick."""
    assert rollout.compare is not None
    now = context.clock()
    with context.slow_call():
        result = _comparison(context, rollout, observed)
    state = STATES[result.outcome]
    if state is TaskState.UNKNOWN and not result.blocks(rollout.compare.on_breaking):
        state = TaskState.WARNED
    done = TaskRun(COMPARE, state, now, context.clock(), result.message)
    changes = [f"{change.effect.value}: {change.message} ({change.path})" for change in result.changes[:MAX_CHANGES]]
    return done, [events.task(done, rollout, {"changes": changes, "more": len(result.changes) - len(changes)})]


def _comparison(context: TickContext, rollout: Rollout, observed: ObservedState) -> DiffResult:
    """Compare the documents of one instance of each release."""
    assert rollout.compare is not None
    if rollout.old is None:
        return DiffResult(DiffOutcome.SKIPPED, "OpenAPI not compared: this is the first release.")
    old, new = (_address(observed, release) for release in (rollout.old, rollout.new))
    if not old or not new:
        lacking = rollout.new if old else rollout.old
        return DiffResult(DiffOutcome.UNKNOWN, f"OpenAPI not compared: no instance of {lacking} is ready.")
    return compare_apis(old, new, rollout.compare, context.drivers.documents)


def _address(observed: ObservedState, release: str | None) -> str:
    ready = (
        instance for instance in observed.instances if instance.release == release and instance.state is InstanceState.READY
    )
    return next((instance.address for instance in ready if instance.address), "")


DOCUMENT_TIMEOUT_SECONDS = 10.0  # for each document


def compare_apis(old_address: str, new_address: str, wanted: CompareOptions, documents: DocumentFetcher) -> DiffResult:
    """The incompatible changes of the new release's document. Never raises.

    A document that cannot be fetched gives the outcome `UNKNOWN`; `DiffResult.stops` decides whether that stops a rollout.
    """
    try:
        old = documents.fetch(old_address, wanted.path, DOCUMENT_TIMEOUT_SECONDS)
        new = documents.fetch(new_address, wanted.path, DOCUMENT_TIMEOUT_SECONDS)
    except DocumentError as error:
        return DiffResult(DiffOutcome.UNKNOWN, f"OpenAPI not compared: {error.message}")
    if old is None and new is None:
        return DiffResult(DiffOutcome.SKIPPED, f"OpenAPI not compared: neither release serves {wanted.path}.")
    if old is None or new is None:
        what = "the old release does not serve" if old is None else "the new release does not serve"
        return DiffResult(DiffOutcome.UNKNOWN, f"OpenAPI not compared: {what} {wanted.path}.")
    return conclude(diff_documents(old, new), wanted.on_breaking)
