"""Pages of rollouts."""

from __future__ import annotations

from flask import Response

from tidegate.core.model import Rollout
from tidegate.core.phases import Phase
from tidegate.errors import UnknownRollout
from tidegate.web.api import api, bad_cursor, decode_cursor, encode_cursor, principal, respond, with_next_link
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
