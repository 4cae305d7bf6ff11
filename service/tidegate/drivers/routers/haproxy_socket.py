"""HAProxy's runtime socket: one command a connection."""

from __future__ import annotations

import csv
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tidegate.errors import RouterError

ANSWER_SECONDS = 5.0
RELOAD_GAP_SECONDS = 1.0  # while a new process takes the socket over, it is refused for a moment
LEAVING = "Proxy is disabled."  # said for a moment by the process that a reload replaces, while the new one answers, too
SERVER, BACKEND, FRONTEND = 4, 2, 1  # HAProxy's own numbers for kinds of rows


def say(path: Path, command: str, gap_seconds: float = RELOAD_GAP_SECONDS) -> str:
    """What HAProxy answers. Raises `RouterError` (retryable) when nobody does."""
    deadline = time.monotonic() + gap_seconds
    while True:
        try:
            return _once(path, command)
        except (ConnectionError, FileNotFoundError) as error:
            if time.monotonic() >= deadline:
                raise RouterError(f"no HAProxy answers at {path}: {error.strerror or error}") from error
            time.sleep(0.02)
        except PermissionError as error:
            text = f"permission denied at {path}: the user that runs Tidegate must be allowed to use the socket"
            raise RouterError(text, retryable=False) from error
        except OSError as error:
            raise RouterError(f"HAProxy at {path} does not answer: {error}") from error


def _once(path: Path, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(ANSWER_SECONDS)
        line.connect(str(path))
        line.sendall(command.encode() + b"\n")
        line.shutdown(socket.SHUT_WR)  # after a reload an answer never ends otherwise
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    if not answer:  # even the consent without words is a line; without it nobody knows what was done
        raise ConnectionResetError("the connection ended without an answer")
    said = answer.decode(errors="replace")
    if said.strip() == LEAVING:
        raise ConnectionResetError("the process is being replaced")
    return said


def rows(path: Path, proxy: str, kinds: int = SERVER | BACKEND) -> list[Mapping[str, str]]:
    """The statistics of a backend and its servers by column name; empty when there is no such backend."""
    return [row for row in _table(say(path, f"show stat {proxy} {kinds} -1")) if row["pxname"] == proxy]


def every_row(path: Path) -> dict[str, list[Mapping[str, str]]]:
    """The statistics of all frontends, backends and servers, by the name of the proxy."""
    found: dict[str, list[Mapping[str, str]]] = {}
    for row in _table(say(path, f"show stat -1 {FRONTEND | BACKEND | SERVER} -1")):
        found.setdefault(row["pxname"], []).append(row)
    return found


def _table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text[2:].splitlines())) if text.startswith("# ") else []


def info(path: Path) -> Mapping[str, str]:
    """What the process says of itself, by name."""
    lines = say(path, "show info").splitlines()
    return dict(line.split(": ", 1) for line in lines if ": " in line)


def identity(path: Path) -> str:
    """Which process it is; its counters begin with it."""
    about = info(path)
    return f"{about['Pid']} since {about.get('Start_time_sec', '?')}"


def number(row: Mapping[str, str], column: str) -> int:
    """A counter; HAProxy leaves out what it does not count."""
    return int(row.get(column) or 0)
