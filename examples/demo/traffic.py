"""Steady traffic from the load generator `load.c`, and what it saw."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from build import compile_c

SOURCE = Path(__file__).resolve().parent / "load.c"
FINISH_SECONDS = 120.0  # a request may take 30 s; the rest is for a slow machine
OUTCOMES = ("ok", "status_4xx", "status_5xx", "refused", "reset", "eof_fresh", "eof_reused", "truncated", "timeout")


@dataclass(frozen=True)
class Counts:
    """Totals. `lost` got no proper answer, or one that the proxy made up; `errors` are the application's own 5xx."""

    requests: int = 0
    lost: int = 0
    errors: int = 0
    posts_sent: int = 0
    by_outcome: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, line: Mapping[str, int]) -> Counts:
        """From a line of the generator."""
        found = {outcome: line[outcome] for outcome in OUTCOMES if line[outcome]}
        errors = line["status_5xx"] - line["gateway_5xx"]
        return cls(line["requests"], line["requests"] - line["ok"] - errors, errors, line["posts_sent"], found)

    def __sub__(self, other: Counts) -> Counts:
        return Counts(self.requests - other.requests, self.lost - other.lost, self.errors - other.errors)


class Load:
    """A running generator. `rates` are its options without the dashes: `get_ka=80, post=20, slow_gets=4`, …"""

    def __init__(self, listen: str, seconds: float = 900.0, client: str = "naive", **rates: float) -> None:
        host, port = listen.split(":")
        words = [word for name, rate in rates.items() for word in (f"--{name.replace('_', '-')}", f"{rate:g}")]
        command = [str(compile_c(SOURCE, "-pthread")), "--host", host, "--port", port, "--client", client]
        self._process = subprocess.Popen([*command, *words, "--seconds", f"{seconds:g}"], stdout=subprocess.PIPE, text=True)
        self._newest = Counts()
        self._reader = threading.Thread(target=self._read, name="load", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Keep the newest of the totals, which come each second and at the end."""
        if self._process.stdout is not None:
            for line in self._process.stdout:
                self._newest = Counts.of(json.loads(line))

    @property
    def counts(self) -> Counts:
        """The totals of at most a second ago."""
        return self._newest

    def finish(self) -> Counts:
        """Let requests in flight end, and return the final totals.

        Raises `subprocess.TimeoutExpired`, with the generator ended, when requests are in flight for longer than allowed.
        """
        self._process.terminate()
        try:
            self._process.wait(FINISH_SECONDS)
        finally:
            self._process.kill()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return self._newest
