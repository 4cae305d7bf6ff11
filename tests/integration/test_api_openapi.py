"""The specification: valid, the same as the committed one, true of real answers, and told in the documentation."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from support.api import SHOP, RunningApi, compose, running
from tidegate.web import errors
from tidegate.web.errors import PROBLEM_TYPES, ProblemType

DOCS = Path(__file__).parents[2] / "docs"
COMMITTED = DOCS / "openapi.json"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with running(tmp_path) as made:
        yield made


def specification(api: RunningApi) -> dict[str, Any]:
    found: dict[str, Any] = api.call("GET", "/openapi.json", token="").json()
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, each) for path, them in document["paths"].items() for method, each in them.items()]


def test_it_is_valid(api: RunningApi) -> None:
    document = specification(api)
    assert document["openapi"] == "3.1.0"
    OpenAPIV31SpecValidator(document).validate()


def test_it_is_the_committed_one(api: RunningApi) -> None:
    """An API changes on purpose only: `UPDATE=1 pytest tests/integration/test_api_openapi.py` writes it anew."""
    text = json.dumps(specification(api), indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE"):
        COMMITTED.write_text(text)
    assert COMMITTED.read_text() == text


def test_every_operation_is_named_once_and_says_what_it_does(api: RunningApi) -> None:
    found = operations(specification(api))
    names = [each["operationId"] for _, _, each in found]
    assert len(set(names)) == len(names) > 20
    for method, path, each in found:
        assert each["summary"].endswith("."), f"{method} {path}"
        for parameter in each.get("parameters", ()):
            assert parameter["description"], f"{method} {path}: {parameter['name']}"


def test_what_is_needed_is_marked_so(api: RunningApi) -> None:
    needed = {
        (each["operationId"], parameter["name"])
        for _, _, each in operations(specification(api))
        for parameter in each.get("parameters", ())
        if parameter["in"] == "header" and parameter["required"]
    }
    assert needed == {
        ("deploy", "Idempotency-Key"),
        ("import_service", "Idempotency-Key"),
        ("release_service", "Idempotency-Key"), ("rollback_service", "Idempotency-Key"),
        ("scale_service", "Idempotency-Key"), ("repair_service", "Idempotency-Key"),
        ("restart_service", "Idempotency-Key"), ("retry", "Idempotency-Key"),
    }  # fmt: skip


def test_answers_are_as_it_says(api: RunningApi) -> None:
    document = specification(api)
    with api.engine():
        first = api.deploy()
        api.until(first["id"], "succeeded")
    paths = {
        "list_services": "/v1/services",
        "get_service": SHOP,
        "get_instances": f"{SHOP}/instances",
        "list_service_rollouts": f"{SHOP}/rollouts",
        "list_releases": f"{SHOP}/releases",
        "read_logs": f"{SHOP}/logs",
        "list_environments": "/v1/environments",
        "list_rollouts": "/v1/rollouts",
        "get_rollout": f"/v1/rollouts/{first['id']}",
        "list_events": f"/v1/rollouts/{first['id']}/events",
        "get_record": f"/v1/rollouts/{first['id']}/record",
        "get_report": f"/v1/rollouts/{first['id']}/report",
        "prometheus_targets": "/v1/discovery/prometheus",
        "list_tokens": "/v1/tokens",
        "list_freezes": "/v1/freezes",
        "list_quarantine": "/v1/quarantine",
        "get_me": "/v1/me",
        "read_audit": "/v1/audit",
        "healthz": "/healthz",
        "readyz": "/readyz",
    }
    asked = {each["operationId"]: each for method, _, each in operations(document) if method == "get"}
    assert set(asked) - set(paths) == {"metrics", "openapi", "get_junit"}
    for name, path in paths.items():
        schema = asked[name]["responses"]["200"]["content"]["application/json"]["schema"]
        _check(document, schema, api.call("GET", path).json())
    problem = {"$ref": "#/components/schemas/ProblemView"}
    _check(document, problem, api.call("GET", "/v1/rollouts/none").json())
    _check(document, problem, api.call("PUT", SHOP, {"compose": compose()}).json())


def _check(document: dict[str, Any], schema: dict[str, Any], answer: object) -> None:
    """Nothing more and nothing less than the schema has."""
    strict = json.loads(json.dumps(document["components"]))
    for each in strict["schemas"].values():
        if each.get("type") == "object":
            each["additionalProperties"] = False
    jsonschema.Draft202012Validator({**schema, "components": strict}).validate(answer)


def test_every_route_is_told_in_the_documentation(api: RunningApi) -> None:
    text = (DOCS / "api.md").read_text()
    told = set(re.findall(r"^\| `([A-Z]+ /[^`]*)`", text, re.M))
    assert told == {f"{method.upper()} {path}" for method, path, _ in operations(specification(api))}


def test_every_code_is_told_in_the_documentation() -> None:
    text = (DOCS / "api.md").read_text()
    rows = re.findall(r"^\| (\d{3}) \| ([^|]+) \|", text, re.M)
    told = {(int(status), code) for status, codes in rows for code in re.findall(r"`([a-z-]+)`", codes)}
    own = {each for each in vars(errors).values() if isinstance(each, ProblemType)}
    known = {(kind.status, kind.code) for kind in {*PROBLEM_TYPES.values(), *own}}
    flask = {
        (400, "bad-request"), (404, "not-found"), (405, "method-not-allowed"), (413, "request-entity-too-large"),
        (415, "unsupported-media-type"),
    }  # fmt: skip
    assert told == known | flask
