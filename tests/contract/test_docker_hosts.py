"""The Docker platform over private engines: several at once, TLS, ssh, a full disk, a registry."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from processes import free_port
from support.disk import full
from support.docker_contract import PREFIX, build_images, make_release, platform_on
from support.docker_host import Engine, certificates, running_engine
from support.images import demo_image
from support.prerequisites import program
from support.registry import registry
from tidegate.core.image_reference import PinnedImage
from tidegate.core.model import InstanceState
from tidegate.drivers.platforms.docker.driver import DockerPlatform
from tidegate.errors import PlatformError
from tidegate.testing.platform_contract import ENVIRONMENT, all_ready, pin_release, start_and_wait, wait_for_instances

SERVICE = f"{ENVIRONMENT}/shop"
NOBODY = 65_534


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates for the engine and for us."""
    directory = tmp_path_factory.mktemp("pki")
    certificates(directory)
    return directory


@pytest.fixture(scope="module")
def secure_port() -> int:
    """Where the second engine listens with TLS."""
    return free_port()


@pytest.fixture(scope="module")
def first() -> Iterator[Engine]:
    with running_engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def second(pki: Path, secure_port: int) -> Iterator[Engine]:
    """It wants certificates on TCP, and its disk is small."""
    tls = ("--tlsverify", f"--tlscacert={pki}/ca.pem", f"--tlscert={pki}/server.pem", f"--tlskey={pki}/server.key")
    with running_engine(*tls, "--host", f"tcp://127.0.0.1:{secure_port}", data_megabytes=64) as engine:
        yield engine


@pytest.fixture(scope="module")
def loaded(first: Engine, second: Engine) -> Iterator[None]:
    """The same images on both, as `docker save` and `docker load` do it."""
    with first.client() as one, second.client() as two, build_images(one):
        for version in ("good", "unready", "crashing"):
            two.images.load(b"".join(one.api.get_image(f"{PREFIX}:{version}")))
            [image] = [each for each in one.images.list() if f"{PREFIX}:{version}" in each.tags]
            two.images.get(image.id).tag(PREFIX, version)
        yield


@pytest.fixture
def both(first: Engine, second: Engine, loaded: None) -> Iterator[DockerPlatform]:
    with platform_on({"name": "one", "url": first.url}, {"name": "two", "url": second.url}) as platform:
        yield platform


# -- several engines -----------------------------------------------------------------------------------------------------


def test_instances_are_spread_and_found_again(both: DockerPlatform) -> None:
    release = pin_release(both, make_release(SERVICE, "good"))
    seen = start_and_wait(both, release, range(4))
    assert [(each.ordinal, each.host) for each in seen] == [(0, "one"), (1, "two"), (2, "one"), (3, "two")]
    both.start(release, range(4))
    assert both.instances(SERVICE) == seen
    both.stop([each for each in seen if each.host == "one"], 1.0)
    both.start(release, [4, 5])
    after = wait_for_instances(both, SERVICE, all_ready(4))
    assert {each.ordinal: each.host for each in after} == {1: "two", 3: "two", 4: "one", 5: "one"}
    assert [each.status for each in both.check() if each.part in ("docker one", "docker two")] == ["ok", "ok"]


def test_a_single_instance_stays_on_the_host_that_has_its_volume(both: DockerPlatform, second: Engine) -> None:
    volume = f"{PREFIX}data"
    release = pin_release(both, make_release(SERVICE, "good", volumes=(f"{volume}:/data",)))
    with second.client() as client:
        client.volumes.create(volume)
    for ordinals in ([0], [0], [0, 1]):  # the last: order start-first
        seen = start_and_wait(both, release, ordinals)
        assert {each.host for each in seen} == {"two"}
        both.stop(seen, 1.0)
        wait_for_instances(both, SERVICE, lambda seen: seen == ())
    seen = start_and_wait(both, replace(release, container=replace(release.container, volumes=())), [0])
    assert seen[0].host == "one", "in the order of the settings"


