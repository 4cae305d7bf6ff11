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
SERVER, BACKEND = 4, 2  # HAProxy's own numbers for kinds of rows


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
        return b"".join(iter(lambda: line.recv(65536), b"")).decode(errors="replace")


def rows(path: Path, backend: str) -> list[Mapping[str, str]]:
    """The statistics of a backend and its servers by column name; empty when there is no such backend."""
    text = say(path, f"show stat {backend} {SERVER | BACKEND} -1")
    if not text.startswith("# "):
        return []
    return [row for row in csv.DictReader(text[2:].splitlines()) if row["pxname"] == backend]


def number(row: Mapping[str, str], column: str) -> int:
    """A counter; HAProxy leaves out what it does not count."""
    return int(row.get(column) or 0)
