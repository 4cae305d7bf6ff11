"""Rollouts: list, look, follow, and signals: verify, promote, rollback, pause, resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flask import Response
from flask_openapi import Response as ResponseSpec

from tidegate.app import approvals
from tidegate.app.context import AppContext
from tidegate.core.approvals import approval_binding
from tidegate.core.model import Event, Rollout, Signal, SignalKind
from tidegate.core.phases import Phase
from tidegate.core.records import Idempotency
from tidegate.errors import IllegalMove, VersionConflict
from tidegate.web import log_setup
from tidegate.web.api import api, idempotency_key, mark_replayed, principal, require_version, respond
from tidegate.web.errors import IF_MATCH_NEEDED, ApiProblem
from tidegate.web.identity import identify_requester, require_reason
from tidegate.web.junit import MEDIA_TYPE, junit
from tidegate.web.openapi import ResponseDict, blueprint, problems
from tidegate.web.pagination import rollouts_page
from tidegate.web.replay_record import RecordView, encode
from tidegate.web.requests import EventsQuery, PromoteBody, RolloutPath, RolloutsQuery, SignalBody, SignalHeader
from tidegate.web.views.report import ReportView, load_report, report_view
from tidegate.web.views.rollout import EventsView, RolloutsView, RolloutView, event_view, rollout_view

bp = blueprint("rollouts", "Attempts to move a service from one release to another.")

_XML: Any = {"application/xml": {"schema": {"type": "string"}}}
JUNIT: ResponseDict = {"200": ResponseSpec(description="JUnit's XML.", content=_XML)}
SIGNAL_RESPONSES: ResponseDict = {"202": RolloutView, **problems(400, 404, 409, 412, 413, 415)}


@bp.get("/rollouts", responses={"200": RolloutsView, **problems()})
def list_rollouts(query: RolloutsQuery) -> Response:
    """All rollouts that the token may read, the newest first."""
    if query.service is not None:
        principal().require("read", query.service)
    return rollouts_page(query.service, query)


@bp.get("/rollouts/<rollout>", responses={"200": RolloutView, **problems(404)})
def get_rollout(path: RolloutPath) -> Response:
    """A rollout as it stands."""
    rollout, signals = _load(path)
    return respond(rollout_view(rollout, signals), version=rollout.version)


def _load(path: RolloutPath) -> tuple[Rollout, tuple[Signal, ...]]:
    rollout, signals = api().store.load(path.rollout)
    log_setup.bind_rollout(rollout)
    principal().require("read", rollout.service)
    return rollout, signals


# -- following ------------------------------------------------------------------------------------------------------------


@bp.get("/rollouts/<rollout>/events", responses={"200": EventsView, **problems(404)})
def list_events(path: RolloutPath, query: EventsQuery) -> Response:
    """Its events after a number: at once when there are any or the rollout is finished, else after `wait` seconds."""
    rollout, _ = _load(path)
    events = api().store.events(rollout.id, query.after)
    if not events and query.wait > 0 and rollout.phase.live:
        events = _wait_for_events(rollout.id, query.after, query.wait)
    last = events[-1].number if events else query.after
    return respond(EventsView(events=[event_view(event) for event in events], last=last))


def _wait_for_events(rollout: str, after: int, seconds: float) -> tuple[Event, ...]:
    """The events as soon as there are any; none when the time is over or the server ends."""
    with api().long_poll_slots.acquire():
        api().long_polls.wait(rollout, after, seconds)
        return api().store.events(rollout, after)


@bp.get("/rollouts/<rollout>/report", responses={"200": ReportView, **problems(404)})
def get_report(path: RolloutPath) -> Response:
    """What happened and why: batches, verdicts with their evidence, requests seen and lost in each switch."""
    rollout, _ = _load(path)
    return respond(report_view(load_report(api().store, rollout)))


@bp.get("/rollouts/<rollout>/junit", responses=JUNIT | problems(404))
def get_junit(path: RolloutPath) -> Response:
    """The checks as JUnit's XML, for CI servers: a case for each check and step, and one for the rollout."""
    rollout, _ = _load(path)
    return Response(junit(load_report(api().store, rollout)), content_type=MEDIA_TYPE)


@bp.get("/rollouts/<rollout>/record", responses={"200": RecordView, **problems(404)})
def get_record(path: RolloutPath) -> Response:
    """All that it was judged from: the rollout, every look at the metrics with its samples, and the verdicts."""
    rollout, _ = _load(path)
    verdicts = tuple(row.verdict for row in api().store.verdicts(rollout.id))
    return respond(RecordView.model_validate(encode((rollout, api().store.measurements(rollout.id), verdicts))))


# -- signals ---------------------------------------------------------------------------------------------------------------


