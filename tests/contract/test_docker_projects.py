"""What a Compose project has on a real Docker host is found, used, and labelled so that Docker Compose finds it too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import docker
import pytest
from docker.models.containers import Container as DockerContainer

from support.docker_contract import PREFIX, SOCKET, local_engine, make_release, platform_on
from support.wait import eventually
from tidegate.compose.document import Location
from tidegate.compose.loader import ComposeInput, read_service
from tidegate.core.model import Release
from tidegate.drivers.platforms.docker.driver import DockerPlatform
from tidegate.drivers.platforms.docker.labels import COMPOSE
from tidegate.errors import PlatformError
from tidegate.testing.platform_contract import ENVIRONMENT, pin_release, start_and_wait, wait_for_instances

PROJECT, OTHER = f"{PREFIX}one", f"{PREFIX}other"
LOCAL = {"name": "local", "url": SOCKET}
SERVICE = f"{ENVIRONMENT}/shop"
TEXT = """\
services:
  shop:
    image: IMAGE
    expose: ["8080"]
    volumes: ["uploads:/uploads", "cache:/cache"]
    networks: [default, back]
    x-tidegate: {health: {path: /health}, listen: 8001}
volumes: {uploads: , cache: }
networks: {back: }
"""


def release(project: str = PROJECT, text: str = TEXT) -> Release:
    text = text.replace("IMAGE", f"{PREFIX}:good")
    service = read_service(ComposeInput(text, location=Location(project)), "shop", ENVIRONMENT)
    return Release("v1-1", service.key, service.image, 1, service.container)


def labels(project: str, **more: str) -> dict[str, str]:
    return {f"{COMPOSE}{name.replace('_', '-')}": value for name, value in {"project": project, **more}.items()}


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    with local_engine() as client:
        try:
            yield client
        finally:
            for volume in client.volumes.list(filters={"name": PREFIX}):
                volume.remove(force=True)
            for network in client.networks.list(names=[PREFIX]):
                network.remove()


@pytest.fixture
def platform(client: docker.DockerClient) -> Iterator[DockerPlatform]:
    with platform_on(LOCAL) as platform:
        yield platform


@contextmanager
def of_compose(
    client: docker.DockerClient, project: str, service: str, *words: str, volumes: Sequence[str] = ()
) -> Iterator[DockerContainer]:
    """A container that Docker Compose could have made."""
    marks = labels(project, service=service, oneoff="False", container_number="1", config_hash="x")
    made = client.containers.run(f"{PREFIX}:good", list(words) or None, detach=True, labels=marks, volumes=list(volumes))
    try:
        yield made
    finally:
        made.remove(force=True, v=True)


def test_volumes_and_networks_are_those_of_the_project(client: docker.DockerClient, platform: DockerPlatform) -> None:
    client.volumes.create(f"{PROJECT}_uploads", labels=labels(PROJECT, volume="uploads", own="x"))
    client.networks.create(f"{PROJECT}_default", labels=labels(PROJECT, network="default"))
    pinned = pin_release(platform, release())
    assert client.volumes.list(filters={"name": f"{PROJECT}_cache"}) == [], "which host gets it is not known yet"
    instance = start_and_wait(platform, pinned, [0])[0]
    found = client.api.inspect_container(instance.id)
    assert {mount["Destination"]: mount["Name"] for mount in found["Mounts"]} == {
        "/uploads": f"{PROJECT}_uploads",
        "/cache": f"{PROJECT}_cache",
    }
    networks = found["NetworkSettings"]["Networks"]
    assert set(networks) == {"bridge", f"{PROJECT}_default", f"{PROJECT}_back"}
    assert "shop" in networks[f"{PROJECT}_default"]["Aliases"], "other services of the project find it by its name"
    assert client.volumes.get(f"{PROJECT}_uploads").attrs["Labels"][f"{COMPOSE}own"] == "x", "it is the one that was there"
    made = (client.volumes.get(f"{PROJECT}_cache").attrs, client.networks.get(f"{PROJECT}_back").attrs)
    assert [each["Labels"] for each in made] == [labels(PROJECT, volume="cache"), labels(PROJECT, network="back")]
    marks = {name: text for name, text in found["Config"]["Labels"].items() if name.startswith(COMPOSE)}
    assert marks == labels(PROJECT, service="shop", oneoff="False", container_number="1", config_hash="tidegate-v1-1")
    assert platform.compose_containers(PROJECT, "shop") == [], "these are Tidegate's"
    platform.stop([instance], 0.0)
    wait_for_instances(platform, SERVICE, lambda seen: seen == ())


def test_a_default_network_that_nobody_made_is_not_needed(client: docker.DockerClient, platform: DockerPlatform) -> None:
    text = TEXT.replace("    networks: [default, back]\n", "").replace('"uploads:/uploads", "cache:/cache"', "/uploads")
    instance = start_and_wait(platform, pin_release(platform, release(f"{PREFIX}lonely", text)), [0])[0]
    assert set(client.api.inspect_container(instance.id)["NetworkSettings"]["Networks"]) == {"bridge"}
    platform.stop([instance], 0.0)
    wait_for_instances(platform, SERVICE, lambda seen: seen == ())


def test_no_empty_volume_hides_the_one_of_the_same_service(client: docker.DockerClient, platform: DockerPlatform) -> None:
    mistaken = f"{PREFIX}mistaken"
    with of_compose(client, OTHER, "shop", volumes=[f"{OTHER}_uploads:/uploads"]):
        with pytest.raises(PlatformError) as refused:
            platform.pin(release(mistaken))
        assert f"docker compose runs shop there in the project {OTHER}, with {OTHER}_uploads" in refused.value.message
        assert not refused.value.retryable
        assert client.volumes.list(filters={"name": mistaken}) == [], "nothing was created"
        client.volumes.create(f"{mistaken}_uploads")
        assert platform.pin(release(mistaken)).digest, "a person has decided"


def test_what_docker_compose_runs_is_told_by_state(client: docker.DockerClient, platform: DockerPlatform) -> None:
    def states(project: str, service: str) -> list[tuple[str, str, int | None]]:
        found = platform.compose_containers(project, service)
        return [(container.state, container.health, container.exit_status) for container in found]

    with of_compose(client, PROJECT, "db"), of_compose(client, PROJECT, "migrate", "hook", "3", "0") as ended:
        assert states(PROJECT, "db") == [("running", "", None)]
        assert states(OTHER, "db") == []
        ended.wait()
        eventually("the engine lists it as ended", lambda: states(PROJECT, "migrate") == [("exited", "", 3)])


def test_the_port_that_the_image_exposes(client: docker.DockerClient, platform: DockerPlatform) -> None:
    good = make_release(SERVICE, "good", port=0)
    instance = start_and_wait(platform, pin_release(platform, good), [0])[0]
    assert instance.address.endswith(":8080")
    client.containers.get(instance.id).commit(PREFIX, "two", changes="EXPOSE 9090")
    platform.stop([instance], 0.0)
    wait_for_instances(platform, SERVICE, lambda seen: seen == ())
    with pytest.raises(PlatformError, match="the image exposes ports 8080, 9090, the Compose file names none"):
        platform.pin(replace(good, image=f"{PREFIX}:two"))
