"""The rights that Tidegate needs on a Docker engine: the platform behind a proxy that lets through what is documented only.

The proxy is the one of `examples/docker-socket`, and says of each request whether it let it through: so the list is neither
too short nor too long.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import docker
import pytest
import requests
from docker.api.client import APIClient
from docker.errors import APIError

from support.docker_contract import PREFIX, SOCKET, DemoReleases, local_engine, platform_on
from support.prerequisites import program
from support.wait import eventually, exit_status
from tidegate.compose import loader
from tidegate.core.model import InstanceState, Release
from tidegate.drivers.platforms.docker.driver import DockerPlatform
from tidegate.errors import PlatformError
from tidegate.testing.platform_contract import ENVIRONMENT, a_job, all_ready, pin_release, run_to_end, wait_for_instances

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "docker-socket" / "haproxy.cfg"
SERVICE = f"{ENVIRONMENT}/rights"
COMPOSE = f"""\
services:
  rights:
    image: {PREFIX}:good
    expose: ["8080"]
    secrets: [db]
    networks: {{default: , back: }}
    volumes: ["outside:/outside:ro"]
    x-tidegate: {{listen: 8001, health: {{path: /health}}}}
secrets:
  db: {{file: db.txt}}
networks:
  back: {{external: true, name: {PREFIX}rights}}
volumes:
  outside: {{external: true, name: {PREFIX}rights}}
"""


@dataclass(frozen=True)
class Guard:
    """The proxy before the engine's socket."""

    url: str
    log: Path

    def asked(self) -> list[tuple[int, str]]:
        """(status, request) of every one, in the words of the documentation."""
        found = []
        for line in self.log.read_text().splitlines():
            if match := re.fullmatch(r"(-?\d+) ([A-Z]+) (\S+)", line):
                found.append((int(match[1]), f"{match[2]} {endpoint(match[3])}"))
        return found


def endpoint(path: str) -> str:
    """A path as the documentation names it."""
    plain = re.sub(r"^/v1\.\d+", "", path)
    plain = re.sub(r"^/containers/(?!json$|create$)[^/]+", "/containers/{id}", plain)
    plain = re.sub(r"^/(images|distribution)/(?!create$).+/json$", r"/\1/{name}/json", plain)
    return re.sub(r"^/(networks|volumes)/[^/]+", r"/\1/{name}", plain)


@contextmanager
def guarded() -> Iterator[Guard]:
    with tempfile.TemporaryDirectory(prefix="tg") as folder:  # a socket's path may not be long
        yield from _guarded(Path(folder))


def _guarded(folder: Path) -> Iterator[Guard]:
    paths = {"TIDEGATE_SOCKET": f"{folder}/s", "DOCKER_SOCKET": SOCKET.removeprefix("unix://")}
    with (folder / "log").open("wb") as log:
        command = [program("haproxy"), "-f", str(EXAMPLE), "-db"]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | paths)
    try:
        eventually("HAProxy listens", (folder / "s").exists, process=process)
        yield Guard(f"unix://{folder}/s", folder / "log")
    finally:
        process.kill()
        exit_status(process)


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    with local_engine() as client:
        network, volume = client.networks.create(f"{PREFIX}rights"), client.volumes.create(f"{PREFIX}rights")
        try:
            yield client
        finally:
            network.remove()
            volume.remove(force=True)


@pytest.fixture
def guard(client: docker.DockerClient) -> Iterator[Guard]:
    with guarded() as made:
        yield made


@pytest.fixture
def platform(guard: Guard) -> Iterator[DockerPlatform]:
    with platform_on({"name": "local", "url": SOCKET}), platform_on({"name": "guarded", "url": guard.url}) as platform:
        yield platform


def wanted(platform: DockerPlatform) -> Release:
    """A release with all that makes a call of its own: a secret, a network, a volume from outside."""
    found = loader.load_service(COMPOSE, "rights", ENVIRONMENT, {}, {"db.txt": b"secret"})
    several = replace(found.container, alone=False)  # the exam starts two
    return pin_release(platform, Release("v1-1", found.key, found.image, 1, several))


