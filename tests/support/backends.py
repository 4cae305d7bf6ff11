"""The demo's application as plain local processes: backends for a proxy without Docker, and traffic for it."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from build import compile_c
from processes import free_port
from support.app_counts import AppCounts, read_app_counts, sum_app_counts
from support.wait import eventually, exit_status
from tidegate.core.routing import Member
from traffic import Load

SOURCE = Path(__file__).parents[2] / "examples" / "demo" / "app.c"


class Backends:
    """Processes that keep their counts in `folder`, so that they survive SIGKILL."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._program = compile_c(SOURCE, "-static", "-pthread", "-lm")
        self._numbers = itertools.count(1)
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, release: str, **variables: str) -> Member:
        """One more instance of a release, once it answers."""
        number, port = next(self._numbers), free_port()
        counters = self._folder / str(number)
        counters.mkdir()
        environment = {"PORT": str(port), "VERSION": release, "BIND": "loopback", "COUNTERS": str(counters), **variables}
        process = subprocess.Popen([str(self._program)], env={**os.environ, **environment})
        member = Member(f"{number:012x}", release, number, f"127.0.0.1:{port}")
        self.running[member.instance] = process
        eventually("the application listens", lambda: accepts(member.address), process=process, poll_seconds=0.005)
        return member

    def kill(self, member: Member) -> None:
        """SIGKILL: whatever is in flight on it is lost."""
        process = self.running.pop(member.instance)
        process.kill()
        exit_status(process)

    def in_flight(self, member: Member) -> int:
        """Requests that this one has begun and not finished, in its own count."""
        counts = self._counts(member)
        return counts.started - counts.finished

    def answered(self, member: Member) -> int:
        """Requests that this one has finished, in its own count."""
        return self._counts(member).finished

    def _counts(self, member: Member) -> AppCounts:
        (file,) = (self._folder / str(member.ordinal)).iterdir()
        return read_app_counts(file)

    def posts(self) -> int:
        """POSTs executed by all that ever ran."""
        return sum_app_counts(self._folder).posts


def accepts(address: str) -> bool:
    """Whether somebody accepts connections there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=60).close()
    except ConnectionRefusedError:
        return False
    return True


@contextmanager
def backends(folder: Path) -> Iterator[Backends]:
    """Ended at the end, whatever happens."""
    made = Backends(folder)
    try:
        yield made
    finally:
        for process in made.running.values():
            process.kill()
        for process in made.running.values():
            exit_status(process)


@contextmanager
def loads() -> Iterator[Callable[..., Load]]:
    """Makes traffic; ended at the end, whatever happens."""
    made: list[Load] = []

    def make(address: str, **options: Any) -> Load:
        made.append(Load(address, **options))
        return made[-1]

    try:
        yield make
    finally:
        for each in made:
            each.finish()
