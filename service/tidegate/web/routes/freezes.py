"""Routes of freezes: list, set, lift."""

from __future__ import annotations

from flask import Response

from tidegate.core.records import Freeze
from tidegate.web.api import api, principal, respond
from tidegate.web.identity import identify_requester, require_reason
from tidegate.web.openapi import blueprint, problems
from tidegate.web.parameters import EnvironmentPath
from tidegate.web.requests import FreezeBody
from tidegate.web.views.audit import FreezesView, FreezeView

bp = blueprint("freezes", "Environments where deployments are blocked.")
SECONDS_PER_HOUR = 3600.0


@bp.get("/freezes", responses={"200": FreezesView, **problems()})
def list_freezes() -> Response:
    """The frozen environments that the token may read."""
    freezes = [freeze for freeze in api().store.freezes() if principal().may_in("read", freeze.environment)]
    return respond(FreezesView.model_validate({"freezes": freezes}))


@bp.put("/environments/<environment>/freeze", responses={"200": FreezeView, **problems(400, 404, 413, 415)})
def freeze(path: EnvironmentPath, body: FreezeBody) -> Response:
    """Freeze an environment: no rollout starts, and running ones start no further batch. Rollbacks remain possible."""
    _require(path.environment)
    require_reason(body.reason, "freeze an environment")
    by = identify_requester(body.on_behalf_of, f"{path.environment}/*")
    now = api().now()
    until = None if body.hours is None else now + body.hours * SECONDS_PER_HOUR
    new = Freeze(path.environment, by.by, body.reason, now, until)
    api().store.freeze(new, audit=by.audit("freeze", path.environment, body.reason))
    return respond(FreezeView.model_validate(new))


@bp.delete("/environments/<environment>/freeze", responses={"204": None, **problems(404)})
def thaw(path: EnvironmentPath) -> Response:
    """Lift the freeze of an environment. Succeeds if there is none."""
    _require(path.environment)
    api().store.unfreeze(path.environment, audit=identify_requester("", path.environment).audit("thaw", path.environment))
    api().wake()
    return Response(status=204)


def _require(environment: str) -> None:
    principal().require("freeze", f"{environment}/*")
    api().drivers(environment)