@bp.post("/rollouts/<rollout>/promote", responses={**SIGNAL_RESPONSES, **problems(400, 404, 409, 412, 413, 415, 428)})
def promote(path: RolloutPath, header: SignalHeader, body: PromoteBody) -> Response:
    """Approve what the present step waits for, and go on; with `full` every hold that follows, too.

    With `force` on to the end without bakes, checks and holds. The approval is for what was seen: `binding`, or If-Match.
    """
    if body.force:
        require_reason(body.reason, "skip the analysis")
        return _signal(path, header, SignalRequest(SignalKind.FORCE, "force", _require_forceable), body)
    if header.if_match is None and not body.binding:
        text = "send what the approval is for: `binding` of the hold, or the header If-Match with the ETag that was seen"
        raise ApiProblem(IF_MATCH_NEEDED, text)
    check: SignalCheck = approvals.require_approvable_in_full if body.full else approvals.require_approvable
    return _signal(
        path, header, SignalRequest(SignalKind.PROMOTE, "promote", check, bound=not body.full, binding=body.binding), body
    )


@bp.post("/rollouts/<rollout>/verify", responses=SIGNAL_RESPONSES)
def verify(path: RolloutPath, header: SignalHeader, body: SignalBody) -> Response:
    """Judge the present step now, without waiting for the next look."""
    return _signal(path, header, SignalRequest(SignalKind.VERIFY, "deploy", _require_checks), body)


@bp.post("/rollouts/<rollout>/rollback", responses=SIGNAL_RESPONSES)
def rollback(path: RolloutPath, header: SignalHeader, body: SignalBody) -> Response:
    """Turn back to the release before."""
    return _signal(path, header, SignalRequest(SignalKind.ROLLBACK, "rollback"), body)


@bp.post("/rollouts/<rollout>/pause", responses=SIGNAL_RESPONSES)
def pause(path: RolloutPath, header: SignalHeader, body: SignalBody) -> Response:
    """Hold still: no traffic is moved and no step begun until `resume`; deadlines stop."""
    return _signal(path, header, SignalRequest(SignalKind.PAUSE, "deploy"), body)


@bp.post("/rollouts/<rollout>/resume", responses=SIGNAL_RESPONSES)
def resume(path: RolloutPath, header: SignalHeader, body: SignalBody) -> Response:
    """Go on after a pause."""
    return _signal(path, header, SignalRequest(SignalKind.RESUME, "deploy"), body)


SignalCheck = Callable[[AppContext, Rollout, tuple[Signal, ...], str], None]


@dataclass(frozen=True, slots=True)
class SignalRequest:
    """What is asked. `check` raises when it makes no sense now, or this person may not; `bound` ties it to the present
    step; `binding` is what it was given for."""

    kind: SignalKind
    scope: str
    check: SignalCheck | None = None
    bound: bool = False
    binding: str = ""


def _signal(path: RolloutPath, header: SignalHeader, wanted: SignalRequest, body: SignalBody) -> Response:
    """Record it, with its line in the audit log."""
    rollout, signals = api().store.load(path.rollout)
    log_setup.bind_rollout(rollout)
    principal().require(wanted.scope, rollout.service)
    by = identify_requester(body.on_behalf_of, rollout.service)
    key = idempotency_key(header.key) if header.key else None
    if key is not None and api().store.answered(key) is not None:
        return mark_replayed(_current_state(rollout, signals))
    version = require_version(rollout.version, f"rollout {rollout.id}")
    if wanted.check is not None:
        wanted.check(api(), rollout, signals, by.by)
    if wanted.kind is SignalKind.PROMOTE:
        approvals.require_group_approver(api(), rollout, by.by, lambda key: principal().require("promote", key))
    if wanted.binding and wanted.binding != approval_binding(rollout):
        raise VersionConflict(
            f"rollout {rollout.id} has moved on since: the approval was for another step, plan or digest; read it again"
        )
    step = rollout.cursor if wanted.bound else None
    signal = Signal(wanted.kind, api().now(), by.by, body.reason, step, by.via)
    audit = by.audit(wanted.kind.value, rollout.service, body.reason, rollout.id, rollout.build)
    api().store.signal(rollout.id, signal, version, key and _with_answer(key, rollout), audit=audit)
    api().wake()
    return _current_state(*api().store.load(rollout.id))


def _with_answer(key: Idempotency, rollout: Rollout) -> Idempotency:
    return replace(key, status=202, answer=rollout.id)


def _current_state(rollout: Rollout, signals: Sequence[Signal]) -> Response:
    return respond(rollout_view(rollout, signals), 202, version=rollout.version)


# -- whether a signal makes sense -----------------------------------------------------------------------------------------


def _require_forceable(_: AppContext, rollout: Rollout, __: tuple[Signal, ...], ___: str) -> None:
    """Raises `IllegalMove` when it is not on its way forward."""
    if rollout.phase not in (Phase.PENDING, Phase.RUNNING):
        raise IllegalMove(f"rollout {rollout.id} is {rollout.phase}: there is no analysis to skip")


def _require_checks(_: AppContext, rollout: Rollout, __: tuple[Signal, ...], ___: str) -> None:
    """Raises `IllegalMove` when the present step asks no checks: waiting for a verdict would never end."""
    if rollout.phase.live and not rollout.step.gate.judged:
        place = f"step {rollout.cursor + 1} of {len(rollout.plan)}"
        raise IllegalMove(f"{place} of rollout {rollout.id} asks no checks, so there is nothing to judge")
