"""Pagination: cursors, links to the next page, and pages of rollouts."""

from __future__ import annotations

import base64
from urllib.parse import urlencode

from flask import Response, request

from tidegate.core.model import Rollout
from tidegate.core.phases import Phase
from tidegate.errors import UnknownRollout
from tidegate.web.api import api, principal, respond
from tidegate.web.errors import INVALID_REQUEST, ApiProblem
from tidegate.web.parameters import MAX_ROWS, ServiceRolloutsQuery
from tidegate.web.views.rollout import RolloutsView, RolloutView, rollout_view


def listed_rollout(rollout: Rollout) -> RolloutView:
    """The view of a rollout in a list. Its signals are read only while it waits for approval."""
    waiting = rollout.phase is Phase.RUNNING and rollout.approval_since is not None
    return rollout_view(rollout, api().store.load(rollout.id)[1] if waiting else ())


def rollouts_page(service: str | None, query: ServiceRolloutsQuery) -> Response:
    """A page of the rollouts that the token may read, newest first."""
    rollouts = _allowed(service, query.phase, _decode_rollout(query.cursor), query.limit + 1)
    page = rollouts[: query.limit]
    cursor = encode_cursor(page[-1].id) if len(rollouts) > len(page) else None
    return with_next_link(
        respond(RolloutsView(rollouts=[listed_rollout(rollout) for rollout in page], next=cursor)), cursor
    )


def _decode_rollout(cursor: str) -> str | None:
    """The last rollout of the previous page, which the token was allowed to read."""
    last = decode_cursor(cursor)
    if last is None:
        return None
    try:
        rollout, _ = api().store.load(last)
    except UnknownRollout as error:
        raise bad_cursor() from error
    if not principal().may("read", rollout.service):
        raise bad_cursor()
    return last


def _allowed(service: str | None, phase: Phase | None, before: str | None, count: int) -> list[Rollout]:
    """At most `count` rollouts, without those the token may not read."""
    rollouts: list[Rollout] = []
    while len(rollouts) < count:
        rows = api().store.rollouts(service, phase, before, MAX_ROWS)
        rollouts += [row for row in rows if principal().may("read", row.service)]
        if len(rows) < MAX_ROWS:
            break
        before = rows[-1].id
    return rollouts[:count]


def encode_cursor(last: str) -> str:
    """The cursor of the page after the item `last`. Clients must treat it as opaque."""
    return base64.urlsafe_b64encode(last.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str | None:
    """The last item of the previous page, or None for the first page. Raises `ApiProblem` for an invalid cursor."""
    if not cursor:
        return None
    try:
        last = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except ValueError as error:  # base class of binascii.Error and UnicodeError
        raise bad_cursor() from error
    if not last.isprintable() or encode_cursor(last) != cursor:  # the decoder skips what is not base64
        raise bad_cursor()
    return last


def decode_number(cursor: str) -> int | None:
    """The same for a list whose items have numbers."""
    last = decode_cursor(cursor)
    if last is not None and not (last.isascii() and last.isdecimal() and len(last) < 16):
        raise bad_cursor()
    return None if last is None else int(last)


def bad_cursor() -> ApiProblem:
    """The problem for a cursor that no page returned."""
    text = "invalid cursor; send `next` of the previous page unchanged"
    return ApiProblem(
        INVALID_REQUEST, f"cursor: {text}", [{"in": "query", "pointer": "/cursor", "path": "cursor", "detail": text}]
    )


def with_next_link(response: Response, cursor: str | None) -> Response:
    """Add the header `Link: rel="next"` if there is a next page."""
    if cursor is not None:
        query = urlencode({**request.args, "cursor": cursor})
        response.headers["Link"] = f'<{request.path}?{query}>; rel="next"'
    return response