def documented() -> set[str]:
    return set(re.findall(r"^  # ([A-Z]+ /\S+)$", EXAMPLE.read_text(), re.M))


def test_what_is_documented_is_enough_and_all_of_it_is_needed(
    client: docker.DockerClient, platform: DockerPlatform, guard: Guard
) -> None:
    """The path of the platform's exam: check, pin, start, look, read the log, run a hook, stop."""
    assert all(line.status == "ok" for line in platform.check())
    release = wanted(platform)
    platform.start(release, [0, 1])
    first, second = wait_for_instances(platform, SERVICE, all_ready(2))
    releases = DemoReleases()
    crashing = pin_release(platform, releases.crashing(f"{SERVICE}2"))
    platform.start(crashing, [0])
    (failed,) = wait_for_instances(
        platform, crashing.service, lambda seen: any(each.state is InstanceState.FAILED for each in seen)
    )
    assert platform.tail_logs(failed, 5)
    job = a_job(pin_release(platform, releases.good(SERVICE, "v1-1")), releases.hook(0, 10))
    assert run_to_end(platform, job).status == 0
    platform.remove_jobs(SERVICE, job.rollout)
    platform.stop([first, second, failed], 2.0)
    wait_for_instances(platform, SERVICE, lambda seen: not seen)
    with pytest.raises(PlatformError, match=f"{PREFIX}:nowhere"):  # a registry is asked for what is not here
        platform.pin(releases.missing(SERVICE))
    client.api.tag(f"{PREFIX}:good", f"127.0.0.1:1/{PREFIX}", "good")  # and for what a tag means
    tagged = platform.pin(replace(releases.good(SERVICE, "v1-1"), image=f"127.0.0.1:1/{PREFIX}:good"))
    assert "registry 127.0.0.1:1: its registry does not answer" in tagged.warning
    client.api.remove_image(f"127.0.0.1:1/{PREFIX}:good")
    asked = guard.asked()
    assert [request for status, request in asked if status == 403] == []
    assert documented() - {request for _, request in asked} == set(), "not needed, so not least"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/containers/{id}/exec"),
        ("POST", "/containers/{id}/attach"),
        ("POST", "/containers/{id}/update"),
        ("GET", "/containers/{id}/archive"),
        ("GET", "/containers/{id}/export"),
        ("POST", "/containers/prune"),
        ("POST", "/build"),
        ("POST", "/commit"),
        ("DELETE", "/images/shop:v1"),
        ("POST", "/images/load"),
        ("POST", "/volumes/create"),
        ("DELETE", "/networks/bridge"),
        ("POST", "/networks/create"),
        ("GET", "/events"),
        ("POST", "/swarm/init"),
        ("POST", "/plugins/pull"),
        ("GET", "/images/../containers/json/../../secrets/json/x"),
        ("POST", "/containers/create/../../build"),
    ],
)
def test_everything_else_is_refused(guard: Guard, method: str, path: str) -> None:
    with closing(APIClient(base_url=guard.url, version="1.41")) as api:
        url = "http+docker://localhost/v1.41" + path.replace("{id}", "0123456789ab")
        request = requests.Request(method, url, json={} if method == "POST" else None)
        prepared = api.prepare_request(request)
        prepared.url = url  # as it is, also with dots
        assert api.send(prepared, timeout=60).status_code == 403


def test_an_engine_behind_it_that_refuses_is_told_as_any_error(guard: Guard) -> None:
    with closing(APIClient(base_url=guard.url, version="1.41")) as api, pytest.raises(APIError):
        api.inspect_container("0123456789ab")


def test_the_page_lists_what_the_proxy_lets_through() -> None:
    told = re.findall(r"^\| `([A-Z]+ /[^`]+)`", (ROOT / "docs" / "security.md").read_text(), re.M)
    assert sorted(told) == sorted(documented())
