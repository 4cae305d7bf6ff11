"""Who may do what, over real HTTP: tokens, scopes, services, expiry, and what a stranger hears."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.api import SHOP, RunningApi, compose, running
from support.wait import eventually
from tidegate.settings import Settings, WebSettings
from tidegate.web.auth import new_token, token_digest
from tidegate.web.auth_throttle import FREE_ATTEMPTS

MALFORMED = "Malformed Authorization header. Expected: Bearer tg_…, or Basic with the token as the password."


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with running(tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (None, "Missing token. Send the header Authorization: Bearer tg_…"),
        ("Bearer", MALFORMED),
        ("Basic YTpi", MALFORMED),
        ("Basic !", MALFORMED),
        ("Bearer tg_" + "x" * 43, "Unknown token. It may have been revoked."),
    ],
)
def test_a_stranger_is_told_how_to_come_in(api: RunningApi, sent: str | None, said: str) -> None:
    answer = api.call("GET", "/v1/services", token="", headers={"Authorization": sent} if sent else {})
    assert (answer.status_code, answer.json()["code"], answer.json()["detail"]) == (401, "unauthenticated", said)
    assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="tidegate"')


def test_a_token_may_be_the_password_of_any_user(api: RunningApi) -> None:
    for user in ("tidegate", "", "größer"):
        answer = api.session.get(f"{api.url}/v1/services", auth=(user.encode(), api.token.encode()), timeout=60)
        assert answer.status_code == 200, user
    wrong = api.session.get(f"{api.url}/v1/services", auth=("tidegate", "tg_" + "x" * 43), timeout=60)
    assert wrong.json()["detail"] == "Unknown token. It may have been revoked."
    assert "Basic" not in wrong.headers["WWW-Authenticate"], "a browser would offer to remember the token"


def test_everything_but_the_probes_needs_a_token(api: RunningApi) -> None:
    document = api.call("GET", "/openapi.json", token="").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if "security" not in operation:
                assert api.call(method.upper(), path, token="").status_code == 200
                continue
            answer = api.call(method.upper(), path.replace("{", "").replace("}", ""), token="")
            assert answer.status_code in (401, 429), f"{method} {path}"


def test_a_page_of_another_site_reads_nothing(tmp_path: Path) -> None:
    """Its name leads to this server (DNS rebinding), and a browser sends it as the host."""
    with running(tmp_path, settings=Settings(address="https://Tidegate.example/x")) as api:
        for path in ("/metrics", "/openapi.json", "/v1/services", "/none"):
            answer = api.call("GET", path, headers={"Host": "attacker.example:7070"})
            assert (answer.status_code, answer.json()["code"]) == (421, "unknown-host")
            assert "attacker.example:7070" in answer.json()["detail"]
        assert api.call("GET", "/v1/services", headers={"Host": "tidegate.example"}).status_code == 200


def test_many_failures_are_sent_away_but_a_right_token_is_let_in(api: RunningApi) -> None:
    wrong, unused = "tg_" + "x" * 43, api.token_for("read")
    answers = [api.call("GET", "/v1/services", token=wrong) for _ in range(FREE_ATTEMPTS + 1)]
    assert [each.status_code for each in answers] == [401] * FREE_ATTEMPTS + [429]
    assert answers[-1].headers["Retry-After"] == "1"
    assert answers[-1].json()["code"] == "too-many-failures"
    assert api.call("GET", "/v1/services", token=unused).status_code == 200, "it shares the address, and was never used"
    text = api.call("GET", "/metrics", token="").text
    assert f"tidegate_failed_authentications_total {FREE_ATTEMPTS + 1:.1f}" in text


def test_whoever_shares_an_address_keeps_no_valid_token_out(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    store, reads = api.wiring.store, list[str]()
    one, every = store.token, store.tokens
    monkeypatch.setattr(store, "token", lambda digest: reads.append(digest) or one(digest))
    monkeypatch.setattr(store, "tokens", lambda: reads.append("all") or every())
    begun = time.monotonic()
    for number in range(FREE_ATTEMPTS + 200):
        api.call("GET", "/v1/services", token="tg_" + f"{number:043d}")
    waits = int(time.monotonic() - begun)  # an address waits a second or more after each further failure
    assert FREE_ATTEMPTS + 1 <= len(reads) - reads.count("all") <= FREE_ATTEMPTS + 1 + waits, "who waits costs no look-up"
    unused = [api.token_for("read") for _ in range(20)]

    def is_let_in(token: str) -> bool:
        api.call("GET", "/v1/services", token="tg_" + "x" * 43)
        return api.call("GET", "/v1/services", token=token).status_code == 200

    eventually("a token made just now is let in", lambda: is_let_in(unused[0]))
    assert [is_let_in(token) for token in unused] == [True] * len(unused)
    for token in store.tokens():
        store.delete_token(token.id)
    assert not any(is_let_in(token) for token in unused)


@pytest.mark.parametrize("trusted", [True, False])
def test_behind_a_trusted_proxy_each_client_counts_for_itself(tmp_path: Path, *, trusted: bool) -> None:
    web = WebSettings.model_validate({"trusted_proxies": ["127.0.0.0/8"] if trusted else []})
    with running(tmp_path, settings=Settings(web=web)) as api:
        for _ in range(FREE_ATTEMPTS + 1):
            api.call("GET", "/v1/services", token="", headers={"X-Forwarded-For": "198.51.100.1"})
        other = api.call("GET", "/v1/services", token="", headers={"X-Forwarded-For": "198.51.100.2"})
        assert other.status_code == (401 if trusted else 429)
        if trusted:
            api.call("PUT", "/v1/environments/demo/freeze", {"reason": "night"}, headers={"X-Forwarded-For": "192.0.2.7"})
            assert api.wiring.store.audit()[0].source == "192.0.2.7"


def test_each_scope_opens_its_own_doors(api: RunningApi) -> None:
    api.finish("v1")
    rollout = api.deploy("v2", "approval: {after: [1]}")["id"]
    doors = {
        "read": [("GET", SHOP), ("GET", f"{SHOP}/instances"), ("GET", f"/v1/rollouts/{rollout}")],
        "deploy": [("PUT", SHOP), ("POST", f"{SHOP}/rollouts"), ("POST", f"/v1/rollouts/{rollout}/verify")]
        + [("POST", f"/v1/rollouts/{rollout}/{wish}") for wish in ("pause", "resume")],
        "promote": [("POST", f"/v1/rollouts/{rollout}/promote")],
        "rollback": [("POST", f"/v1/rollouts/{rollout}/rollback"), ("POST", f"{SHOP}/rollback")],
        "admin": [("GET", "/v1/tokens")],
    }
    tokens = {scope: api.token_for(scope) for scope in doors}
    for held, token in tokens.items():
        for scope, requests in doors.items():
            for method, path in requests:
                body = None if method == "GET" else ({"compose": "services: {}"} if method == "PUT" else {})
                headers = {"Idempotency-Key": "k", "If-Match": '"9999"'}
                answer = api.call(method, path, body, token=token, headers=headers)
                allowed = scope in (held, "read") or held == "admin"
                assert (answer.status_code != 403) == allowed, f"{held}: {method} {path}: {answer.text}"
                if not allowed:
                    assert answer.json()["code"] == "not-allowed"
                    assert f"lacks the scope {scope}" in answer.json()["detail"]


def test_a_token_is_for_its_services_only(api: RunningApi) -> None:
    api.finish("v1")
    live = compose("listen: 8002").replace("listen: 8001, ", "")
    assert api.call("PUT", "/v1/services/live/shop", {"compose": live, "variables": {"VERSION": "v1"}}).ok
    token = api.token_for("deploy", services=("live/*",))
    assert [each["environment"] for each in api.call("GET", "/v1/services", token=token).json()["services"]] == ["live"]
    assert api.call("GET", "/v1/rollouts", token=token).json()["rollouts"] == []
    refused = api.call("GET", SHOP, token=token)
    assert (refused.status_code, refused.json()["detail"]) == (
        403, "Token deploy has the scope read, but not for demo/shop. Its services: live/*.",
    )  # fmt: skip
    assert api.call("GET", "/v1/rollouts?service=demo/shop", token=token).status_code == 403


def test_ids_of_others_are_answered_like_unknown_ones(api: RunningApi) -> None:
    other, unknown = api.deploy("v1")["id"], "6b0e2ee5661b8f"
    token = api.token_for("deploy", "promote", "rollback", services=("live/*",))
    reads = [("GET", part) for part in ("", "/events", "/report", "/junit", "/record")]
    for method, part in [*reads, *(("POST", f"/{name}") for name in ("promote", "pause", "rollback", "verify"))]:
        body, headers = {} if method == "POST" else None, {"If-Match": '"1"'}
        answers = [
            api.call(method, f"/v1/rollouts/{name}{part}", body, token=token, headers=headers) for name in (other, unknown)
        ]
        assert [answer.status_code for answer in answers] == [404, 404], (method, part)
        assert len({answer.json()["detail"].replace(other, unknown) for answer in answers}) == 1
    for last in (other, unknown, "a\x00b", ""):
        cursor = base64.urlsafe_b64encode(last.encode()).decode().rstrip("=") or "=="
        assert api.call("GET", f"/v1/rollouts?cursor={cursor}", token=token).status_code == 422
    for path in ("/v1/rollouts", "/v1/services", "/v1/audit"):
        for odd in ("!!!!", "A", "YQ==", "YR", "%00", "w6k", "4oCu", "MTIzNDU2Nzg5MDEyMzQ1Njc4OTA"):
            status = api.call("GET", f"{path}?cursor={odd}").status_code
            assert status == 422 or (path == "/v1/services" and odd in ("w6k", "MTIzNDU2Nzg5MDEyMzQ1Njc4OTA")), (path, odd)


def test_an_expired_token_is_refused(api: RunningApi) -> None:
    token = api.token_for("read", expires=time.time() - 1)
    answer = api.call("GET", "/v1/services", token=token)
    assert (answer.status_code, answer.json()["detail"]) == (401, "Token read has expired.")


def test_tokens_are_made_listed_and_dropped(api: RunningApi) -> None:
    made = api.call("POST", "/v1/tokens", {"name": "jenkins", "scopes": ["deploy", "read"], "expires_days": 1})
    assert made.status_code == 201
    secret, token_id = made.json()["token"], made.json()["id"]
    assert api.call("GET", "/v1/services", token=secret).status_code == 200
    listed = api.call("GET", "/v1/tokens")
    assert secret not in listed.text
    (found,) = [each for each in listed.json()["tokens"] if each["id"] == token_id]
    assert (found["name"], found["scopes"], found["services"]) == ("jenkins", ["read", "deploy"], ["*"])
    assert found["last_used"] is not None
    assert api.call("DELETE", made.headers["Location"]).status_code == 204
    assert api.call("GET", "/v1/services", token=secret).status_code == 401


def test_an_admin_of_some_services_makes_no_tokens(api: RunningApi) -> None:
    token = api.token_for("admin", services=("demo/*",))
    answer = api.call("POST", "/v1/tokens", {"name": "x", "scopes": ["admin"]}, token=token)
    assert (answer.status_code, answer.json()["detail"]) == (
        403, "Token admin is limited to demo/*. Managing tokens requires a token for *.",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"name": "x", "scopes": ["root"]}, "/scopes/0"),
        ({"name": "x", "scopes": []}, "/scopes"),
        ({"name": "x\ny", "scopes": ["read"]}, "/name"),
        ({"name": " ", "scopes": ["read"]}, "/name"),
        ({"name": "x", "scopes": ["read"], "expires_days": 0}, "/expires_days"),
        ({"name": "x", "scopes": ["read"], "services": []}, "/services"),
    ],
)
def test_a_bad_token_is_refused(api: RunningApi, body: dict[str, object], pointer: str) -> None:
    answer = api.call("POST", "/v1/tokens", body)
    assert (answer.status_code, [each["pointer"] for each in answer.json()["errors"]]) == (422, [pointer])


def test_secrets_are_not_logged_and_not_stored(api: RunningApi, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    secret = api.call("POST", "/v1/tokens", {"name": "x", "scopes": ["read"]}).json()["token"]
    api.call("GET", "/v1/services", token=secret)
    out, err = capfd.readouterr()
    assert "/v1/services" in out + err, "requests are logged"
    assert secret not in out + err
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert secret.encode() not in stored
    assert token_digest(secret).encode() in stored


def test_a_secret_has_256_random_bits() -> None:
    secrets = {new_token("x", ["read"], ["*"], 0.0)[0] for _ in range(100)}
    assert len(secrets) == 100
    assert {(each[:3], len(each)) for each in secrets} == {("tg_", 46)}, "32 bytes are 43 characters in base64url"


def test_a_token_learns_what_it_may_do(api: RunningApi) -> None:
    token = api.token_for("deploy", "vouch", services=("demo/*",))
    answer = api.call("GET", "/v1/me", token=token)
    assert answer.status_code == 200
    me = answer.json()
    assert (me["scopes"], me["services"], me["expires"]) == (["deploy", "vouch"], ["demo/*"], None)
    assert set(me) == {"name", "scopes", "services", "expires", "granted"}, "nothing of its secret"

    def granted(service: str) -> list[str]:
        found: list[str] = api.call("GET", f"/v1/me?service={service}", token=token).json()["granted"]
        return found

    assert me["granted"] is None
    assert (granted("demo/shop"), granted("live/shop")) == (["read", "deploy", "vouch"], [])
