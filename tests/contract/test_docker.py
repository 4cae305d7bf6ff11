"""The Docker platform on the machine's own engine: the exam of every platform, and what is Docker's own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from http.client import HTTPException

import docker
import pytest
from docker.utils import version_gte

from support.docker_contract import (
    CONTAINER,
    PREFIX,
    SOCKET,
    DemoReleases,
    build_images,
    free_pair,
    kill_on_exit,
    local_engine,
    make_release,
    platform_on,
    remove_containers,
)
from support.docker_host import Engine, running_engine
from support.images import demo_image
from support.wait import at_most, eventually
from tidegate.core.container import Health, HealthCommand
from tidegate.core.model import InstanceState, Release
from tidegate.drivers.platforms.docker import driver as platform_module
from tidegate.drivers.platforms.docker.driver import DockerPlatform
from tidegate.errors import PlatformError
from tidegate.testing.platform_contract import (
    ENVIRONMENT,
    PlatformContract,
    Restart,
    all_ready,
    pin_release,
    start_and_wait,
    wait_for_instances,
)

LOCAL = {"name": "local", "url": SOCKET}
SERVICE = f"{ENVIRONMENT}/shop"


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    with local_engine() as client:
        yield client


@pytest.fixture(scope="module")
def private() -> Iterator[Engine]:
    """An engine of the test's own, that may be restarted."""
    with running_engine() as engine, engine.client() as client, build_images(client):
        yield engine


@pytest.fixture
def platform(client: docker.DockerClient) -> Iterator[DockerPlatform]:
    with platform_on(LOCAL) as platform:
        yield platform


@pytest.fixture
def good(platform: DockerPlatform) -> Release:
    """A pinned release."""
    return pin_release(platform, make_release(SERVICE, "good"))


class TestDocker(PlatformContract):
    """The exam."""

    @pytest.fixture
    def releases(self) -> DemoReleases:
        return DemoReleases()

    @pytest.fixture
    def closable(self, client: docker.DockerClient) -> Iterator[DockerPlatform]:
        with platform_on(LOCAL) as platform:
            yield platform

    @pytest.fixture
    def restartable(self, private: Engine) -> Iterator[tuple[DockerPlatform, Restart]]:
        with platform_on({"name": "private", "url": private.url}) as platform:
            yield platform, private.restart

    @pytest.fixture
    def refused(self) -> Iterator[DockerPlatform]:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can, and connections are refused
            url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
            with platform_on({"name": "gone", "url": url}) as platform:
                yield platform


# -- what the container is -------------------------------------------------------------------------------------------------


