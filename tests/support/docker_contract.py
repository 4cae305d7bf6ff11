"""What the Docker platform is examined with: images with faults to order, and platforms that clean up after themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import docker
from docker.errors import APIError, DockerException

from processes import free_port, unique_name
from support.images import demo_image, remove_images
from support.prerequisites import missing
from support.wait import eventually
from tidegate.core.container import Container, Health
from tidegate.core.hooks import Hook
from tidegate.core.model import Release
from tidegate.drivers.platforms.docker.driver import DockerPlatform
from tidegate.testing.platform_contract import ENVIRONMENT

PREFIX = unique_name("tgexam")
SOCKET = "unix:///var/run/docker.sock"
VERSIONS: Mapping[str, Mapping[str, str]] = {
    "good": {"VERSION": "good"},
    "crashing": {"VERSION": "crashing", "CRASH_AFTER": "0"},
    "unready": {"VERSION": "unready", "READY": "never"},
}
CONTAINER = Container(port=8080, health=Health("/health", timeout_seconds=30.0))


def make_release(service: str, version: str, release_id: str = "v1-1", **container: Any) -> Release:
    """A release of one of the images above; `container` changes how it is run."""
    return Release(release_id, service, f"{PREFIX}:{version}", 1, replace(CONTAINER, **container))


@contextmanager
def local_engine() -> Iterator[docker.DockerClient]:
    """The machine's own engine, with the exam's images."""
    try:
        client = docker.DockerClient(base_url=SOCKET)
    except DockerException:
        missing("a Docker engine")
        raise
    try:
        with build_images(client):
            yield client
    finally:
        client.close()


class DemoReleases:
    """`testing.platform_contract.Releases` with the demo's application."""

    def good(self, service: str, release: str) -> Release:
        return make_release(service, "good", release)

    def crashing(self, service: str) -> Release:
        return make_release(service, "crashing")

    def unready(self, service: str) -> Release:
        return make_release(service, "unready")

    def missing(self, service: str) -> Release:
        return make_release(service, "nowhere")

    def hook(self, status: int, milliseconds: int) -> Hook:
        return Hook(("hook", str(status), str(milliseconds)))

    def without_health(self, service: str) -> Release:
        return make_release(service, "good", health=Health())


@contextmanager
def build_images(client: docker.DockerClient) -> Iterator[None]:
    """The images, on this engine."""
    try:
        for version, environment in VERSIONS.items():
            demo_image(client, f"{PREFIX}:{version}", environment)
        yield
    finally:
        remove_images(client, PREFIX)


@contextmanager
def platform_on(*hosts: Mapping[str, Any], **options: Any) -> Iterator[DockerPlatform]:
    """A platform over these engines; every container of the exam's environment is removed from them afterwards."""
    chosen = DockerPlatform.Options.model_validate({"hosts": list(hosts), "timeout_seconds": 60.0, **options})
    platform = DockerPlatform(chosen, ENVIRONMENT)
    try:
        yield platform
    finally:
        platform.close()
        for host in hosts:
            if str(host["url"]).startswith("unix://"):
                remove_containers(str(host["url"]))


@contextmanager
def kill_on_exit(client: docker.DockerClient, *ids: str) -> Iterator[None]:
    """Kill these at the end of the block: a platform that is closed waits for those that are being stopped."""
    try:
        yield
    finally:
        for container in ids:
            client.api.kill(container)


def free_pair() -> int:
    """The lower of two neighbouring free ports."""
    while free_port((first := free_port()) + 1) != first + 1:
        pass
    return first


def remove_containers(url: str) -> None:
    """Those of the exam's environment, by label. One that the engine is removing already (404, 409) is waited for."""
    client = docker.DockerClient(base_url=url)

    def none_left() -> bool:
        left = client.api.containers(all=True, filters={"label": f"tidegate.environment={ENVIRONMENT}"})
        for container in left:
            try:
                client.api.remove_container(container["Id"], force=True, v=True)
            except APIError as error:
                if error.status_code not in (404, 409):
                    raise
        return not left

    try:
        eventually("the exam's containers are removed", none_left)
    finally:
        client.close()
