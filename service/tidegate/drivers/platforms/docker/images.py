"""Resolves an image to the same immutable image on every host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from tidegate.core.model import Release
from tidegate.drivers.platforms.docker.hosts import DockerHost
from tidegate.errors import PlatformError

Images = Mapping[str, Mapping[str, Any]]  # host name: Docker's description of the image


def pin_image(release: Release, hosts: Sequence[DockerHost], pool: Executor) -> str:
    """The registry's digest if every host has it, otherwise the image id. Raises `PlatformError` if it cannot run."""
    wanted = release.digest or release.image
    images = dict(
        zip((host.name for host in hosts), pool.map(lambda host: _pull_if_missing(host, wanted), hosts), strict=True)
    )
    for name, image in images.items():
        require_readiness_check(name, release, image)
    for missing in pool.map(lambda host: _missing_resources(host, release), hosts):
        if missing:
            raise PlatformError(missing, retryable=False)
    return choose_reference(wanted, images)


def _missing_resources(host: DockerHost, release: Release) -> str:
    """The message for the first network or volume that this host lacks; empty if it has all."""
    for network in dict.fromkeys((host.network, *(extra.name for extra in release.container.naming.networks))):
        if not host.has("network", network):
            return host.network_problem(network)
    for volume in release.container.external_volumes:
        if not host.has("volume", volume):
            return (
                f"External volume {volume} not found on Docker host {host.name}. Run docker volume create {volume} "
                "there, or remove `external` in the Compose file."
            )
    return ""


def _pull_if_missing(host: DockerHost, reference: str) -> Mapping[str, Any]:
    """The description of the image on this host, pulled if missing."""
    image = host.image(reference)
    if image is None and not reference.startswith("sha256:"):
        host.pull(reference)
        image = host.image(reference)
    if image is None:
        raise PlatformError(
            f"Image {reference} not found on Docker host {host.name}. Pull, load or build it there, or push it to a "
            "registry.",
            retryable=False,
        )
    return image


def choose_reference(reference: str, images: Images) -> str:
    """The reference that is the same image on all hosts. Raises `PlatformError` if the hosts have different images."""
    name = repository_of(reference)
    digests: list[set[str]] = [
        {digest for digest in image.get("RepoDigests") or () if digest.startswith(f"{name}@")} for image in images.values()
    ]
    shared = set.intersection(*digests)
    if shared:
        return min(shared)
    ids = {str(image["Id"]) for image in images.values()}
    if len(ids) == 1:
        return ids.pop()
    images_by_host = ", ".join(f"{host} has {str(image['Id'])[:19]}" for host, image in images.items())
    raise PlatformError(
        f"{reference} is not the same image on every host: {images_by_host}. Push it to a registry and pull it on all "
        "hosts, or load one image on all (docker save, docker load).",
        retryable=False,
    )


def repository_of(reference: str) -> str:
    """The image's name without tag and digest: `host:5000/shop` for `host:5000/shop:v1`."""
    name = reference.partition("@")[0]
    head, _, tag = name.rpartition(":")
    return head if head and "/" not in tag else name


def require_readiness_check(host: str, release: Release, image: Mapping[str, Any]) -> None:
    """Raise `PlatformError` if neither a HEALTHCHECK nor a health endpoint can show when an instance is ready."""
    container = release.container
    if container.health.path:
        return
    own = ((image.get("Config") or {}).get("Healthcheck") or {}).get("Test") or ()
    test = container.healthcheck.test if container.healthcheck else own
    if test and test[0] != "NONE":
        return
    raise PlatformError(
        f"Cannot determine readiness of {release.image} on Docker host {host}: the image has no HEALTHCHECK and the "
        "service no health endpoint. Add `x-tidegate: {health: {path: /health}}` or a `healthcheck` to the Compose file.",
        retryable=False,
    )
