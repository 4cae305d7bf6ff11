"""Routes of the quarantine: list it, lift it."""

from __future__ import annotations

from flask import Response
from pydantic import AliasPath, Field

from tidegate.core.records import ReleaseRow
from tidegate.web.api import api, principal, respond
from tidegate.web.identity import identify_requester, require_reason
from tidegate.web.openapi import blueprint, problems
from tidegate.web.parameters import QuarantineQuery, ReleasePath
from tidegate.web.requests import SignalBody
from tidegate.web.views.timestamps import Timestamp, View

bp = blueprint("quarantine", "Releases that were rolled back for what was found.")


class QuarantinedView(View):
    """A release in quarantine: what was found, when, and by which rollout."""

    service: str = Field(validation_alias=AliasPath("release", "service"), description="environment/service")
    release: str = Field(validation_alias=AliasPath("release", "id"))
    image: str = Field(validation_alias=AliasPath("release", "image"))
    digest: str = Field(validation_alias=AliasPath("release", "digest"))
    at: Timestamp = Field(validation_alias="quarantined_at")
    rollout: str = Field(validation_alias="quarantined_by", description="The rollout that was rolled back.")
    finding: str = Field(description="What was found.")


class QuarantineView(View):
    """The releases in quarantine, the last one first."""

    releases: list[QuarantinedView]


@bp.get("/quarantine", responses={"200": QuarantineView, **problems()})
def list_quarantine(query: QuarantineQuery) -> Response:
    """The releases in quarantine that the token may read; one for each image and configuration, at most 200."""
    if query.service is not None:
        principal().require("read", query.service)
    rows = [row for row in api().store.quarantined(query.service) if principal().may("read", row.release.service)]
    return respond(QuarantineView(releases=[_view(row) for row in rows]))


@bp.post(
    "/services/<environment>/<service>/releases/<release>/lift-quarantine",
    responses={"200": QuarantinedView, **problems(400, 404, 409, 413, 415)},
)
def lift_quarantine(path: ReleasePath, body: SignalBody) -> Response:
    """Allow the image of this release to be deployed again with this configuration. Requires `force` and a reason."""
    principal().require("force", path.key)
    require_reason(body.reason, "lift a quarantine")
    by = identify_requester(body.on_behalf_of, path.key)
    audit = by.audit(f"lift quarantine of {path.release}", path.key, body.reason)
    return respond(_view(api().store.lift_quarantine(path.key, path.release, audit=audit)))


def _view(row: ReleaseRow) -> QuarantinedView:
    return QuarantinedView.model_validate(row)