def test_all_that_the_compose_file_said_reaches_the_engine(client: docker.DockerClient, platform: DockerPlatform) -> None:
    release = make_release(
        SERVICE,
        "good",
        environment={"VERSION": "other"},
        labels={"team": "web", "tidegate.release": "forged"},
        entrypoint=("/app",),
        command=("x",),
        user="1000",
        working_dir="/w",
        stop_signal="SIGINT",
        memory_bytes=64 * 2**20,
        cpus=0.5,
        volumes=("/etc:/somewhere:ro",),
        init=True,
        read_only=True,
        healthcheck=HealthCommand(("CMD", "/app", "healthy"), 1.0, 0.5, 2, 3.0),
    )
    start_and_wait(platform, pin_release(platform, release), [4])
    found = client.containers.list(filters={"label": f"tidegate.environment={ENVIRONMENT}"})[0]
    config, host = found.attrs["Config"], found.attrs["HostConfig"]
    assert {
        "VERSION=other",
        "TIDEGATE_ORDINAL=4",
        "TIDEGATE_RELEASE=v1-1",
        f"TIDEGATE_SERVICE={SERVICE}",
    } <= set(config["Env"])
    assert config["Labels"]["team"] == "web"
    assert config["Labels"]["tidegate.release"] == "v1-1"
    assert (config["Entrypoint"], config["Cmd"], config["User"]) == (["/app"], ["x"], "1000")
    assert (config["WorkingDir"], config["StopSignal"]) == ("/w", "SIGINT")
    assert config["Healthcheck"] == {
        "Test": ["CMD", "/app", "healthy"],
        "Interval": 10**9,
        "Timeout": 5 * 10**8,
        "Retries": 2,
        "StartPeriod": 3 * 10**9,
    }
    assert (host["Memory"], host["NanoCpus"], host["Init"], host["ReadonlyRootfs"]) == (64 * 2**20, 5 * 10**8, True, True)
    assert host["Binds"] == ["/etc:/somewhere:ro"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
    assert found.name.startswith(f"tidegate-{ENVIRONMENT}-shop-v1-1-4-")


def test_an_instance_whose_own_healthcheck_is_asked(client: docker.DockerClient, platform: DockerPlatform) -> None:
    """The application of both is ready at once. Of the first, the engine asks only after a day."""
    for version, interval in (("unchecked", "24h"), ("checked", "200ms")):
        demo_image(client, f"{PREFIX}:{version}", {}, healthcheck=interval)
    platform.start(pin_release(platform, make_release(SERVICE, "unchecked", "v1-1", health=Health())), [0])
    platform.start(pin_release(platform, make_release(SERVICE, "checked", "v2-2", health=Health())), [0])
    seen = wait_for_instances(platform, SERVICE, lambda seen: any(each.state is InstanceState.READY for each in seen))
    assert {each.release: (each.state, each.detail) for each in seen} == {
        "v1-1": (InstanceState.STARTING, "HEALTHCHECK reports starting"),
        "v2-2": (InstanceState.READY, ""),
    }


def test_the_healthcheck_of_the_image(client: docker.DockerClient, platform: DockerPlatform) -> None:
    """How long it may take is known before anything starts; a service that disables it is checked at its path only."""
    demo_image(client, f"{PREFIX}:slow", {}, healthcheck="24h")
    slow = make_release(SERVICE, "slow", health=Health())
    assert platform.pin(slow).ready_within_seconds == 4 * 86_400 + 1
    ignored = HealthCommand(("CMD", "/app"), start_interval_seconds=1.0)
    with_path = replace(slow.container, health=CONTAINER.health)
    warning = platform.pin(replace(slow, container=replace(with_path, healthcheck=ignored))).warning
    api = client.version()["ApiVersion"]
    assert warning == "" if version_gte(api, "1.44") else f"this host has API {api}." in warning
    disabled = replace(slow, container=replace(with_path, healthcheck=HealthCommand(("NONE",))))
    assert platform.pin(disabled).ready_within_seconds == 0.0
    seen = start_and_wait(platform, pin_release(platform, disabled), [0])
    assert "Health" not in client.api.inspect_container(seen[0].id)["State"]
    with pytest.raises(PlatformError, match="Cannot determine readiness"):
        platform.pin(replace(disabled, container=replace(disabled.container, health=Health())))


OWN_HEALTHCHECK = {"health": Health(), "healthcheck": HealthCommand(("CMD", "/app", "healthy"), 0.1)}
SHOP = Health("/health", host="shop.example.com", timeout_seconds=30.0)


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"environment": {"READY": "never"}}, "GET /health answered 503"),
        ({"environment": {"PORT": "9"}}, r"nothing answers at [0-9.]+:8080: connection refused"),
        ({"health": replace(SHOP, path="/nowhere")}, "GET /nowhere answered 404"),
        ({"environment": {"REQUIRED": "Host: shop.example.com"}}, "GET /health answered 400"),
        ({"health": replace(SHOP, expect=((204, 204),))}, "GET /health answered 200"),
        ({"h2c": True}, r"[0-9.]+:8080 does not speak HTTP/2 in clear text"),
        ({"environment": {"PORT": "3000"}, "health": replace(SHOP, port=3000)}, r"nothing answers at [0-9.]+:8080"),
        ({"environment": {"BIND": "loopback"}, **OWN_HEALTHCHECK}, r"nothing answers at [0-9.]+:8080: connection refused"),
        ({"environment": {"PORT": "3000"}, **OWN_HEALTHCHECK}, r"nothing answers at [0-9.]+:8080: connection refused"),
    ],
)
def test_why_it_is_not_ready(platform: DockerPlatform, changes: dict[str, object], detail: str) -> None:
    platform.start(pin_release(platform, make_release(SERVICE, "good", **changes)), [0])
    wanted = re.compile(rf"{detail}.* \(failing since [0-9:]{{8}} UTC\)")
    seen = wait_for_instances(platform, SERVICE, lambda seen: bool(wanted.fullmatch(seen[0].detail)))
    assert seen[0].state is InstanceState.STARTING


