"""Rollouts: list, look, follow, and the wishes: verify, promote, rollback, pause, resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flask import Response
from flask_openapi import Response as Said

from tidegate.core.approval import binding, opening
from tidegate.core.model import Event, Rollout, Signal, SignalKind
from tidegate.core.phases import Phase
from tidegate.core.records import Idempotency
from tidegate.errors import IllegalMove, Stale
from tidegate.web import groups, logs
from tidegate.web.api import answer, api, idempotency, principal, replayed, wanted_version
from tidegate.web.asking import asker, may_approve, require_reason
from tidegate.web.held import asks
from tidegate.web.junit import MEDIA_TYPE, junit
from tidegate.web.paging import rollouts_page
from tidegate.web.problems import IF_MATCH_NEEDED, Problem
from tidegate.web.records import encoded
from tidegate.web.reporting import ReportView, report_of, report_view
from tidegate.web.routes import ResponseDict, blueprint, problems
from tidegate.web.schemas import EventsQuery, PromoteBody, RolloutPath, RolloutsQuery, WishBody, WishHeader
from tidegate.web.showing import event_view, rollout_view
from tidegate.web.views import EventsView, RecordView, RolloutsView, RolloutView

bp = blueprint("rollouts", "Attempts to move a service from one release to another.")

_XML: Any = {"application/xml": {"schema": {"type": "string"}}}
JUNIT: ResponseDict = {"200": Said(description="JUnit's XML.", content=_XML)}
WISHED: ResponseDict = {"202": RolloutView, **problems(400, 404, 409, 412, 413, 415)}


@bp.get("/rollouts", responses={"200": RolloutsView, **problems()})
def list_rollouts(query: RolloutsQuery) -> Response:
    """All rollouts that the token may read, the newest first."""
    if query.service is not None:
        principal().require("read", query.service)
    return rollouts_page(query.service, query)


@bp.get("/rollouts/<rollout>", responses={"200": RolloutView, **problems(404)})
def get_rollout(path: RolloutPath) -> Response:
    """A rollout as it stands."""
    rollout, signals = _readable(path)
    return answer(rollout_view(rollout, signals), version=rollout.version)


def _readable(path: RolloutPath) -> tuple[Rollout, tuple[Signal, ...]]:
    rollout, signals = api().store.load(path.rollout)
    logs.about(rollout)
    principal().require("read", rollout.service)
    return rollout, signals


# -- following ------------------------------------------------------------------------------------------------------------


@bp.get("/rollouts/<rollout>/events", responses={"200": EventsView, **problems(404)})
def list_events(path: RolloutPath, query: EventsQuery) -> Response:
    """Its events after a number: at once when there are any or the rollout is finished, else after `wait` seconds."""
    rollout, _ = _readable(path)
    events = api().store.events(rollout.id, query.after)
    if not events and query.wait > 0 and rollout.phase.live:
        events = _awaited(rollout.id, query.after, query.wait)
    last = events[-1].number if events else query.after
    return answer(EventsView(events=[event_view(each) for each in events], last=last))


def _awaited(rollout: str, after: int, seconds: float) -> tuple[Event, ...]:
    """The events as soon as there are any; none when the time is over or the server ends."""
    with api().waiting.place():
        api().polls.wait(rollout, after, seconds)
        return api().store.events(rollout, after)


@bp.get("/rollouts/<rollout>/report", responses={"200": ReportView, **problems(404)})
def get_report(path: RolloutPath) -> Response:
    """What happened and why: batches, verdicts with their evidence, requests seen and lost in each switch."""
    rollout, _ = _readable(path)
    return answer(report_view(report_of(api().store, rollout)))


@bp.get("/rollouts/<rollout>/junit", responses=JUNIT | problems(404))
def get_junit(path: RolloutPath) -> Response:
    """The checks as JUnit's XML, for CI servers: a case for each check and step, and one for the rollout."""
    rollout, _ = _readable(path)
    return Response(junit(report_of(api().store, rollout)), content_type=MEDIA_TYPE)


@bp.get("/rollouts/<rollout>/record", responses={"200": RecordView, **problems(404)})
def get_record(path: RolloutPath) -> Response:
    """All that it was judged from: the rollout, every look at the metrics with its samples, and the verdicts."""
    rollout, _ = _readable(path)
    told = tuple(each.verdict for each in api().store.verdicts(rollout.id))
    return answer(RecordView.model_validate(encoded((rollout, api().store.looks(rollout.id), told))))


# -- wishes ---------------------------------------------------------------------------------------------------------------


@bp.post("/rollouts/<rollout>/promote", responses={**WISHED, **problems(400, 404, 409, 412, 413, 415, 428)})
def promote(path: RolloutPath, header: WishHeader, body: PromoteBody) -> Response:
    """Approve what the present step waits for, and go on; with `full` every hold that follows, too.

    With `force` on to the end without bakes, checks and holds. The approval is for what was seen: `binding`, or If-Match.
    """
    if body.force:
        require_reason(body.reason, "skip the analysis")
        return _wish(path, header, Wish(SignalKind.FORCE, "force", _forceable), body)
    if header.if_match is None and not body.binding:
        text = "send what the approval is for: `binding` of the hold, or the header If-Match with the ETag that was seen"
        raise Problem(IF_MATCH_NEEDED, text)
    check: Check = _approvable_in_full if body.full else _approvable
    return _wish(path, header, Wish(SignalKind.PROMOTE, "promote", check, bound=not body.full, binding=body.binding), body)


