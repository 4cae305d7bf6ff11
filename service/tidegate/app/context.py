"""What the rules of this package depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tidegate.clock import Time
from tidegate.core.build import Build
from tidegate.ports import Drivers
from tidegate.settings import Settings
from tidegate.store_port import Store


class AppContext(Protocol):
    """The database, the settings and the drivers of the environments."""

    @property
    def store(self) -> Store:
        """The database."""

    @property
    def settings(self) -> Settings:
        """The server's settings."""

    def now(self) -> Time:
        """Seconds since the epoch."""

    def drivers(self, environment: str) -> Drivers:
        """The drivers of an environment. Raises `UnknownService`, listing the known ones."""


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """Who requests a rollout, on whose behalf, for which build, why, and whether freeze and quarantine are overridden."""

    by: str
    via: str = ""
    reason: str = ""
    build: Build | None = None
    force: bool = False

    @property
    def description(self) -> str:
        """As part of an event's message."""
        vouched = f" (vouched for by {self.via})" if self.via else ""
        build = f", build {self.build.number} of {self.build.job}" if self.build else ""
        return f"requested {'by force ' if self.force else ''}by {self.by}{vouched}{build}" + (
            f": {self.reason}" if self.reason else ""
        )
