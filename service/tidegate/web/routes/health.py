"""Routes for operators, without a token: liveness, readiness, metrics and the OpenAPI document."""

from __future__ import annotations

import json
from typing import Any

from flask import Response, current_app, request
from flask_openapi import Response as ResponseSpec
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BaseModel

from tidegate.ports import CheckStatus
from tidegate.web.api import api, json_response, respond
from tidegate.web.errors import NOT_READY, ApiProblem
from tidegate.web.openapi import ResponseDict, RouteGroup, describe, problem


class StateView(BaseModel):
    """The state of the server: `alive` or `ready`."""

    status: str


METRICS = "tidegate-metrics"
bp = RouteGroup("ops", "Probes, metrics and the OpenAPI document. No token is required.", security=[])
_NOT_READY: ResponseDict = {"503": problem("Not ready; the detail lists the reasons.")}
_STRING: Any = {"text/plain": {"schema": {"type": "string"}}}
_OBJECT: Any = {"application/json": {"schema": {"type": "object"}}}
_TEXT: ResponseDict = {"200": ResponseSpec(description="Metrics in the Prometheus text format.", content=_STRING)}
_JSON: ResponseDict = {"200": ResponseSpec(description="This document.", content=_OBJECT)}


@bp.get("/healthz", responses={"200": StateView})
def healthz() -> Response:
    """Liveness: whether the process responds. Checks no dependency."""
    return respond(StateView(status="alive"))


@bp.get("/readyz", responses={"200": StateView, **_NOT_READY})
def readyz() -> Response:
    """Readiness: whether the database responds, its schema is current, and an engine runs if one is required."""
    problems = [
        f"{line.part}: {line.result}: {line.fix}" for line in api().store.check() if line.status is CheckStatus.WRONG
    ]
    if not problems and api().engine_within_seconds:
        problems = _missing_engine(api().engine_within_seconds) or _idle_engine()
    if problems:
        raise ApiProblem(NOT_READY, "; ".join(problems))
    return respond(StateView(status="ready"))


def _missing_engine(within_seconds: float) -> list[str]:
    """The problem if no engine sent a heartbeat within `within_seconds`; empty if one did."""
    engines = api().store.engines()
    age = api().now() - engines[0].heartbeat_at if engines else float("inf")
    if age <= within_seconds:
        return []
    state = f"last heartbeat, from {engines[0].owner}, was {age:.0f} s ago" if engines else "no engine is running"
    return [f"engine: {state}: start `tidegate engine` or check its log"]


def _idle_engine() -> list[str]:
    """The problem if engines run, but have not driven a rollout that has been due for long."""
    problem = api().store.stats().find_overdue(api().now())
    return [f"engine: {problem}"] if problem else []


@bp.get("/metrics", responses=_TEXT)
def metrics() -> Response:
    """Metrics of the server, and of the engine if it runs in the same process."""
    own, engine = current_app.extensions[METRICS].registry, api().wiring.engine_metrics.registry
    return Response(generate_latest(own) + generate_latest(engine), content_type=CONTENT_TYPE_PLAIN_0_0_4)


@bp.get("/openapi.json", responses=_JSON)
def openapi() -> Response:
    """The OpenAPI 3.1 document of this API."""
    groups = tuple(group for group in current_app.blueprints.values() if isinstance(group, RouteGroup))
    return json_response(json.dumps(describe(groups)), 200)


def is_public() -> bool:
    """Whether the current request needs no token: routes of this module, and paths without a route (404, 405)."""
    rule = request.url_rule
    if rule is None:
        return True
    guarded = api().wiring.settings.web.metrics_need_token and rule.endpoint == f"{bp.name}.metrics"
    return rule.endpoint.startswith(f"{bp.name}.") and not guarded


def is_probe() -> bool:
    """Whether the current request is a probe or a scrape, which arrive every few seconds."""
    return request.url_rule is not None and request.url_rule.endpoint.startswith(f"{bp.name}.")
