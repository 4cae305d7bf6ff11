"""The API under everything that its own specification allows and forbids, made by schemathesis; always the same requests.

Whatever is sent, the answer is one of those that the specification tells, of its type and its shape, and an error is a
problem document.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import schemathesis.checks
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import FlakyStrategyDefinition
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from support.api import RunningApi, compose, running

EXAMPLES = int(os.environ.get("API_EXAMPLES", "4"))  # of each operation and kind; `make api` has twenty
STEPS, STORIES = 12, int(os.environ.get("API_STORIES", "16"))  # `make api` has two hundred
MAX_ROUNDS = 60  # a story that went another way than one with the same beginning ends a round
BOUNDED = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.allow_header_conformance,
    checks.negative_data_rejection,
]
#: Which answer names what is asked for later: path, status, where in the answer, and as which parameter.
NAMED = [
    ("/v1/services/{environment}/{service}/rollouts", "202", "/id", "rollout"),
    ("/v1/services/{environment}/{service}/rollback", "202", "/id", "rollout"),
    ("/v1/rollouts", "200", "/rollouts/0/id", "rollout"),
    ("/v1/tokens", "201", "/id", "token"),
]
PROBLEM = {"type", "title", "status", "detail", "instance", "code"}


def is_one_of_ours(_: Any, response: Any, case: Any) -> None:
    """A problem document where it is an error, and on everything the headers that keep a browser harmless."""
    kind = response.headers.get("content-type", [""])[0]
    if response.status_code >= 400:
        assert kind == "application/problem+json", f"{case.method} {case.formatted_path}: {kind}"
        assert set(response.json()) >= PROBLEM
        assert response.json()["status"] == response.status_code
    assert kind or response.status_code == 204, "a body without its type"
    assert response.headers["x-content-type-options"] == ["nosniff"]
    assert response.headers["x-request-id"][0]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with running(tmp_path) as made, made.engine():
        made.until(made.deploy("v1")["id"], "succeeded")
        yield made


def _followed(document: dict[str, Any], parameter: str, value: str) -> dict[str, Any]:
    """Every operation that takes the parameter, with this value."""
    them = [each for path, found in document["paths"].items() if f"{{{parameter}}}" in path for each in found.values()]
    return {each["operationId"]: {"operationId": each["operationId"], "parameters": {parameter: value}} for each in them}


def specification(api: RunningApi, *modes: GenerationMode) -> Any:
    """The schema of the running API. Names and files are true ones now and then, so that requests come far."""
    document = api.call("GET", "/openapi.json", token="").json()
    for path, status, member, name in NAMED:
        response = document["paths"][path]["post" if status != "200" else "get"]["responses"][status]
        response["links"] = _followed(document, name, f"$response.body#{member}")
    schema = schemathesis.openapi.from_dict(document)
    schema.config.base_url = api.url
    schema.config.generation.update(modes=list(modes))
    rollouts = [each["id"] for each in api.call("GET", "/v1/rollouts").json()["rollouts"]]
    known = {"environment": ["demo", "live"], "service": ["shop", "till"], "rollout": rollouts}

    @schema.hook
    def map_path_parameters(_: Any, found: dict[str, Any] | None) -> dict[str, Any] | None:
        for name, value in (found or {}).items():
            picked = len(str(value)) % 3
            if name in known and picked < len(known[name]):
                found[name] = known[name][picked]  # type: ignore[index]
        return found

    if GenerationMode.NEGATIVE not in modes:  # there nothing may become right again

        @schema.hook
        def map_body(_: Any, found: Any) -> Any:
            if isinstance(found, dict) and isinstance(found.get("compose"), str) and len(found["compose"]) % 2:
                return {**found, "compose": compose(), "variables": {"VERSION": "v2"}, "files": {}}
            return found

    return schema


def ask(api: RunningApi, case: Any) -> None:
    if isinstance(case.query, dict):
        case.query.pop("wait", None)  # a wish to wait is granted, and tells nothing more
    answer = case.call(headers={"Authorization": f"Bearer {api.token}"}, timeout=30)
    case.validate_response(answer, checks=CHECKS, additional_checks=[is_one_of_ours])


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda each: each.value)
def test_every_operation_answers_as_it_says_whatever_is_sent(api: RunningApi, mode: GenerationMode) -> None:
    asked: dict[str, int] = {}
    for found in specification(api, mode).get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not operation.path.startswith("/v1/"):
            continue  # those take nothing that could be wrong

        @BOUNDED
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            asked[case.operation.label] = asked.get(case.operation.label, 0) + 1
            ask(api, case)

        send()
    assert len(asked) >= 25
    assert api.call("GET", "/v1/services/demo/shop").json()["name"] == "shop"


#: What the stories must come to, so that they show something.
DEEP = {
    "POST /v1/services/{environment}/{service}/rollouts 202",
    "GET /v1/rollouts/{rollout}/report 200",
    "POST /v1/rollouts/{rollout}/resume 202",
    "DELETE /v1/tokens/{token} 204",
}


def test_stories_of_many_requests_end_as_told(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one answer names is asked for by the next request: rollouts, tokens, cursors."""
    monkeypatch.setattr(api.world, "ready_after", 1.5)  # a rollout lasts longer than what is asked of it, on any machine
    asked: set[str] = set()
    wrong: list[BaseException] = []
    told = 0

    class Stories(specification(api, GenerationMode.POSITIVE).as_state_machine()):  # type: ignore[misc]
        def validate_response(self, response: Any, case: Any, **_: Any) -> None:
            asked.add(f"{case.operation.label} {response.status_code}")
            try:
                case.validate_response(response, checks=CHECKS, additional_checks=[is_one_of_ours])
            except BaseException as error:
                wrong.append(error)
                raise

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            if isinstance(case.query, dict):
                case.query.pop("wait", None)
            return {"headers": {"Authorization": f"Bearer {api.token}"}, "timeout": 60}

        def teardown(self) -> None:
            nonlocal told
            told += 1

    for number in range(MAX_ROUNDS):
        try:
            many = settings(BOUNDED, derandomize=False, max_examples=max(10, STORIES - told))
            seed(number)(Stories).run(settings=many)
        except FlakyStrategyDefinition:
            # The rollouts go on meanwhile, so that the same request is answered otherwise a second later. Hypothesis gives
            # up then; it is a fault only when an answer was one.
            assert not wrong, wrong
        if told >= STORIES and asked >= DEEP:
            break
    assert told >= STORIES
    assert asked >= DEEP, sorted(asked)
