"""Errors as `application/problem+json` (RFC 9457), and the table that maps exceptions to problem types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog
from flask import Flask, Response, g, request
from pydantic import BaseModel, Field, ValidationError
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.http import HTTP_STATUS_CODES

from tidegate import errors
from tidegate.text import escape


class MistakeView(BaseModel):
    """One mistake in a request."""

    in_: Literal["body", "query", "path", "header"] = Field(alias="in")
    pointer: str = Field(description="A JSON Pointer into that part of the request.")
    path: str = Field(description="The same, dotted; for a Compose file the location inside its text.")
    detail: str


class ProblemView(BaseModel):
    """An error, RFC 9457."""

    type: str
    title: str
    status: int
    detail: str = Field(description="What happened and what to do, for people.")
    instance: str = Field(description="The request ID, which is also in the server's log.")
    code: str = Field(description="A stable identifier for programs.")
    errors: list[MistakeView] = Field(default=[], description="Every mistake in the request.")
    position: int | None = Field(
        default=None,
        description="With rollout-in-progress and `on_live`: the place of the build in the queue, from 1. Send it again.",
    )
    rollout: str | None = Field(
        default=None, description="With rollout-in-progress and superseded: the ID of the other rollout."
    )


MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1  # Retry-After where waiting may help
log = structlog.get_logger("tidegate.web")


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A kind of problem: the HTTP status, a stable code for programs, a title for people."""

    status: int
    code: str
    title: str


#: The problem type of each exception class.
PROBLEM_TYPES: dict[type[errors.TidegateError], ProblemType] = {
    errors.TidegateError: ProblemType(500, "internal", "Internal error"),
    errors.Refused: ProblemType(409, "refused", "Refused"),
    errors.InvalidSpec: ProblemType(422, "invalid-spec", "Invalid Compose file"),
    errors.InvalidSettings: ProblemType(500, "invalid-settings", "Invalid server settings"),
    errors.UnknownService: ProblemType(404, "unknown-service", "Unknown service"),
    errors.UnknownRollout: ProblemType(404, "unknown-rollout", "Unknown rollout"),
    errors.UnknownDriver: ProblemType(500, "unknown-driver", "Unknown driver in the server settings"),
    errors.RolloutInProgress: ProblemType(409, "rollout-in-progress", "A rollout is in progress"),
    errors.Superseded: ProblemType(409, "superseded", "Superseded by a newer build"),
    errors.Frozen: ProblemType(409, "frozen", "The environment is frozen"),
    errors.Quarantined: ProblemType(409, "quarantined", "The image is quarantined"),
    errors.NotQuarantined: ProblemType(409, "not-quarantined", "The release is not in quarantine"),
    errors.RouteTaken: ProblemType(409, "route-taken", "The route is used by another service"),
    errors.ListenTaken: ProblemType(409, "listen-taken", "The address is used by another service"),
    errors.DependencyMissing: ProblemType(409, "dependency-missing", "A dependency has no live release"),
    errors.PlanChanged: ProblemType(409, "plan-changed", "The plan no longer holds"),
    errors.NoGoodRelease: ProblemType(409, "no-good-release", "No release to roll back to"),
    errors.AlreadyRolledBack: ProblemType(409, "already-rolled-back", "The service is already rolled back"),
    errors.NoLiveRelease: ProblemType(409, "no-live-release", "The service has no live release"),
    errors.IllegalMove: ProblemType(409, "illegal-move", "Not possible in the current state"),
    errors.VersionConflict: ProblemType(412, "stale", "The version does not match"),
    errors.KeyReused: ProblemType(422, "key-reused", "The idempotency key was used with another body"),
    errors.NotAllowed: ProblemType(403, "not-allowed", "Not allowed"),
    errors.ApprovalNotAllowed: ProblemType(403, "may-not-approve", "This person may not approve"),
    errors.DriverError: ProblemType(502, "driver-error", "A driver failed"),
    errors.PlatformError: ProblemType(502, "platform-error", "The platform failed"),
    errors.RouterError: ProblemType(502, "router-error", "The proxy failed"),
    errors.MetricsError: ProblemType(502, "metrics-error", "The metrics source failed"),
    errors.CIError: ProblemType(502, "ci-error", "The CI failed"),
    errors.DocumentError: ProblemType(502, "document-error", "Could not fetch a document"),
    errors.StoreError: ProblemType(503, "store-error", "The database failed"),
    errors.LeaseLost: ProblemType(500, "lease-lost", "Internal error"),
}
INVALID_REQUEST = ProblemType(422, "invalid-request", "Invalid request")
UNKNOWN_HOST = ProblemType(421, "unknown-host", "The request is for another host")
UNAUTHENTICATED = ProblemType(401, "unauthenticated", "A valid token is required")
TOO_MANY_FAILURES = ProblemType(429, "too-many-failures", "Too many failed authentication attempts")
KEY_REQUIRED = ProblemType(400, "idempotency-key-required", "The header Idempotency-Key is required")
IF_MATCH_REQUIRED = ProblemType(428, "if-match-required", "The header If-Match is required")
TOO_MANY_WAITING = ProblemType(503, "too-many-waiting", "Too many requests wait for events")
TOO_MANY_SLOW = ProblemType(503, "too-many-slow", "Too many requests send their bodies slowly")
NOT_READY = ProblemType(503, "not-ready", "Not ready")


@dataclass
class ApiProblem(Exception):
    """An error response. `more` are additional members of the problem document."""

    kind: ProblemType
    detail: str
    errors: list[dict[str, str]] = field(default_factory=list)
    headers: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, object] = field(default_factory=dict)


