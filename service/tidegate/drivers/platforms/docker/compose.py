"""What `docker compose` runs on the Docker hosts, and the networks and volumes of its projects."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tidegate.core.compose import Adoption, ComposeContainer
from tidegate.core.container import Container, NetworkOrigin
from tidegate.core.model import Release
from tidegate.core.routing import EVERY_IPV4
from tidegate.drivers.platforms.docker.containers import SHORT_ID_CHARS, ListedContainer, format_probe_label, health_status
from tidegate.drivers.platforms.docker.hosts import DockerHost
from tidegate.drivers.platforms.docker.labels import (
    COMPOSE_NETWORK,
    COMPOSE_ONEOFF,
    COMPOSE_PROJECT,
    COMPOSE_SERVICE,
    COMPOSE_VOLUME,
    ORDINAL,
    PORT,
    PROBE,
    RELEASE,
    SERVICE,
)


def find_compose_containers(host: DockerHost, project: str, service: str) -> Iterator[ComposeContainer]:
    """The containers of a service on one host, without those of Tidegate and of `docker compose run`."""
    for container in host.listed({COMPOSE_PROJECT: project, COMPOSE_SERVICE: service}):
        labels: Mapping[str, Any] = container.get("Labels") or {}
        if SERVICE in labels or str(labels.get(COMPOSE_ONEOFF)).lower() == "true":
            continue
        status = str(container.get("Status", ""))
        ended = re.match(r"Exited \((\d+)\)", status)
        yield ComposeContainer(
            host.name,
            str(container["State"]),
            health_status(status),
            int(ended[1]) if ended else None,
            id=str(container["Id"])[:SHORT_ID_CHARS],
            image=str(container.get("Image", "")),
            digest=str(container.get("ImageID", "")),
            published=tuple(_published(container.get("Ports") or ())),
        )


def _published(ports: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, str]]:
    """The TCP ports of a container, each with an address at which Docker publishes it, as in `listen`."""
    for port in ports:
        if port.get("PublicPort") and port.get("Type", "tcp") == "tcp":
            ip = str(port.get("IP") or EVERY_IPV4)
            yield int(port["PrivatePort"]), f"[{ip}]:{port['PublicPort']}" if ":" in ip else f"{ip}:{port['PublicPort']}"


def list_adopted(host: DockerHost, adopted: Adoption) -> list[ListedContainer]:
    """The adopted containers on a host, with the labels that Tidegate's own would have."""
    health = Container(adopted.port, health=adopted.health)
    wanted = {COMPOSE_PROJECT: adopted.project, COMPOSE_SERVICE: adopted.service}
    return [
        ListedContainer(
            host.options,
            {
                **entry,
                "Labels": {
                    **entry["Labels"],
                    RELEASE: adopted.release,
                    ORDINAL: str(adopted.containers.index(short)),
                    PORT: str(adopted.port),
                    PROBE: format_probe_label(health),
                },
            },
        )
        for entry in host.listed(wanted)
        if (short := str(entry["Id"])[:SHORT_ID_CHARS]) in adopted.containers
    ]


def is_adopted(details: Mapping[str, Any], adoptions: Iterable[Adoption]) -> bool:
    """Whether a container, as Docker describes it, is one that was adopted, and is still of its Compose service."""
    labels, short = (details.get("Config") or {}).get("Labels") or {}, str(details.get("Id", ""))[:SHORT_ID_CHARS]
    return any(
        short in adopted.containers
        and (labels.get(COMPOSE_PROJECT), labels.get(COMPOSE_SERVICE)) == (adopted.project, adopted.service)
        for adopted in list(adoptions)
    )


def missing_resource(host: DockerHost, release: Release) -> str:
    """The message for the first network or volume that must exist on this host and does not, or that would hide the data of
    another project; empty if there is none."""
    container = release.container
    needed = [network.name for network in container.naming.networks if network.origin is NetworkOrigin.EXISTING]
    for network in dict.fromkeys((host.network, *needed)):
        if not host.has("network", network):
            return host.network_problem(network)
    for volume in container.external_volumes:
        if not host.has("volume", volume):
            fix = f"Run docker volume create {volume} there, or start what creates it with docker compose up."
            return f"Volume {volume} not found on Docker host {host.name}. {fix}"
    hidden = (
        _volume_elsewhere(host, release, name) for name in _project_volumes(container) if not host.has("volume", name)
    )
    return next(filter(None, hidden), "")


def make_resources(host: DockerHost, container: Container) -> None:
    """Create the networks and volumes of the Compose project that a container needs and its host lacks, labelled as Compose
    labels its own. Only on the host of the container: where the data is decides which host that is."""
    prefix, labels = f"{container.project}_", {COMPOSE_PROJECT: container.project}
    for volume in _project_volumes(container):
        if not host.has("volume", volume):
            host.make("volume", volume, {**labels, COMPOSE_VOLUME: volume.removeprefix(prefix)})
    for network in container.naming.networks:
        if network.origin is NetworkOrigin.PROJECT and not host.has("network", network.name):
            host.make("network", network.name, {**labels, COMPOSE_NETWORK: network.name.removeprefix(prefix)})


def _project_volumes(container: Container) -> Iterator[str]:
    """The volumes whose names Compose makes of the project and a key."""
    for name in dict.fromkeys(volume.partition(":")[0] for volume in container.volumes):
        if container.project and name.startswith(f"{container.project}_") and name not in container.external_volumes:
            yield name


def _volume_elsewhere(host: DockerHost, release: Release, volume: str) -> str:
    """The message if `docker compose` has this volume for the same service in another project: then this project's name is
    probably wrong, and a new volume would hide the data."""
    project, service = release.container.project, release.service.partition("/")[2]
    key = volume.removeprefix(f"{project}_")
    for listed in host.listed({COMPOSE_SERVICE: service}):
        other = str(listed["Labels"].get(COMPOSE_PROJECT))
        mounted = {str(mount.get("Name")) for mount in listed.get("Mounts") or ()}
        if SERVICE in listed["Labels"] or other == project or f"{other}_{key}" not in mounted:
            continue
        return (
            f"Volume {volume} not found on Docker host {host.name}, but docker compose runs {service} there in the project "
            f"{other}, with {other}_{key}. Set the project by `name: {other}` or --project-name {other}, or run docker "
            f"volume create {volume}."
        )
    return ""
