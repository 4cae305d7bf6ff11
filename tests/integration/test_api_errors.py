"""What bad input gets: each message as a person reads it, over real HTTP."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.api import SHOP, RunningApi, compose, running
from support.fake_drivers import FakeRouter
from tidegate.core.phases import Phase
from tidegate.errors import StoreError


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with running(tmp_path) as made:
        yield made


def body(text: str, **variables: str) -> dict[str, Any]:
    return {"compose": text, "variables": variables}


# -- the Compose file -------------------------------------------------------------------------------------------------

SPECS = {
    "unknown key": (
        compose().replace("expose", "exposed"),
        {"services.shop.exposed": "unknown"},
    ),
    "wrong type": (compose().replace("replicas: 3", "replicas: three"), {"services.shop.deploy.replicas": "three"}),
    "missing image": (compose().replace("    image: shop:${VERSION}\n", ""), {"services.shop.image": "required"}),
    "negative batch": (
        compose().replace("parallelism: 1", "parallelism: -1"),
        {"services.shop.deploy.update_config.parallelism": "-1"},
    ),
    "no such service": ("services: {cart: {image: cart}}", {"services": "there is no service shop; the file has: cart"}),
    "not YAML": ("services: [", {"line 1, column 12": "not a Compose file"}),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_bad_file_is_refused_with_every_mistake_and_its_place(api: RunningApi, name: str) -> None:
    text, mistakes = SPECS[name]
    for answer in (
        api.call("PUT", SHOP, body(text, VERSION="v1")),
        api.post(f"{SHOP}/rollouts", body(text, VERSION="v1")),
    ):
        said = answer.json()
        assert (answer.status_code, said["code"]) == (422, "invalid-spec")
        assert {each["path"] for each in said["errors"]} >= set(mistakes), said
        for each in said["errors"]:
            assert (each["in"], each["pointer"]) == ("body", "/compose")
            assert mistakes.get(each["path"], "") in each["detail"], each
            assert each["detail"] in said["detail"]
    assert api.call("GET", "/v1/services").json()["services"] == [], "nothing was stored"


def test_a_missing_variable_is_told_by_its_name(api: RunningApi) -> None:
    said = api.call("PUT", SHOP, body(compose())).json()
    assert [each["path"] for each in said["errors"]] == ["services.shop.image"]
    assert "VERSION" in said["detail"]


def test_checks_need_metrics(tmp_path: Path) -> None:
    with running(tmp_path, metrics=False) as api:
        text = compose("bake: 5s, checks: [{errors: {margin: 1%}}]")
        said = api.post(f"{SHOP}/rollouts", body(text, VERSION="v1")).json()
        assert said["errors"][0]["path"] == "services.shop.x-tidegate.checks"
        assert said["errors"][0]["detail"] == (
            "The environment demo has no metrics: configure Prometheus, or remove the checks"
        )


def test_what_the_router_cannot_have_is_refused_when_it_is_requested(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeRouter, "unsupported", lambda *_: {"protocol": "found h2c"})
    said = api.post(f"{SHOP}/rollouts", body(compose("protocol: h2c"), VERSION="v1")).json()
    assert [(each["path"], each["detail"]) for each in said["errors"]] == [
        ("services.shop.x-tidegate.protocol", "found h2c")
    ]


def test_two_services_on_one_route_are_refused(api: RunningApi) -> None:
    assert api.call("PUT", SHOP, body(compose("route: front"), VERSION="v1")).status_code == 201
    text = compose("route: front").replace("shop:", "cart:", 1)
    for answer in (
        api.call("PUT", "/v1/services/demo/cart", body(text, VERSION="v1")),
        api.post("/v1/services/demo/cart/rollouts", body(text, VERSION="v1")),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "route-taken")
        assert answer.json()["detail"] == "Route front in demo belongs to demo/shop. Choose another route."


# -- what is there, and what is not -----------------------------------------------------------------------------------


def test_a_second_rollout_is_refused_with_the_id_of_the_first(api: RunningApi) -> None:
    live = api.deploy()["id"]
    answer = api.post(f"{SHOP}/rollouts", body(compose(), VERSION="v2"))
    said = answer.json()
    assert (answer.status_code, said["code"], said["rollout"]) == (409, "rollout-in-progress", live)
    assert said["detail"] == (
        f"demo/shop has an unfinished rollout, {live}. Wait for it, promote it or roll it back first."
    )


@pytest.mark.parametrize(
    ("method", "path", "code", "detail"),
    [
        ("GET", "/v1/services/nowhere/shop", "unknown-service", "no environment nowhere; known: demo, live"),
        ("GET", "/v1/services/demo/none", "unknown-service", "No service demo/none."),
        ("GET", "/v1/services/demo/none/rollouts", "unknown-service", "No service demo/none."),
        ("GET", "/v1/rollouts/abc", "unknown-rollout", "No rollout abc."),
        ("GET", "/v1/rollouts/abc/events", "unknown-rollout", "No rollout abc."),
        ("GET", "/v1/rollouts/abc/report", "unknown-rollout", "No rollout abc."),
        ("POST", "/v1/rollouts/abc/pause", "unknown-rollout", "No rollout abc."),
        ("DELETE", "/v1/tokens/abc", "not-found", "Nothing is at /v1/tokens/abc."),
        ("GET", "/v2", "not-found", "Nothing is at /v2."),
    ],
)
def test_the_unknown_is_told(api: RunningApi, method: str, path: str, code: str, detail: str) -> None:
    answer = api.call(method, path)
    said = answer.json()
    assert (answer.status_code, said["status"], said["code"], said["detail"]) == (404, 404, code, detail)


def test_an_unknown_environment_lists_the_known_ones(api: RunningApi) -> None:
    answer = api.post("/v1/services/prod/shop/rollouts", body(compose(), VERSION="v1"))
    assert (answer.status_code, answer.json()["detail"]) == (404, "no environment prod; known: demo, live")


def test_without_a_file_and_without_a_definition(api: RunningApi) -> None:
    said = api.post(f"{SHOP}/rollouts", {}).json()
    assert said["detail"] == "Unknown service demo/shop. Send its Compose file as `compose`."
    api.call("PUT", SHOP, body(compose(), VERSION="v1"))
    said = api.post(f"{SHOP}/rollouts", {"variables": {"VERSION": "v2"}}).json()
    assert (said["code"], said["errors"][0]["pointer"]) == ("invalid-spec", "/variables")


# -- the request itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "errors"),
    [
        ({}, {"/compose": "is required"}),
        ({"compose": 7}, {"/compose": "input should be a valid string"}),
        ({"compose": "x", "variables": {"A": 1}}, {"/variables/A": "input should be a valid string"}),
        ({"compose": "x", "a/b~": 1, "imagee": ""}, {"/a~1b~0": "unknown field", "/imagee": "unknown field"}),
    ],
)
def test_a_body_of_the_wrong_shape_is_refused_with_pointers(
    api: RunningApi, sent: dict[str, Any], errors: dict[str, str]
) -> None:
    answer = api.call("PUT", SHOP, sent)
    said = answer.json()
    assert (answer.status_code, said["code"]) == (422, "invalid-request")
    assert {each["pointer"]: each["detail"] for each in said["errors"]} == errors
    assert {each["in"] for each in said["errors"]} == {"body"}


@pytest.mark.parametrize(
    ("query", "pointer", "detail"),
    [
        ("limit=0", "/limit", 'input should be greater than or equal to 1, got "0"'),
        ("limit=201", "/limit", 'input should be less than or equal to 200, got "201"'),
        ("phase=done", "/phase", "'pending', 'running', 'rolling_back'"),
        ("page=2", "/page", "unknown field"),
        ("cursor=%21", "/cursor", "invalid cursor"),
        ("limit=1&limit=2", "/limit", "sent 2 times; send it once"),
        ("cursor=abcd", "/cursor", "invalid cursor"),
        ("cursor=bm9uZQ", "/cursor", "invalid cursor"),
    ],
)
def test_a_bad_query_is_refused(api: RunningApi, query: str, pointer: str, detail: str) -> None:
    answer = api.call("GET", f"/v1/rollouts?{query}")
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["in"], error["pointer"]) == ("query", pointer)
    assert detail in error["detail"]


def test_waits_are_bounded(api: RunningApi) -> None:
    rollout = api.deploy()["id"]
    assert api.call("GET", f"/v1/rollouts/{rollout}/events?wait=301").status_code == 422
    assert api.call("GET", f"/v1/rollouts/{rollout}/events?after=-1").status_code == 422


@pytest.mark.parametrize(
    ("data", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "bad-request"),
        (b"\xff", "application/json", 400, "bad-request"),
        (b"[" * 100_000, "application/json", 400, "bad-request"),
        (b'{"compose": "\\ud800"}', "application/json", 422, "invalid-request"),
        (b"compose: x", "application/yaml", 415, "unsupported-media-type"),
        (b"a=b", "application/x-www-form-urlencoded", 415, "unsupported-media-type"),
        (b"[]", "application/json", 422, "invalid-request"),
        (b"null", "application/json", 422, "invalid-request"),
        (b'"{\\"compose\\": \\"x\\"}"', "application/json", 422, "invalid-request"),
        (b'{"compose": "' + b"x" * 1_100_000 + b'"}', "application/json", 413, "request-entity-too-large"),
    ],
)
def test_what_is_no_json_object_is_refused(api: RunningApi, data: bytes, content_type: str, status: int, code: str) -> None:
    answer = api.call("PUT", SHOP, data=data, headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_key_is_needed_where_something_is_created(api: RunningApi) -> None:
    for path in (f"{SHOP}/rollouts", f"{SHOP}/rollback"):
        answer = api.call("POST", path, {})
        assert (answer.status_code, answer.json()["code"]) == (400, "idempotency-key-required")
        assert "Idempotency-Key" in answer.json()["detail"]
    assert api.post(f"{SHOP}/rollouts", {}, key="no blanks").status_code == 422
    assert api.post(f"{SHOP}/rollouts", {}, key="k" * 1001).status_code == 422
    sent = body(compose(), VERSION="v1")
    first, again = (api.post(f"{SHOP}/rollouts", sent, key="k" * 1000) for _ in range(2))
    assert (first.status_code, again.headers["Idempotency-Replayed"], again.json()) == (202, "true", first.json())


def test_a_method_that_is_not_there_names_those_that_are(api: RunningApi) -> None:
    answer = api.call("PATCH", SHOP)
    assert (answer.status_code, answer.json()["code"]) == (405, "method-not-allowed")
    assert "PUT" in answer.headers["Allow"]


def test_every_problem_has_the_same_shape_and_headers(api: RunningApi) -> None:
    answer = api.call("GET", "/v1/rollouts/abc", headers={"X-Request-ID": "build-7"})
    assert answer.json() == {
        "type": "urn:tidegate:problem:unknown-rollout",
        "title": "Unknown rollout",
        "status": 404,
        "detail": "No rollout abc.",
        "instance": "urn:tidegate:request:build-7",
        "code": "unknown-rollout",
    }
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Request-ID"] == "build-7"
    for name in ("Content-Security-Policy", "X-Content-Type-Options", "Cache-Control"):
        assert answer.headers[name]
    assert "Access-Control-Allow-Origin" not in answer.headers
    made_up = api.call("GET", "/v1/rollouts/abc", headers={"X-Request-ID": "a b"}).headers["X-Request-ID"]
    assert len(made_up) == 32


def test_an_open_connection_that_sends_no_request_holds_up_nobody(api: RunningApi) -> None:
    host, port = api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))):
        assert api.call("GET", "/healthz", token="").json() == {"status": "alive"}


# -- when the server itself is at fault -------------------------------------------------------------------------------


def test_a_fault_in_our_own_code_tells_nothing_of_it(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret of the inside")

    monkeypatch.setattr(api.wiring.store, "load", broken)
    answer = api.call("GET", "/v1/rollouts/abc", headers={"X-Request-ID": "r1"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert answer.json()["detail"] == "Internal error. Look for request_id r1 in the server's log."


def test_a_database_that_fails_is_a_reason_to_try_later(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: object, **__: object) -> None:
        raise StoreError("reading: the database is locked", retryable=True)

    rollout = api.deploy()["id"]
    monkeypatch.setattr(api.wiring.store, "load", locked)
    answer = api.call("GET", f"/v1/rollouts/{rollout}")
    assert (answer.status_code, answer.json()["code"], answer.headers["Retry-After"]) == (503, "store-error", "1")
    monkeypatch.setattr(api.wiring.store, "stats", locked)
    text = api.call("GET", "/metrics", token="").text
    assert "tidegate_database_up 0.0" in text
    assert "tidegate_live_rollouts" not in text, "a number that is not known is not told"


def test_ready_says_what_is_wrong(api: RunningApi, tmp_path: Path) -> None:
    assert api.call("GET", "/readyz", token="").json() == {"status": "ready"}
    (tmp_path / "tidegate.db").rename(tmp_path / "away")
    try:
        answer = api.call("GET", "/readyz", token="")
        assert (answer.status_code, answer.json()["code"]) == (503, "not-ready")
        assert "does not exist" in answer.json()["detail"]
        assert api.call("GET", "/healthz", token="").status_code == 200
    finally:
        (tmp_path / "away").rename(tmp_path / "tidegate.db")


def test_metrics_count_requests_by_route_and_rollouts_by_phase(api: RunningApi) -> None:
    rollout = api.deploy()["id"]
    api.save(rollout, Phase.RUNNING)
    api.call("GET", f"/v1/rollouts/{rollout}")
    api.call("GET", "/v1/rollouts/none")
    api.call("GET", "/made/up")
    text = api.call("GET", "/metrics", token="").text
    path = "/v1/rollouts/<rollout>"
    assert f'tidegate_api_requests_total{{method="GET",route="{path}",status="200"}} 1.0' in text
    assert f'tidegate_api_requests_total{{method="GET",route="{path}",status="404"}} 1.0' in text
    assert 'tidegate_api_requests_total{method="GET",route="none",status="404"} 1.0' in text
    assert 'tidegate_live_rollouts{environment="demo",phase="running"} 1.0' in text
    assert 'tidegate_live_rollouts{environment="demo",phase="pending"} 0.0' in text
    assert 'tidegate_build_info{version="' in text
    assert rollout not in text, "labels are bounded"


def test_every_answer_is_ascii_whatever_is_told_in_it(api: RunningApi) -> None:
    """A client that guesses another encoding than JSON's own reads it all the same."""
    reason = "größer 🚢"
    answers = [api.deploy("v1") and api.post(f"{SHOP}/rollback", {"reason": reason})]
    answers += [api.call("GET", "/v1/audit"), api.post(f"{SHOP}/rollouts", {"größer 🚢": 1})]
    assert api.call("GET", "/v1/audit").json()["entries"][0]["reason"] == reason
    assert reason in answers[-1].json()["detail"]
    assert [each.content.isascii() for each in answers] == [True] * 3
