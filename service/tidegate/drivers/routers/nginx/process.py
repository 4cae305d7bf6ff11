"""nginx's master process: finds, starts and reloads it. It outlives Tidegate, so that traffic continues without it."""

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
REJECTED = "nginx rejected the configuration; nothing was changed"
TEST_SECONDS = 30.0
PID_SECONDS = 5.0  # nginx writes its pid file a moment after it has detached


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    """Poll `holds`; True as soon as it is true, False after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
    return True


@dataclass(frozen=True)
class NginxProcess:
    """The nginx of a pid file. `word`: text that its process title must contain, in mode owned."""

    binary: str
    pid_file: Path
    word: str = ""

    @property
    def pid(self) -> int | None:
        """The master's process id; None if it is not running."""
        try:
            pid = int(self.pid_file.read_text())
        except (OSError, ValueError):
            return None
        words = process_title(pid)
        return pid if words.startswith(MASTER) and self.word in words else None

    def start(self, options: Sequence[str]) -> None:
        """Start nginx. Raises `RouterError` with nginx's message."""
        self._run(options, "Cannot start nginx")
        if not wait_until(lambda: self.pid is not None, PID_SECONDS):
            raise RouterError(f"nginx was started but has no master process within {PID_SECONDS:g} s")

    def test(self, options: Sequence[str]) -> None:
        """Have nginx check a configuration (`nginx -t`). Raises `RouterError` with nginx's message."""
        self._run(["-t", "-q", *options], REJECTED)

    def full_config(self, options: Sequence[str], failure: str = "Cannot read nginx's configuration") -> str:
        """A configuration with everything that it includes, if it is valid (`nginx -T`). Raises `RouterError`."""
        return self._run(["-T", "-q", *options], failure)

    def reload(self) -> None:
        """Ask nginx to reload its configuration. The caller must verify the result: nginx only logs a rejection."""
        pid = self.pid
        if pid is None:
            raise RouterError(f"nginx is not running: {self.pid_file} does not contain its master's process id")
        try:
            os.kill(pid, signal.SIGHUP)
        except ProcessLookupError as error:
            raise RouterError("nginx has just exited") from error
        except PermissionError as error:
            raise RouterError(_denied(pid), retryable=False) from error

    def signal_problem(self) -> str | None:
        """Why a reload would fail; None if it would not, or if nginx is not running."""
        if (pid := self.pid) is None:
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            return _denied(pid)
        return None

    def _run(self, options: Sequence[str], failure: str) -> str:
        command = [self.binary, *options]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=TEST_SECONDS,
            )
        except OSError as error:
            text = f"{failure} ({self.binary}): {error.strerror}. Install nginx, or set router.binary."
            raise RouterError(text, retryable=False) from error
        except subprocess.TimeoutExpired as error:
            raise RouterError(f"{failure}: no response within {TEST_SECONDS:g} s") from error
        if done.returncode:
            raise RouterError(f"{failure}: {error_messages(done.stderr)}", retryable=False)
        return done.stdout


def _denied(pid: int) -> str:
    return f"Permission denied sending a reload to nginx's master process {pid}. Run Tidegate as its user or as root."


def error_messages(text: str) -> str:
    """nginx's error messages, without warnings and repetitions."""
    return "; ".join(dict.fromkeys(EMERG_LINE.findall(text))) or text.strip()


def reload_error(text: str) -> str:
    """Why a configuration was rejected; empty while nginx retries a listen address that is in use."""
    lines = EMERG_LINE.findall(text)
    return error_messages(text) if any(not line.startswith("bind()") for line in lines) else ""
