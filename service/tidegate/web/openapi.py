"""Parts of the OpenAPI document that all routes share: authentication, error responses, blueprints."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from flask_openapi import APIBlueprint, Info, OpenAPI, Response, Server, Tag
from flask_openapi.types import ResponseDict

from tidegate import __version__
from tidegate.web.errors import MEDIA_TYPE, ProblemView

__all__ = ["ResponseDict", "RouteGroup", "blueprint", "describe", "problem", "problems"]

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
    "503": "The database failed, all long-poll slots are in use, or too many bodies are slow.",
}


def problems(*statuses: int) -> ResponseDict:
    """The error responses of a route. Every authenticated route has 401, 403, 422, 429, 500 and 503."""
    codes = sorted({401, 403, 422, 429, 500, 503, *statuses})
    return {str(status): problem(_DESCRIPTIONS[str(status)]) for status in codes}


def problem(description: str) -> Response:
    """An error response."""
    content: Any = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemView"}}}
    return Response(description=description, content=content)


class RouteGroup(APIBlueprint):
    """Routes that are described when the OpenAPI document is first requested, not when they are declared.

    The schemas of all models take a fifth of the time in which the server starts, and few servers are asked for them.
    """

    def __init__(self, name: str, description: str, *, url_prefix: str = "", security: list[dict[str, list[str]]]) -> None:
        self._options: dict[str, Any] = {
            "url_prefix": url_prefix or None,
            "abp_tags": [Tag(name=name, description=description)],
            "abp_security": security,
            "operation_id_callback": lambda *, bp_name, name, path, method: name,
        }
        self._routes: list[tuple[str, str, Callable[..., Any], dict[str, Any]]] = []
        super().__init__(name, __name__, doc_ui=False, **self._options)

    def get(self, rule: str, **options: Any) -> Callable[..., Any]:
        """Declare a route for GET."""
        return self._declare("get", rule, options)

    def post(self, rule: str, **options: Any) -> Callable[..., Any]:
        """Declare a route for POST."""
        return self._declare("post", rule, options)

    def put(self, rule: str, **options: Any) -> Callable[..., Any]:
        """Declare a route for PUT."""
        return self._declare("put", rule, options)

    def delete(self, rule: str, **options: Any) -> Callable[..., Any]:
        """Declare a route for DELETE."""
        return self._declare("delete", rule, options)

    def _declare(self, method: str, rule: str, options: dict[str, Any]) -> Callable[..., Any]:
        declare = getattr(super(), method)(rule, **options)

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            self._routes.append((method, rule, function, options))
            return declare(function)  # type: ignore[no-any-return]  # the library has no types

        return decorate

    def described(self) -> APIBlueprint:
        """The same routes with their description."""
        group = APIBlueprint(self.name, __name__, **self._options)
        for method, rule, function, options in self._routes:
            getattr(group, method)(rule, **options)(function)
        return group


def blueprint(name: str, description: str) -> RouteGroup:
    """A group of routes under `/v1` that require a token."""
    return RouteGroup(name, description, url_prefix="/v1", security=SECURED)


@cache
def describe(groups: tuple[RouteGroup, ...]) -> dict[str, Any]:
    """The OpenAPI document, without the 422 that flask-openapi adds to routes without parameters."""
    app = OpenAPI(
        "tidegate",
        info=Info(title="Tidegate", version=__version__, description="Moves a service between releases without downtime."),
        servers=[Server(url="/")],
        security_schemes=SECURITY_SCHEMES,
        validation_error_model=ProblemView,
        doc_ui=False,
        static_folder=None,
    )
    app.openapi_version = "3.1.0"
    for group in groups:
        app.register_api(group.described())
    document: dict[str, Any] = app.api_doc
    for path in document["paths"].values():
        for operation in path.values():
            if not operation.get("parameters") and "requestBody" not in operation and "security" not in operation:
                operation["responses"].pop("422", None)
    return document
