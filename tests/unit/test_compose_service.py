"""A service from a Compose document: what is read, and what each mistake is told."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidegate.compose.backend import ROUTE_PATTERN
from tidegate.compose.service import parse_service
from tidegate.compose.yaml import load
from tidegate.core.container import Health
from tidegate.core.model import CheckKind, Direction, FailureAction, Order, Strategy
from tidegate.core.routing import BackendProtocol, Timeouts
from tidegate.errors import InvalidSpec

GOOD = """\
services:
  shop:
    image: registry.example/shop:${VERSION}
    command: serve --name "a b"
    expose: ["8080"]
    environment: {DB: x, FLAG: true, EMPTY: null}
    healthcheck: {test: [CMD, /app/healthy], interval: 2s, retries: 5}
    stop_grace_period: 1m30s
    volumes: ["/data:/data:ro"]
    deploy:
      replicas: 5
      update_config: {parallelism: 2, order: start-first, monitor: 60s, failure_action: pause, max_failure_ratio: 0.2}
      resources: {limits: {memory: 64M, cpus: "0.5"}}
    x-tidegate:
      listen: 127.0.0.1:8001
      health: {path: /health, timeout: 500ms}
      approval: {after: [1]}
      checks:
        - errors: {margin: 0.5%}
        - latency: {margin: 20%}
        - {name: failures, query: 'rate(failed_total{release="$release"}[1m])', direction: lower}
        - {name: queue, query: max(queue), max: 100}
  other: {image: x}
