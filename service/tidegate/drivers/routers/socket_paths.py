"""Refuses a directory in which a proxy could not create its Unix sockets. Pure."""

from __future__ import annotations

import os
from pathlib import Path


def require_socket_path(directory: Path, socket: str, max_bytes: int, proxy: str) -> None:
    """Raise `ValueError` if the path of `socket` in `directory` has more than `max_bytes` bytes.

    The kernel limits a socket's path to 107 bytes; some proxies need part of them for a temporary name.
    """
    length = len(os.fsencode(directory / socket))
    if length > max_bytes:
        extra = len(os.fsencode(f"/{socket}"))
        raise ValueError(
            f"is {str(directory)!r} ({length - extra} bytes), which makes the path of {proxy}'s socket {socket} "
            f"{length} bytes long; {proxy} accepts at most {max_bytes}: choose a directory of at most "
            f"{max_bytes - extra} bytes"
        )