def test_a_host_that_does_not_answer_makes_the_whole_unknown(both: DockerPlatform, second: Engine) -> None:
    release = pin_release(both, make_release(SERVICE, "good"))
    start_and_wait(both, release, [0, 1])
    second.stop()
    try:
        for ask in (lambda: both.instances(SERVICE), lambda: both.start(release, [2]), lambda: both.pin(release)):
            with pytest.raises(PlatformError, match=r"on Docker host two: ") as caught:
                ask()
            assert caught.value.retryable
        assert {each.part: each.status for each in both.check() if " " not in each.part[7:]} == {
            "docker one": "ok",
            "docker two": "wrong",
        }
    finally:
        second.start()
    seen = wait_for_instances(both, SERVICE, all_ready(2))
    assert Counter(each.host for each in seen) == {"one": 1, "two": 1}


def test_an_image_that_is_not_the_same_on_all_hosts(both: DockerPlatform, first: Engine, second: Engine) -> None:
    for engine, version in ((first, "a"), (second, "b")):
        with engine.client() as client:
            demo_image(client, f"{PREFIX}:differs", {"VERSION": version})
    with pytest.raises(
        PlatformError, match=r"not the same image on every host: one has sha256:.*, two has sha256:"
    ) as caught:
        both.pin(make_release(SERVICE, "differs"))
    assert not caught.value.retryable


def test_an_image_that_is_missing_on_one_host(both: DockerPlatform, first: Engine) -> None:
    with first.client() as client:
        demo_image(client, f"{PREFIX}:here", {})
    with pytest.raises(
        PlatformError, match=f"^Cannot pull image {PREFIX}:here on Docker host two: its registry does not"
    ) as caught:
        both.pin(make_release(SERVICE, "here"))
    assert not caught.value.retryable


# -- ways to an engine ---------------------------------------------------------------------------------------------------


def tls_host(port: int, pki: Path, **files: str) -> dict[str, Any]:
    """The second engine, over TCP."""
    names = {"ca": "ca.pem", "cert": "client.pem", "key": "client.key", **files}
    return {
        "name": "secure",
        "url": f"tcp://127.0.0.1:{port}",
        "tls": {name: pki / file for name, file in names.items()},
        "address": "127.0.0.1",
    }


def test_an_engine_with_certificates(second: Engine, loaded: None, pki: Path, secure_port: int) -> None:
    with platform_on({"name": "plain", "url": second.url}), platform_on(tls_host(secure_port, pki)) as platform:
        seen = start_and_wait(platform, pin_release(platform, make_release(SERVICE, "good")), [0])
        assert seen[0].address.startswith("127.0.0.1:")
        assert seen[0].address != "127.0.0.1:8080"
        platform.stop(seen, 1.0)
        wait_for_instances(platform, SERVICE, lambda seen: seen == ())


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"ca": "client.pem"}, "TLS failed"),
        ({"key": "server.key"}, "TLS failed"),
        ({"cert": "nowhere.pem"}, "a file of hosts"),
    ],
)
def test_certificates_that_do_not_fit(
    second: Engine, pki: Path, secure_port: int, files: dict[str, str], told: str
) -> None:
    with platform_on(tls_host(secure_port, pki, **files)) as platform:
        with pytest.raises(PlatformError, match=rf"{told}.*Correct hosts\[\]\.tls") as caught:
            platform.instances(SERVICE)
        assert not caught.value.retryable


def test_an_engine_that_wants_certificates_and_gets_none(second: Engine, secure_port: int) -> None:
    with platform_on({"name": "bare", "url": f"tcp://127.0.0.1:{secure_port}"}) as platform:
        with pytest.raises(PlatformError, match=r"the host requires TLS\. Set hosts\[\]\.tls") as caught:
            platform.instances(SERVICE)
        assert not caught.value.retryable


