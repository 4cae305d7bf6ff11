"""What `docker compose` runs on the Docker hosts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tidegate.core.compose import ComposeContainer
from tidegate.drivers.platforms.docker.containers import health_status
from tidegate.drivers.platforms.docker.hosts import DockerHost
from tidegate.drivers.platforms.docker.labels import COMPOSE_ONEOFF, COMPOSE_PROJECT, COMPOSE_SERVICE, SERVICE


def find_compose_containers(host: DockerHost, project: str, service: str) -> Iterator[ComposeContainer]:
    """The containers of a service on one host, without those of Tidegate and of `docker compose run`."""
    for container in host.listed({COMPOSE_PROJECT: project, COMPOSE_SERVICE: service}):
        labels: Mapping[str, Any] = container.get("Labels") or {}
        if SERVICE in labels or str(labels.get(COMPOSE_ONEOFF)).lower() == "true":
            continue
        status = str(container.get("Status", ""))
        ended = re.match(r"Exited \((\d+)\)", status)
        yield ComposeContainer(host.name, str(container["State"]), health_status(status), int(ended[1]) if ended else None)
