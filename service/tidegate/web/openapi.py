"""What all parts of the API say of themselves: how to authenticate, and which errors every request may meet."""

from __future__ import annotations

from typing import Any

from flask_openapi import APIBlueprint, Response, Tag
from flask_openapi.types import ResponseDict

from tidegate.web.errors import MEDIA_TYPE

__all__ = ["ResponseDict", "blueprint", "problem", "problems"]

SECURITY_SCHEMES: dict[str, Any] = {
    "token": {"type": "http", "scheme": "bearer", "description": "A token of `tidegate token create`."}
}
SECURED: list[dict[str, list[str]]] = [{"token": []}]

_DESCRIPTIONS = {
    "400": "The request is no valid JSON, or a needed header is missing.",
    "401": "A valid token is needed.",
    "403": "The token lacks the scope, or it is for other services.",
    "404": "There is no such thing.",
    "409": "Not possible now.",
    "412": "It was changed since it was read.",
    "413": "The request is too large.",
    "415": "The body must be application/json.",
    "422": "The request has mistakes; all are listed.",
    "428": "If-Match is needed.",
    "429": "Too many failed attempts to authenticate.",
    "500": "An internal error; the log has more.",
    "502": "An outside part failed.",
    "503": "The database failed, or too many requests wait for events.",
}


def problems(*statuses: int) -> ResponseDict:
    """The errors of a route, for the specification. Every secured route has 401, 403, 422, 429, 500 and 503."""
    codes = sorted({401, 403, 422, 429, 500, 503, *statuses})
    return {str(status): problem(_DESCRIPTIONS[str(status)]) for status in codes}


def problem(description: str) -> Response:
    """An error, for the specification."""
    content: Any = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemView"}}}
    return Response(description=description, content=content)


def blueprint(name: str, description: str) -> APIBlueprint:
    """A part of the API, all of it under `/v1` and behind a token."""
    return APIBlueprint(
        name, __name__, url_prefix="/v1", abp_tags=[Tag(name=name, description=description)], abp_security=SECURED,
        operation_id_callback=lambda *, bp_name, name, path, method: name,
    )  # fmt: skip
