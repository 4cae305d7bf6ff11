"""The build of a CI that requested a rollout."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Build:
    """A build of a CI: its job as the CI names it (`team/repo/feature%2Ffoo`), its number, and its page."""

    job: str
    number: int
    url: str = ""
