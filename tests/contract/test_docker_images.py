"""Images of old releases are removed from a real Docker host, and only those that nothing uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import docker
import pytest
from docker.errors import ImageNotFound

from support.docker_contract import PREFIX, SOCKET, local_engine, make_release, platform_on
from support.images import demo_image
from tidegate.core.model import Release
from tidegate.drivers.platforms.docker.driver import DockerPlatform
from tidegate.testing.platform_contract import ENVIRONMENT, pin_release, start_and_wait, wait_for_instances

SERVICE = f"{ENVIRONMENT}/pruned"
OLD, OTHER = f"{PREFIX}:old", f"{PREFIX}-other:old"


@pytest.fixture
def client() -> Iterator[docker.DockerClient]:
    with local_engine() as client:
        yield client


@pytest.fixture
def platform(client: docker.DockerClient) -> Iterator[DockerPlatform]:
    with platform_on({"name": "local", "url": SOCKET}) as made:
        yield made


@pytest.fixture
def old(client: docker.DockerClient) -> Iterator[Release]:
    """A release with an image of its own."""
    demo_image(client, OLD, {"VERSION": "to-be-pruned"})
    yield replace(make_release(SERVICE, "good"), image=OLD)
    with suppress(ImageNotFound):
        client.images.remove(OLD)


def tags(client: docker.DockerClient) -> set[str]:
    return {tag for image in client.images.list() for tag in image.tags if tag.startswith(PREFIX)}


def test_an_image_goes_when_no_container_uses_it(
    client: docker.DockerClient, platform: DockerPlatform, old: Release
) -> None:
    pinned = pin_release(platform, old)
    running = start_and_wait(platform, pinned, [0])
    assert platform.remove_images([pinned]) == ()
    client.api.stop(running[0].id, timeout=60)
    assert platform.remove_images([pinned]) == (), "a container that does not run may be started again"
    assert OLD in tags(client)
    platform.stop(running, 1.0)
    wait_for_instances(platform, SERVICE, lambda seen: not seen)
    assert platform.remove_images([pinned]) == (pinned.digest,)
    assert OLD not in tags(client)
    assert f"{PREFIX}:good" in tags(client)
    assert platform.remove_images([pinned]) == (), "it is gone already"


def test_what_another_repository_calls_the_same_image_stays(
    client: docker.DockerClient, platform: DockerPlatform, old: Release
) -> None:
    pinned = pin_release(platform, old)
    assert client.images.get(OLD).tag(*OTHER.rsplit(":", 1))
    try:
        assert platform.remove_images([pinned]) == ()
        assert (OLD in tags(client), OTHER in tags(client)) == (False, True)
    finally:
        client.images.remove(OTHER)