def test_the_request_has_the_host_and_the_headers_of_the_service(
    client: docker.DockerClient, platform: DockerPlatform
) -> None:
    """Also for an engine that did not start the container. Programs export labels, so values of headers are in none."""
    for required in ("Host: shop.example.com", "X-Probe: password-123"):
        health = replace(SHOP, headers=(("X-Probe", "password-123"),))
        release = make_release(SERVICE, "good", health=health, environment={"REQUIRED": required})
        seen = start_and_wait(platform, pin_release(platform, release), [0])
        with closing(DockerPlatform(DockerPlatform.Options.model_validate({"hosts": [LOCAL]}), ENVIRONMENT)) as another:
            assert another.instances(SERVICE) == seen
        assert "password-123" not in json.dumps(client.api.containers(filters={"id": seen[0].id}))
        platform.stop(seen, 0.0)
        wait_for_instances(platform, SERVICE, lambda seen: seen == ())


def test_one_that_becomes_sick_is_not_ready_after_the_threshold(platform: DockerPlatform) -> None:
    health = replace(SHOP, interval_seconds=0.1, unhealthy_threshold=3)
    release = make_release(SERVICE, "good", health=health)
    seen = start_and_wait(platform, pin_release(platform, release), [0])
    for path, state in (("/sick", InstanceState.STARTING), ("/well", InstanceState.READY)):
        urllib.request.urlopen(f"http://{seen[0].address}{path}", timeout=30).close()
        seen = wait_for_instances(platform, SERVICE, lambda seen, state=state: seen[0].state is state)  # type: ignore[misc]
        assert seen[0].detail.startswith("GET /health answered 503 (failing since ") == (path == "/sick")


def test_a_crash_is_told_with_its_status_and_its_last_line(platform: DockerPlatform) -> None:
    platform.start(pin_release(platform, make_release(SERVICE, "crashing")), [0])
    seen = wait_for_instances(
        platform, SERVICE, lambda seen: seen[0].state is InstanceState.FAILED and "status" in seen[0].detail
    )
    assert seen[0].restarts > 2
    assert "exited with status 1" in seen[0].detail
    assert platform.tail_logs(seen[0], 1) == "fatal: ordered to crash after 0 s\n"


@pytest.mark.parametrize("max_restarts", [0, 4])
def test_a_crash_loop_fails_after_max_restarts(platform: DockerPlatform, max_restarts: int) -> None:
    platform.start(pin_release(platform, make_release(SERVICE, "crashing")), [0])
    observed: list[tuple[int, InstanceState]] = []

    def failed() -> bool:
        instance = platform.instances(SERVICE, max_restarts)[0]
        observed.append((instance.restarts, instance.state))
        return instance.state is InstanceState.FAILED

    eventually("the container has failed", failed)
    assert {state for restarts, state in observed if restarts <= max_restarts} <= {
        InstanceState.STARTING,
        InstanceState.READY,
    }
    assert observed[-1][0] > max_restarts


def test_out_of_memory_is_reported_with_the_limit(platform: DockerPlatform) -> None:
    greedy = make_release(SERVICE, "good", memory_bytes=8 * 2**20, environment={"LEAK_MB_PER_MINUTE": "60000"})
    platform.start(pin_release(platform, greedy), [0])
    seen = wait_for_instances(platform, SERVICE, lambda seen: "out of memory (limit 8 MiB)" in seen[0].detail)
    assert seen[0].state is InstanceState.FAILED


def test_a_kill_for_memory_is_known_after_the_restart(platform: DockerPlatform) -> None:
    release = pin_release(platform, make_release(SERVICE, "good", memory_bytes=8 * 2**20))
    before = start_and_wait(platform, release, [0])[0]
    assert not before.out_of_memory
    with suppress(OSError, HTTPException):  # it dies before it answers
        urllib.request.urlopen(f"http://{before.address}/oom", timeout=60)
    (after,) = wait_for_instances(
        platform, SERVICE, lambda seen: seen[0].restarts > 0 and seen[0].state is InstanceState.READY
    )
    assert (after.id, after.out_of_memory, after.detail) == (before.id, True, "restarted 1 time, last killed for memory")


