"""Parts of the OpenAPI document that all routes share: authentication, error responses, blueprints."""

from __future__ import annotations

from typing import Any

from flask_openapi import APIBlueprint, Response, Tag
from flask_openapi.types import ResponseDict

from tidegate.web.errors import MEDIA_TYPE

__all__ = ["ResponseDict", "blueprint", "problem", "problems"]

SECURITY_SCHEMES: dict[str, Any] = {
    "token": {"type": "http", "scheme": "bearer", "description": "A token created by `tidegate token create`."}
}
SECURED: list[dict[str, list[str]]] = [{"token": []}]

_DESCRIPTIONS = {
    "400": "The body is not valid JSON, or a required header is missing.",
    "401": "A valid token is required.",
    "403": "The token lacks the scope, or does not cover the service.",
    "404": "The resource does not exist.",
    "409": "Not possible in the current state; the code and the detail say why.",
    "412": "The resource has changed since it was read.",
    "413": "The body is larger than web.max_body_bytes.",
    "415": "The body must be application/json.",
    "422": "The request is invalid; `errors` lists every mistake.",
    "428": "If-Match or `binding` is required.",
    "429": "Too many failed authentication attempts; see Retry-After.",
    "500": "Internal error; the server's log has the cause under the request ID.",
    "502": "Docker, the proxy, Prometheus, Jenkins or an instance failed.",
    "503": "The database failed, or all long-poll slots are in use.",
}


def problems(*statuses: int) -> ResponseDict:
    """The error responses of a route. Every authenticated route has 401, 403, 422, 429, 500 and 503."""
    codes = sorted({401, 403, 422, 429, 500, 503, *statuses})
    return {str(status): problem(_DESCRIPTIONS[str(status)]) for status in codes}


def problem(description: str) -> Response:
    """An error response."""
    content: Any = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemView"}}}
    return Response(description=description, content=content)


def blueprint(name: str, description: str) -> APIBlueprint:
    """A group of routes under `/v1` that require a token."""
    return APIBlueprint(
        name, __name__, url_prefix="/v1", abp_tags=[Tag(name=name, description=description)], abp_security=SECURED,
        operation_id_callback=lambda *, bp_name, name, path, method: name,
    )  # fmt: skip
