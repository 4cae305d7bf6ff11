"""nginx's master process: found, started, told to read its configuration again. It outlives Tidegate, as traffic must."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tidegate.drivers.routers.nginx.generations import MASTER, process_title
from tidegate.errors import RouterError

EMERG_LINE = re.compile(r"\[emerg\] (?:\d+#\d+: )?(.*)")
TEST_SECONDS = 30.0
PID_SECONDS = 5.0  # nginx writes its file after its start, as soon as it gets a processor again


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    """Whether it comes about in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
    return True


@dataclass(frozen=True)
class NginxProcess:
    """The nginx of a file with a process id. `word`: what its command line must have, where it is ours."""

    binary: str
    pid_file: Path
    word: str = ""

    @property
    def pid(self) -> int | None:
        """The master, when it runs."""
        try:
            pid = int(self.pid_file.read_text())
        except (OSError, ValueError):
            return None
        words = process_title(pid)
        return pid if words.startswith(MASTER) and self.word in words else None

    def start(self, options: Sequence[str]) -> None:
        """Start it. Raises `RouterError` with nginx's own words."""
        self._run(options, "nginx does not start")
        if not wait_until(lambda: self.pid is not None, PID_SECONDS):
            raise RouterError("nginx was started and has no master process")

    def test(self, options: Sequence[str]) -> None:
        """nginx's own check of a configuration."""
        self._run(["-t", "-q", *options], "nginx refuses the configuration, nothing was changed")

    def shown(self, options: Sequence[str]) -> str:
        """A configuration with all that it includes."""
        return self._run(["-T", "-q", *options], "nginx does not show its configuration")

    def reload(self) -> None:
        """Have the configuration read again. That it was is for the caller to see: a bad one is only logged."""
        pid = self.pid
        if pid is None:
            raise RouterError(f"nginx does not run: {self.pid_file} does not name its master process")
        try:
            os.kill(pid, signal.SIGHUP)
        except ProcessLookupError as error:
            raise RouterError("nginx has ended just now") from error
        except PermissionError as error:
            text = f"nginx's master process {pid} cannot be told to reload: run Tidegate as its user, or as root"
            raise RouterError(text, retryable=False) from error

    def _run(self, options: Sequence[str], otherwise: str) -> str:
        command = [self.binary, *options]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=TEST_SECONDS
            )
        except OSError as error:
            text = f"{otherwise}: {self.binary}: {error.strerror}: install nginx, or set router.binary"
            raise RouterError(text, retryable=False) from error
        except subprocess.TimeoutExpired as error:
            raise RouterError(f"{otherwise}: no answer within {TEST_SECONDS:g} s") from error
        if done.returncode:
            raise RouterError(f"{otherwise}: {error_messages(done.stderr)}", retryable=False)
        return done.stdout


def error_messages(text: str) -> str:
    """What nginx complains of, without the lines that go with it."""
    return "; ".join(dict.fromkeys(EMERG_LINE.findall(text))) or text.strip()


def reload_error(text: str) -> str:
    """Why a configuration was not taken; nothing while nginx tries again to listen where somebody else does."""
    lines = EMERG_LINE.findall(text)
    return error_messages(text) if any(not line.startswith("bind()") for line in lines) else ""
