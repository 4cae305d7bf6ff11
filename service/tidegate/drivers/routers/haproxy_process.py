"""The HAProxy that Tidegate starts: a master process of its own, which outlives Tidegate, since traffic must.

And the old processes of a reload, which still answer their clients with the servers that they knew.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from tidegate.drivers.routers import haproxy_socket
from tidegate.errors import RouterError

START_SECONDS = 5.0
RELOAD_SECONDS = 10.0
SIGNAL_AGAIN_SECONDS = 2.0  # a signal that comes just after the start was seen to be lost
YOUNG_SECONDS = 120.0  # where old processes cannot be seen: for so long after a start there may be one
EXEC_LOOKS = 3  # 1 ms apart: while a master becomes itself anew, its command line is empty for less than that
PROC = Path("/proc")


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
        except (OSError, ValueError, IndexError):
            return None
        command = _command(pid)
        return pid if "-W" in command and str(self.directory / "haproxy.cfg") in command else None

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
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                timeout=30,
            )
        except OSError as error:
            text = f"HAProxy does not start: {self.binary}: {error.strerror}: install haproxy, or set router.binary"
            raise RouterError(text, retryable=False) from error
        except subprocess.TimeoutExpired as error:
            raise RouterError("HAProxy was started and did not go to the background within 30 s") from error
        if done.returncode:
            said = " ".join(line for line in done.stderr.splitlines() if "ALERT" in line) or done.stderr.strip()
            raise RouterError(f"HAProxy does not start: {said}", retryable=False)
        self._await(self.answers, START_SECONDS, "HAProxy was started and does not answer")
        self._await(lambda: bool(self.workers()), START_SECONDS, "HAProxy's master does not answer")

    def reload(self, proof: Callable[[], bool]) -> None:
        """Have the file read again by a new worker, and wait until `proof`, asked of the process, holds."""
        pid = self.pid
        if pid is None:
            text = f"HAProxy cannot be reloaded: {self.directory / 'haproxy.pid'} does not name its master process"
            raise RouterError(text, retryable=False)
        signalled = 0.0

        def came() -> bool:
            nonlocal signalled
            if time.monotonic() - signalled >= SIGNAL_AGAIN_SECONDS:
                os.kill(pid, signal.SIGUSR2)
                signalled = time.monotonic()
            return proof()

        self._await(came, RELOAD_SECONDS, "HAProxy did not take the new configuration; the old one goes on serving")

    def workers(self) -> tuple[int, ...]:
        """The present workers' process ids; empty while the master does not answer, as around a reload."""
        return (listed(self.master) or ((), ()))[0]

    @staticmethod
    def _await(holds: Callable[[], bool], seconds: float, otherwise: str) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() >= deadline:
                raise RouterError(otherwise)
            time.sleep(0.02)


def listed(master: Path) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Present and old workers, as a master process tells; None when it does not answer."""
    try:
        text = haproxy_socket.say(master, "show proc", gap_seconds=0.5)
    except RouterError:
        return None
    present, _, old = text.partition("# old workers")
    return _workers(present), _workers(old)


def _workers(text: str) -> tuple[int, ...]:
    rows = (line.split() for line in text.splitlines())
    return tuple(int(row[0]) for row in rows if len(row) > 1 and row[1] == "worker" and row[0].isdigit())


def old_processes(admin: Path, master: Path | None) -> bool:
    """Whether a process of an earlier configuration still answers clients, or may do so as far as can be known.

    The master knows; without its socket the process table does; and where neither can be seen (another machine's or
    container's processes), a process that has run for long has none before it. Raises `RouterError`.
    """
    told = listed(master) if master is not None else None
    if told is not None:
        return bool(told[1])
    about = haproxy_socket.info(admin)
    seen = predecessors(int(about["Pid"]))
    return bool(seen) if seen is not None else int(about["Uptime_sec"]) < YOUNG_SECONDS


def predecessors(pid: int) -> frozenset[int] | None:
    """Other processes of the HAProxy whose present worker this is; None when it is not to be seen from here.

    Itself is one of them as soon as its master reads the configuration anew, for what is read then may be older than the
    last change, and be served after it.
    """
    if not _is_haproxy(pid):
        return None
    replaced = _replaced(pid) - {pid}
    parent = _parent(pid)
    if parent is not None and _is_haproxy(parent):
        every = (int(each.name) for each in PROC.iterdir() if each.name.isdecimal())
        replaced |= {each for each in every if each != pid and _parent(each) == parent} | _replaced(parent)
    return frozenset(each for each in replaced if _is_haproxy(each))


def _replaced(pid: int) -> set[int]:
    """The processes that it was started to take over from."""
    command = _command(pid)
    begin = next((place + 1 for place, word in enumerate(command) if word in ("-sf", "-st")), len(command))
    return {int(word) for word in takewhile(str.isdecimal, command[begin:])}


def _command(pid: int) -> list[str]:
    """What it was started with; empty when there is no such process, or only its remains."""
    for _ in range(EXEC_LOOKS):
        try:
            found = (PROC / str(pid) / "cmdline").read_bytes()
        except OSError:
            return []
        if found:
            return found.decode(errors="replace").split("\0")[:-1]
        time.sleep(0.001)
    return []


def _is_haproxy(pid: int) -> bool:
    command = _command(pid)
    return bool(command) and Path(command[0]).name.startswith("haproxy")


def _parent(pid: int) -> int | None:
    try:
        return int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None
