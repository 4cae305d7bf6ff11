"""Import of services that Docker Compose runs, and their release back to it."""

from __future__ import annotations

from flask import Response

from tidegate.app import adoption, deployments
from tidegate.app.context import RolloutRequest
from tidegate.web.api import api, idempotency_key, principal
from tidegate.web.creation import create_rollouts, replay, require_no_live_rollout
from tidegate.web.definitions import compose_input, find_service
from tidegate.web.identity import identify_requester
from tidegate.web.openapi import blueprint, problems
from tidegate.web.parameters import KeyHeader, ServicePath
from tidegate.web.requests import ImportBody, SignalBody
from tidegate.web.views.rollout import RolloutView

bp = blueprint("adoption", "Services that Docker Compose runs.")


@bp.post(
    "/services/<environment>/<service>/import",
    responses={"202": RolloutView, **problems(400, 404, 409, 413, 415)},
)
def import_service(path: ServicePath, header: KeyHeader, body: ImportBody) -> Response:
    """Make the running containers of a Compose project the first release of the service.

    The proxy is put in front of them. Nothing is started or stopped.
    """
    principal().require("deploy", path.key)
    key = idempotency_key(header.key)
    stored = api().store.find_answer(key)
    if stored is not None:
        return replay(stored)
    by = identify_requester(body.on_behalf_of, path.key)
    row = find_service(api(), path.key)
    require_no_live_rollout(row)
    given = compose_input(path.environment, body.compose, body)
    service = deployments.define_service(api(), path.environment, path.service, given)
    new = adoption.import_service(api(), row, service, body.listen, RolloutRequest(by.by, by.via, body.reason))
    return create_rollouts([new], key, by.audit("import", path.key, body.reason, new.rollout.id))


@bp.post(
    "/services/<environment>/<service>/release",
    responses={"202": RolloutView, **problems(400, 404, 409, 413, 415)},
)
def release_service(path: ServicePath, header: KeyHeader, body: SignalBody) -> Response:
    """Give an imported service back to Docker Compose.

    Its imported containers keep running; the proxy and what Tidegate started are removed.
    """
    principal().require("deploy", path.key)
    key = idempotency_key(header.key)
    stored = api().store.find_answer(key)
    if stored is not None:
        return replay(stored)
    by = identify_requester(body.on_behalf_of, path.key)
    row = api().store.get_service(path.key)
    require_no_live_rollout(row)
    new = adoption.release_service(api(), row, RolloutRequest(by.by, by.via, body.reason))
    return create_rollouts([new], key, by.audit("release", path.key, body.reason, new.rollout.id))
