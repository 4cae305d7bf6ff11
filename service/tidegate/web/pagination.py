"""Pages of lists: cursors, links to the next page, and the list of rollouts."""

from __future__ import annotations

import base64
from urllib.parse import urlencode

from flask import Response, request

from tidegate.core.model import Rollout
from tidegate.core.phases import Phase
from tidegate.errors import UnknownRollout
from tidegate.web.api import api, principal, respond
from tidegate.web.errors import INVALID_REQUEST, ApiProblem
from tidegate.web.requests import MAX_ROWS, ServiceRolloutsQuery
from tidegate.web.views.rollout import RolloutsView, RolloutView, rollout_view


def listed_rollout(rollout: Rollout) -> RolloutView:
    """A rollout in a list. Its signals matter only while it is held."""
    held = rollout.phase is Phase.RUNNING and rollout.held is not None
    return rollout_view(rollout, api().store.load(rollout.id)[1] if held else ())


def rollouts_page(service: str | None, query: ServiceRolloutsQuery) -> Response:
    """Those that the token may read, the newest first."""
    rollouts = _allowed(service, query.phase, decode_cursor(query.cursor), query.limit + 1)
    page = rollouts[: query.limit]
    cursor = encode_cursor(page[-1].id) if len(rollouts) > len(page) else None
    return with_next_link(
        respond(RolloutsView(rollouts=[listed_rollout(rollout) for rollout in page], next=cursor)), cursor
    )


def _allowed(service: str | None, phase: Phase | None, before: str | None, count: int) -> list[Rollout]:
    """At most `wanted` of them; those of other people's services are passed over."""
    rollouts: list[Rollout] = []
    while len(rollouts) < count:
        rows = _rows(service, phase, before)
        rollouts += [row for row in rows if principal().may("read", row.service)]
        if len(rows) < MAX_ROWS:
            break
        before = rows[-1].id
    return rollouts[:count]


def _rows(service: str | None, phase: Phase | None, before: str | None) -> tuple[Rollout, ...]:
    try:
        return api().store.rollouts(service, phase, before, MAX_ROWS)
    except UnknownRollout as error:
        raise bad_cursor() from error


def encode_cursor(last: str) -> str:
    """Where the next page begins. Opaque to clients, so that it may change."""
    return base64.urlsafe_b64encode(last.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str | None:
    """The last one of the page before; None for the first page. Raises `ApiProblem` for what is no cursor."""
    if not cursor:
        return None
    try:
        return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except ValueError as error:  # binascii's and Unicode's own are kinds of it, and what is not ASCII is a plain one
        raise bad_cursor() from error


def bad_cursor() -> ApiProblem:
    """For a cursor that none of our pages gave."""
    text = "not a cursor of this list; send `next` of the page before as it is"
    return ApiProblem(
        INVALID_REQUEST, f"cursor: {text}", [{"in": "query", "pointer": "/cursor", "path": "cursor", "detail": text}]
    )


def with_next_link(response: Response, cursor: str | None) -> Response:
    """With `Link: rel=next`, when there is a next page."""
    if cursor is not None:
        query = urlencode({**request.args, "cursor": cursor})
        response.headers["Link"] = f'<{request.path}?{query}>; rel="next"'
    return response
