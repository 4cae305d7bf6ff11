"""The Jenkins build that runs a command, from its environment: so that a command that is run again follows its rollout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote_plus

from tidegate.cli.exit_codes import Json

MAX_NUMBER_DIGITS = 15


@dataclass(frozen=True, slots=True)
class CiBuild:
    """A build of a job, and the stage that runs the command (empty outside a stage)."""

    job: str
    number: int
    url: str
    stage: str

    @property
    def body(self) -> Json:
        """The build as the API takes it."""
        return {"job": self.job, "number": self.number, "url": self.url}

    def key(self, action: str) -> str:
        """The idempotency key of an action in this stage. The shared library uses the same form, with other actions."""
        return f"{quote_plus(self.job)}#{self.number}/{quote_plus(self.stage)}/cli-{action}"


def current_build(environment: Mapping[str, str]) -> CiBuild | None:
    """The build whose variables are set. Jenkins sets `BUILD_TAG` to `jenkins-JOB-NUMBER`; others use the rest, too."""
    job, number = environment.get("JOB_NAME", ""), environment.get("BUILD_NUMBER", "")
    is_number = number.isascii() and number.isdigit() and len(number) <= MAX_NUMBER_DIGITS and int(number) > 0
    if not environment.get("BUILD_TAG", "").startswith("jenkins-") or not job or not is_number:
        return None
    url = environment.get("BUILD_URL", "")
    return CiBuild(
        job, int(number), url if url.startswith(("http://", "https://")) else "", environment.get("STAGE_NAME", "")
    )