@bp.post("/rollouts/<rollout>/verify", responses=WISHED)
def verify(path: RolloutPath, header: WishHeader, body: WishBody) -> Response:
    """Judge the present step now, without waiting for the next look."""
    return _wish(path, header, Wish(SignalKind.VERIFY, "deploy", _judged), body)


@bp.post("/rollouts/<rollout>/rollback", responses=WISHED)
def rollback(path: RolloutPath, header: WishHeader, body: WishBody) -> Response:
    """Turn back to the release before."""
    return _wish(path, header, Wish(SignalKind.ROLLBACK, "rollback"), body)


@bp.post("/rollouts/<rollout>/pause", responses=WISHED)
def pause(path: RolloutPath, header: WishHeader, body: WishBody) -> Response:
    """Hold still: no traffic is moved and no step begun until `resume`; deadlines stop."""
    return _wish(path, header, Wish(SignalKind.PAUSE, "deploy"), body)


@bp.post("/rollouts/<rollout>/resume", responses=WISHED)
def resume(path: RolloutPath, header: WishHeader, body: WishBody) -> Response:
    """Go on after a pause."""
    return _wish(path, header, Wish(SignalKind.RESUME, "deploy"), body)


Check = Callable[[Rollout, tuple[Signal, ...], str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked. `check` raises when it makes no sense now, or this person may not; `bound` ties it to the present
    step; `binding` is what it was given for."""

    kind: SignalKind
    scope: str
    check: Check | None = None
    bound: bool = False
    binding: str = ""


def _wish(path: RolloutPath, header: WishHeader, wish: Wish, body: WishBody) -> Response:
    """Record it, with its line in the audit log."""
    rollout, signals = api().store.load(path.rollout)
    logs.about(rollout)
    principal().require(wish.scope, rollout.service)
    by = asker(body.on_behalf_of, rollout.service)
    key = idempotency(header.key) if header.key else None
    if key is not None and api().store.answered(key) is not None:
        return replayed(_as_it_stands(rollout, signals))
    version = wanted_version(rollout.version, f"rollout {rollout.id}")
    if wish.check is not None:
        wish.check(rollout, signals, by.by)
    if wish.kind is SignalKind.PROMOTE:
        groups.require_approvable(rollout, by.by)
    if wish.binding and wish.binding != binding(rollout):
        raise Stale(
            f"rollout {rollout.id} has moved on since: the approval was for another step, plan or digest; read it again"
        )
    step = rollout.cursor if wish.bound else None
    signal = Signal(wish.kind, api().now(), by.by, body.reason, step, by.via)
    told = by.audit(wish.kind.value, rollout.service, body.reason, rollout.id, rollout.build)
    api().store.signal(rollout.id, signal, version, key and _answered_with(key, rollout), audit=told)
    api().wake()
    return _as_it_stands(*api().store.load(rollout.id))


def _answered_with(key: Idempotency, rollout: Rollout) -> Idempotency:
    return replace(key, status=202, answer=rollout.id)


def _as_it_stands(rollout: Rollout, signals: Sequence[Signal]) -> Response:
    return answer(rollout_view(rollout, signals), 202, version=rollout.version)


# -- whether a wish makes sense -------------------------------------------------------------------------------------------


def _approvable(rollout: Rollout, signals: tuple[Signal, ...], by: str) -> None:
    """Raises `IllegalMove` when the present step asks nothing of a person, or enough have approved it already."""
    _on_its_way(rollout)
    place = f"step {rollout.cursor + 1} of {len(rollout.plan)}"
    before = opening(rollout, signals)
    if before is not None:
        raise IllegalMove(f"{place} of rollout {rollout.id} was approved already, by {before.by}")
    if asks(rollout) is None and not rollout.step.gate.keeps:  # there it ends the keeping of the old release
        raise IllegalMove(f"nothing waits for approval: {place} of rollout {rollout.id} goes on by itself{_later(rollout)}")
    may_approve(rollout, signals, by)


def _approvable_in_full(rollout: Rollout, signals: tuple[Signal, ...], by: str) -> None:
    """Raises `IllegalMove` when neither the present nor any later step asks a person."""
    _on_its_way(rollout)
    if asks(rollout) is None and not any(step.gate.hold for step in rollout.plan[rollout.cursor :]):
        raise IllegalMove(f"nothing waits for approval: rollout {rollout.id} has no hold any more and goes on by itself")
    may_approve(rollout, signals, by)


def _forceable(rollout: Rollout, _: tuple[Signal, ...], __: str) -> None:
    """Raises `IllegalMove` when it is not on its way forward."""
    if rollout.phase not in (Phase.PENDING, Phase.RUNNING):
        raise IllegalMove(f"rollout {rollout.id} is {rollout.phase}: there is no analysis to skip")


def _on_its_way(rollout: Rollout) -> None:
    if rollout.phase is not Phase.RUNNING:
        raise IllegalMove(f"rollout {rollout.id} is {rollout.phase}: nothing waits for approval")


def _later(rollout: Rollout) -> str:
    later = [number for number in range(rollout.cursor + 1, len(rollout.plan)) if rollout.plan[number].gate.hold]
    return f"; the next hold is after step {later[0] + 1}" if later else ", and no hold follows"


def _judged(rollout: Rollout, _: tuple[Signal, ...], __: str) -> None:
    """Raises `IllegalMove` when the present step asks no checks: waiting for a verdict would never end."""
    if rollout.phase.live and not rollout.step.gate.judged:
        place = f"step {rollout.cursor + 1} of {len(rollout.plan)}"
        raise IllegalMove(f"{place} of rollout {rollout.id} asks no checks, so there is nothing to judge")
