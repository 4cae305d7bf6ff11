"""Routes of rollouts: list, read, follow, and the signals verify, promote, rollback, pause and resume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from flask import Response, request
from flask_openapi import Response as ResponseSpec

from tidegate.app import approvals, repeats
from tidegate.app.context import AppContext, RolloutRequest
from tidegate.app.progress import has_reached
from tidegate.core.approvals import approval_binding
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Event, Rollout, Signal, SignalKind
from tidegate.core.phases import Phase
from tidegate.core.records import Idempotency
from tidegate.errors import IllegalMove, UnknownRollout
from tidegate.web import log_setup
from tidegate.web.api import (
    api,
    idempotency_key,
    mark_replayed,
    names_one_version,
    principal,
    require_version,
    respond,
)
from tidegate.web.creation import create_rollouts, replay, require_no_live_rollout
from tidegate.web.errors import IF_MATCH_REQUIRED, ApiProblem
from tidegate.web.identity import identify_requester, require_for_group, require_reason
from tidegate.web.junit import MEDIA_TYPE, junit
from tidegate.web.long_polls import has_client_left
from tidegate.web.openapi import ResponseDict, blueprint, problems
from tidegate.web.pagination import rollouts_page
from tidegate.web.parameters import EventsQuery, KeyHeader, RolloutPath, RolloutsQuery, SignalHeader
from tidegate.web.replay_record import RecordView, encode
from tidegate.web.requests import ForceBody, PromoteBody, SignalBody
from tidegate.web.views.report import ReportView, load_report
from tidegate.web.views.rollout import EventsView, RolloutsView, RolloutView, rollout_view

bp = blueprint("rollouts", "Rollouts of a service from one release to another.")

_XML: Any = {"application/xml": {"schema": {"type": "string"}}}
JUNIT: ResponseDict = {"200": ResponseSpec(description="JUnit XML.", content=_XML)}
MAX_EVENTS = 500  # in one response
SIGNAL_RESPONSES: ResponseDict = {"202": RolloutView, **problems(400, 404, 409, 412, 413, 415)}


@bp.get("/rollouts", responses={"200": RolloutsView, **problems()})
def list_rollouts(query: RolloutsQuery) -> Response:
    """All rollouts that the token may read, newest first."""
    if query.service is not None:
        principal().require("read", query.service)
    return rollouts_page(query.service, query)


@bp.get("/rollouts/<rollout>", responses={"200": RolloutView, **problems(404)})
def get_rollout(path: RolloutPath) -> Response:
    """The current state of a rollout."""
    rollout, signals = _load(path)
    return respond(rollout_view(rollout, signals), version=rollout.version)


def _load(path: RolloutPath) -> tuple[Rollout, tuple[Signal, ...]]:
    """The rollout. Raises `UnknownRollout` also for one that the token may not read: IDs of others are not confirmed."""
    rollout, signals = api().store.load(path.rollout)
    if not principal().may("read", rollout.service):
        raise UnknownRollout(f"No rollout {path.rollout}.")
    log_setup.bind_rollout(rollout)
    return rollout, signals


# -- following ------------------------------------------------------------------------------------------------------------


@bp.get("/rollouts/<rollout>/events", responses={"200": EventsView, **problems(404)})
def list_events(path: RolloutPath, query: EventsQuery) -> Response:
    """Events after a number, and whether the rollout has reached `until`.

    Responds when there are events or `until` is reached, at the latest after `wait` seconds.
    """
    rollout, signals = _load(path)
    if (
        rollout.build is not None
        and rollout.phase.live
        and principal().name in (rollout.requested_by, rollout.requested_via)
    ):
        api().store.note_build_poll(rollout.id)
    view = _events_page(rollout, signals, query)
    if not view.events and not view.reached and query.wait > 0:
        with api().long_poll_slots.acquire():
            left = partial(has_client_left, request.environ)
            api().long_polls.wait(rollout.id, query.after, query.wait, left)
            view = _events_page(*api().store.load(rollout.id), query)
    return respond(view)


def _events_page(rollout: Rollout, signals: Sequence[Signal], query: EventsQuery) -> EventsView:
    """The next events. They are read after the rollout, so that they include all that led to its state."""
    events = api().store.events(rollout.id, query.after, MAX_EVENTS)
    if not _may_read_logs(rollout):
        events = tuple(replace(event, data=_without_log(event)) for event in events)
    reached = len(events) < MAX_EVENTS and has_reached(rollout, signals, query.until)
    last = events[-1].number if events else query.after
    return EventsView.model_validate({"events": events, "last": last, "reached": reached})


def _may_read_logs(rollout: Rollout) -> bool:
    """Whether the token may see the output of hooks: a hook may print what its release can read."""
    return principal().may("deploy", rollout.service)


def _without_log(event: Event) -> Mapping[str, object]:
    """The data of an event without the output of a hook."""
    is_hook = event.kind == EventKind.TASK_ENDED
    return {key: value for key, value in event.data.items() if not (is_hook and key == "log")}


@bp.get("/rollouts/<rollout>/report", responses={"200": ReportView, **problems(404)})
def get_report(path: RolloutPath) -> Response:
    """The report: steps with durations, verdicts with evidence, requests served and lost during each switch."""
    rollout, _ = _load(path)
    report = load_report(api().store, rollout)
    if not _may_read_logs(rollout):
        report = replace(report, tasks=tuple(replace(task, log="") for task in report.tasks))
    return respond(ReportView.model_validate(report))


@bp.get("/rollouts/<rollout>/junit", responses=JUNIT | problems(404))
def get_junit(path: RolloutPath) -> Response:
    """The report as JUnit XML for CI servers: one test case per check and step, and one for the rollout."""
    rollout, _ = _load(path)
    return Response(junit(load_report(api().store, rollout)), content_type=MEDIA_TYPE)


@bp.get("/rollouts/<rollout>/record", responses={"200": RecordView, **problems(404)})
def get_record(path: RolloutPath) -> Response:
    """The inputs of the analysis: the rollout, every measurement with its samples, and the verdicts."""
    rollout, _ = _load(path)
    verdicts = tuple(row.verdict for row in api().store.verdicts(rollout.id))
    return respond(RecordView.model_validate(encode((rollout, api().store.measurements(rollout.id), verdicts))))


# -- signals ---------------------------------------------------------------------------------------------------------------


@bp.post("/rollouts/<rollout>/promote", responses={**SIGNAL_RESPONSES, **problems(400, 404, 409, 412, 413, 415, 428)})
def promote(path: RolloutPath, header: SignalHeader, body: PromoteBody) -> Response:
    """Approve the current step; with `full`, everything that the plan asks to approve, but no verdict.

    With `force`, skip all remaining bakes, checks and approvals. `binding` or If-Match says which state is approved.
    """
    if body.force:
        require_reason(body.reason, "skip the analysis")
        return _signal(path, header, SignalRequest(SignalKind.FORCE, "force", _require_forceable), body)
    if not body.binding and not names_one_version():
        detail = (
            "Say which state you approve: send `approval.binding` of the rollout as `binding`, or its ETag as If-Match."
        )
        raise ApiProblem(IF_MATCH_REQUIRED, detail)
    check: SignalCheck = approvals.require_approvable_in_full if body.full else approvals.require_approvable
    sent = SignalRequest(SignalKind.PROMOTE, "promote", check, full=body.full, binding=body.binding)
    return _signal(path, header, sent, body)


@bp.post("/rollouts/<rollout>/verify", responses=SIGNAL_RESPONSES)
def verify(path: RolloutPath, header: SignalHeader, body: SignalBody) -> Response:
    """Run the analysis of the current step now instead of at the next interval."""
    return _signal(path, header, SignalRequest(SignalKind.VERIFY, "deploy", _require_checks), body)


@bp.post("/rollouts/<rollout>/rollback", responses=SIGNAL_RESPONSES)
def rollback(path: RolloutPath, header: SignalHeader, body: SignalBody) -> Response:
    """Roll back to the previous release."""
    return _signal(path, header, SignalRequest(SignalKind.ROLLBACK, "rollback"), body)


@bp.post("/rollouts/<rollout>/pause", responses=SIGNAL_RESPONSES)
def pause(path: RolloutPath, header: SignalHeader, body: SignalBody) -> Response:
    """Pause: no traffic moves and no step starts until `resume`. Deadlines are suspended."""
    return _signal(path, header, SignalRequest(SignalKind.PAUSE, "deploy"), body)


@bp.post("/rollouts/<rollout>/resume", responses=SIGNAL_RESPONSES)
def resume(path: RolloutPath, header: SignalHeader, body: SignalBody) -> Response:
    """Resume after a pause."""
    return _signal(path, header, SignalRequest(SignalKind.RESUME, "deploy"), body)


@bp.post("/rollouts/<rollout>/retry", responses={"202": RolloutView, **problems(400, 404, 409, 413, 415)})
def retry(path: RolloutPath, header: KeyHeader, body: ForceBody) -> Response:
    """Start another rollout with the definition and the image of one that was refused, rolled back or halted."""
    rollout, _ = _load(path)
    key = idempotency_key(header.key)
    stored = api().store.find_answer(key)
    if stored is not None:
        return replay(stored)
    by = identify_requester(body.on_behalf_of, rollout.service)
    for member in (rollout, *(api().store.peers(rollout.id, rollout.group) if rollout.group else ())):
        principal().require("deploy", member.service)
        identify_requester(body.on_behalf_of, member.service)
        if body.force:
            principal().require("force", member.service)
    if body.force:
        require_reason(body.reason, "retry by force")
    require_no_live_rollout(api().store.get_service(rollout.service))
    request = RolloutRequest(by.by, by.via, body.reason, force=body.force)
    rollouts = repeats.retry(api(), rollout, request)
    audit = by.audit("retry by force" if body.force else "retry", rollout.service, body.reason, rollouts[0].rollout.id)
    return create_rollouts(rollouts, key, audit)


@bp.post("/rollouts/<rollout>/detach", responses=SIGNAL_RESPONSES)
def detach(path: RolloutPath, header: SignalHeader, body: SignalBody) -> Response:
    """Let the rollout continue when its build ends, whatever `on_build_end` says."""
    return _signal(path, header, SignalRequest(SignalKind.DETACH, "deploy"), body)


SignalCheck = Callable[[AppContext, Rollout, tuple[Signal, ...], str], None]


@dataclass(frozen=True, slots=True)
class SignalRequest:
    """A signal to record. `check` raises when it is not possible now or not allowed for the person. An approval is `full`
    if it is for all steps; `binding` is the state that it was given for, empty for the version that `If-Match` names."""

    kind: SignalKind
    scope: str
    check: SignalCheck | None = None
    full: bool = False
    binding: str = ""


def _signal(path: RolloutPath, header: SignalHeader, sent: SignalRequest, body: SignalBody) -> Response:
    """Record a signal and its audit entry in one transaction."""
    rollout, signals = _load(path)
    by = require_for_group(rollout, sent.kind, sent.scope, body.on_behalf_of)
    key = idempotency_key(header.key) if header.key else None
    if key is not None and api().store.find_answer(key) is not None:
        return mark_replayed(_current_state(rollout, signals))
    version = require_version(rollout.version, f"rollout {rollout.id}")
    if sent.check is not None:
        sent.check(api(), rollout, signals, by.by)
    signal = Signal(sent.kind, api().now(), by.by, body.reason, via=by.via)
    if sent.kind is SignalKind.PROMOTE:
        approvals.require_group_approver(api(), rollout, by.by)
        step = None if sent.full else rollout.cursor
        signal = replace(signal, step=step, binding=sent.binding or approval_binding(rollout))
    audit = by.audit(sent.kind.value, rollout.service, body.reason, rollout.id, rollout.build)
    api().store.signal(rollout.id, signal, version, key and _with_answer(key, rollout), audit=audit)
    api().wake()
    return _current_state(*api().store.load(rollout.id))


def _with_answer(key: Idempotency, rollout: Rollout) -> Idempotency:
    return replace(key, status=202, response=rollout.id)


def _current_state(rollout: Rollout, signals: Sequence[Signal]) -> Response:
    return respond(rollout_view(rollout, signals), 202, version=rollout.version)


# -- preconditions of signals ---------------------------------------------------------------------------------------------


def _require_forceable(_: AppContext, rollout: Rollout, __: tuple[Signal, ...], ___: str) -> None:
    """Raises `IllegalMove` unless the rollout is pending or running."""
    if rollout.phase not in (Phase.PENDING, Phase.RUNNING):
        raise IllegalMove(f"Rollout {rollout.id} is {rollout.phase}, so there is no analysis to skip.")


def _require_checks(_: AppContext, rollout: Rollout, __: tuple[Signal, ...], ___: str) -> None:
    """Raises `IllegalMove` when no verdict would ever come: the step has no checks, or has failed them."""
    step = f"Step {rollout.cursor + 1} of {len(rollout.plan)} of rollout {rollout.id}"
    if rollout.phase.live and not rollout.step.gate.analyzed:
        raise IllegalMove(f"{step} has no checks, so there is nothing to verify.")
    if rollout.phase.live and rollout.failed_verdict:
        raise IllegalMove(f"{step} has the verdict FAIL, which is final.")