"""
SMALL: dict[str, Any] = {"image": "shop:v1", "expose": ["8080"], "deploy": {"replicas": 4}, "x-tidegate": {}}


def read(body: object) -> Any:
    return parse_service({"services": {"shop": body}}, "shop", "demo", {"VERSION": "v2"})


def problems(body: object) -> dict[str, str]:
    with pytest.raises(InvalidSpec) as refused:
        read(body)
    return {problem.path.removeprefix("services.shop."): problem.message for problem in refused.value.problems}


@pytest.mark.parametrize(
    ("replicas", "share", "batch"), [(10, "25%", 2), (3, "25%", 1), (4, "100%", 4), (100, "29%", 29), (1000, "0.1%", 1)]
)
def test_a_batch_may_be_a_percentage(replicas: int, share: str, batch: int) -> None:
    deploy = {"replicas": replicas, "update_config": {"parallelism": share}}
    assert read({**SMALL, "deploy": deploy}).batch == batch


def test_all_batches_may_need_approval() -> None:
    deploy = {"replicas": 10, "update_config": {"parallelism": "50%"}}
    shop = read({**SMALL, "deploy": deploy, "x-tidegate": {"approval": {"after": "all"}}})
    assert shop.policy.approval.after == (1, 2)


def test_a_whole_service() -> None:
    shop = parse_service(load(GOOD), "shop", "demo", {"VERSION": "v2"})
    assert (shop.key, shop.image, shop.replicas, shop.batch) == ("demo/shop", "registry.example/shop:v2", 5, 2)
    assert (shop.strategy, shop.order, shop.bake_seconds) == (Strategy.ROLLING, Order.START_FIRST, 60.0)
    assert shop.policy.approval.after == (1,)
    assert shop.container.command == ("serve", "--name", "a b")
    assert dict(shop.container.environment) == {"DB": "x", "FLAG": "true"}  # a name alone that is no variable is unset
    assert shop.container.stop_grace_seconds == 90.0
    assert (shop.container.memory_bytes, shop.container.cpus) == (64 * 1024**2, 0.5)
    assert shop.container.healthcheck is not None
    assert shop.container.healthcheck.test == ("CMD", "/app/healthy")
    assert (shop.container.health.path, shop.container.health.timeout_seconds) == ("/health", 0.5)
    assert (shop.backend.name, shop.backend.listen) == ("shop", "127.0.0.1:8001")
    assert (shop.policy.failure_action, shop.policy.max_failure_ratio) == (FailureAction.PAUSE, 0.2)
    errors, latency, failures, queue = shop.checks
    assert (errors.kind, errors.margin) == (CheckKind.ERRORS, pytest.approx(0.005))
    assert (latency.kind, latency.margin) == (CheckKind.LATENCY, pytest.approx(0.2))
    assert (failures.direction, "$release" in failures.query) == (Direction.LOWER, True)
    assert queue.maximum == 100.0


@pytest.mark.parametrize(
    ("change", "path", "said"),
    [
        (lambda b: b.update(imag="x"), "imag", "unknown key; did you mean image?"),
        (lambda b: b.update(image=5), "image", "found 5; allowed: an image such as"),
        (lambda b: b.update(image="Shop:v1"), "image", "found 'Shop:v1'; allowed: an image such as"),
        (lambda b: b.update(pull_policy="maybe"), "pull_policy", "found 'maybe'; allowed: always, missing or never"),
        (lambda b: b.pop("image"), "image", "is required"),
        (lambda b: b.update(build=".", image=None), "image", "or use tidegate deploy --build"),
        (lambda b: b.update(expose=["80", "81"]), "x-tidegate.port", "is required: which of 80, 81 takes the traffic"),
        (lambda b: b.update(expose=[""]), "expose", "found ['']; allowed: ports"),
        (lambda b: b.update(expose=[True]), "expose", "allowed: ports"),
        (lambda b: b.update(ports=["1:2:3:4"]), "ports", "found ['1:2:3:4']; allowed: ports such as 8080"),
        (lambda b: b.update(ports=["80-1"]), "ports", "allowed: ports from 1 to 65535, at most 100"),
        (lambda b: b.update(ports=["1-500"]), "ports", "allowed: ports from 1 to 65535, at most 100"),
        (lambda b: b.update(ports=[{"published": 80}]), "ports", "objects with target and published"),
        (lambda b: b["deploy"].update(replicas=0), "deploy.replicas", "from 1"),
        (lambda b: b["deploy"].update(update_config={"parallelism": -1}), "deploy.update_config.parallelism", "from 0"),
        (lambda b: b["deploy"].update(update_config={"parallelism": "0%"}), "deploy.update_config.parallelism", "25%"),
        (lambda b: b["deploy"].update(update_config={"parallelism": "101%"}), "deploy.update_config.parallelism", "25%"),
        (lambda b: b["deploy"].update(update_config={"parallelism": "3"}), "deploy.update_config.parallelism", "25%"),
        (
            lambda b: b["deploy"].update(update_config={"order": "x"}),
            "deploy.update_config.order",
            "start-first, stop-first",
        ),
        (
            lambda b: b["deploy"].update(update_config={"order": "stop-first", "parallelism": 4}),
            "deploy.update_config.order",
            "would stop all instances at once",
        ),
        (lambda b: b["deploy"].update(update_config={"delay": 5}), "deploy.update_config.delay", "a duration"),
        (lambda b: b.update(volumes=["./x:/y"]), "volumes[0].source", "absolute path"),
        (lambda b: b.update(labels={"tidegate.release": "x"}), "labels", "not begin with tidegate."),
        (
            lambda b: b.update({"x-tidegate": {"approval": {"after": [9]}}}),
            "x-tidegate.approval.after",
            "no batch 9; there are 4 batches",
        ),
        (lambda b: b.update({"x-tidegate": {"checks": [{"errors": {}}]}}), "x-tidegate.bake", "is required"),
        (lambda b: b.update({"x-tidegate": {"listen": "nowhere"}}), "x-tidegate.listen", "a port such as 8001"),
        (
            lambda b: b.update({"x-tidegate": {"health": {"port": 1}}}),
            "x-tidegate.health.port",
            "has no effect without `path`",
        ),
        (
            lambda b: b.update({"x-tidegate": {"health": {"path": "/", "expect": "299-200"}}}),
            "x-tidegate.health.expect",
            "statuses such as 204",
        ),
        (
            lambda b: b.update({"x-tidegate": {"health": {"path": "/", "headers": {"Host": "x"}}}}),
            "x-tidegate.health.headers",
            "`host` is a key of `health`",
        ),
        (lambda b: b.update({"x-tidegate": {"health": {"path": "/", "host": "a b"}}}), "x-tidegate.health.host", "a host"),
        (lambda b: b.update({"x-tidegate": {"timeouts": {"idle": "0s"}}}), "x-tidegate.timeouts.idle", "from 100ms"),
        (lambda b: b.update({"x-tidegate": {"protocol": "grpc"}}), "x-tidegate.protocol", "http1, h2c"),
        (lambda b: b.update({"x-tidegate": {"stratgy": "rolling"}}), "x-tidegate.stratgy", "did you mean strategy?"),
        (
            lambda b: b.update({"x-tidegate": {"bake": "1s", "checks": [{"latency": {"quantile": 0.99}}]}}),
            "x-tidegate.checks[0].latency.quantile",
            "the whole distribution",
        ),
        (
            lambda b: b.update({"x-tidegate": {"bake": "1s", "checks": [{"latency": {"histogram": "seconds_sum"}}]}}),
            "x-tidegate.checks[0].latency.histogram",
            "the buckets of a classic histogram",
        ),
        (
            lambda b: b.update({"x-tidegate": {"bake": "1s", "checks": [{"memory": {"query": "sum(x)", "limit": "1M"}}]}}),
            "x-tidegate.checks[0].memory.query",
            "a metric with matchers only",
        ),
        (
            lambda b: b.update({"x-tidegate": {"bake": "1s", "checks": [{"memory": {}}]}}),
            "x-tidegate.checks[0].memory.limit",
            "is required",
        ),
        (
            lambda b: b.update({"x-tidegate": {"bake": "1s", "checks": [{"errors": {"shadow": "maybe"}}]}}),
            "x-tidegate.checks[0].errors.shadow",
            "true or false",
        ),
        (
            lambda b: b.update({"x-tidegate": {"bake": "30s", "warmup": "30s", "checks": [{"errors": {}}]}}),
            "x-tidegate.warmup",
            "must be shorter than the bake of 30 s",
        ),
        (lambda b: b.update({"x-tidegate": {"false_abort": "50%"}}), "x-tidegate.false_abort", "from 0.01% to 20%"),
        (lambda b: b.update({"x-tidegate": {"on_inconclusive": "pass"}}), "x-tidegate.on_inconclusive", "extend, pause"),
        (
            lambda b: b.update({"x-tidegate": {"bake": "1s", "checks": [{"name": "a", "query": "up"}]}}),
            "x-tidegate.checks[0].query",
            "must contain $release",
        ),
        (
            lambda b: b.update({"x-tidegate": {"bake": "1s", "checks": [{"errors": {}}, {"errors": {}}]}}),
            "x-tidegate.checks",
            "duplicate name errors",
        ),
    ],
)
def test_each_mistake(change: Callable[[dict[str, Any]], None], path: str, said: str) -> None:
    body = copy.deepcopy(SMALL)
    change(body)
    assert said in problems(body)[path]


def test_how_instances_are_checked_and_proxied() -> None:
    keys = {
        "health": {"path": "/up", "host": "shop.example.com", "headers": {"X-A": "b"}, "expect": ["401", "200-299"]},
        "timeouts": {"response": "1h"},
        "protocol": "h2c",
    }
    shop = read({**SMALL, "x-tidegate": keys})
    options = shop.backend.options
    assert (options.protocol, options.timeouts) == (BackendProtocol.H2C, Timeouts(response_seconds=3600.0))
    assert options.health == shop.container.health
    assert shop.container.h2c
    assert not read(SMALL).container.h2c
    assert (options.health.headers, options.health.expect) == ((("X-A", "b"),), ((200, 299), (401, 401)))
    assert "'b'" not in repr(shop), "a header of a check may be a secret"


def test_the_default_deadline_is_what_the_healthcheck_needs() -> None:
    slow = {"test": "true", "interval": "3m", "timeout": "10s", "retries": 3, "start_period": "5m"}
    assert read({**SMALL, "healthcheck": slow}).policy.healthy_deadline_seconds == 300 + 180 * 4 + 10
    quick = {"test": "true", "interval": "1s"}
    assert read({**SMALL, "healthcheck": quick}).policy.healthy_deadline_seconds == 120
    probed = {"x-tidegate": {"health": {"path": "/health"}}}
    assert read({**SMALL, "healthcheck": slow, **probed}).policy.healthy_deadline_seconds == 120, "it does not decide"
    assert read({**SMALL, "healthcheck": {"disable": True}}).policy.healthy_deadline_seconds == 120


def test_a_deadline_that_is_shorter_than_the_healthcheck_needs() -> None:
    deadline = {"x-tidegate": {"healthy_deadline": "60s"}}
    short = read({**SMALL, "healthcheck": {"test": "true", "interval": "30s", "timeout": "5s"}, **deadline})
    assert short.policy.healthy_deadline_seconds == 60.0
    assert short.warnings[0].startswith("healthy_deadline is 60 s, but the healthcheck may take 125 s")
    never = {**SMALL, "healthcheck": {"test": "true", "interval": "1m"}, **deadline}
    assert "must be longer than 60 s: Docker runs the first" in problems(never)["x-tidegate.healthy_deadline"]
    early = {"test": "true", "interval": "1m", "start_interval": "1s", "start_period": "1m"}
    assert read({**SMALL, "healthcheck": early, **deadline}).warnings


def test_a_healthcheck_that_is_disabled_replaces_that_of_the_image() -> None:
    for disabled in ({"disable": True}, {"test": ["NONE"]}):
        check = read({**SMALL, "healthcheck": disabled}).container.healthcheck
        assert check is not None
        assert check.is_disabled


WRITABLE = ["/srv/data:/data", "/srv/config:/etc/shop:ro", "/var/run/docker.sock:/s", "/etc/localtime:/etc/localtime"]


def test_a_single_instance_that_writes_to_a_volume_is_stopped_first() -> None:
    one = {**SMALL, "deploy": {"replicas": 1}}
    assert (read(one).order, read(one).warnings) == (Order.START_FIRST, ())
    assert read({**one, "volumes": WRITABLE[1:]}).warnings == (), "it cannot write, or there is no data"
    shop = read({**one, "volumes": WRITABLE})
    assert shop.order is Order.STOP_FIRST
    assert shop.warnings[0].startswith("Its instance writes to /srv/data, so it stops before the next one starts:")
    start_first = {"deploy": {"replicas": 1, "update_config": {"order": "start-first"}}}
    shop = read({**one, "volumes": WRITABLE, **start_first})
    assert shop.order is Order.START_FIRST
    assert "both releases write to /srv/data" in shop.warnings[0]
    blue_green = read({**one, "volumes": WRITABLE, "x-tidegate": {"strategy": "blue_green"}})
    assert (blue_green.order, blue_green.warnings) == (Order.START_FIRST, shop.warnings)


def test_one_replica_and_stop_first_is_an_interruption() -> None:
    shop = read({**SMALL, "deploy": {"replicas": 1, "update_config": {"order": "stop-first"}}})
    assert shop.order is Order.STOP_FIRST
    assert shop.warnings[0].startswith("With one replica and order stop-first the instance stops before")


def test_several_instances_that_write_to_one_volume_are_warned_about() -> None:
    shop = read(
        {**SMALL, "volumes": [{"type": "bind", "source": "/a", "target": "/b", "bind": {"create_host_path": False}}]}
    )
    assert shop.order is Order.START_FIRST
    assert shop.warnings[0].startswith("4 instances write to /a at the same time")


def test_a_proxy_only_connects_where_the_check_has_a_port_of_its_own() -> None:
    shop = read({**SMALL, "x-tidegate": {"health": {"path": "/up", "port": 9, "interval": "2s"}}})
    assert (shop.container.health.path, shop.container.health.port) == ("/up", 9)
    assert shop.backend.options.health == Health(interval_seconds=2.0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "resolve"), ("always", "always"), ("missing", "missing"), ("if_not_present", "missing"), ("never", "never")],
)
def test_pull_policy(value: str | None, expected: str) -> None:
    body = {**SMALL, "pull_policy": value} if value else SMALL
    found = parse_service({"services": {"shop": body}}, "shop", "demo", {})
    assert found.container.pull_policy == expected
    assert found == parse_service({"services": {"shop": SMALL}}, "shop", "demo", {}), "no part of the configuration"


@pytest.mark.parametrize(
    ("change", "port", "listen", "notes"),
    [
        ({"expose": ["8080/tcp", "53/udp"]}, 8080, "", []),
        ({"expose": []}, 0, "", []),
        ({"ports": ["8080"]}, 8080, "", ["not published: 8080 is reached through the proxy"]),
        ({"ports": [8080]}, 8080, "", ["not published: 8080 is reached through the proxy"]),
        ({"ports": ["8000:8080"]}, 8080, "8000", ["8000 is used as x-tidegate.listen"]),
        ({"ports": ["127.0.0.1:8000:8080/tcp"]}, 8080, "127.0.0.1:8000", ["127.0.0.1:8000 is used as x-tidegate.listen"]),
        ({"ports": ["[::1]:8000:8080"]}, 8080, "[::1]:8000", ["[::1]:8000 is used as x-tidegate.listen"]),
        ({"ports": ["::1:8000:8080"]}, 8080, "[::1]:8000", ["[::1]:8000 is used as x-tidegate.listen"]),
        ({"ports": [{"target": 8080, "published": "8000"}]}, 8080, "8000", ["8000 is used as x-tidegate.listen"]),
        (
            {"ports": [{"target": "8080", "published": 8000, "host_ip": "0.0.0.0", "mode": "host"}]},
            8080,
            "8000",
            ["8000 is used as x-tidegate.listen"],
        ),
        (
            {"ports": ["8000:8080", "127.0.0.1:9000:8080"]},
            8080,
            "8000",
            ["8000 is used as x-tidegate.listen", "not published: 127.0.0.1:9000; the proxy listens on one address"],
        ),
        (
            {"ports": ["8000:8080"], "x-tidegate": {"listen": 81}},
            8080,
            "81",
            ["not published: 8080 is reached through the proxy at 81"],
        ),
        (
            {"ports": ["80:80", "443:443"], "x-tidegate": {"port": 80}},
            80,
            "80",
            ["80 is used as x-tidegate.listen", "not published: 443; the proxy serves port 80 only"],
        ),
        (
            {"ports": ["3000-3001:4000-4001"], "x-tidegate": {"port": 4001}},
            4001,
            "3001",
            ["3001 is used as x-tidegate.listen", "not published: 4000; the proxy serves port 4001 only"],
        ),
        ({"ports": ["8000-8010:8080"]}, 8080, "", ["not published: 8080 is reached through the proxy"]),
        ({"ports": ["53:53/udp"], "expose": ["80"]}, 80, "", []),
        ({"ports": ["8000:80"], "expose": ["80"]}, 80, "8000", ["8000 is used as x-tidegate.listen"]),
    ],
)
def test_the_port_and_the_address_of_the_proxy(change: dict[str, Any], port: int, listen: str, notes: list[str]) -> None:
    body = {name: value for name, value in SMALL.items() if name != "expose"} | change
    shop = read(body)
    assert (shop.container.port, shop.backend.listen) == (port, listen)
    assert [note.message[: len(start)] for note, start in zip(shop.source.notes, notes, strict=True)] == notes
    assert {note.field for note in shop.source.notes} <= {"services.shop.ports"}


def test_a_service_without_the_extension_is_left_to_compose() -> None:
    body = {name: value for name, value in SMALL.items() if name != "x-tidegate"}
    assert problems(body)["x-tidegate"].startswith("is required: a service without it is run by docker compose")


def test_the_names_of_the_variables_that_were_used() -> None:
    document = {
        "services": {"shop": {**SMALL, "image": "${IMAGE}", "environment": ["TOKEN", "NO=$$NO"]}, "other": {"image": "$X"}}
    }
    given = {"IMAGE": "shop:v1", "TOKEN": "secret", "X": "x", "NO": "n"}
    shop = parse_service(document, "shop", "demo", given)
    assert shop.source.variables == ("IMAGE", "TOKEN")


@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("web_app", "web_app"),
        ("Web.App", "Web.App"),
        ("web_preview", "web-preview-[0-9a-f]{8}"),
        ("web_on_8001", "web-on-8001-[0-9a-f]{8}"),
        ("tidegate_web", "tidegate-web-[0-9a-f]{8}"),
        ("w" * 63, "w{31}-[0-9a-f]{8}"),
    ],
)
def test_a_name_that_compose_takes_is_kept_and_the_route_is_one_that_proxies_take(name: str, route: str) -> None:
    service = parse_service({"services": {name: SMALL}}, name, "demo", {})
    assert service.name == name
    assert service.backend is not None
    assert re.fullmatch(route, service.backend.name)
    assert ROUTE_PATTERN.fullmatch(service.backend.name)


@pytest.mark.parametrize("name", ["", "_web", "a/b", "w" * 64, "wéb"])
def test_a_name_that_compose_does_not_take(name: str) -> None:
    with pytest.raises(InvalidSpec, match="at most 63 characters"):
        parse_service({"services": {name: SMALL}}, name, "demo", {})


def test_all_mistakes_at_once() -> None:
    found = problems({"imag": "x", "deploy": {"replicas": -1}, "x-tidegate": {"bakes": 1}})
    assert set(found) == {"imag", "image", "deploy.replicas", "x-tidegate.bakes"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${VERSION}", "v2"),
        ("$VERSION", "v2"),
        ("${NONE:-x}", "x"),
        ("${NONE-x}", "x"),
        ("${VERSION:+y}", "y"),
        ("a$$b", "a$b"),
    ],
)
def test_interpolation(text: str, value: str) -> None:
    assert read({**SMALL, "user": text}).container.user == value


def test_an_unset_variable() -> None:
    assert (
        "NONE is not set; add it to .env, or pass --set NONE=… or --env NONE"
        in problems({**SMALL, "user": "${NONE}"})["user"]
    )
    assert "NONE is not set: say who" in problems({**SMALL, "user": "${NONE:?say who}"})["user"]


@pytest.mark.parametrize("document", [None, [], "x", {"services": []}, {"services": {"other": {}}}])
def test_what_is_no_compose_file(document: object) -> None:
    with pytest.raises(InvalidSpec):
        parse_service(document, "shop", "demo", {})


@pytest.mark.parametrize(
    ("text", "said"), [("a: 1\na: 2", "duplicate key"), ("[", "line 1"), ("a: !!python/none x", "line 1")]
)
def test_what_is_no_yaml(text: str, said: str) -> None:
    with pytest.raises(InvalidSpec, match=said):
        load(text)


def test_aliases_that_grow_without_bounds() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(InvalidSpec, match="aliases"):
        load("\n".join(lines))


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner), max_leaves=8
)
KEYS = ["image", "expose", "command", "environment", "deploy", "healthcheck", "volumes", "x-tidegate", "user"]
INNER = ["replicas", "update_config", "checks", "hold", "bake", "health", "listen", "parallelism", "order", "test"]
bodies = st.dictionaries(st.sampled_from(KEYS), anything | st.dictionaries(st.sampled_from(INNER), anything))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a loaded machine takes its time
@given(bodies)
def test_no_document_breaks_the_reader(body: dict[str, object]) -> None:
    """Whatever stands in the file, it is a service with sane values or a list of mistakes."""
    try:
        shop = read({**SMALL, **body})
    except InvalidSpec:
        return
    assert shop.replicas >= 1
    assert shop.batch >= 1
    assert shop.bake_seconds >= 0
