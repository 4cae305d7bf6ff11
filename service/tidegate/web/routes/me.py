"""The route about the token itself, so that a program learns early what it may do."""

from __future__ import annotations

from flask import Response
from pydantic import Field

from tidegate.web.api import principal, respond
from tidegate.web.auth import SCOPES
from tidegate.web.openapi import blueprint, problems
from tidegate.web.parameters import MeQuery
from tidegate.web.views.timestamps import Timestamp, View


class MeView(View):
    """The token of the request."""

    name: str
    scopes: list[str] = Field(description="Every other scope includes read; admin includes all.")
    services: list[str] = Field(description="Globs over environment/service.")
    expires: Timestamp | None
    granted: list[str] | None = Field(
        description="With `service`: what the token may do there, implied scopes included; else null."
    )


bp = blueprint("me", "The token of the request.")


@bp.get("/me", responses={"200": MeView, **problems()})
def get_me(query: MeQuery) -> Response:
    """The name of the token, its scopes, its services and when it expires."""
    token = principal().token
    granted = None if query.service is None else [scope for scope in SCOPES if principal().may(scope, query.service)]
    about = {"name": token.name, "scopes": token.scopes, "services": token.services, "expires": token.expires}
    return respond(MeView.model_validate({**about, "granted": granted}))
