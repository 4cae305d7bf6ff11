"""The HAProxy that Tidegate starts, and the old processes of a reload.

HAProxy runs as a master process that outlives Tidegate, so that traffic continues without it. An old process still serves
its clients with the servers that it knew.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path

from tidegate.drivers.routers.haproxy import runtime_api
from tidegate.drivers.routers.haproxy.request_log import PIPE_DESCRIPTOR, ensure_pipe
from tidegate.drivers.routers.options import open_files_limit
from tidegate.errors import RouterError

START_SECONDS = 15.0
RELOAD_SECONDS = 10.0
PID_SECONDS = 0.5  # during a reload the pid file is missing or empty for a moment
SIGNAL_RETRY_SECONDS = 2.0  # a signal sent just after the start can get lost
YOUNG_SECONDS = 120.0  # where old processes are invisible: a process younger than this may have replaced one
EXEC_SECONDS = 0.2  # at each reload the master executes itself again, and its command line is empty for a moment
PROC = Path("/proc")
WITH_PIPE = f'exec "$@" {PIPE_DESCRIPTOR}<>"$0"'  # open for reading, too, so that HAProxy never has to wait for a reader


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
        """The master's socket, which lists old workers."""
        return self.directory / "master.sock"

    @property
    def pipe(self) -> Path:
        """The pipe for its log."""
        return self.directory / "requests.pipe"

    @property
    def pid(self) -> int | None:
        """The master's process id; None unless that process is the HAProxy of this directory."""
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

    def open_files(self) -> int:
        """How many files HAProxy may open."""
        return open_files_limit(self.pid)

    def answers(self) -> bool:
        """Whether a process answers at the runtime socket now."""
        try:
            runtime_api.send_command(self.admin, "show info", gap_seconds=0.0)
        except RouterError:
            return False
        return True

    def start(self) -> None:
        """Start HAProxy with its file and the pipe for its log, and wait until it answers."""
        if shutil.which(self.binary) is None:
            text = f"Cannot start HAProxy: no program {self.binary}. Install haproxy, or set router.binary."
            raise RouterError(text, retryable=False)
        ensure_pipe(self.pipe)
        command = [self.binary, "-W", "-D", "-f", str(self.directory / "haproxy.cfg")]
        command += ["-p", str(self.directory / "haproxy.pid"), "-S", f"{self.master},mode,600,level,admin"]
        try:
            done = subprocess.run(
                ["sh", "-c", WITH_PIPE, str(self.pipe), *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                timeout=30,
            )
        except subprocess.TimeoutExpired as error:
            raise RouterError("HAProxy was started but did not detach within 30 s") from error
        if done.returncode:
            message = " ".join(line for line in done.stderr.splitlines() if "ALERT" in line) or done.stderr.strip()
            raise RouterError(f"Cannot start HAProxy: {message}", retryable=False)
        late = f"HAProxy was started but does not answer within {START_SECONDS:g} s"
        self._await(self.answers, START_SECONDS, f"{late} at {self.admin}")
        self._await(lambda: bool(self.workers()), START_SECONDS, f"{late} at {self.master}")

    def reload(self, proof: Callable[[], bool]) -> None:
        """Reload the file with a new worker and wait until `proof`, a query to the process, is true."""
        pid = self.pid
        if pid is None:
            text = f"Cannot reload HAProxy: {self.directory / 'haproxy.pid'} does not contain its master's process id"
            raise RouterError(text, retryable=False)
        before, signalled = count_reloads(self.master), 0.0

        def is_reloaded() -> bool:
            nonlocal signalled
            if signalled and _is_proven(proof):
                return True
            counts = count_reloads(self.master)
            if before is not None and counts is not None and counts != before and counts[1]:
                text = "HAProxy failed to load the new configuration and keeps serving the old one. See HAProxy's log."
                raise RouterError(
                    text, retryable=False
                )  # during each attempt the old process may listen nowhere for a second
            if not signalled or (counts == before and time.monotonic() - signalled >= SIGNAL_RETRY_SECONDS):
                os.kill(pid, signal.SIGUSR2)
                signalled = time.monotonic()
            return False

        late = f"HAProxy did not load the new configuration within {RELOAD_SECONDS:g} s and keeps serving the old one"
        self._await(is_reloaded, RELOAD_SECONDS, late)

    def workers(self) -> tuple[int, ...]:
        """The current workers' process ids; empty while the master does not answer, as during a reload."""
        return (list_workers(self.master) or ((), ()))[0]

    @staticmethod
    def _await(holds: Callable[[], bool], seconds: float, otherwise: str) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() >= deadline:
                raise RouterError(otherwise)
            time.sleep(0.02)


def list_workers(master: Path) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The process ids of current and of old workers, as the master reports them; None when it does not answer."""
    try:
        text = runtime_api.send_command(master, "show proc", gap_seconds=0.5)
    except RouterError:
        return None
    present, _, old = text.partition("# old workers")
    return _parse_workers(present), _parse_workers(old)


def count_reloads(master: Path) -> tuple[int, int] | None:
    """(reloads, failed reloads since the last successful one) of a master; None when it does not answer."""
    try:
        match = re.search(r"^\d+ +master +(\d+) \[failed: (\d+)\]", runtime_api.send_command(master, "show proc"), re.M)
    except RouterError:
        return None
    return (int(match[1]), int(match[2])) if match else None


def _is_proven(proof: Callable[[], bool]) -> bool:
    """The value of `proof`; False while no process answers, as for a moment during a reload."""
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
    """Whether a process of an earlier configuration still serves clients, or may do so.

    The master's socket lists old workers; without it the process table does. Where neither is visible (another machine or
    container), a process that has run for `YOUNG_SECONDS` is assumed to have none before it. Raises `RouterError`.
    """
    workers = list_workers(master) if master is not None else None
    if workers is not None:
        return bool(workers[1])
    about = runtime_api.process_info(partial(runtime_api.send_command, admin))
    predecessors = find_predecessors(int(about["Pid"]))
    return bool(predecessors) if predecessors is not None else int(about["Uptime_sec"]) < YOUNG_SECONDS


def find_predecessors(pid: int) -> frozenset[int] | None:
    """The other processes of the HAProxy with this current worker; None when they are not visible from here.

    The worker itself is included as soon as its master reloads, because the configuration that is read then may be older
    than the last change.
    """
    if not _is_haproxy(pid):
        return None
    replaced = _replaced_processes(pid) - {pid}
    parent = _parent(pid)
    if parent is not None and _is_haproxy(parent):
        replaced |= _replaced_processes(parent)  # read first: once it names none, the new worker is visible below
        every = (int(path.name) for path in PROC.iterdir() if path.name.isdecimal())
        replaced |= {other for other in every if other != pid and _parent(other) == parent}
    return frozenset(other for other in replaced if _is_haproxy(other))


def _replaced_processes(pid: int) -> set[int]:
    """The processes that this process was started to replace."""
    command = _command_line(pid)
    begin = next((place + 1 for place, word in enumerate(command) if word in ("-sf", "-st")), len(command))
    return {int(word) for word in takewhile(str.isdecimal, command[begin:])}


def _command_line(pid: int) -> list[str]:
    """The process's command line; empty if it does not exist or is a zombie."""
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
    """The fields of /proc/PID/stat after the name: state, parent, …"""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _is_haproxy(pid: int) -> bool:
    command = _command_line(pid)
    return bool(command) and Path(command[0]).name.startswith("haproxy")


def _parent(pid: int) -> int | None:
    try:
        return int(_stat(pid)[1])
    except OSError:
        return None
