"""Every error as `application/problem+json` (RFC 9457). One table says which error of ours is which problem."""

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
    path: str = Field(description="The same for people; for a Compose file the place inside its text.")
    detail: str


class ProblemView(BaseModel):
    """An error, RFC 9457."""

    type: str
    title: str
    status: int
    detail: str = Field(description="What is wrong and what to do, for people.")
    instance: str = Field(description="The request; the server's log has the same id.")
    code: str = Field(description="For programs; never changes.")
    errors: list[MistakeView] = Field(default=[], description="Every mistake in the request.")
    rollout: str | None = Field(default=None, description="With rollout-in-progress: the live rollout's id.")


MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1  # Retry-After where waiting may help
log = structlog.get_logger("tidegate.web")


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One kind of problem: the HTTP status, a code for programs that never changes, a title for people."""

    status: int
    code: str
    title: str


#: What each error of ours is to a client.
PROBLEM_TYPES: dict[type[errors.TidegateError], ProblemType] = {
    errors.TidegateError: ProblemType(500, "internal", "Internal error"),
    errors.Refused: ProblemType(409, "refused", "Refused"),
    errors.InvalidSpec: ProblemType(422, "invalid-spec", "The specification has mistakes"),
    errors.InvalidSettings: ProblemType(500, "invalid-settings", "The server's settings have mistakes"),
    errors.UnknownService: ProblemType(404, "unknown-service", "No such service"),
    errors.UnknownRollout: ProblemType(404, "unknown-rollout", "No such rollout"),
    errors.UnknownDriver: ProblemType(500, "unknown-driver", "The server's settings name an unknown driver"),
    errors.RolloutInProgress: ProblemType(409, "rollout-in-progress", "A rollout is in progress"),
    errors.Superseded: ProblemType(409, "superseded", "Superseded by a newer build"),
    errors.Frozen: ProblemType(409, "frozen", "The environment is frozen"),
    errors.Quarantined: ProblemType(409, "quarantined", "The digest is in quarantine"),
    errors.RouteTaken: ProblemType(409, "route-taken", "The route belongs to another service"),
    errors.DependencyMissing: ProblemType(409, "dependency-missing", "A service that this one depends on does not serve"),
    errors.NoGoodRelease: ProblemType(409, "nothing-to-roll-back-to", "Nothing to roll back to"),
    errors.NoLiveRelease: ProblemType(409, "nothing-serves", "Nothing serves"),
    errors.IllegalMove: ProblemType(409, "illegal-move", "Not possible now"),
    errors.VersionConflict: ProblemType(412, "stale", "Changed since it was read"),
    errors.KeyReused: ProblemType(422, "key-reused", "The idempotency key was used before"),
    errors.NotAllowed: ProblemType(403, "not-allowed", "Not allowed"),
    errors.ApprovalNotAllowed: ProblemType(403, "may-not-approve", "This person may not approve"),
    errors.DriverError: ProblemType(502, "driver-error", "An outside part failed"),
    errors.PlatformError: ProblemType(502, "platform-error", "The platform failed"),
    errors.RouterError: ProblemType(502, "router-error", "The proxy failed"),
    errors.MetricsError: ProblemType(502, "metrics-error", "The metrics source failed"),
    errors.CIError: ProblemType(502, "ci-error", "The CI failed"),
    errors.DocumentError: ProblemType(502, "document-error", "A document could not be fetched"),
    errors.StoreError: ProblemType(503, "store-error", "The database failed"),
    errors.LeaseLost: ProblemType(500, "lease-lost", "Internal error"),
}
INVALID_REQUEST = ProblemType(422, "invalid-request", "The request has mistakes")
UNAUTHENTICATED = ProblemType(401, "unauthenticated", "A valid token is needed")
TOO_MANY_FAILURES = ProblemType(429, "too-many-failures", "Too many failed attempts")
KEY_NEEDED = ProblemType(400, "idempotency-key-needed", "The header Idempotency-Key is needed")
IF_MATCH_NEEDED = ProblemType(428, "if-match-needed", "The header If-Match is needed")
TOO_MANY_WAITING = ProblemType(503, "too-many-waiting", "Too many requests wait for events")
NOT_READY = ProblemType(503, "not-ready", "Not ready")


@dataclass
class ApiProblem(Exception):
    """An answer that is an error of the API itself. `more` are further members of the document."""

    kind: ProblemType
    detail: str
    errors: list[dict[str, str]] = field(default_factory=list)
    headers: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, object] = field(default_factory=dict)


def response(problem: ApiProblem) -> Response:
    """The document. `instance` is the request's id, which the log has too."""
    document: dict[str, Any] = {
        "type": f"urn:tidegate:problem:{problem.kind.code}",
        "title": problem.kind.title,
        "status": problem.kind.status,
        "detail": escape(problem.detail, keep="\n"),
        "instance": f"urn:tidegate:request:{g.get('request_id', 'unknown')}",
        "code": problem.kind.code,
    }
    if problem.errors:
        document["errors"] = [{name: escape(text, keep="\n") for name, text in error.items()} for error in problem.errors]
    answer = Response(json.dumps(document | dict(problem.more)), problem.kind.status)
    answer.content_type = MEDIA_TYPE
    answer.headers.extend(dict(problem.headers))
    return answer


