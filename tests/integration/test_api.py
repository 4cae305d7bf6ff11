"""The API over real HTTP, on a real SQLite store: what people and Jenkins ask for, and what they are told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from support.api import SHOP, RunningApi, compose, running, verdict
from support.fake_drivers import constant, down
from support.wait import at_most, eventually
from tidegate.analysis.queries import Series
from tidegate.analysis.verdict import Outcome
from tidegate.clock import Window
from tidegate.core.model import FailureAction, Policy
from tidegate.core.phases import Phase
from tidegate.errors import PlatformError
from tidegate.web.routes import rollouts as rollout_routes


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with running(tmp_path) as made:
        yield made


def put(api: RunningApi, version: str = "v1", **headers: str) -> tuple[int, str, dict[str, object]]:
    body = {"compose": compose(), "variables": {"VERSION": version}}
    answer = api.call("PUT", SHOP, body, headers=headers)
    return answer.status_code, answer.headers.get("ETag", ""), answer.json()


# -- services ---------------------------------------------------------------------------------------------------------


def test_a_definition_is_stored_and_read_back(api: RunningApi) -> None:
    status, etag, said = put(api)
    assert (status, etag, said["image"], said["version"]) == (201, '"1"', "shop:v1", 1)
    assert put(api, "v2")[:2] == (200, '"2"')
    found = api.call("GET", SHOP)
    assert found.headers["ETag"] == '"2"'
    view = found.json()
    assert (view["live"], view["rollout"], view["releases"]) == (None, None, [])
    assert view["variables"] == ["DB_URL"]
    assert "secret-value" not in found.text, "values of variables may be secrets"


def test_a_definition_is_replaced_only_as_it_was_seen(api: RunningApi) -> None:
    etag = put(api)[1]
    assert put(api, "v2", **{"If-Match": etag})[0] == 200
    status, _, said = put(api, "v3", **{"If-Match": etag})
    assert (status, said["code"]) == (412, "stale")
    assert said["detail"] == 'demo/shop is at version "2", but If-Match is "1". Read it again and retry.'
    assert put(api, "v3", **{"If-None-Match": "*"})[0] == 412
    assert put(api, "v3", **{"If-Match": "*"})[0] == 200


def test_what_is_not_there_has_no_version(api: RunningApi) -> None:
    status, _, said = put(api, **{"If-Match": '"1"'})
    assert (status, said["detail"]) == (
        412,
        'demo/shop does not exist, so it has no version "1". Remove If-Match to create it.',
    )
    assert put(api, **{"If-None-Match": "*"})[0] == 201


def test_services_are_listed_in_pages(api: RunningApi) -> None:
    for name in ("a", "b", "c"):
        text = compose().replace("shop:", f"{name}:", 1)
        assert api.call("PUT", f"/v1/services/demo/{name}", {"compose": text, "variables": {"VERSION": "1"}}).ok
    first = api.call("GET", "/v1/services?limit=2")
    assert [each["name"] for each in first.json()["services"]] == ["a", "b"]
    assert first.links["next"]["url"].startswith("/v1/services?limit=2&cursor=")
    second = api.call("GET", first.links["next"]["url"])
    assert [each["name"] for each in second.json()["services"]] == ["c"]
    assert second.json()["next"] is None
    assert "next" not in second.links


def test_instances_are_told_from_platform_and_proxy(api: RunningApi) -> None:
    with api.engine():
        rollout = api.deploy()
        api.until(rollout["id"], "succeeded")
        seen = api.call("GET", f"{SHOP}/instances").json()
        assert [(each["ordinal"], each["state"], each["receives_traffic"]) for each in seen["instances"]] == [
            (0, "ready", True), (1, "ready", True), (2, "ready", True),
        ]  # fmt: skip
        assert seen["problem"] is None


def test_a_platform_that_does_not_answer_is_told_and_no_empty_list(api: RunningApi) -> None:
    put(api)
    api.world.always["instances"] = PlatformError("the engine local does not answer")
    assert api.call("GET", f"{SHOP}/instances").json() == {
        "instances": None, "traffic": None, "problem": "the engine local does not answer",
    }  # fmt: skip


# -- beginning a rollout ----------------------------------------------------------------------------------------------


def test_a_rollout_is_planned_and_begun(api: RunningApi) -> None:
    body = {"compose": compose("approval: {after: [1]}"), "variables": {"VERSION": "v1"}}
    answer = api.post(f"{SHOP}/rollouts", body)
    first = answer.json()
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/v1/rollouts/{first['id']}")
    assert (first["phase"], first["old"], first["new"], first["requested_by"]) == ("pending", None, "v1-1", "admin")
    assert len(api.woken) == 1
    api.save(first["id"], Phase.RUNNING, Phase.SUCCEEDED)

    second = api.deploy("v2", "approval: {after: [1]}")
    assert (second["old"], second["new"], len(second["steps"]), second["batches"]) == ("v1-1", "v2-2", 4, 3)
    assert second["steps"][0]["fleet"] == {"v1-1": 3, "v2-2": 1}
    assert second["steps"][0]["gate"]["approval"] == "promote"
    view = api.call("GET", SHOP).json()
    assert (view["live"], view["rollout"], view["live_release"]["id"]) == ("v1-1", second["id"], "v1-1")
    assert (view["live_rollout"]["id"], [each["id"] for each in view["releases"]]) == (second["id"], ["v2-2", "v1-1"])
    events = api.call("GET", f"/v1/rollouts/{second['id']}/events").json()
    assert [(each["number"], each["kind"], each["message"]) for each in events["events"]] == [
        (1, "created", "rollout to v2-2 (shop:v2) requested by admin")
    ]


def test_the_stored_definition_is_used_where_none_is_sent_and_an_image_replaces_its_own(api: RunningApi) -> None:
    put(api)
    first = api.post(f"{SHOP}/rollouts", {}).json()
    assert first["new"] == "v1-1"
    api.save(first["id"], Phase.RUNNING, Phase.SUCCEEDED)
    assert (
        api.post(f"{SHOP}/rollouts", {"image": "registry.example:5000/shop:2026.11_RC1"}).json()["new"] == "2026-11-rc1-2"
    )


def test_the_same_key_is_answered_again_and_starts_nothing(api: RunningApi) -> None:
    first = api.deploy(key="build-7")
    api.save(first["id"], Phase.RUNNING, Phase.SUCCEEDED)
    body = {"compose": compose(), "variables": {"VERSION": "v1"}}
    again = api.post(f"{SHOP}/rollouts", body, key="build-7")
    assert (again.status_code, again.headers["Idempotency-Replayed"], again.json()) == (202, "true", first)
    assert again.headers["Location"] == f"/v1/rollouts/{first['id']}"
    other = api.post(f"{SHOP}/rollouts", body | {"image": "shop:v9"}, key="build-7")
    assert (other.status_code, other.json()["code"]) == (422, "key-reused")
    assert len(api.call("GET", f"{SHOP}/rollouts").json()["rollouts"]) == 1


def test_the_same_key_at_once_makes_one_rollout(api: RunningApi) -> None:
    body = {"compose": compose(), "variables": {"VERSION": "v1"}}
    answers: list[tuple[int, str]] = []

    def send() -> None:
        found = api.call("POST", f"{SHOP}/rollouts", body, headers={"Idempotency-Key": "at-once"})
        answers.append((found.status_code, found.json().get("id", found.text)))

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    only = api.call("GET", "/v1/rollouts").json()["rollouts"]
    assert len(only) == 1
    assert answers == [(202, only[0]["id"])] * 6


# -- following --------------------------------------------------------------------------------------------------------


def test_a_poll_answers_as_soon_as_something_happens(api: RunningApi) -> None:
    rollout = api.deploy()
    timer = threading.Timer(0.3, lambda: api.save(rollout["id"], Phase.RUNNING))
    begun = time.monotonic()
    timer.start()
    with at_most(20, "a poll of 25 s"):
        found = api.call("GET", f"/v1/rollouts/{rollout['id']}/events?after=1&wait=25").json()
    timer.join()
    assert time.monotonic() - begun > 0.2
    assert [(each["number"], each["kind"]) for each in found["events"]] == [(2, "running")]
    assert found["last"] == 2


def test_a_poll_answers_empty_after_its_time_and_at_once_when_all_is_over(api: RunningApi) -> None:
    rollout = api.deploy()
    begun = time.monotonic()
    assert api.call("GET", f"/v1/rollouts/{rollout['id']}/events?after=1&wait=0.3").json() == {
        "events": [], "last": 1, "reached": False,
    }  # fmt: skip
    assert time.monotonic() - begun >= 0.3
    api.save(rollout["id"], Phase.RUNNING, Phase.SUCCEEDED)
    with at_most(20, "a poll of 25 s"):
        assert api.call("GET", f"/v1/rollouts/{rollout['id']}/events?after=3&wait=25").json()["events"] == []


def poll(api: RunningApi, rollout: str, until: str, after: int = 1000) -> bool:
    """Whether the rollout has reached `until`, without waiting."""
    return bool(api.call("GET", f"/v1/rollouts/{rollout}/events?after={after}&until={until}").json()["reached"])


def test_a_poll_reports_how_far_the_rollout_has_come(api: RunningApi) -> None:
    api.finish("v1")
    rollout = api.deploy("v2", "approval: {after: [1]}")["id"]
    everything = ("verdict", "approval", "end")
    assert [poll(api, rollout, until) for until in everything] == [False, False, False]
    api.save(rollout, Phase.RUNNING, verdict=replace(verdict(Outcome.PASS, time.time()), final=False))
    assert not poll(api, rollout, "verdict"), "an interim PASS does not count"
    api.save(rollout, Phase.RUNNING, verdict=replace(verdict(Outcome.FAIL, time.time()), final=False))
    assert [poll(api, rollout, until) for until in everything] == [True, False, False]
    saved = api.save(rollout, Phase.RUNNING, verdict=None, approval_since=time.time())
    assert [poll(api, rollout, until) for until in everything] == [True, True, False]
    assert api.post(f"/v1/rollouts/{rollout}/promote", If_Match=f'"{saved.version}"').status_code == 202
    assert [poll(api, rollout, until) for until in everything] == [False, False, False], "the approval has been given"
    api.save(rollout, Phase.RUNNING, cursor=1, approval_since=None)
    assert [poll(api, rollout, until) for until in everything] == [True, False, False], "the first step is done"
    api.save(rollout, Phase.ROLLING_BACK, cursor=1, verdict=verdict(Outcome.FAIL, time.time()))
    assert [poll(api, rollout, until) for until in everything] == [False, False, False], "how the rollback ends matters"
    api.save(rollout, Phase.ROLLED_BACK)
    assert [poll(api, rollout, until) for until in everything] == [True, True, True]


def test_a_poll_waits_no_longer_once_it_is_reached(api: RunningApi) -> None:
    api.finish("v1")
    rollout = api.deploy("v2", "approval: {after: [1]}")["id"]
    api.save(rollout, Phase.RUNNING, approval_since=time.time())
    with at_most(20, "a poll of 25 s"):
        assert api.call("GET", f"/v1/rollouts/{rollout}/events?after=1000&wait=25&until=approval").json()["reached"]


def test_a_poll_is_not_complete_before_its_last_page(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_routes, "MAX_EVENTS", 2)
    rollout = api.finish("v1")["id"]
    pages = [api.call("GET", f"/v1/rollouts/{rollout}/events?after={after}").json() for after in (0, 2)]
    assert [(len(page["events"]), page["last"], page["reached"]) for page in pages] == [(2, 2, False), (1, 3, True)]


def test_too_many_polls_are_sent_away_and_the_rest_of_the_api_goes_on(api: RunningApi) -> None:
    rollout = api.deploy()
    path = f"/v1/rollouts/{rollout['id']}/events?after=1&wait=25"

    def wait() -> None:
        while api.call("GET", path).status_code == 503:
            pass  # the place was taken by the question below; there will be one

    polls = [threading.Thread(target=wait) for _ in range(4)]
    for poll in polls:
        poll.start()

    def refusals() -> list[requests.Response]:
        answer = api.call("GET", f"/v1/rollouts/{rollout['id']}/events?after=1&wait=0.05")
        return [answer] if answer.status_code != 200 else []

    (refused,) = eventually("the polls take all places", refusals)
    assert (refused.status_code, refused.headers["Retry-After"], refused.json()["code"]) == (503, "1", "too-many-waiting")
    assert api.call("GET", f"/v1/rollouts/{rollout['id']}/events").status_code == 200, "what need not wait is answered"
    api.waiting.stopping.set()
    with at_most(20, "polls of 25 s at a server that ends"):
        for poll in polls:
            poll.join()


def test_rollouts_are_listed_in_pages_and_by_filter(api: RunningApi) -> None:
    ids = [api.finish(f"v{number}")["id"] for number in range(1, 4)]
    live = api.deploy("v4")["id"]
    first = api.call("GET", "/v1/rollouts?limit=3")
    assert [each["id"] for each in first.json()["rollouts"]] == [live, ids[2], ids[1]]
    second = api.call("GET", first.links["next"]["url"]).json()
    assert ([each["id"] for each in second["rollouts"]], second["next"]) == ([ids[0]], None)
    assert [each["id"] for each in api.call("GET", "/v1/rollouts?phase=pending").json()["rollouts"]] == [live]
    assert api.call("GET", "/v1/rollouts?service=live/shop").json()["rollouts"] == []
    exactly = api.call("GET", f"{SHOP}/rollouts?phase=succeeded&limit=3").json()
    assert (len(exactly["rollouts"]), exactly["next"]) == (3, None)


def test_a_whole_rollout_with_the_engine_and_its_report(api: RunningApi) -> None:
    with api.engine():
        assert api.until(api.deploy()["id"], "succeeded", "failed")["phase"] == "succeeded"
        second = api.deploy("v2", "approval: {after: [1]}")

        def waits() -> requests.Response | None:
            answer = api.call("GET", f"/v1/rollouts/{second['id']}")
            waiting = answer.json()["waiting_for"]
            return answer if waiting and waiting["kind"] == "approval" else None

        found = eventually("it waits for somebody", waits)
        assert (found.json()["waiting_for"]["kind"], found.json()["batch"], found.json()["batches"]) == ("approval", 1, 3)
        given = api.post(f"/v1/rollouts/{second['id']}/promote", {"reason": "fine"}, If_Match=found.headers["ETag"])
        assert (given.status_code, given.json()["waiting_for"]) == (202, None)
        assert api.until(second["id"], "succeeded", "failed")["phase"] == "succeeded"
        assert api.world.serving() == ["v2-2"] * 3
        report = api.call("GET", f"/v1/rollouts/{second['id']}/report").json()
        assert (report["rollout"], report["phase"], report["old"], report["new"]) == (
            second["id"], "succeeded", "v1-1", "v2-2",
        )  # fmt: skip
        assert [each["number"] for each in report["steps"]] == [1, 2, 3, 4]
        assert report["signals"] == [
            {"kind": "promoted", "by": "admin", "reason": "fine", "at": report["signals"][0]["at"]}
        ]

        back = api.post(f"{SHOP}/rollback", {"reason": "better before"}).json()
        assert (back["old"], back["new"], back["steps"][0]["gate"]["bake_seconds"]) == ("v2-2", "v1-1", 0)
        assert api.until(back["id"], "succeeded", "failed")["phase"] == "succeeded"
        assert api.world.serving() == ["v1-1"] * 3


# -- wishes -----------------------------------------------------------------------------------------------------------


def held(api: RunningApi, options: str = "approval: {after: [1]}", **changes: object) -> tuple[str, str]:
    """A rollout that waits after its first batch, and its ETag."""
    api.finish("v1")
    rollout = api.deploy("v2", options)
    saved = api.save(rollout["id"], Phase.RUNNING, approval_since=time.time(), **changes)
    return f"/v1/rollouts/{rollout['id']}", f'"{saved.version}"'


def test_an_approval_is_bound_to_what_was_seen(api: RunningApi) -> None:
    path, etag = held(api)
    assert api.call("GET", path).json()["waiting_for"]["kind"] == "approval"
    missing = api.post(f"{path}/promote")
    assert (missing.status_code, missing.json()["code"]) == (428, "if-match-required")
    stale = api.post(f"{path}/promote", If_Match='"0"')
    assert (stale.status_code, stale.json()["code"]) == (412, "stale")
    given = api.post(f"{path}/promote", If_Match=etag)
    assert given.status_code == 202
    assert api.wiring.store.load(given.json()["id"])[1][0].step == 0
    again = api.post(f"{path}/promote", If_Match=given.headers["ETag"])
    assert (again.status_code, again.json()["code"]) == (409, "illegal-move")
    assert "is already approved by admin" in again.json()["detail"]


def test_an_approval_in_full_is_for_every_hold_that_follows(api: RunningApi) -> None:
    path, etag = held(api, "approval: {after: [2]}")
    refused = api.post(f"{path}/promote", If_Match=etag)
    assert refused.status_code == 409
    assert refused.json()["detail"].endswith("proceeds automatically; the next approval is at step 2")
    given = api.post(f"{path}/promote", {"full": True}, If_Match=etag)
    assert given.status_code == 202
    assert api.wiring.store.load(given.json()["id"])[1][0].step is None


@pytest.mark.parametrize(
    ("outcome", "action", "waits"),
    [
        (Outcome.INCONCLUSIVE, "rollback", "decision"),
        (Outcome.FAIL, "pause", "decision"),
        (Outcome.FAIL, "rollback", None),
        (Outcome.PASS, "rollback", None),
    ],
)
def test_an_approval_is_for_what_a_verdict_asks(api: RunningApi, outcome: Outcome, action: str, waits: str | None) -> None:
    policy = Policy(failure_action=FailureAction(action))
    options = "bake: 5s, checks: [{errors: {margin: 1%}}]"
    path, etag = held(api, options, verdict=verdict(outcome, time.time()), policy=policy)
    found = api.wiring.store.load(path.rpartition("/")[2])[0]
    assert found.step.gate.analyzed
    view = api.call("GET", path).json()
    assert (view["waiting_for"] and view["waiting_for"]["kind"]) == waits
    assert view["verdict"]["findings"][0]["limit"] is None, "JSON has no word for infinity"
    assert api.post(f"{path}/promote", {"full": True}, If_Match=etag).status_code == 409, "that answers no verdict"
    for any_version in ("*", ", ".join(f'"{number}"' for number in range(40))):
        assert api.post(f"{path}/promote", If_Match=any_version).status_code == 428
    answer = api.post(f"{path}/promote", If_Match=etag)
    assert answer.status_code == (202 if waits else 409), answer.text


@pytest.mark.parametrize(
    ("check", "answer", "warned"),
    [
        ("latency: {}", lambda query, window: (), "Prometheus does not scrape Envoy"),
        ("latency: {}", down, "Prometheus refused the connection"),
        ("latency: {}", constant(1.0), ""),
        ("latency: {histogram: own_bucket}", lambda query, window: (), ""),
        ("errors: {}", lambda query, window: (), ""),
    ],
)
def test_a_deployment_warns_of_a_check_without_data(
    api: RunningApi, check: str, answer: Callable[[str, Window], tuple[Series, ...]], warned: str
) -> None:
    """The router is one that is not counted from its log."""
    api.world.answer = answer
    rollout = api.deploy(options=f"bake: 5s, checks: [{{{check}}}]")
    assert len(rollout["warnings"]) == bool(warned)
    assert all(warned in warning and "The check latency has no data" in warning for warning in rollout["warnings"])


def test_pause_resume_verify_and_rollback_are_recorded(api: RunningApi) -> None:
    path, _ = held(api, "bake: 5s, checks: [{errors: {margin: 1%}}]")
    assert api.post(f"{path}/pause", {"reason": "lunch"}).json()["paused"] is True
    assert api.call("POST", f"{path}/resume").json()["paused"] is False, "a body is not needed"
    assert api.post(f"{path}/verify").status_code == 202
    etag = api.post(f"{path}/rollback", {"reason": "no"}).headers["ETag"]
    assert api.call("GET", path).headers["ETag"] == etag
    kinds = [each["kind"] for each in api.call("GET", f"{path}/events?after=2").json()["events"]]
    assert kinds == ["paused", "resumed", "verify_requested", "rollback_requested"]
    assert len(api.woken) == 6


def test_a_rollback_ends_a_pause(api: RunningApi) -> None:
    path, _ = held(api)
    api.post(f"{path}/pause", {"reason": "lunch"})
    rollback = {"token": api.token_for("rollback"), "headers": {"Idempotency-Key": "back"}}
    answer = api.call("POST", f"{path}/rollback", {"reason": "it burns"}, **rollback)
    assert (answer.status_code, answer.json()["paused"]) == (202, False)
    events = api.call("GET", f"{path}/events?after=2").json()["events"]
    assert [each["message"] for each in events] == [
        "Paused by admin: lunch",
        "Resumed by rollback: to roll back",
        "Rollback requested by rollback: it burns",
    ]
    with api.engine():
        api.until(path.rpartition("/")[2], "rolled_back")


def test_a_check_without_a_margin_is_shown_without_one(api: RunningApi) -> None:
    api.deploy(options="bake: 5s, checks: [errors: {}]")
    assert [each["margin"] for each in api.call("GET", SHOP).json()["checks"]] == [None]


def test_a_wish_with_a_key_happens_once(api: RunningApi) -> None:
    path, etag = held(api)
    first = api.post(f"{path}/promote", key="approve-1", If_Match=etag)
    again = api.post(f"{path}/promote", key="approve-1", If_Match=etag)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (202, "true")
    assert again.headers["ETag"] == first.headers["ETag"]


def test_wishes_that_make_no_sense_are_refused_with_a_sentence(api: RunningApi) -> None:
    path, etag = held(api, "drain_timeout: 1s")
    rollout = path.rpartition("/")[2]
    said = api.post(f"{path}/promote", If_Match=etag).json()
    assert said["detail"] == (
        f"Nothing to approve: step 1 of 4 of rollout {rollout} proceeds automatically and no later step needs approval"
    )
    full = api.post(f"{path}/promote", {"full": True}, If_Match=etag).json()
    assert full["detail"].startswith("Nothing to approve")
    assert "has no checks" in api.post(f"{path}/verify").json()["detail"]
    done = api.save(rollout, Phase.SUCCEEDED)
    for wish in ("pause", "resume", "verify", "rollback"):
        answer = api.post(f"{path}/{wish}")
        assert (answer.status_code, answer.json()["code"]) == (409, "illegal-move")
        assert "it has ended (succeeded)" in answer.json()["detail"]
    assert "is succeeded" in api.post(f"{path}/promote", If_Match=f'"{done.version}"').json()["detail"]


# -- rolling a service back -------------------------------------------------------------------------------------------


def test_rolling_back_turns_the_live_rollout_back(api: RunningApi) -> None:
    live = api.deploy()
    answer = api.post(f"{SHOP}/rollback", {"reason": "typo"}, key="back-1")
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/v1/rollouts/{live['id']}")
    api.save(live["id"], Phase.ROLLED_BACK)
    again = api.post(f"{SHOP}/rollback", {"reason": "typo"}, key="back-1")
    assert (again.headers["Idempotency-Replayed"], again.json()["phase"]) == ("true", "rolled_back")
    assert len(api.call("GET", f"{SHOP}/rollouts").json()["rollouts"]) == 1, "the repeat began nothing new"


def test_rolling_back_goes_to_the_last_good_release(api: RunningApi) -> None:
    none = api.post(f"{SHOP}/rollback")
    assert (none.status_code, none.json()["code"]) == (404, "unknown-service")
    put(api)
    assert api.post(f"{SHOP}/rollback").json()["code"] == "no-good-release"
    api.finish("v1")
    only = api.post(f"{SHOP}/rollback")
    assert (only.status_code, only.json()["code"]) == (409, "no-good-release")
    assert only.json()["detail"] == "Cannot roll back demo/shop: v1-1 is its only good release. Deploy another one"
    api.finish("v2")
    assert refused_rollback(api, to="v9-9") == (404, "unknown-service")
    assert refused_rollback(api, to="v2-2") == (409, "no-good-release")
    back = api.post(f"{SHOP}/rollback").json()
    assert (back["old"], back["new"]) == ("v2-2", "v1-1")


def refused_rollback(api: RunningApi, **body: str) -> tuple[int, str]:
    """The status and the code of a rollback that is not possible."""
    answer = api.post(f"{SHOP}/rollback", body)
    return answer.status_code, answer.json()["code"]


@pytest.mark.parametrize("freeze", [False, True])
def test_a_second_rollback_brings_nothing_back(api: RunningApi, *, freeze: bool) -> None:
    for version in ("v1", "v2", "v3"):
        api.finish(version)
    if freeze:
        api.call("PUT", "/v1/environments/demo/freeze", {"reason": "incident"})
    first = api.post(f"{SHOP}/rollback").json()
    assert first["new"] == "v2-2"
    api.save(first["id"], Phase.RUNNING, Phase.SUCCEEDED)
    again = api.post(f"{SHOP}/rollback")
    assert (again.status_code, again.json()["code"], again.json()["rollout"]) == (409, "already-rolled-back", first["id"])
    assert again.json()["detail"] == (
        f"demo/shop is already rolled back to v2-2, by rollout {first['id']}. To go to another release, name it: "
        "tidegate rollback demo/shop --to RELEASE"
    )
    if freeze:
        assert refused_rollback(api, to="v3-3") == (409, "frozen"), "it is newer than what is live"
    further = api.post(f"{SHOP}/rollback", {"to": "v1-1"}).json()
    assert (further["old"], further["new"]) == ("v2-2", "v1-1")
    api.save(further["id"], Phase.RUNNING, Phase.SUCCEEDED)
    assert api.wiring.store.last_good("demo/shop", ["v1-1"]) is None, "no release that a rollback left"


def test_who_rolled_a_rollout_back_does_not_roll_back_the_service_too(api: RunningApi) -> None:
    api.finish("v1")
    api.finish("v2")
    api.finish("v3", Phase.RUNNING, Phase.ROLLING_BACK, Phase.ROLLED_BACK)
    assert refused_rollback(api) == (409, "already-rolled-back")
    assert refused_rollback(api, to="v3-3") == (409, "no-good-release")
    api.finish("v4")
    live = api.deploy("v5")
    assert refused_rollback(api, to="v1-1") == (409, "rollout-in-progress")
    assert api.post(f"{SHOP}/rollback", {"to": live["old"]}).json()["id"] == live["id"]
    api.save(live["id"], Phase.REFUSED)
    assert api.post(f"{SHOP}/rollback").json()["new"] == "v2-2", "one that was refused changed nothing"


def test_after_a_halt_what_served_before_is_brought_up_anew(api: RunningApi) -> None:
    api.finish("v1")
    api.finish("v2", Phase.RUNNING, Phase.ROLLING_BACK, Phase.FAILED)
    back = api.post(f"{SHOP}/rollback").json()
    assert (back["old"], back["new"]) == ("v1-1", "v1-3")
    release = api.wiring.store.get_release("demo/shop", "v1-3").release
    assert release.image == "shop:v1"
