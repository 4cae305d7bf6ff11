"""What an engine says, as instances, images, settings and errors. Listings are as a real engine gave them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import requests
from docker.api.client import APIClient
from docker.errors import APIError
from pydantic import ValidationError

from tidegate.core.container import Container, Health, HealthCommand
from tidegate.core.image_reference import ImageReference
from tidegate.core.model import InstanceState, Release
from tidegate.drivers.platforms.docker.containers import (
    ListedContainer,
    format_headers_variable,
    format_probe_label,
    read_headers_variable,
    to_instance,
)
from tidegate.drivers.platforms.docker.create import container_config, container_name, create_container
from tidegate.drivers.platforms.docker.errors import KNOWN_PULL_ERRORS, refusal_error
from tidegate.drivers.platforms.docker.images import (
    choose_reference,
    ignored_start_interval,
    image_ready_within_seconds,
    require_readiness_check,
)
from tidegate.drivers.platforms.docker.labels import HEADERS_VARIABLE
from tidegate.drivers.platforms.docker.options import DockerHostOptions, DockerOptions
from tidegate.drivers.platforms.docker.transport import ssh_command
from tidegate.errors import PlatformError

RULE = '{"health":{"path":"/ready","port":8081,"timeout_seconds":2.0}}'
LABELS = {"tidegate.release": "v1-1", "tidegate.ordinal": "3", "tidegate.port": "8080", "tidegate.probe": RULE}
HERE, THERE = DockerHostOptions(name="a"), DockerHostOptions(name="b", address="192.0.2.7")


def found(
    state: str = "running", status: str = "Up 2 seconds", host: DockerHostOptions = HERE, **labels: str | None
) -> ListedContainer:
    chosen = {**LABELS, **{f"tidegate.{key}": value for key, value in labels.items()}}
    listed: dict[str, Any] = {
        "Id": "0123456789abcdef0123",
        "State": state,
        "Status": status,
        "Labels": {key: value for key, value in chosen.items() if value is not None},
        "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.5", "EndpointID": "e1"}}},
        "Ports": [
            {"PrivatePort": 8080, "Type": "tcp"},
            {"IP": "192.0.2.7", "PrivatePort": 8080, "PublicPort": 20001, "Type": "tcp"},
            {"IP": "192.0.2.7", "PrivatePort": 8081, "PublicPort": 20002, "Type": "tcp"},
        ],
    }
    return ListedContainer(host, listed)


def looked(memory: int = 0, restart: str = "unless-stopped", **state: Any) -> dict[str, Any]:
    return {
        "State": {"ExitCode": 1, "OOMKilled": False, "Error": "", "Running": False, **state},
        "HostConfig": {"Memory": memory, "RestartPolicy": {"Name": restart}},
    }


@pytest.mark.parametrize(
    ("container", "restarts", "details", "probed", "state", "detail"),
    [
        (found(), 0, None, "", InstanceState.READY, ""),
        (found(status="Up 10 seconds"), 3, None, "", InstanceState.READY, ""),
        (found(), 2, None, "", InstanceState.READY, ""),
        (found(), 3, None, "", InstanceState.FAILED, "restarted 3 times, ready for less than 10 s since the last restart"),
        (found(), 0, None, "answered 503", InstanceState.STARTING, "answered 503"),
        (found(), 2, None, "answered 503", InstanceState.STARTING, "restarted 2 times, answered 503"),
        (found(), 3, None, "answered 503", InstanceState.FAILED, "restarted 3 times, answered 503"),
        (found(), 0, None, None, InstanceState.STARTING, "no address yet"),
        (found("exited"), 0, looked(), None, InstanceState.STOPPED, "exited with status 1"),
        (found("exited"), 0, looked(ExitCode=0), None, InstanceState.STOPPED, "exited with status 0"),
        (found("exited"), 0, looked(restart="on-failure"), None, InstanceState.STOPPED, "exited with status 1"),
        (found("exited"), 0, looked(restart="on-failure", ExitCode=0), None, InstanceState.FAILED, "exited with status 0"),
        (found("exited"), 0, looked(restart="no"), None, InstanceState.FAILED, "exited with status 1"),
        (
            found("exited"),
            1,
            looked(Error="address already in use"),
            None,
            InstanceState.STOPPED,
            "exited with status 1, address already in use, restarted 1 time",
        ),
        (found("dead"), 1, looked(), None, InstanceState.FAILED, "exited with status 1, restarted 1 time"),
        (found("restarting"), 1, looked(), None, InstanceState.STARTING, "restarted 1 time, exited with status 1"),
        (found("restarting"), 3, looked(), None, InstanceState.FAILED, "restarted 3 times, exited with status 1"),
        (
            found("restarting"),
            1,
            looked(64 * 2**20, OOMKilled=True, ExitCode=137),
            None,
            InstanceState.FAILED,
            "restarted 1 time, exited with status 137, out of memory (limit 64 MiB)",
        ),
        (found("created"), 0, looked(ExitCode=0), None, InstanceState.STARTING, "created, not started yet"),
        (found("paused"), 0, None, None, InstanceState.STARTING, "paused outside Tidegate; run docker unpause"),
        (found("removing"), 0, None, None, InstanceState.STOPPING, "being removed"),
        (found(status="Up 1 second (healthy)", probe="{}"), 0, None, "", InstanceState.READY, ""),
        (found(status="Up 1 second (healthy)", probe="{}"), 0, None, None, InstanceState.STARTING, "no address yet"),
        (found(status="Up 1 second (healthy)", probe="{}"), 0, None, "no answer", InstanceState.STARTING, "no answer"),
        (
            found(status="Up 1 second (health: starting)", probe="{}"),
            0,
            looked(Running=True, Health={"Log": []}),
            "",
            InstanceState.STARTING,
            "HEALTHCHECK reports starting",
        ),
        (
            found(status="Up 1 second (unhealthy)", probe="{}"),
            0,
            looked(Running=True, Health={"Log": [{"Output": "old"}, {"Output": "no\n database"}]}),
            "",
            InstanceState.STARTING,
            "HEALTHCHECK reports unhealthy: no database",
        ),
        (found(probe="{}"), 0, None, "", InstanceState.STARTING, "readiness unknown: the container has no HEALTHCHECK"),
    ],
)
def test_states(
    container: ListedContainer,
    restarts: int,
    details: dict[str, Any] | None,
    probed: str | None,
    state: InstanceState,
    detail: str,
) -> None:
    instance = to_instance(container, restarts, details, probed, max_restarts=2)
    assert (instance.state, instance.detail, instance.restarts) == (state, detail, restarts)
    assert (instance.id, instance.release, instance.ordinal, instance.host) == ("0123456789ab", "v1-1", 3, "a")


@pytest.mark.parametrize("max_restarts", [0, 1, 5])
@pytest.mark.parametrize("container", [found(), found("restarting")], ids=["running", "restarting"])
def test_max_restarts_separates_starting_from_failed(container: ListedContainer, max_restarts: int) -> None:
    states = [
        to_instance(container, restarts, looked(), "answered 503", max_restarts).state
        for restarts in (max_restarts, max_restarts + 1)
    ]
    assert states == [InstanceState.STARTING, InstanceState.FAILED]


def test_addresses() -> None:
    assert found().address == "172.17.0.5:8080"
    assert found(host=THERE).address == "192.0.2.7:20001"
    assert found("exited").address == ""
    assert found(host=DockerHostOptions(name="c", address="2001:db8::7")).address == "[2001:db8::7]:20001"


def test_probes_go_to_the_address_of_the_proxy() -> None:
    headers = (("X-Probe", "tidegate"),)
    [here, there] = [each.probe(headers) for each in (found(), found(status="Up 2 minutes", host=THERE))]
    assert here
    assert (here.address, here.health_address) == (("172.17.0.5", 8080), ("172.17.0.5", 8081))
    assert here.health == Health("/ready", 8081, timeout_seconds=2.0, headers=headers)
    assert (here.published, here.settled) == (False, False)
    assert there
    assert (there.address, there.health_address) == (("192.0.2.7", 20001), ("192.0.2.7", 20002))
    assert (there.published, there.settled) == (True, True)
    assert found("restarting").probe() is None
    without = found(probe=None).probe()
    assert without
    assert without.health == Health()


def test_the_label_of_the_probe_has_all_but_the_values_of_headers() -> None:
    health = Health(
        "/", 1, "https", "shop", (("Authorization", "Bearer secret"),), ((200, 299), (401, 401)), 1.0, 2.0, 3, 4
    )
    label = format_probe_label(Container(port=8080, h2c=True, health=health))
    assert "secret" not in label
    rule = found(probe=label).rule
    assert (rule.health, rule.h2c) == (replace(health, headers=()), True)
    variable = f"{HEADERS_VARIABLE}={format_headers_variable(health)}"
    assert read_headers_variable({"Config": {"Env": ["A=b", variable]}}) == health.headers
    assert format_probe_label(Container(port=8080)) == "{}"


@pytest.mark.parametrize("missing", ["release", "ordinal", "port"])
def test_what_lacks_a_label_is_not_ours(missing: str) -> None:
    assert found().is_complete
    assert not found(**{missing: None}).is_complete
    assert not found(ordinal="first").is_complete


RELEASE = Release("v1-1", "demo/shop", "shop:v1", 1, Container(port=8080, health=Health("/health")))


SLOW_IMAGE = {"Config": {"Healthcheck": {"Test": ["CMD", "/x"], "Interval": 180 * 10**9, "Timeout": 10 * 10**9}}}


def test_how_long_the_healthcheck_of_the_image_may_take() -> None:
    def seconds(image: dict[str, Any], **container: Any) -> float:
        return image_ready_within_seconds(replace(RELEASE, container=Container(port=1, **container)), image)

    assert seconds(SLOW_IMAGE) == 180 * 4 + 10
    assert seconds({"Config": {"Healthcheck": {"Test": ["CMD", "/x"], "Retries": 1, "StartPeriod": 10**9}}}) == 91.0
    assert seconds(SLOW_IMAGE, health=Health("/")) == 0.0
    assert seconds(SLOW_IMAGE, healthcheck=HealthCommand(("CMD", "/y"))) == 0.0
    assert seconds({}) == 0.0
    assert seconds({"Config": {"Healthcheck": {"Test": ["NONE"]}}}) == 0.0


@pytest.mark.parametrize(("version", "sent"), [("1.41", None), ("1.44", 2 * 10**9), ("1.51", 2 * 10**9)])
def test_start_interval_is_sent_to_a_docker_that_has_it(
    monkeypatch: pytest.MonkeyPatch, version: str, sent: int | None
) -> None:
    """The SDK leaves it out."""
    check = HealthCommand(("CMD", "/x"), start_interval_seconds=2.0)
    release = replace(RELEASE, container=replace(RELEASE.container, healthcheck=check))
    bodies: list[Any] = []

    def send(body: Any, name: str) -> dict[str, Any]:
        bodies.append(body)
        return {"Id": name}

    with closing(APIClient(version=version)) as api:
        monkeypatch.setattr(api, "create_container_from_config", send)
        wanted = container_config(api, release, 0, DockerOptions(hosts=(HERE,)), HERE)
        assert create_container(api, wanted)["Id"] == wanted["name"]
    assert bodies[0]["Healthcheck"].get("StartInterval") == sent
    warning = ignored_start_interval("a", release, version)
    assert bool(warning) == (sent is None)
    assert not warning or "needs Docker 25 (API 1.44), this host has API 1.41" in warning


def test_names_are_never_the_same_twice() -> None:
    made = {container_name(RELEASE, 2) for _ in range(50)}
    assert len(made) == 50
    assert all(each.startswith("tidegate-demo-shop-v1-1-2-") for each in made)


# -- images ----------------------------------------------------------------------------------------------------------------


def test_the_digest_that_all_hosts_share_is_taken() -> None:
    shop = ImageReference.parse("docker.io/library/shop:v1")
    a, b, c = (f"sha256:{letter * 64}" for letter in "abc")
    one = {"Id": "sha256:1", "RepoDigests": [f"other@{a}", f"shop@{b}", f"shop@{c}", "<none>@<none>"]}
    two = {"Id": "sha256:1", "RepoDigests": [f"shop@{c}"]}
    assert choose_reference(shop, {"x": one, "y": two}) == f"shop@{c}"
    assert choose_reference(shop, {"x": one, "y": {"Id": "sha256:1"}}) == "sha256:1"
    assert choose_reference(shop, {"x": {"Id": "sha256:1", "RepoDigests": None}}) == "sha256:1"
    with pytest.raises(PlatformError, match="x has sha256:1, y has sha256:2"):
        choose_reference(shop, {"x": {"Id": "sha256:1"}, "y": {"Id": "sha256:2"}})


@pytest.mark.parametrize(
    ("container", "image", "fine"),
    [
        (Container(port=1, health=Health("/")), {}, True),
        (Container(port=1), {}, False),
        (Container(port=1), {"Config": {"Healthcheck": {"Test": ["CMD", "/x"]}}}, True),
        (Container(port=1), {"Config": {"Healthcheck": {"Test": ["NONE"]}}}, False),
        (Container(port=1, healthcheck=HealthCommand(("CMD", "/x"))), {}, True),
        (Container(port=1, healthcheck=HealthCommand(("NONE",))), {"Config": {"Healthcheck": {"Test": ["CMD"]}}}, False),
    ],
)
def test_readiness_must_be_knowable(container: Container, image: dict[str, Any], fine: bool) -> None:
    release = Release("v1-1", "demo/shop", "shop:v1", 1, container)
    if fine:
        require_readiness_check("a", release, image)
    else:
        with pytest.raises(PlatformError, match=r"shop:v1 on Docker host a: .*x-tidegate"):
            require_readiness_check("a", release, image)


# -- settings --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        {"url": "unix:///run/docker.sock"},
        {"url": "tcp://10.0.0.7:2376", "address": "10.0.0.7", "ports": "20000-20010"},
        {"url": "ssh://deploy@far.example"},
        {"url": "ssh://far.example:2222", "address": "2001:db8::7"},
    ],
)
def test_hosts(host: dict[str, str]) -> None:
    assert DockerOptions.model_validate({"hosts": [{"name": "a", **host}]}).hosts[0].url == host["url"]


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ({"url": "docker.sock"}, "must be unix:///path"),
        ({"url": "unix://docker.sock"}, "must be unix:///path"),
        ({"url": "tcp://10.0.0.7"}, "must be unix:///path"),
        ({"url": "http://10.0.0.7:2375"}, "must be unix:///path"),
        ({"url": "ssh://-oProxyCommand=x"}, "must be unix:///path"),
        ({"url": "ssh://me:secret@far"}, "must be unix:///path"),
        ({"name": "Big Host"}, "should match pattern"),
        ({"address": "far.example"}, "must be an IP address"),
        ({"address": "0.0.0.0"}, "must be one address that the proxy can reach"),
        ({"address": "10.0.0.7", "ports": "20"}, "must be a range"),
        ({"address": "10.0.0.7", "ports": "30-20"}, "must be a range"),
        ({"ports": "20-30"}, "ports requires address"),
        ({"tls": {"ca": "a", "cert": "b", "key": "c"}}, "tls requires a tcp:// url"),
        ({"colour": "blue"}, "Extra inputs"),
    ],
)
def test_hosts_that_are_refused(host: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        DockerOptions.model_validate({"hosts": [{"name": "a", **host}]})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"hosts": []}, "at least 1"),
        ({"hosts": [{"name": "a"}, {"name": "a"}]}, "duplicate host name a"),
        ({"hosts": [{"name": "a"}], "network": "host"}, "its own address"),
        ({"hosts": [{"name": "a"}], "restart": "always"}, "unless-stopped"),
        ({"hosts": [{"name": "a"}], "timeout_seconds": 0}, "greater than 0"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        DockerOptions.model_validate(options)


def test_ssh_never_asks_and_takes_nothing_for_an_option() -> None:
    words = ssh_command("ssh://deploy@far.example:2222", 10)
    assert words[-3:] == ["--", "far.example", "docker system dial-stdio"]
    assert "BatchMode=yes" in words
    assert words[words.index("-l") + 1] == "deploy"
    assert words[words.index("-p") + 1] == "2222"


# -- errors ----------------------------------------------------------------------------------------------------------------


def answer(status: int, said: str) -> APIError:
    response = requests.Response()
    response.status_code = status
    return APIError("failed", response=response, explanation=said)


@pytest.mark.parametrize(
    ("status", "response", "message", "retryable"),
    [
        (500, "Bind for 0.0.0.0:80 failed: port is already allocated", "the port is in use. Stop what uses it", False),
        (500, "listen tcp4 127.0.0.1:1: bind: address already in use", "the port is in use. Stop what uses it", False),
        (500, "write /var/lib/docker/x: no space left on device", "the disk is full. Free space there", False),
        (409, 'Conflict. The container name "/x" is already in use by container "y"', "a container with this name", True),
        (409, "removal of container x is already in progress", "the container is being removed", True),
        (500, "something broke", "Docker answered 500: something broke", True),
        (400, "invalid thing", "Docker answered 400: invalid thing", False),
        (404, "network shop not found", "network not found. Run docker network create", False),
        (500, "failed to initialize logging driver: x", "the log driver failed", False),
    ],
)
def test_refusals(status: int, response: str, message: str, retryable: bool) -> None:
    error = refusal_error("a", "start v1-1", answer(status, response))
    assert error.message.startswith(f"Cannot start v1-1 on Docker host a: {message}")
    assert response in error.message
    assert error.retryable is retryable


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "pull access denied for shop, repository does not exist or may require 'docker login'",
            "the registry denied access",
        ),
        ("unauthorized: authentication required", "the registry denied access"),
        ("manifest for host/shop:v9 not found: manifest unknown", "not found in the registry"),
        ('Get "https://host/v2/": dial tcp: lookup host: no such host', "its registry does not answer"),
        ('Get "https://host/v2/": net/http: TLS handshake timeout', "its registry does not answer"),
        (
            "no matching manifest for linux/arm64/v8 in the manifest list entries",
            "the registry has it for other platforms",
        ),
        ("write /var/lib/docker/tmp/x: no space left on device", "the disk is full"),
    ],
)
def test_refused_pulls(said: str, told: str) -> None:
    error = refusal_error("a", "pull image shop:v1", answer(500, said), KNOWN_PULL_ERRORS)
    assert told in error.message
    assert not error.retryable