# -- our own errors ---------------------------------------------------------------------------------------------------


def problem_of(error: errors.TidegateError) -> ApiProblem:
    """Ours as a problem. What is the server's own fault goes to the log, not to the client."""
    kind = next(PROBLEM_TYPES[cls] for cls in type(error).__mro__ if cls in PROBLEM_TYPES)
    if kind.status == 500:
        log.error("internal error", error=error.message, kind=type(error).__name__)
        return ApiProblem(kind, f"an internal error; the server's log has it under {g.get('request_id', 'unknown')}")
    mistakes = [_pointed(problem) for problem in error.problems] if isinstance(error, errors.InvalidSpec) else []
    retryable = isinstance(error, errors.DriverError) and error.retryable
    return ApiProblem(kind, error.message, mistakes, {"Retry-After": str(RETRY_AFTER_SECONDS)} if retryable else {})


def _pointed(problem: errors.Problem) -> dict[str, str]:
    """A mistake inside the Compose text, or in the request itself where it has none: `pointer` says where in the request,
    `path` where in the text."""
    inside = "compose" in (request.get_json(silent=True) or {})
    pointer = "/compose" if inside else _pointer(tuple(problem.path.split(".")))
    return {"in": "body", "pointer": pointer, "path": problem.path, "detail": problem.message}


# -- mistakes in the request --------------------------------------------------------------------------------------------


def invalid(error: ValidationError) -> Response:
    """The callback of flask-openapi. Which part of the request it was is told by the model's name."""
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
    needed = {"/Idempotency-Key": KEY_NEEDED, "/If-Match": IF_MATCH_NEEDED}
    for mistake, raw in zip(mistakes, error.errors(), strict=True):
        if place == "header" and raw["type"] == "missing" and mistake["pointer"] in needed:
            return response(ApiProblem(needed[mistake["pointer"]], NEEDED_BECAUSE[mistake["pointer"]]))
    detail = "\n".join(
        f"{mistake['path']}: {mistake['detail']}" if mistake["path"] else mistake["detail"] for mistake in mistakes
    )
    return response(ApiProblem(INVALID_REQUEST, detail, mistakes))


NEEDED_BECAUSE = {
    "/Idempotency-Key": "send the header Idempotency-Key with a value of your own, and the same one when you repeat the"
    " request: it then never happens twice",
    "/If-Match": "send the header If-Match with the ETag of the rollout as you saw it: what is approved is what was seen",
}


def _pointer(location: tuple[int | str, ...]) -> str:
    """A JSON Pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def _detail(mistake: Any) -> str:
    """What is wrong and what was found, in one sentence."""
    if mistake["type"] == "extra_forbidden":
        return "unknown name"
    if mistake["type"] == "missing":
        return "is needed"
    if mistake["loc"][:1] in (
        ("files",),
        ("variables",),
        ("compose",),
    ):  # they may be secrets, and error answers end in logs
        return f"{mistake['msg'][0].lower()}{mistake['msg'][1:]}"
    value = json.dumps(mistake["input"], ensure_ascii=False, default=str)
    return f"{mistake['msg'][0].lower()}{mistake['msg'][1:]}, found {value if len(value) <= 80 else value[:77] + '…'}"


# -- handlers -----------------------------------------------------------------------------------------------------------


def register(app: Flask) -> None:
    """Make every error of the app a problem document."""
    app.register_error_handler(ApiProblem, response)
    app.register_error_handler(errors.TidegateError, lambda error: response(problem_of(error)))
    app.register_error_handler(HTTPException, _http_error_response)
    app.register_error_handler(Exception, _internal_error_response)


def _http_error_response(error: HTTPException) -> Response:
    """404, 405, 413, 415, 400 and the like, from Flask itself."""
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
        404: f"there is nothing at {request.path}",
        405: f"{request.method} is not possible at {request.path}",
        413: f"the request is too large: at most {request.max_content_length} bytes",
        415: "the body must be JSON: send the header Content-Type: application/json",
    }
    return details.get(status) or error.description or HTTP_STATUS_CODES.get(status, "Error")


def _internal_error_response(error: Exception) -> Response:
    """A fault in our own code: told to the log, not to the client."""
    log.exception("request failed", exc_info=error)
    return response(internal_error())


def internal_error() -> ApiProblem:
    """What a client hears of a fault in our own code."""
    detail = f"an internal error; the server's log has it under {g.get('request_id', 'unknown')}"
    return ApiProblem(PROBLEM_TYPES[errors.TidegateError], detail)
