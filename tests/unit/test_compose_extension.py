"""The keys of `x-tidegate` that say by what way a new release comes."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate.compose import service
from tidegate.core.hooks import Hook, ReleaseRole
from tidegate.core.model import RepairPolicy, Service
from tidegate.core.probes import Probe
from tidegate.core.routing import Preview
from tidegate.errors import InvalidSpec
from tidegate.openapi_diff.result import CompareOptions, OnBreaking


def parsed(**own: Any) -> Service:
    body = {"image": "shop:1", "expose": ["8080"], "deploy": {"replicas": 4}, "x-tidegate": {"listen": "8001", **own}}
    return service.parse_service({"services": {"shop": body}}, "shop", "demo", {})


def mistakes(**own: Any) -> dict[str, str]:
    with pytest.raises(InvalidSpec) as caught:
        parsed(**own)
    return {each.path.removeprefix("services.shop.x-tidegate."): each.message for each in caught.value.problems}


def test_backends_of_tidegates_own_are_no_routes() -> None:
    assert "not beginning with tidegate_" in mistakes(route="tidegate_exporter")["route"]


def test_all_of_them() -> None:
    found = parsed(
        strategy="blue_green",
        preview={"listen": "127.0.0.1:8002", "header": "X-Preview:blue"},
        keep_old="10m",
        weights=["1%", 0.25],
        group=True,
        hooks={
            "pre_deploy": "migrate 'to the end'",
            "pre_promote": {"command": ["smoke"], "release": "old", "timeout": "20s", "network": "host", "entrypoint": []},
        },
        compare={"openapi": "/openapi.json", "on_breaking": "warn"},
        long_lived={"close_after": "10m"},
        probe={"path": "/health", "every": "250ms", "header": "X-Version"},
        approval={"after": [1, 3], "expires": "2h"},
    )
    assert found.backend.preview == Preview("127.0.0.1:8002", "X-Preview: blue")
    assert (found.keep_old_seconds, found.traffic_shares, found.in_group) == (600.0, (0.01, 0.25), True)
    assert found.hooks == {
        "pre_deploy": Hook(("migrate", "to the end")),
        "pre_promote": Hook(("smoke",), (), ReleaseRole.OLD, timeout_seconds=20.0, host_network=True),
    }
    assert (found.policy.approval.after, found.policy.approval.expires_seconds) == ((1, 3), 7200.0)
    assert found.compare == CompareOptions("/openapi.json", OnBreaking.WARN)
    assert found.policy.long_lived_seconds == 600.0
    assert found.probe == Probe("http://127.0.0.1:8001/health", 0.25, header="X-Version")


@pytest.mark.parametrize("route", ["shop", "Shop_v1.web", "9", "a" * 40, "shop_on_prem"])
def test_routes_have_names_as_upstreams_have(route: str) -> None:
    assert parsed(route=route).backend.name == route


@pytest.mark.parametrize(
    "route", ["", "_shop", "shop web", "shop;", "a" * 41, "shop_preview", "shop_on_8001", "a_on_80_if_b"]
)
def test_routes_that_are_refused(route: str) -> None:
    assert "letters, digits" in mistakes(route=route)["route"]


CHECKED = {"bake": "60s", "checks": [{"errors": {}}]}


def test_a_control_is_kept_where_there_is_something_to_compare_and_room_for_it() -> None:
    assert (parsed().control, parsed(**CHECKED).control, parsed(**CHECKED, control=0).control) == (0, 1, 0)
    assert parsed(**CHECKED, strategy="blue_green").control == 0
    assert parsed(**CHECKED, control=1).control == 1
    assert mistakes(**CHECKED, control=2)["control"] == "found 2; allowed: a whole number from 0 to 1"
    assert "only to strategy rolling" in mistakes(**CHECKED, strategy="blue_green", control=1)["control"]


def test_what_follows_from_drift() -> None:
    assert (parsed().repair, parsed(repair="show").repair) == (RepairPolicy.AUTO, RepairPolicy.SHOW)
    assert "auto" in mistakes(repair="never")["repair"]


def test_none_of_them() -> None:
    found = parsed()
    assert (found.backend.preview, found.compare, found.probe, found.hooks) == (None, None, None, {})
    assert found.policy.long_lived_seconds is None


def test_waiting_is_bounded() -> None:
    assert parsed(long_lived="wait").policy.long_lived_seconds == 86_400.0


@pytest.mark.parametrize(
    ("own", "where", "told"),
    [
        ({"preview": {}}, "preview", "needs listen"),
        ({"preview": {"listen": "x"}}, "preview.listen", "8001"),
        ({"preview": {"listen": "[::g]:8001"}}, "preview.listen", "[::1]:8001"),
        ({"preview": {"listen": "::1:8001"}}, "preview.listen", "[::1]:8001"),
        ({"preview": {"listen": "300.0.0.1:8001"}}, "preview.listen", "[::1]:8001"),
        ({"preview": {"header": "X-Preview: a b"}}, "preview.header", "letters, digits"),
        ({"preview": {"header": "Host: shop"}}, "preview.header", "Host is sent by them"),
        ({"preview": {"header": "user-agent: x"}}, "preview.header", "user-agent is sent by them"),
        ({"preview": {"header": 'X": {'}}, "preview.header", "letters, digits"),
        ({"preview": {"listen": 8002, "bake": "10s"}}, "preview.bake", "has no effect"),
        ({"preview": {"header": "X: y", "listne": 8002}}, "preview.listne", "did you mean listen"),
        ({"keep_old": "1m"}, "keep_old", "only to strategy blue_green"),
        ({"weights": ["50%", "10%"]}, "weights", "non-decreasing shares"),
        ({"weights": ["100%"]}, "weights", "between 0% and 100%"),
        ({"weights": ["1%", "2%", "3%", "4%"]}, "weights", "4 batches"),
        ({"group": "perhaps"}, "group", "true or false"),
        ({"hooks": {"before": "x"}}, "hooks.before", "known: on_rollback"),
        ({"hooks": {"pre_deploy": ""}}, "hooks.pre_deploy", "not an empty one"),
        ({"hooks": {"pre_deploy": "'"}}, "hooks.pre_deploy", "shell"),
        ({"hooks": {"pre_deploy": {"timeout": "1m"}}}, "hooks.pre_deploy.command", "is required"),
        ({"hooks": {"pre_deploy": {"command": "x", "network": "bridge"}}}, "hooks.pre_deploy.network", "host, service"),
        ({"compare": {"on_breaking": "warn"}}, "compare.openapi", "is required"),
        ({"compare": {"openapi": "openapi.json"}}, "compare.openapi", "a path"),
        ({"long_lived": {}}, "long_lived.close_after", "is required"),
        ({"long_lived": "for ever"}, "long_lived", "wait"),
        ({"probe": {"every": "10ms"}}, "probe.every", "100ms"),
        ({"probe": {"url": "ftp://x"}}, "probe.url", "an address"),
    ],
)
def test_mistakes_say_where_and_what_is_allowed(own: dict[str, Any], where: str, told: str) -> None:
    found = mistakes(**own)
    assert list(found) == [where]
    assert told in found[where]


def test_all_mistakes_at_once() -> None:
    assert (
        len(mistakes(keep_old="1m", weights=[2], group=1, hooks={"x": "y"}, compare={}, long_lived={}, probe={"q": 1})) == 7
    )


def test_a_probe_needs_an_address() -> None:
    with pytest.raises(InvalidSpec, match="the URL to probe"):
        parsed(listen=None, probe={"path": "/"})


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({"traefik.enable": "true", "traefik.http.routers.shop.rule": "Host(`a`)"}, "traefik.enable leads another proxy"),
        (["traefik.http.routers.shop.rule=Host(`a`)"], "traefik.http.routers.shop.rule leads another proxy"),
        ({"caddy": "shop.example.com", "caddy.reverse_proxy": "{{upstreams 8080}}"}, "caddy leads another proxy"),
        ({"com.centurylinklabs.watchtower.enable": "true"}, "com.centurylinklabs.watchtower.enable lets Watchtower"),
        ({"traefik.enable": "false", "traefik.http.routers.shop.rule": "Host(`a`)"}, ""),
        ({"com.centurylinklabs.watchtower.enable": "false", "traefik.docker.network": "front"}, ""),
        ({"com.example.team": "caddy"}, ""),
    ],
)
def test_labels_that_other_programs_act_on_get_a_note(labels: object, told: str) -> None:
    body = {"image": "shop:1", "expose": ["8080"], "labels": labels, "x-tidegate": {"listen": "8001"}}
    shop = service.parse_service({"services": {"shop": body}}, "shop", "demo", {})
    notes = [note.message for note in shop.source.notes if note.field == "services.shop.labels"]
    assert [note[: len(told)] for note in notes] == ([told] if told else [])


@pytest.mark.parametrize(("host", "is_noted"), [("shop.example.com", True), ("", False)])
def test_a_variable_that_another_proxy_acts_on_gets_a_note(host: str, is_noted: bool) -> None:
    body = {"image": "shop:1", "environment": [f"VIRTUAL_HOST={host}"], "x-tidegate": {"listen": "8001"}}
    shop = service.parse_service({"services": {"shop": body}}, "shop", "demo", {})
    assert [note.field for note in shop.source.notes] == ["services.shop.environment"] * is_noted


def test_what_only_a_missing_variable_makes_wrong_is_not_told_twice() -> None:
    body = {"image": "shop:1", "volumes": ["${KEY}:/key:ro", ":/other"], "x-tidegate": {"listen": "8001"}}
    with pytest.raises(InvalidSpec) as caught:
        service.parse_service({"services": {"shop": body}}, "shop", "demo", {})
    told = {problem.path.removeprefix("services.shop."): problem.message for problem in caught.value.problems}
    assert {"volumes[0]", "volumes[0].source", "volumes[1].source"} & set(told) == {"volumes[0]", "volumes[1].source"}
    assert "the variable KEY is not set" in told["volumes[0]"]
