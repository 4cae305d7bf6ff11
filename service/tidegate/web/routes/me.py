"""The route about the token itself, so that a program learns early what it may do."""

from __future__ import annotations

from flask import Response
from pydantic import Field

from tidegate.web.api import principal, respond
from tidegate.web.openapi import blueprint, problems
from tidegate.web.views.timestamps import Timestamp, View


class MeView(View):
    """The token of the request."""

    name: str
    scopes: list[str] = Field(description="Every other scope includes read; admin includes all.")
    services: list[str] = Field(description="Globs over environment/service.")
    expires: Timestamp | None


bp = blueprint("me", "The token of the request.")


@bp.get("/me", responses={"200": MeView, **problems()})
def get_me() -> Response:
    """The name of the token, its scopes, its services and when it expires."""
    return respond(MeView.model_validate(principal().token))
