"""Storing new rollouts with the response and the idempotency key of their request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flask import Response

from tidegate.core.build_queue import WaitingBuild
from tidegate.core.records import AuditEntry, Idempotency, NewRollout, ServiceRow
from tidegate.errors import RolloutInProgress, Superseded
from tidegate.web import log_setup
from tidegate.web.api import api, json_response, json_text, mark_replayed, respond
from tidegate.web.definitions import find_service
from tidegate.web.errors import PROBLEM_TYPES, ApiProblem
from tidegate.web.views.rollout import RolloutView, rollout_view


def require_no_live_rollout(row: ServiceRow | None) -> None:
    """Raises `ApiProblem` during a rollout: the release to start from is known only once it has ended."""
    if row is not None and row.rollout is not None and not row.repairing:
        detail = (
            f"{row.service.key} has an unfinished rollout, {row.rollout}. Wait for it, promote it or roll it back first."
        )
        raise _in_progress(detail, row.rollout)


def _in_progress(detail: str, rollout: str | None) -> ApiProblem:
    """The problem with the ID of the unfinished rollout."""
    return ApiProblem(PROBLEM_TYPES[RolloutInProgress], detail, more={} if rollout is None else {"rollout": rollout})


def require_turn(asking: WaitingBuild) -> None:
    """Raises `ApiProblem` until it is the build's turn to deploy, with its position; the build sends the request again."""
    try:
        turn = api().store.take_turn(asking)
    except Superseded as error:
        raise ApiProblem(PROBLEM_TYPES[Superseded], error.message) from error
    if turn.has_come:
        return
    api().wake()  # an older build's rollout may have to roll back
    behind = f"rollout {turn.rollout} is live" if turn.rollout else "an earlier build has its turn"
    detail = f"{asking.build.label} waits to deploy {asking.service}: {behind}. Position {turn.position} of {turn.waiting}."
    raise ApiProblem(PROBLEM_TYPES[RolloutInProgress], detail, more={"rollout": turn.rollout, "position": turn.position})


def create_rollouts(rollouts: Sequence[NewRollout], key: Idempotency, audit: AuditEntry) -> Response:
    """Create the rollouts in one transaction with the key and the response, which shows the first."""
    first, rollout = rollouts[0], rollouts[0].rollout
    log_setup.bind_rollout(rollout)
    text = json_text(rollout_view(rollout))
    try:
        answered, others = replace(key, status=202, response=text), rollouts[1:]
        stored = api().store.create(
            rollout,
            first.service,
            first.release,
            answered,
            first.event,
            audit=audit,
            others=others,
        )
    except Superseded as error:
        raise ApiProblem(PROBLEM_TYPES[Superseded], error.message, more={"rollout": error.rollout}) from error
    except RolloutInProgress as error:
        row = find_service(api(), rollout.service)
        raise _in_progress(error.message, None if row is None else row.rollout) from error
    if stored is not None:
        return replay(stored)
    api().wake()
    return json_response(text, 202, version=rollout.version, location=f"/v1/rollouts/{rollout.id}")


def replay(stored: Idempotency) -> Response:
    """The stored response. For a signal only the rollout's ID is stored, and its current state is returned."""
    if not stored.response.startswith("{"):
        rollout, signals = api().store.load(stored.response)
        view = rollout_view(rollout, signals)
        return mark_replayed(respond(view, stored.status, version=rollout.version, location=view.links["self"]))
    view = RolloutView.model_validate_json(stored.response)
    return mark_replayed(json_response(stored.response, stored.status, version=view.version, location=view.links["self"]))
