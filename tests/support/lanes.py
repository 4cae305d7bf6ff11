"""Services that are rolled out one release after the other while something breaks, each with its own traffic."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from parts import DemoStack
from processes import free_port
from traffic import Counts, Load

FINAL_PHASES = ("succeeded", "rolled_back", "failed", "refused")
GOOD_VERSIONS = ("v1", "v2")


@dataclass(frozen=True)
class RolloutCase:
    """One rollout: `ends` is the phase in which it must end.

    `version`: of the image; empty for a good one, other than the live one. `answer`: the command with which a person
    answers its approval; empty: it waits for none. `keys` are replaced in the Compose file.
    """

    name: str
    ends: str
    version: str = ""
    answer: str = ""
    keys: tuple[tuple[str, str], ...] = ()


@dataclass
class Lane:
    """One service, its rollouts one after the other, and its traffic.

    `compose` is the service's file, in which NAME and LISTEN are replaced; a rollout must end within `max_rollout_seconds`.
    """

    stage: DemoStack
    name: str
    compose: str
    rates: dict[str, float]
    max_rollout_seconds: float
    listen: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    live: str = ""
    version: str = ""
    rollout: str = ""  # the ID of the last one that was requested; repairs follow it
    case: RolloutCase | None = None
    answered: bool = False
    deadline: float = 0.0
    quarantined: set[str] = field(default_factory=set)
    load: Load | None = None
    counts: list[Counts] = field(default_factory=list)

    @property
    def service(self) -> str:
        return f"{self.stage.environment}/{self.name}"

    def deploy(self, case: RolloutCase) -> None:
        """Request the rollout without waiting for it."""
        self.case, self.answered, self.deadline = case, False, time.monotonic() + self.max_rollout_seconds
        self.version = case.version or GOOD_VERSIONS[self.live == GOOD_VERSIONS[0]]
        text = self.compose.replace("NAME", self.name).replace("LISTEN", self.listen)
        for key, value in case.keys:
            text = text.replace(key, value)
        file = self.stage.home / f"{self.name}.yaml"
        file.write_text(text)
        forced = ("--force", "--reason", "the next round") if self.version in self.quarantined else ()
        image = ("--set", f"VERSION={self.version}")
        answer = self.stage.tidegate("deploy", self.service, "-f", str(file), *image, *forced, "--no-wait", "-o", "json")
        self.rollout = json.loads(answer)["id"]

    def step(self) -> RolloutCase | None:
        """Answer the rollout's approval; the case when it has ended."""
        assert self.case is not None
        rollout: dict[str, Any] = self.stage.api(f"/v1/rollouts/{self.rollout}")
        if self.case.answer and rollout["approval"] and not self.answered:
            self.stage.tidegate(self.case.answer, self.rollout, "-m", "as the case says", "--no-wait")
            self.answered = True
        if rollout["phase"] not in FINAL_PHASES:
            assert time.monotonic() < self.deadline, f"it takes too long: {self._describe(rollout)}"
            return None
        assert rollout["phase"] == self.case.ends, self._describe(rollout)
        if self.case.ends == "succeeded":
            self.live = self.version
        else:
            self.quarantined.add(self.version)
        ended, self.case = self.case, None
        return ended

    def _describe(self, rollout: dict[str, Any]) -> str:
        """The rollout and its events."""
        found = self.stage.api(f"/v1/rollouts/{self.rollout}/events")["events"]
        lines = [f"{event['at'][11:23]} {event['kind']}: {event['message']}" for event in found]
        head = f"{self.name}, {self.case}: {rollout['phase']}, {rollout['reason']}, {rollout['waiting_for']}"
        return "\n".join([head, *lines])

    def begin_traffic(self) -> None:
        self.load = Load(self.listen, **self.rates)

    def pause_traffic(self) -> None:
        if self.load is not None:
            self.counts.append(self.load.finish())
            self.load = None
