"""The HAProxy that Tidegate starts: a master process of its own, which outlives Tidegate, since traffic must."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tidegate.drivers.routers import haproxy_socket
from tidegate.errors import RouterError

START_SECONDS = 5.0
RELOAD_SECONDS = 10.0


@dataclass(frozen=True)
class Process:
    """One HAProxy in master-worker mode, with its files in `directory`."""

    directory: Path
    binary: str

    @property
    def admin(self) -> Path:
        """The worker's runtime socket."""
        return self.directory / "admin.sock"

    @property
    def master(self) -> Path:
        """The master's socket, which knows old workers."""
        return self.directory / "master.sock"

    @property
    def pid(self) -> int | None:
        """The master's process id, when that process is a HAProxy of this directory."""
        try:
            pid = int((self.directory / "haproxy.pid").read_text().split()[0])
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError, IndexError):
            return None
        return pid if str(self.directory / "haproxy.cfg").encode() in command else None

    def answers(self) -> bool:
        """Whether the running process can be spoken to now."""
        try:
            haproxy_socket.say(self.admin, "show info", gap_seconds=0.0)
        except RouterError:
            return False
        return True

    def start(self) -> None:
        """Start it from its file and wait until it answers."""
        command = [self.binary, "-W", "-D", "-f", str(self.directory / "haproxy.cfg")]
        command += ["-p", str(self.directory / "haproxy.pid"), "-S", f"{self.master},mode,600,level,admin"]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=30,
        )
        if done.returncode:
            said = " ".join(line for line in done.stderr.splitlines() if "ALERT" in line) or done.stderr.strip()
            raise RouterError(f"HAProxy does not start: {said}", retryable=False)
        self._await(self.answers, START_SECONDS, "HAProxy was started and does not answer")
        self._await(lambda: bool(self.workers()), START_SECONDS, "HAProxy's master does not answer")

    def reload(self, proof: Callable[[], bool]) -> None:
        """Have the file read again by a new worker, and wait until that one serves and `proof` holds."""
        pid, before = self.pid, self.workers()
        if pid is None:
            raise RouterError("HAProxy is not running, so that it cannot be reloaded")
        os.kill(pid, signal.SIGUSR2)
        self._await(
            lambda: bool(set(self.workers()) - set(before)) and proof(),
            RELOAD_SECONDS,
            "HAProxy did not take the new configuration; the old one goes on serving",
        )

    def workers(self) -> tuple[int, ...]:
        """The present workers' process ids; empty while the master does not answer, as around a reload."""
        return self._listed()[0]

    def old_workers(self) -> tuple[int, ...]:
        """Those of earlier configurations that still finish requests."""
        return self._listed()[1]

    def _listed(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        try:
            text = haproxy_socket.say(self.master, "show proc", gap_seconds=0.5)
        except RouterError:
            return (), ()
        present, _, old = text.partition("# old workers")
        return _workers(present), _workers(old)

    @staticmethod
    def _await(holds: Callable[[], bool], seconds: float, otherwise: str) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() >= deadline:
                raise RouterError(otherwise)
            time.sleep(0.02)


def _workers(text: str) -> tuple[int, ...]:
    rows = (line.split() for line in text.splitlines())
    return tuple(int(row[0]) for row in rows if len(row) > 1 and row[1] == "worker" and row[0].isdigit())
