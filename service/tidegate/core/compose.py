"""What a service keeps of the Compose project that it belongs to. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
