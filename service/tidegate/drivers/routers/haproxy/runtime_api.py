"""HAProxy's runtime socket: single questions, and conversations with one process."""

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
RELOAD_GAP_SECONDS = 1.0  # while a new process takes the socket over, it is refused for a moment
PROXY_DISABLED = (
    "Proxy is disabled."  # said for a moment by the process that a reload replaces, while the new one answers, too
)
PROMPT = b"\n> "
SERVER, BACKEND, FRONTEND = 4, 2, 1  # HAProxy's own numbers for kinds of rows

RunCommand = Callable[[str], str]  # a command to its answer
T = TypeVar("T")


class ProcessReplaced(RouterError):
    """The process that was spoken to is gone, or is being replaced by another."""


class ResponseTooLong(RouterError):
    """HAProxy's answer is longer than what it was asked for."""


def send_command(path: Path, command: str, gap_seconds: float = RELOAD_GAP_SECONDS) -> str:
    """What HAProxy answers. Raises `RouterError` (retryable) when nobody does."""
    return _retry_over_reload(path, lambda: _send_once(path, command), gap_seconds)


def _retry_over_reload(path: Path, attempt: Callable[[], T], gap_seconds: float) -> T:
    deadline = time.monotonic() + gap_seconds
    while True:
        try:
            return attempt()
        except (ConnectionError, FileNotFoundError) as error:
            if time.monotonic() >= deadline:
                raise RouterError(f"no HAProxy answers at {path}: {error.strerror or error}") from error
            time.sleep(0.02)
        except PermissionError as error:
            text = f"permission denied at {path}: the user that runs Tidegate must be allowed to use the socket"
            raise RouterError(text, retryable=False) from error
        except OSError as error:
            raise RouterError(f"HAProxy at {path} does not answer: {error}") from error


def _send_once(path: Path, command: str) -> str:
    with _connect(path) as line:
        line.sendall(command.encode() + b"\n")
        line.shutdown(socket.SHUT_WR)  # after a reload an answer never ends otherwise
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    if not answer:  # even the consent without words is a line; without it nobody knows what was done
        raise ConnectionResetError("the connection ended without an answer")
    return answer.decode(errors="replace")


def _connect(path: Path) -> socket.socket:
    line = socket.socket(socket.AF_UNIX)
    try:
        line.settimeout(RESPONSE_SECONDS)
        line.connect(str(path))
    except OSError:
        line.close()
        raise
    return line


class RuntimeSession:
    """Several commands to one and the same process. While a reload is under way two of them answer at the same path.

    Raises `RouterError` when nobody is there, and `ProcessReplaced` when it ends before its time.
    """

    def __init__(self, path: Path) -> None:
        self._line = _retry_over_reload(path, lambda: _connect_interactive(path), RELOAD_GAP_SECONDS)

    def __enter__(self) -> RuntimeSession:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()

    def ask(self, command: str, max_bytes: int = sys.maxsize) -> str:
        """What it answers. Raises `ResponseTooLong` beyond `max_bytes`, and the conversation is over."""
        try:
            response = _read_response(self._line, command, max_bytes)
        except OSError as error:
            self._line.close()
            raise ProcessReplaced(f"HAProxy does not answer to the end: {error.strerror or error}") from error
        if response.strip() == PROXY_DISABLED:
            raise ProcessReplaced("HAProxy is being reloaded")
        return response


def _connect_interactive(path: Path) -> socket.socket:
    line = _connect(path)
    try:
        _read_response(line, "prompt")
    except OSError:
        line.close()
        raise
    return line


def _read_response(line: socket.socket, command: str, max_bytes: int = sys.maxsize) -> str:
    line.sendall(command.encode() + b"\n")
    answer = bytearray()
    while not answer.endswith(PROMPT):
        answer += (more := line.recv(65536))
        if not more:
            raise ConnectionResetError("the connection ended without an answer")
        if len(answer) > max_bytes:
            line.close()
            raise ResponseTooLong(f"HAProxy answers `{command}` with more than {max_bytes} bytes")
    return answer.removesuffix(PROMPT).decode(errors="replace")


def stats_rows(ask: RunCommand, proxy: str, kinds: int = SERVER | BACKEND) -> list[Mapping[str, str]]:
    """The statistics of a backend and its servers by column name; empty when there is no such backend."""
    return [row for row in _parse_table(ask(f"show stat {proxy} {kinds} -1")) if row["pxname"] == proxy]


def all_stats_rows(ask: RunCommand) -> dict[str, list[Mapping[str, str]]]:
    """The statistics of all frontends, backends and servers, by the name of the proxy."""
    by_proxy: dict[str, list[Mapping[str, str]]] = {}
    for row in _parse_table(ask(f"show stat -1 {FRONTEND | BACKEND | SERVER} -1")):
        by_proxy.setdefault(row["pxname"], []).append(row)
    return by_proxy


def _parse_table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text[2:].splitlines())) if text.startswith("# ") else []


def process_info(ask: RunCommand) -> Mapping[str, str]:
    """What the process says of itself, by name."""
    lines = ask("show info").splitlines()
    return dict(line.split(": ", 1) for line in lines if ": " in line)


def process_identity(ask: RunCommand) -> str:
    """Which process it is; its counters begin with it."""
    about = process_info(ask)
    return f"{about['Pid']} since {about.get('Start_time_sec', '?')}"


def counter_value(row: Mapping[str, str], column: str) -> int:
    """A counter; HAProxy leaves out what it does not count."""
    return int(row.get(column) or 0)