def response(problem: ApiProblem) -> Response:
    """The problem document. `instance` holds the request ID, which is also in the log."""
    document: dict[str, Any] = {
        "type": f"urn:tidegate:problem:{problem.kind.code}",
        "title": problem.kind.title,
        "status": problem.kind.status,
        "detail": escape(problem.detail, allowed="\n"),
        "instance": f"urn:tidegate:request:{g.get('request_id', 'unknown')}",
        "code": problem.kind.code,
    }
    if problem.errors:
        document["errors"] = [
            {name: escape(text, allowed="\n") for name, text in error.items()} for error in problem.errors
        ]
    result = Response(json.dumps(document | dict(problem.more)), problem.kind.status)
    result.content_type = MEDIA_TYPE
    result.headers.extend(dict(problem.headers))
    return result


# -- Tidegate's exceptions --------------------------------------------------------------------------------------------


def problem_of(error: errors.TidegateError) -> ApiProblem:
    """The problem for an exception. The cause of a 500 goes to the log, not to the client."""
    kind = next(PROBLEM_TYPES[cls] for cls in type(error).__mro__ if cls in PROBLEM_TYPES)
    if kind.status == 500:
        log.error("internal error", error=error.message, kind=type(error).__name__)
        return ApiProblem(kind, _internal_detail())
    mistakes = [_located(problem) for problem in error.problems] if isinstance(error, errors.InvalidSpec) else []
    retryable = isinstance(error, errors.DriverError) and error.retryable
    return ApiProblem(kind, error.message, mistakes, {"Retry-After": str(RETRY_AFTER_SECONDS)} if retryable else {})


def _located(problem: errors.Problem) -> dict[str, str]:
    """A mistake in the Compose text, or in the request if it has none. `pointer` locates it in the request, `path` in the
    text."""
    inside = "compose" in (request.get_json(silent=True) or {})
    pointer = "/compose" if inside else _pointer(tuple(problem.path.split(".")))
    return {"in": "body", "pointer": pointer, "path": problem.path, "detail": problem.message}


# -- invalid requests ---------------------------------------------------------------------------------------------------


def invalid(error: ValidationError) -> Response:
    """flask-openapi's callback for invalid requests. The model's name says which part of the request it describes."""
    place = next((part for part in ("query", "path", "header") if error.title.lower().endswith(part)), "body")
    mistakes = [
        {
            "in": place,
            "pointer": _pointer(mistake["loc"]),
            "path": ".".join(map(str, mistake["loc"])),
            "detail": _detail(mistake),
        }
        for mistake in error.errors()
    ]
    for mistake, raw in zip(mistakes, error.errors(), strict=True):
        if place == "header" and raw["type"] == "missing" and mistake["pointer"] == "/Idempotency-Key":
            return response(ApiProblem(KEY_REQUIRED, KEY_REQUIRED_DETAIL))
    detail = "\n".join(
        f"{mistake['path']}: {mistake['detail']}" if mistake["path"] else mistake["detail"] for mistake in mistakes
    )
    return response(ApiProblem(INVALID_REQUEST, detail, mistakes))


KEY_REQUIRED_DETAIL = (
    "Missing header Idempotency-Key. Send a value of your own choice, and the same value when you repeat the request, so"
    " that it takes effect only once."
)


def _pointer(location: tuple[int | str, ...]) -> str:
    """A JSON Pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def _detail(mistake: Any) -> str:
    """What is wrong, with the value that was sent unless it may be a secret."""
    if mistake["type"] == "extra_forbidden":
        return "unknown field"
    if mistake["type"] == "missing":
        return "is required"
    if mistake["loc"][:1] in (
        ("files",),
        ("variables",),
        ("compose",),
    ):  # may be secrets, and error responses end up in logs
        return f"{mistake['msg'][0].lower()}{mistake['msg'][1:]}"
    value = json.dumps(mistake["input"], ensure_ascii=False, default=str)
    return f"{mistake['msg'][0].lower()}{mistake['msg'][1:]}, got {value if len(value) <= 80 else value[:77] + '…'}"


# -- handlers -----------------------------------------------------------------------------------------------------------


def register(app: Flask) -> None:
    """Return every error of the app as a problem document."""
    app.register_error_handler(ApiProblem, response)
    app.register_error_handler(errors.TidegateError, lambda error: response(problem_of(error)))
    app.register_error_handler(HTTPException, _http_error_response)
    app.register_error_handler(Exception, _internal_error_response)


def _http_error_response(error: HTTPException) -> Response:
    """An HTTP error that Flask raised, such as 404, 405 or 413."""
    status = error.code or 500
    title = HTTP_STATUS_CODES.get(status, "Error")
    headers = {}
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return response(
        ApiProblem(
            ProblemType(status, title.lower().replace(" ", "-"), title), _http_detail(error, status), headers=headers
        )
    )


def _http_detail(error: HTTPException, status: int) -> str:
    details = {
        404: f"Nothing is at {request.path}.",
        405: f"{request.path} does not accept {request.method}. The header Allow lists what it accepts.",
        413: f"The request body is too large. Maximum: {request.max_content_length} bytes (web.max_body_bytes).",
        415: "The body must be JSON. Send the header Content-Type: application/json.",
    }
    return details.get(status) or error.description or HTTP_STATUS_CODES.get(status, "Error")


def _internal_error_response(error: Exception) -> Response:
    """An unexpected exception. Its traceback goes to the log, not to the client."""
    log.exception("request failed", exc_info=error)
    return response(internal_error())


def internal_error() -> ApiProblem:
    """The problem for an unexpected exception."""
    return ApiProblem(PROBLEM_TYPES[errors.TidegateError], _internal_detail())


def _internal_detail() -> str:
    return f"Internal error. Look for request_id {g.get('request_id', 'unknown')} in the server's log."
