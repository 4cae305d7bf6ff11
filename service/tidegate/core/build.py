"""The build of a CI that requested a rollout, and what happens to the rollout when the build is over."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class BuildEndPolicy(StrEnum):
    """What happens to a live rollout whose build is over."""

    ROLLBACK = "rollback"
    PAUSE = "pause"  # nothing moves until a person decides
    DETACH = "detach"  # it continues without its build


@dataclass(frozen=True, slots=True)
class Build:
    """A build of a CI: its job as the CI names it (`team/repo/feature%2Ffoo`), its number, and its page. `on_end`: what
    happens to its rollout when it is over; None: what the environment's settings say."""

    job: str
    number: int
    url: str = ""
    on_end: BuildEndPolicy | None = None

    @property
    def label(self) -> str:
        """`build 12 of team/repo`."""
        return f"build {self.number} of {self.job}"


@dataclass(frozen=True, slots=True)
class BuildState:
    """What the CI says about a build. `result` and `cause`, why it was interrupted, are in the words of the CI; `person`
    interrupted it. Each is empty if there is none. `asks_for`: the IDs of the rollouts for which a running build asks a
    person; None: the CI does not say."""

    is_running: bool
    result: str = ""
    cause: str = ""
    person: str = ""
    asks_for: frozenset[str] | None = None