@contextmanager
def ssh_that(does: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """There is no sshd here: a program of this name, that is called as ssh would be, and keeps what it was called with."""
    script = directory / "ssh"
    script.write_text(f'#!/bin/sh\necho "$@" >> {directory}/calls\n{does}\n')
    script.chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", f"{directory}:{Path(program('sh')).parent}:{Path(program('docker')).parent}")
        yield directory / "calls"


def test_an_engine_behind_ssh(first: Engine, loaded: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = {"name": "far", "url": "ssh://deploy@far.example:2222"}
    with (
        ssh_that(f"exec docker --host {first.url} system dial-stdio", tmp_path, monkeypatch) as calls,
        platform_on({"name": "near", "url": first.url}),
        platform_on(host) as platform,
    ):
        seen = start_and_wait(platform, pin_release(platform, make_release(SERVICE, "good")), [0, 1])
        assert platform.tail_logs(seen[0], 5) == ""
        before = len(calls.read_text().splitlines())
        for _ in range(5):
            platform.instances(SERVICE)
        assert len(calls.read_text().splitlines()) == before, "connections are kept"
        assert calls.read_text().splitlines()[0].endswith("-l deploy -p 2222 -- far.example docker system dial-stdio")
        platform.stop(seen, 1.0)
        wait_for_instances(platform, SERVICE, lambda seen: seen == ())


def test_what_ssh_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    does = "echo 'deploy@far.example: Permission denied (publickey).' >&2; exit 255"
    with (
        ssh_that(does, tmp_path, monkeypatch),
        platform_on({"name": "far", "url": "ssh://deploy@far.example"}) as platform,
    ):
        with pytest.raises(PlatformError, match=r"ssh failed: .*publickey.*\. Try ssh deploy@far\.example docker version"):
            platform.instances(SERVICE)
        assert platform.check()[0].status == "wrong"


def test_a_socket_that_we_may_not_use(first: Engine) -> None:
    """As another user: root may use everything. In a fork, since that user need not be able to start our interpreter."""
    first.directory.chmod(0o755)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            options = DockerPlatform.Options.model_validate({"hosts": [{"name": "own", "url": first.url}]})
            found = DockerPlatform(options, ENVIRONMENT).check()[0]
            os.write(writing, f"{found.status}|{found.result}|{found.fix}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        status, said, fix = pipe.read().split("|")
    os.waitpid(child, 0)
    assert (status, fix) == ("wrong", "give the user that runs Tidegate access to it (group docker)")
    assert "permission denied at Docker's socket" in said


# -- a full disk ---------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_and_nothing_is_left(second: Engine, loaded: None) -> None:
    with platform_on({"name": "small", "url": second.url}) as platform:
        release = pin_release(platform, make_release(SERVICE, "good"))
        with full(second.directory / "data"):
            with pytest.raises(PlatformError, match=r"on Docker host small: the disk is full\. Free space there") as caught:
                platform.start(release, [0])
            assert not caught.value.retryable
            assert [each.status for each in platform.check() if each.part == "docker small disk"] == ["wrong"]
        wait_for_instances(platform, SERVICE, lambda seen: seen == () or seen[0].state is InstanceState.READY)


# -- a registry ----------------------------------------------------------------------------------------------------------


def test_every_host_gets_the_image_that_a_tag_means_now(both: DockerPlatform, first: Engine, second: Engine) -> None:
    with registry() as source, first.client() as one, second.client() as two:
        name = f"{source.address}/team/shop"
        release = replace(make_release(SERVICE, "good"), image=f"{name}:latest")
        digest = source.push(one, f"{PREFIX}:good", "team/shop", "latest")
        assert both.pin(release) == PinnedImage(f"{name}@{digest}")
        newer = source.push(one, f"{PREFIX}:unready", "team/shop", "latest")
        two.images.pull(f"{name}:latest")
        for engine, has in ((one, digest), (two, newer)):
            assert f"{name}@{has}" in engine.images.get(f"{name}:latest").attrs["RepoDigests"]
        assert both.pin(release) == PinnedImage(f"{name}@{newer}"), "although the first host has an older one"
        old = replace(release, digest=f"{name}@{digest}")
        two.images.remove(f"{name}@{digest}", force=True)
        assert len(start_and_wait(both, old, [0, 1])) == 2, "a pinned image that was removed since is pulled again"
        with pytest.raises(PlatformError, match=r"not found in the registry\. Push it, or correct `image`") as caught:
            both.pin(replace(release, image=f"{name}:v2"))
        assert not caught.value.retryable
