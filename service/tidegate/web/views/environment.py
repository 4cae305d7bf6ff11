"""Views of environments."""

from __future__ import annotations

from pydantic import Field

from tidegate.web.views.audit import FreezeView
from tidegate.web.views.timestamps import View


class HostView(View):
    """A host that runs instances."""

    name: str
    machine: str = Field(
        description="If it is the server's machine, the SHA-256 of `tidegate` and its /etc/machine-id; else empty."
    )


class EnvironmentView(View):
    """An environment in the server's settings."""

    name: str
    services: int = Field(description="The number of its services that the token may read.")
    freeze: FreezeView | None = Field(description="The freeze in force; null if there is none.")
    hosts: list[HostView]
    has_metrics: bool = Field(description="Whether services may have checks.")


class EnvironmentsView(View):
    """All environments, sorted by name."""

    environments: list[EnvironmentView]
