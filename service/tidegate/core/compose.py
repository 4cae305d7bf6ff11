"""What a service keeps of the Compose project that it belongs to. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum

from tidegate.core.container import Health


@dataclass(frozen=True, slots=True)
class Note:
    """A key of the Compose file that has another effect than with `docker compose`, or none.

    `field` is dotted (`services.shop.container_name`).
    """

    field: str
    message: str


class Condition(StrEnum):
    """What `depends_on` waits for; the values of the Compose specification."""

    STARTED = "service_started"
    HEALTHY = "service_healthy"
    COMPLETED = "service_completed_successfully"


@dataclass(frozen=True, slots=True)
class ComposeDependency:
    """A service of the same Compose project that `docker compose` runs, and what it must have reached."""

    project: str
    service: str
    condition: Condition = Condition.STARTED


@dataclass(frozen=True, slots=True)
class ComposeSource:
    """Where a service comes from.

    `project`: its Compose project; empty if the request names none. `depends_on`: what `docker compose` must run.
    `variables`: the names of the variables in the file whose values were used.
    """

    project: str = ""
    depends_on: tuple[ComposeDependency, ...] = ()
    variables: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class Adoption:
    """Running containers that `import` made instances of a release, under their own names and without Tidegate's labels.

    `containers`: their short IDs; no other container of the Compose service counts. `port` and `health`: where they take
    requests, and how they are checked. `listen`: where the proxy listens as long as they have the port that it is to
    have in the end, which is `next_listen`; empty: it has that already.
    """

    release: str
    project: str
    service: str
    containers: tuple[str, ...]
    port: int = 0
    health: Health = field(default_factory=Health)
    listen: str = ""
    next_listen: str = ""


@dataclass(frozen=True, slots=True)
class ComposeContainer:
    """A container that `docker compose` made for a service, in Docker's words: `state` is such as running or exited,
    `health` healthy, unhealthy, starting, or empty without a HEALTHCHECK. `exit_status` is None while it runs. `id` is its
    short ID, `digest` the ID of its image. `published`: the TCP addresses of its host, as in `listen`, by container port.
    """

    host: str
    state: str
    health: str = ""
    exit_status: int | None = None
    id: str = ""
    image: str = ""
    digest: str = ""
    published: tuple[tuple[int, str], ...] = ()


def unmet_reason(dependency: ComposeDependency, containers: Collection[ComposeContainer]) -> str:
    """Why the containers of its service do not meet a dependency, and the command that helps; empty if one does."""
    running = [container for container in containers if container.state == "running"]
    needs_health = dependency.condition is Condition.HEALTHY
    if any(container.health == "healthy" or not needs_health for container in running):
        return ""
    states = sorted({f"is {container.health or container.state}" for container in containers}) or ["has no container"]
    if needs_health and any(not container.health for container in running):
        states = ["has no HEALTHCHECK, which service_healthy needs"]
    fix = f"docker compose -p {dependency.project} up -d --wait {dependency.service}"
    return (
        f"{dependency.service} of the Compose project {dependency.project} {' and '.join(states)}; run {fix}, "
        "with the same Compose files (-f)"
    )
