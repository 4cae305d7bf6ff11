"""For those who run the server: alive, ready, metrics, the specification. Without a token."""

from __future__ import annotations

import json
from typing import Any, cast

from flask import Response, current_app, request
from flask_openapi import APIBlueprint, OpenAPI, Tag
from flask_openapi import Response as Said
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BaseModel

from tidegate.web.api import api, json_response, respond
from tidegate.web.errors import NOT_READY, ApiProblem
from tidegate.web.openapi import ResponseDict, problem


class StateView(BaseModel):
    """Whether it is alive or ready."""

    status: str


METRICS = "tidegate-metrics"
bp = APIBlueprint(
    "ops",
    __name__,
    abp_tags=[Tag(name="ops", description="For those who run the server. Without a token.")],
    abp_security=[],
    operation_id_callback=lambda *, bp_name, name, path, method: name,
)
_NOT_READY: ResponseDict = {"503": problem("Not ready; the detail says why.")}
_STRING: Any = {"text/plain": {"schema": {"type": "string"}}}
_OBJECT: Any = {"application/json": {"schema": {"type": "object"}}}
_TEXT: ResponseDict = {"200": Said(description="Metrics in Prometheus's text format.", content=_STRING)}
_JSON: ResponseDict = {"200": Said(description="This document.", content=_OBJECT)}


@bp.get("/healthz", responses={"200": StateView})
def healthz() -> Response:
    """Whether the process answers. Depends on nothing."""
    return respond(StateView(status="alive"))


@bp.get("/readyz", responses={"200": StateView, **_NOT_READY})
def readyz() -> Response:
    """Whether the database answers, its schema is up to date, and an engine is heard where one is expected."""
    wrong = [f"{line.part}: {line.found}: {line.fix}" for line in api().store.check() if not line.ok]
    if not wrong and api().engine_within_seconds:
        wrong = _missing_engine(api().engine_within_seconds)
    if wrong:
        raise ApiProblem(NOT_READY, "; ".join(wrong))
    return respond(StateView(status="ready"))


def _missing_engine(within_seconds: float) -> list[str]:
    """What is wrong with the engines, as far as they are heard."""
    engines = api().store.engines()
    silent = api().now() - engines[0].heartbeat_at if engines else float("inf")
    if silent <= within_seconds:
        return []
    heard = f"{engines[0].owner} was heard last {silent:.0f} s ago" if engines else "none runs"
    return [f"engine: {heard}: start one with `tidegate engine`, or look at its log"]


@bp.get("/metrics", responses=_TEXT)
def metrics() -> Response:
    """The server's own metrics, and those of the engine in its process."""
    own, engine = current_app.extensions[METRICS].registry, api().wiring.meter.registry
    return Response(generate_latest(own) + generate_latest(engine), content_type=CONTENT_TYPE_PLAIN_0_0_4)


@bp.get("/openapi.json", responses=_JSON)
def openapi() -> Response:
    """The specification of this API, OpenAPI 3.1."""
    return json_response(json.dumps(specification(cast(OpenAPI, current_app))), 200)


def specification(app: OpenAPI) -> dict[str, Any]:
    """What flask-openapi makes of the routes, without the 422 that it gives to those that take nothing."""
    document: dict[str, Any] = app.api_doc
    for path in document["paths"].values():
        for operation in path.values():
            if not operation.get("parameters") and "requestBody" not in operation and "security" not in operation:
                operation["responses"].pop("422", None)
    return document


def is_public() -> bool:
    """Whether the present request needs no token: those of this module, and what has no route (404, 405)."""
    rule = request.url_rule
    if rule is None:
        return True
    guarded = api().wiring.settings.web.metrics_need_token and rule.endpoint == f"{bp.name}.metrics"
    return rule.endpoint.startswith(f"{bp.name}.") and not guarded


def is_probe() -> bool:
    """Whether it is one that comes every few seconds and would fill the log."""
    return request.url_rule is not None and request.url_rule.endpoint.startswith(f"{bp.name}.")
