"""For those who run the server: alive, ready, metrics, the specification. Without a token."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

from flask import Response, current_app, request
from flask_openapi import APIBlueprint, OpenAPI, Tag
from flask_openapi import Response as Said
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from tidegate import __version__
from tidegate.core.phases import LIVE
from tidegate.ports import Store
from tidegate.web.api import answer, api, json_answer
from tidegate.web.problems import NOT_READY, Problem
from tidegate.web.routes import ResponseDict, problem
from tidegate.web.views import StateView

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
    return answer(StateView(status="alive"))


@bp.get("/readyz", responses={"200": StateView, **_NOT_READY})
def readyz() -> Response:
    """Whether the database answers and its schema is up to date."""
    wrong = [each for each in api().store.check() if not each.ok]
    if wrong:
        raise Problem(NOT_READY, "; ".join(f"{each.part}: {each.found}: {each.mend}" for each in wrong))
    return answer(StateView(status="ready"))


@bp.get("/metrics", responses=_TEXT | _NOT_READY)
def metrics() -> Response:
    """The server's own metrics."""
    return Response(generate_latest(current_app.extensions[METRICS].registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)


@bp.get("/openapi.json", responses=_JSON)
def openapi() -> Response:
    """The specification of this API, OpenAPI 3.1."""
    return json_answer(json.dumps(specification(cast(OpenAPI, current_app))), 200)


def specification(app: OpenAPI) -> dict[str, Any]:
    """What flask-openapi makes of the routes, without the 422 that it gives to those that take nothing."""
    document: dict[str, Any] = app.api_doc
    for path in document["paths"].values():
        for operation in path.values():
            if not operation.get("parameters") and "requestBody" not in operation and "security" not in operation:
                operation["responses"].pop("422", None)
    return document


class LiveRollouts(Collector):
    """Counts live rollouts when it is asked; there are few."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterable[Metric]:
        """One family. Raises `StoreError`: a number that is not known is not told."""
        family = GaugeMetricFamily("tidegate_live_rollouts", "Rollouts that are not finished, by phase.", labels=["phase"])
        for phase in sorted(LIVE):
            family.add_metric([phase.value], len(self._store.rollouts(phase=phase, limit=1000)))
        yield family

    def describe(self) -> Iterable[Metric]:
        """Without asking the database."""
        return [GaugeMetricFamily("tidegate_live_rollouts", "Rollouts that are not finished, by phase.", labels=["phase"])]


class Metrics:
    """The server's own numbers. Their labels are bounded: routes, not paths."""

    def __init__(self, store: Store) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "tidegate_api_requests",
            "Requests answered, by method, route and status.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "tidegate_api_request_seconds",
            "Time to answer; a request for events may wait on purpose.",
            ["route"],
            buckets=(0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0),
            registry=self.registry,
        )
        Gauge("tidegate_build_info", "The version that runs.", ["version"], registry=self.registry).labels(__version__).set(
            1
        )
        self.registry.register(LiveRollouts(store))

    def count(self, response: Response, seconds: float) -> None:
        """One request was answered."""
        route = request.url_rule.rule if request.url_rule else "none"
        method = request.method if request.method in KNOWN_METHODS else "other"
        self._requests.labels(method, route, str(response.status_code)).inc()
        self._seconds.labels(route).observe(seconds)


KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


def is_open() -> bool:
    """Whether the present request needs no token: those of this module, and what has no route (404, 405)."""
    rule = request.url_rule
    return rule is None or rule.endpoint.startswith(f"{bp.name}.")
