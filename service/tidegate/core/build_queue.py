"""Builds that wait until they may deploy a service."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tidegate.core.build import Build


class LivePolicy(StrEnum):
    """What a deployment does while a rollout of its service is live."""

    FAIL = "fail"
    WAIT = "wait"  # until it is this build's turn
    SUPERSEDE = "supersede"  # the same, and roll back an older build of the same job that waits for a person


@dataclass(frozen=True, slots=True)
class WaitingBuild:
    """A build that asks for its turn to deploy a service, on behalf of `by`, whom the token `via` vouches for."""

    service: str
    build: Build
    policy: LivePolicy
    by: str
    via: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """The position of a build, from 1, among `waiting` ones, and the live rollout that it waits for; None: there is none.
    Position 1 without a live rollout may deploy. `is_own`: the live rollout is the build's."""

    position: int
    waiting: int
    rollout: str | None = None
    is_own: bool = False

    @property
    def has_come(self) -> bool:
        """Whether the build need not wait any longer."""
        return self.is_own or (self.position == 1 and self.rollout is None)
