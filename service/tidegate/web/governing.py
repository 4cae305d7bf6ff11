"""Freezes, and who asked for what: the audit log."""

from __future__ import annotations

from flask import Response

from tidegate.core.records import Freeze
from tidegate.web.api import api, bad_cursor, decode_cursor, encode_cursor, principal, respond, with_next_link
from tidegate.web.asking import asker, require_reason
from tidegate.web.governed import AuditView, FreezesView, FreezeView, audit_view, freeze_view
from tidegate.web.openapi import blueprint, problems
from tidegate.web.requests import AuditQuery, EnvironmentPath, FreezeBody

bp = blueprint("governing", "Freezes, and the audit log.")
SECONDS_AN_HOUR = 3600.0


@bp.get("/freezes", responses={"200": FreezesView, **problems()})
def list_freezes() -> Response:
    """The environments that are frozen now, of those that the token may read."""
    found = [each for each in api().store.freezes() if principal().may_in("read", each.environment)]
    return respond(FreezesView(freezes=[freeze_view(each) for each in found]))


@bp.put("/environments/<environment>/freeze", responses={"200": FreezeView, **problems(400, 404, 413, 415)})
def freeze(path: EnvironmentPath, body: FreezeBody) -> Response:
    """Freeze an environment: no rollout begins there, and those under way begin no further batch. Ways back stay open."""
    _require(path.environment)
    require_reason(body.reason, "freeze an environment")
    by = asker(body.on_behalf_of, f"{path.environment}/*")
    now = api().now()
    until = None if body.hours is None else now + body.hours * SECONDS_AN_HOUR
    made = Freeze(path.environment, by.by, body.reason, now, until)
    api().store.freeze(made, audit=by.audit("freeze", path.environment, body.reason))
    return respond(freeze_view(made))


@bp.delete("/environments/<environment>/freeze", responses={"204": None, **problems(404)})
def thaw(path: EnvironmentPath) -> Response:
    """Lift the freeze; no error when there is none."""
    _require(path.environment)
    api().store.thaw(path.environment, audit=asker("", path.environment).audit("thaw", path.environment))
    api().wake()
    return Response(status=204)


def _require(environment: str) -> None:
    principal().require("freeze", f"{environment}/*")
    api().parts(environment)


@bp.get("/audit", responses={"200": AuditView, **problems()})
def read_audit(query: AuditQuery) -> Response:
    """Who asked for what, when, why and from where, the newest first, as far as the token may read it."""
    last = decode_cursor(query.cursor)
    if last is not None and not last.isdecimal():
        raise bad_cursor()
    found = api().store.audit(None if last is None else int(last), query.limit + 1, _subjects(query.subject))
    shown = found[: query.limit]
    cursor = encode_cursor(str(shown[-1].number)) if len(found) > len(shown) else None
    return with_next_link(respond(AuditView(entries=[audit_view(each) for each in shown], next=cursor)), cursor)


def _subjects(wanted: str | None) -> list[str] | None:
    """What is shown: the one asked for, or all; a token for some services sees these only, and no environment or token."""
    who = principal()
    if wanted is not None and "/" in wanted:
        who.require("read", wanted)
        return [wanted]
    if who.may("read", "*"):
        return None if wanted is None else [wanted]
    seen = [each.service.key for each in api().store.services() if who.may("read", each.service.key)]
    return seen if wanted is None else []
