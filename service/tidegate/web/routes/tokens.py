"""Routes of API tokens: create, list, revoke. They require `admin` for all services."""

from __future__ import annotations

from flask import Response
from werkzeug.exceptions import NotFound

from tidegate.web.api import api, principal, respond
from tidegate.web.auth import new_token
from tidegate.web.identity import identify_requester
from tidegate.web.openapi import blueprint, problems
from tidegate.web.parameters import TokenPath
from tidegate.web.requests import TokenBody
from tidegate.web.views.timestamps import Timestamp, View


class TokenView(View):
    """A token, without its secret."""

    id: str
    name: str
    scopes: list[str]
    services: list[str]
    created: Timestamp
    expires: Timestamp | None
    last_used: Timestamp | None


class NewTokenView(TokenView):
    """A new token with its secret, which is shown only once."""

    token: str


class TokensView(View):
    """All tokens."""

    tokens: list[TokenView]


bp = blueprint("tokens", "API tokens and their scopes.")
SECONDS_PER_DAY = 86_400.0


@bp.post("/tokens", responses={"201": NewTokenView, **problems(400, 413, 415)})
def create_token(body: TokenBody) -> Response:
    """Create a token. The secret is only in this response, so repeating the request creates another token."""
    principal().require_admin()
    now = api().now()
    expires = None if body.expires_days is None else now + body.expires_days * SECONDS_PER_DAY
    secret, token = new_token(body.name, body.scopes, body.services, now, expires)
    description = f"scopes {', '.join(token.scopes)}; services {', '.join(token.services)}"
    api().store.add_token(token, audit=identify_requester("", "*").audit("create token", token.name, description))
    view = NewTokenView(**dict(TokenView.model_validate(token)), token=secret)
    return respond(view, 201, location=f"/v1/tokens/{token.id}")


@bp.get("/tokens", responses={"200": TokensView, **problems()})
def list_tokens() -> Response:
    """All tokens without their secrets."""
    principal().require_admin()
    return respond(TokensView.model_validate({"tokens": api().store.tokens()}))


@bp.delete("/tokens/<token>", responses={"204": None, **problems(404)})
def drop_token(path: TokenPath) -> Response:
    """Revoke a token immediately."""
    principal().require_admin()
    name = next((token.name for token in api().store.tokens() if token.id == path.token), None)
    if name is None:
        raise NotFound
    api().store.delete_token(path.token, audit=identify_requester("", "*").audit("drop token", name))
    return Response(status=204)
