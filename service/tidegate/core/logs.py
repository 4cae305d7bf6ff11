"""Lines of the logs of instances. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of an instance's log. `at_ns`: nanoseconds since the epoch, by the clock of the instance's host."""

    at_ns: int
    text: str


@dataclass(frozen=True, slots=True)
class InstanceLog:
    """What was read of one log, oldest line first. `skipped`: lines between the position asked for and the first one were
    left out. `problem`: why it cannot be read; empty if it can."""

    instance: str  # Instance.id
    lines: tuple[LogLine, ...] = ()
    skipped: bool = False
    problem: str = ""
