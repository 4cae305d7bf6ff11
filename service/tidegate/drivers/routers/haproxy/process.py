"""The HAProxy that Tidegate starts: a master process of its own, which outlives Tidegate, since traffic must.

And the old processes of a reload, which still answer their clients with the servers that they knew.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path

from tidegate.drivers.routers.haproxy import runtime_api
from tidegate.errors import RouterError

START_SECONDS = 15.0
RELOAD_SECONDS = 10.0
PID_SECONDS = 0.5  # each reload removes the file and writes it anew, so that for a moment there is none, or an empty one
SIGNAL_RETRY_SECONDS = 2.0  # a signal that comes just after the start was seen to be lost
YOUNG_SECONDS = 120.0  # where old processes cannot be seen: for so long after a start there may be one
EXEC_SECONDS = 0.2  # while a master becomes itself anew, which it does at each reload, its command line is empty
PROC = Path("/proc")


@dataclass(frozen=True)
class HAProxyProcess:
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
        deadline = time.monotonic() + PID_SECONDS
        while (pid := self._pid_file_pid()) is None and self.admin.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        command = _command_line(pid) if pid is not None else []
        return pid if "-W" in command and str(self.directory / "haproxy.cfg") in command else None

    def _pid_file_pid(self) -> int | None:
        try:
            return int((self.directory / "haproxy.pid").read_text())
        except (OSError, ValueError):
            return None

    def answers(self) -> bool:
        """Whether the running process can be spoken to now."""
        try:
            runtime_api.send_command(self.admin, "show info", gap_seconds=0.0)
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
            message = " ".join(line for line in done.stderr.splitlines() if "ALERT" in line) or done.stderr.strip()
            raise RouterError(f"HAProxy does not start: {message}", retryable=False)
        self._await(self.answers, START_SECONDS, "HAProxy was started and does not answer")
        self._await(lambda: bool(self.workers()), START_SECONDS, "HAProxy's master does not answer")

    def reload(self, proof: Callable[[], bool]) -> None:
        """Have the file read again by a new worker, and wait until `proof`, asked of the process, holds."""
        pid = self.pid
        if pid is None:
            text = f"HAProxy cannot be reloaded: {self.directory / 'haproxy.pid'} does not name its master process"
            raise RouterError(text, retryable=False)
        before, signalled = count_reloads(self.master), 0.0

        def came() -> bool:
            nonlocal signalled
            if signalled and _is_proven(proof):
                return True
            counts = count_reloads(self.master)
            if before is not None and counts is not None and counts != before and counts[1]:
                text = "HAProxy cannot take the new configuration; the old one goes on serving"
                raise RouterError(text, retryable=False)  # at each attempt the old one may listen nowhere for a second
            if not signalled or (counts == before and time.monotonic() - signalled >= SIGNAL_RETRY_SECONDS):
                os.kill(pid, signal.SIGUSR2)
                signalled = time.monotonic()
            return False

        self._await(came, RELOAD_SECONDS, "HAProxy did not take the new configuration; the old one goes on serving")

    def workers(self) -> tuple[int, ...]:
        """The present workers' process ids; empty while the master does not answer, as around a reload."""
        return (list_workers(self.master) or ((), ()))[0]

    @staticmethod
    def _await(holds: Callable[[], bool], seconds: float, otherwise: str) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() >= deadline:
                raise RouterError(otherwise)
            time.sleep(0.02)


def list_workers(master: Path) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Present and old workers, as a master process tells; None when it does not answer."""
    try:
        text = runtime_api.send_command(master, "show proc", gap_seconds=0.5)
    except RouterError:
        return None
    present, _, old = text.partition("# old workers")
    return _parse_workers(present), _parse_workers(old)


def count_reloads(master: Path) -> tuple[int, int] | None:
    """How often a master has read its configuration anew, and how often in vain since it last could; None as above."""
    try:
        match = re.search(r"^\d+ +master +(\d+) \[failed: (\d+)\]", runtime_api.send_command(master, "show proc"), re.M)
    except RouterError:
        return None
    return (int(match[1]), int(match[2])) if match else None


def _is_proven(proof: Callable[[], bool]) -> bool:
    """Not while nobody answers, as for a moment around a reload."""
    try:
        return proof()
    except RouterError as error:
        if not error.retryable:
            raise
        return False


def _parse_workers(text: str) -> tuple[int, ...]:
    rows = (line.split() for line in text.splitlines())
    return tuple(int(row[0]) for row in rows if len(row) > 1 and row[1] == "worker" and row[0].isdigit())


def has_old_processes(admin: Path, master: Path | None) -> bool:
    """Whether a process of an earlier configuration still answers clients, or may do so as far as can be known.

    The master knows; without its socket the process table does; and where neither can be seen (another machine's or
    container's processes), a process that has run for long has none before it. Raises `RouterError`.
    """
    workers = list_workers(master) if master is not None else None
    if workers is not None:
        return bool(workers[1])
    about = runtime_api.process_info(partial(runtime_api.send_command, admin))
    predecessors = find_predecessors(int(about["Pid"]))
    return bool(predecessors) if predecessors is not None else int(about["Uptime_sec"]) < YOUNG_SECONDS


def find_predecessors(pid: int) -> frozenset[int] | None:
    """Other processes of the HAProxy whose present worker this is; None when it is not to be seen from here.

    Itself is one of them as soon as its master reads the configuration anew, for what is read then may be older than the
    last change, and be served after it.
    """
    if not _is_haproxy(pid):
        return None
    replaced = _replaced_processes(pid) - {pid}
    parent = _parent(pid)
    if parent is not None and _is_haproxy(parent):
        replaced |= _replaced_processes(
            parent
        )  # first: from when it names nobody there any more, the new worker is there to be seen
        every = (int(path.name) for path in PROC.iterdir() if path.name.isdecimal())
        replaced |= {other for other in every if other != pid and _parent(other) == parent}
    return frozenset(other for other in replaced if _is_haproxy(other))


def _replaced_processes(pid: int) -> set[int]:
    """The processes that it was started to take over from."""
    command = _command_line(pid)
    begin = next((place + 1 for place, word in enumerate(command) if word in ("-sf", "-st")), len(command))
    return {int(word) for word in takewhile(str.isdecimal, command[begin:])}


def _command_line(pid: int) -> list[str]:
    """What it was started with; empty when there is no such process, or only its remains."""
    deadline = time.monotonic() + EXEC_SECONDS
    try:
        while not (words := (PROC / str(pid) / "cmdline").read_bytes()):
            if _stat(pid)[0] in "ZX" or time.monotonic() >= deadline:
                return []
            time.sleep(0.001)
    except OSError:
        return []
    return words.decode(errors="replace").split("\0")[:-1]


def _stat(pid: int) -> list[str]:
    """What the process table says of it after its name: state, parent, …"""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _is_haproxy(pid: int) -> bool:
    command = _command_line(pid)
    return bool(command) and Path(command[0]).name.startswith("haproxy")


def _parent(pid: int) -> int | None:
    try:
        return int(_stat(pid)[1])
    except OSError:
        return None
