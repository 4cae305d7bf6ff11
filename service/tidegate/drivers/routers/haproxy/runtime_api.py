"""HAProxy's runtime API on its Unix socket: single commands, and sessions with one process."""

from __future__ import annotations

import csv
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from tidegate.errors import RouterError

RESPONSE_SECONDS = 5.0
RELOAD_GAP_SECONDS = 1.0  # connections are refused for a moment while a new process takes over the socket
PROXY_DISABLED = "Proxy is disabled."  # the response of a process that is being replaced by a reload
PROMPT = b"\n> "
SERVER, BACKEND, FRONTEND = 4, 2, 1  # the row types of `show stat`

RunCommand = Callable[[str], str]  # sends a command and returns the response
T = TypeVar("T")


class ProcessReplaced(RouterError):
    """The HAProxy process has ended or is being replaced by a reload."""


class ResponseTooLong(RouterError):
    """HAProxy's response is longer than the caller allows."""


def send_command(path: Path, command: str, gap_seconds: float = RELOAD_GAP_SECONDS, max_bytes: int = sys.maxsize) -> str:
    """Send one command and return the response. Raises `RouterError`, retryable if no process answers, and
    `ResponseTooLong`."""
    return _retry_over_reload(path, lambda: _send_once(path, command, max_bytes), gap_seconds)


def _retry_over_reload(path: Path, attempt: Callable[[], T], gap_seconds: float) -> T:
    deadline = time.monotonic() + gap_seconds
    while True:
        try:
            return attempt()
        except (ConnectionError, FileNotFoundError) as error:
            if time.monotonic() >= deadline:
                raise RouterError(f"HAProxy does not answer at {path}: {error.strerror or error}") from error
            time.sleep(0.02)
        except PermissionError as error:
            text = f"Permission denied at {path}. Give the user that runs Tidegate access to the socket."
            raise RouterError(text, retryable=False) from error
        except OSError as error:
            raise RouterError(f"HAProxy does not answer at {path}: {error}") from error


def _send_once(path: Path, command: str, max_bytes: int) -> str:
    response = bytearray()
    with _connect(path) as connection:
        connection.sendall(command.encode() + b"\n")
        connection.shutdown(socket.SHUT_WR)  # after a reload a response would otherwise never end
        while more := connection.recv(65536):
            response += more
            if len(response) > max_bytes:
                raise ResponseTooLong(f"HAProxy's response to `{command}` is longer than {max_bytes:,} bytes")
    if not response:  # even an empty response has a line end; without it the outcome of the command is unknown
        raise ConnectionResetError("the connection ended without a response")
    return response.decode(errors="replace")


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(RESPONSE_SECONDS)
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


class RuntimeSession:
    """An interactive connection to one process, for several commands. During a reload two processes share the path.

    Raises `RouterError` when no process answers, and `ProcessReplaced` when the process ends during the session.
    """

    def __init__(self, path: Path) -> None:
        self._connection = _retry_over_reload(path, lambda: _connect_interactive(path), RELOAD_GAP_SECONDS)

    def __enter__(self) -> RuntimeSession:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, command: str, max_bytes: int = sys.maxsize) -> str:
        """The response to a command. Beyond `max_bytes` the session is closed and `ResponseTooLong` raised."""
        try:
            response = _read_response(self._connection, command, max_bytes)
        except OSError as error:
            self._connection.close()
            raise ProcessReplaced(f"HAProxy closed the connection during a response: {error.strerror or error}") from error
        if response.strip() == PROXY_DISABLED:
            raise ProcessReplaced("HAProxy is being reloaded")
        return response


def _connect_interactive(path: Path) -> socket.socket:
    connection = _connect(path)
    try:
        _read_response(connection, "prompt")
    except OSError:
        connection.close()
        raise
    return connection


def _read_response(connection: socket.socket, command: str, max_bytes: int = sys.maxsize) -> str:
    connection.sendall(command.encode() + b"\n")
    response = bytearray()
    while not response.endswith(PROMPT):
        response += (more := connection.recv(65536))
        if not more:
            raise ConnectionResetError("the connection ended without a response")
        if len(response) > max_bytes:
            connection.close()
            raise ResponseTooLong(f"HAProxy's response to `{command}` is longer than {max_bytes:,} bytes")
    return response.removesuffix(PROMPT).decode(errors="replace")


def stats_rows(ask: RunCommand, proxy: str, kinds: int = SERVER | BACKEND) -> list[Mapping[str, str]]:
    """The statistics rows of a backend and its servers, by column name; empty if HAProxy has no such backend."""
    return [row for row in _parse_table(ask(f"show stat {proxy} {kinds} -1")) if row["pxname"] == proxy]


def all_stats_rows(ask: RunCommand) -> dict[str, list[Mapping[str, str]]]:
    """The statistics rows of all frontends, backends and servers, by proxy name."""
    by_proxy: dict[str, list[Mapping[str, str]]] = {}
    for row in _parse_table(ask(f"show stat -1 {FRONTEND | BACKEND | SERVER} -1")):
        by_proxy.setdefault(row["pxname"], []).append(row)
    return by_proxy


def _parse_table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text[2:].splitlines())) if text.startswith("# ") else []


def server_states(ask: RunCommand, proxy: str = "") -> list[Mapping[str, str]]:
    """The rows of `show servers state` of one backend or of all, by column name."""
    _, _, table = ask(f"show servers state {proxy}".rstrip()).partition("# ")
    return list(csv.DictReader(table.splitlines(), delimiter=" "))


def process_info(ask: RunCommand) -> Mapping[str, str]:
    """The fields of `show info`."""
    lines = ask("show info").splitlines()
    return dict(line.split(": ", 1) for line in lines if ": " in line)


def process_identity(ask: RunCommand) -> str:
    """An identifier of the process. All of HAProxy's counters start at 0 with a new process."""
    about = process_info(ask)
    return f"{about['Pid']} since {about.get('Start_time_sec', '?')}"


def counter_value(row: Mapping[str, str], column: str) -> int:
    """A counter of a row; 0 where HAProxy leaves it empty."""
    return int(row.get(column) or 0)
