"""Ports and processes of the demo's parts: found, waited for, ended by what was recorded of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
import uuid
from collections import deque
from collections.abc import Callable
from pathlib import Path

import docker
from docker.errors import APIError

RUN = os.environ.get(
    "TIDEGATE_RUN", "00000"
)  # of `make demo` or `make test`; scripts/leftovers.py finds by it what is left
MAX_RESERVED = 300  # well below the files that a process may usually open
_reserved: deque[int] = deque()


class PartFailed(SystemExit):
    """A part did not start; says which and why."""


def unique_name(prefix: str) -> str:
    """A name that nothing else has, by which the leftovers of a killed run are found: environments of Tidegate, network
    devices. At most nine characters longer than `prefix`."""
    return f"{prefix}{RUN}{uuid.uuid4().hex[:4]}"


def free_port(preferred: int = 0) -> int:
    """The preferred port, or one from the kernel where it is taken or 0; reserved while this process lives (the last 300).

    A socket stays bound to it without listening, so the kernel gives the port to no outgoing connection and to nobody else
    who asks for a free one. Servers can bind it all the same: they set SO_REUSEADDR or SO_REUSEPORT, as this socket does.
    """
    for port in (preferred, 0):
        reserved = socket.socket()
        # A port of our choice may have connections of an earlier run that linger; one of the kernel's must be nobody's.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(port != 0))
        try:
            reserved.bind(("127.0.0.1", port))
        except OSError:
            reserved.close()
            continue
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found = int(reserved.getsockname()[1])
        _reserved.append(reserved.detach())
        if len(_reserved) > MAX_RESERVED:
            os.close(_reserved.popleft())
        return found
    raise PartFailed("the kernel has no free port")


def wait_for(what: str, answered: Callable[[], bool], seconds: float = 120.0, pause_seconds: float = 0.1) -> None:
    """Ask until it answers. Raises `PartFailed` when it does not in time: a bound for what never comes."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answered():
            return
        time.sleep(pause_seconds)
    raise PartFailed(f"{what} did not answer within {seconds:g} s")


def answers(url: str) -> Callable[[], bool]:
    """Whether a GET is answered with 200."""

    def ask() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    return ask


def end(pid: int, child: subprocess.Popen[bytes] | None = None, seconds: float = 20.0) -> None:
    """SIGTERM, and SIGKILL to what does not listen; gone already is fine. `child`: it is ours, and waited for."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        if gone(pid, child, seconds):
            return


def gone(pid: int, child: subprocess.Popen[bytes] | None, seconds: float) -> bool:
    """Whether it ends in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if child is not None:
            if child.poll() is not None:
                return True
        elif not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.05)
    return False


def haproxy_pid(directory: Path) -> int:
    """The master process of the HAProxy that Tidegate started."""
    return int((directory / "haproxy.pid").read_text().split()[0])


def end_proxies(home: Path) -> None:
    """Those that Tidegate started: they outlive Tidegate on purpose, since traffic must."""
    for name in ("haproxy", "nginx", "envoy"):
        if (file := home / name / f"{name}.pid").exists():
            end(int(file.read_text().split()[0]))


def remove_containers(environment: str, seconds: float = 120.0) -> None:
    """The containers of this environment, known by Tidegate's label, and no others; returns when none is left.

    A container that is gone already (404) or that somebody else is removing (409) is what is wanted. Raises `PartFailed`.
    """
    engine = docker.from_env()
    try:

        def none_left() -> bool:
            left = engine.api.containers(all=True, filters={"label": f"tidegate.environment={environment}"})
            for container in left:
                try:
                    engine.api.remove_container(container["Id"], force=True, v=True)
                except APIError as error:
                    if error.status_code not in (404, 409):
                        raise
            return not left

        wait_for(f"the engine, asked to remove the containers of {environment},", none_left, seconds)
    finally:
        engine.close()
