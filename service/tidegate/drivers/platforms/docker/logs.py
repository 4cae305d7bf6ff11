"""Reads the logs of several containers: the last lines, or those after a position. Parsing is pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from tidegate.core.logs import InstanceLog, LogLine
from tidegate.core.model import Instance
from tidegate.drivers.platforms.docker.hosts import DockerHost
from tidegate.errors import PlatformError

MAX_LINE_CHARS = 4096
NANOSECONDS = 1_000_000_000


def read_log(hosts: Mapping[str, DockerHost], instance: Instance, after_ns: int, lines: int) -> InstanceLog:
    """At most `lines` lines after `after_ns`, the newest ones; with 0 the last lines. A log that cannot be read has a
    `problem`."""
    host = hosts.get(instance.host)
    if host is None:
        return InstanceLog(instance.id, problem=f"its host {instance.host!r} is not in platform.hosts")
    try:
        text = host.read_log(instance.id, after_ns, lines)
    except PlatformError as error:
        return InstanceLog(instance.id, problem=error.message)
    read = [line for line in map(parse_line, text.split("\n")) if line is not None]
    return InstanceLog(
        instance.id,
        tuple(line for line in read if line.at_ns > after_ns),
        skipped=bool(after_ns) and len(read) >= lines and read[0].at_ns > after_ns,
    )


def parse_line(text: str) -> LogLine | None:
    """A line that begins with Docker's timestamp (`2026-11-23T16:12:03.123456789Z`); None for a line without one."""
    stamp, _, rest = text.partition(" ")
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    try:
        seconds = int(datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp())
        nanoseconds = int(fraction[:9].ljust(9, "0"))
    except ValueError:
        return None
    return LogLine(seconds * NANOSECONDS + nanoseconds, rest.rstrip("\r")[:MAX_LINE_CHARS])