def test_a_restart_that_nobody_saw_is_counted(private: Engine) -> None:
    """It was ready when last looked at, and it is ready again: only the count tells."""
    with platform_on({"name": "private", "url": private.url}) as platform, private.client() as client:
        before = start_and_wait(platform, pin_release(platform, make_release(SERVICE, "good")), [0])[0]
        container = client.containers.get(before.id)
        os.kill(container.attrs["State"]["Pid"], signal.SIGKILL)

        def restarted() -> bool:
            container.reload()
            return bool(container.attrs["RestartCount"] >= 1 and container.status == "running")

        eventually("the engine has restarted it", restarted)
        assert platform.instances(SERVICE)[0].restarts == 1
        after = wait_for_instances(platform, SERVICE, all_ready(1))[0]
        assert (after.id, after.restarts) == (before.id, 1)


# -- after a crash of ours -------------------------------------------------------------------------------------------------


def test_what_was_left_created_is_started_by_start(platform: DockerPlatform, good: Release) -> None:
    left = platform._create(platform._hosts["local"], good, 1)
    platform.start(good, [0, 1])
    seen = wait_for_instances(platform, SERVICE, all_ready(2))
    assert [each.id for each in seen if each.ordinal == 1] == [left]


def test_what_was_left_created_comes_up_by_itself(
    platform: DockerPlatform, good: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asks for it again: it counts as there."""
    monkeypatch.setattr(platform_module, "ORPHAN_SECONDS", 3600.0)
    left = platform._create(platform._hosts["local"], good, 0)
    first = platform.instances(SERVICE)
    assert [(each.id, each.state, each.detail) for each in first] == [
        (left, InstanceState.STARTING, "created, not started yet")
    ]
    monkeypatch.setattr(platform_module, "ORPHAN_SECONDS", 0.1)
    assert [instance.id for instance in wait_for_instances(platform, SERVICE, all_ready(1))] == [left]


def test_what_was_left_created_and_cannot_start_makes_room(platform: DockerPlatform, good: Release) -> None:
    broken = replace(good, container=replace(good.container, entrypoint=("/nothing",)))
    platform._create(platform._hosts["local"], broken, 0)
    wait_for_instances(platform, SERVICE, lambda seen: seen == ())


# -- stopping --------------------------------------------------------------------------------------------------------------


def test_no_second_instance_is_created_where_one_runs_alone(client: docker.DockerClient, platform: DockerPlatform) -> None:
    """Not even next to one that has ended, which Docker may start again; nor by an engine that knows no better."""
    service = f"{ENVIRONMENT}/alone"
    first, second = (pin_release(platform, make_release(service, "good", name, alone=True)) for name in ("v1-1", "v2-2"))
    [running] = start_and_wait(platform, first, [0])
    client.api.kill(running.id)
    with pytest.raises(PlatformError, match="v1-1/0 still exists on Docker host local, and no two instances") as refused:
        platform.start(second, [0])
    assert refused.value.retryable
    platform.stop([running], 1.0)
    wait_for_instances(platform, service, lambda seen: not seen)

    barrier, errors = threading.Barrier(2), list[PlatformError]()

    def start(engine: DockerPlatform, release: Release) -> None:
        listed = engine._list_containers  # both list before any of them creates
        engine._list_containers = lambda key: (listed(key), barrier.wait())[0]  # type: ignore[method-assign]
        try:
            engine.start(release, [0])
        except PlatformError as error:
            errors.append(error)

    with platform_on(LOCAL) as one, platform_on(LOCAL) as other:
        threads = [threading.Thread(target=start, args=each) for each in ((one, first), (other, second))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [error] = errors
        assert "a container with this name exists already" in str(error)
        assert error.retryable
        assert len(platform.instances(service)) == 1


def test_stop_comes_back_at_once_and_keeps_the_grace(
    client: docker.DockerClient, platform: DockerPlatform, good: Release
) -> None:
    stubborn = replace(good, container=replace(good.container, environment={"ON_SIGTERM": "ignore"}))
    long, short = start_and_wait(platform, stubborn, [0, 1])
    with kill_on_exit(client, long.id):
        with at_most(60, "a stop with a grace of ten minutes"):
            platform.stop([long], 600.0)
        begun = time.monotonic()
        platform.stop([short], 0.9)  # the engine counts whole seconds
        assert {instance.state for instance in platform.instances(SERVICE)} == {InstanceState.STOPPING}
        seen = wait_for_instances(platform, SERVICE, lambda seen: len(seen) < 2)
        assert time.monotonic() - begun > 0.9
        assert [(each.id, each.state) for each in seen] == [(long.id, InstanceState.STOPPING)], "its grace is not over"


def test_containers_of_others_are_never_touched(
    client: docker.DockerClient, platform: DockerPlatform, good: Release
) -> None:
    seen = start_and_wait(platform, good, [0])
    stranger = client.containers.run(f"{PREFIX}:good", detach=True, labels={"tidegate.release": "v1-1"})
    try:
        platform.stop([replace(seen[0], id=stranger.id[:12])], 0.0)
        platform.stop(seen, 0.0)
        platform.close()
        stranger.reload()
        assert stranger.status == "running"
        assert client.containers.list(filters={"label": f"tidegate.environment={ENVIRONMENT}"}) == []
    finally:
        stranger.remove(force=True)


def test_a_stop_that_failed_is_seen_again(private: Engine) -> None:
    with platform_on({"name": "private", "url": private.url}) as platform:
        seen = start_and_wait(platform, pin_release(platform, make_release(SERVICE, "good")), [0])
        private.stop()
        platform.stop(seen, 1.0)
        with pytest.raises(PlatformError, match="Start dockerd"):
            platform.instances(SERVICE)
        private.start()
        after = wait_for_instances(platform, SERVICE, all_ready(1))
        assert after[0].id == seen[0].id


# -- what is told when it cannot be done ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "action", "message"),
    [
        (
            {"entrypoint": ("/nothing",)},
            "start",
            "the command cannot be executed. Correct `command`, `entrypoint` or the image",
        ),
        ({"entrypoint": ("/",)}, "start", "the command cannot be executed. Correct `command`, `entrypoint` or the image"),
        ({"user": "nobody-there"}, "start", "the image does not have this user. Correct `user`"),
        ({"volumes": ("/etc/hostname/x:/x",)}, "start", "a mount failed. Correct `volumes`"),
        ({"volumes": ("data:not-absolute",)}, "create", "a mount failed. Correct `volumes`"),
        ({"volumes": ("/a:/b:sideways",)}, "create", "a mount failed. Correct `volumes`"),
        ({"memory_bytes": 4096}, "create", "Docker answered 400: Minimum memory limit allowed is 6MB"),
        ({"cpus": 9000.0}, "create", "Docker answered 400: Range of CPUs is from"),
        ({"stop_signal": "SIGNOTHING"}, "create", "Docker answered 400: Invalid signal: SIGNOTHING"),
    ],
)
def test_what_cannot_be_started_says_what_to_correct_and_leaves_nothing(
    platform: DockerPlatform, changes: dict[str, object], action: str, message: str
) -> None:
    release = pin_release(platform, make_release(SERVICE, "good", **changes))
    with pytest.raises(PlatformError) as caught:
        platform.start(release, [0, 1])
    assert caught.value.message.count(message) == 1
    assert caught.value.message.startswith(f"Cannot {action} v1-1 on Docker host local: {message}")
    assert not caught.value.retryable
    assert platform.instances(SERVICE) == ()


def test_one_that_cannot_be_started_does_not_hold_up_the_others(private: Engine) -> None:
    """Three, and two ports."""
    first = free_pair()
    host = {"name": "private", "url": private.url, "address": "127.0.0.1", "ports": f"{first}-{first + 1}"}
    with platform_on(host) as platform:
        release = pin_release(platform, make_release(SERVICE, "good", environment={"ON_SIGTERM": "ignore"}))
        with pytest.raises(PlatformError, match=r"the port is in use\. Stop what uses it") as caught:
            platform.start(release, [0, 1, 2])
        assert not caught.value.retryable
        seen = wait_for_instances(platform, SERVICE, all_ready(2))
        assert {each.address for each in seen} == {f"127.0.0.1:{first}", f"127.0.0.1:{first + 1}"}
        with private.client() as client, kill_on_exit(client, *(each.id for each in seen)):
            platform.stop(seen, 600.0)
            with pytest.raises(PlatformError, match="the port is in use") as caught:
                platform.start(release, [5])
            assert caught.value.retryable, "ours that are leaving hold the ports: waiting helps"


def test_a_port_that_another_program_holds_is_passed_over(private: Engine) -> None:
    first = free_pair()
    host = {"name": "private", "url": private.url, "address": "127.0.0.1", "ports": f"{first}-{first + 1}"}
    with platform_on(host) as platform, socket.create_server(("127.0.0.1", first)):
        release = pin_release(platform, make_release(SERVICE, "good"))
        (instance,) = start_and_wait(platform, release, [0])
        assert instance.address == f"127.0.0.1:{first + 1}"
        with pytest.raises(PlatformError, match=r"the port is in use\. Stop what uses it"):
            platform.start(release, [1])


def test_a_port_that_another_container_holds(private: Engine) -> None:
    with private.client() as client:
        other = client.containers.run(f"{PREFIX}:good", detach=True, ports={"8080/tcp": ("127.0.0.1", None)})
        try:
            other.reload()
            port = other.ports["8080/tcp"][0]["HostPort"]
            host = {"name": "private", "url": private.url, "address": "127.0.0.1", "ports": f"{port}-{port}"}
            with platform_on(host) as platform:
                release = pin_release(platform, make_release(SERVICE, "good"))
                with pytest.raises(PlatformError, match=r"the port is in use\. Stop what uses it") as caught:
                    platform.start(release, [0])
                assert not caught.value.retryable
                assert platform.instances(SERVICE) == ()
        finally:
            other.remove(force=True)


def test_a_network_that_is_not_there(client: docker.DockerClient) -> None:
    with platform_on(LOCAL, network="nowhere") as platform:
        release = make_release(SERVICE, "good")
        for ask in (lambda: platform.pin(release), lambda: platform.start(release, [0])):
            with pytest.raises(PlatformError, match="docker network create") as caught:
                ask()
            assert not caught.value.retryable
        assert [each.status for each in platform.check() if each.part == "docker local network"] == ["wrong"]


@pytest.mark.parametrize(
    ("url", "told", "retryable"),
    [
        ("unix:///nowhere/docker.sock", "Docker's socket or program not found. Start dockerd", True),
        ("tcp://no-such-host.invalid:2375", "cannot resolve the host name", True),
    ],
)
def test_an_engine_that_is_not_there(url: str, told: str, retryable: bool) -> None:
    platform = DockerPlatform(DockerPlatform.Options.model_validate({"hosts": [{"name": "far", "url": url}]}), ENVIRONMENT)
    with pytest.raises(PlatformError) as caught:
        platform.instances(SERVICE)
    platform.close()
    assert told in caught.value.message
    assert caught.value.message.startswith("Cannot list containers on Docker host far: ")
    assert caught.value.retryable is retryable


def test_an_engine_that_hangs_is_given_up() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with platform_on({"name": "hung", "url": url}, timeout_seconds=0.3) as platform:
            with at_most(30, "giving up"), pytest.raises(PlatformError, match="no response in time") as caught:
                platform.instances(SERVICE)
            assert caught.value.retryable


def test_tail_of_one_that_is_gone(platform: DockerPlatform, good: Release) -> None:
    seen = start_and_wait(platform, good, [0])
    remove_containers(SOCKET)
    with pytest.raises(PlatformError, match="it no longer exists"):
        platform.tail_logs(seen[0], 10)


def test_containers_with_half_of_our_labels_are_somebody_elses(
    client: docker.DockerClient, platform: DockerPlatform
) -> None:
    labels = {"tidegate.environment": ENVIRONMENT, "tidegate.service": "shop", "tidegate.ordinal": "x"}
    client.containers.create(f"{PREFIX}:good", labels=labels)
    assert platform.instances(SERVICE) == ()
