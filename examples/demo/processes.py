"""Ports and processes of the demo's parts: found, waited for, ended by what was recorded of them."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import docker

# Below the range that outgoing connections take theirs from: no request of the traffic can be there first.
PORTS = range(15000, 32000)
PARTS = 4
_given: set[int] = set()


class PartFailed(SystemExit):
    """A part did not start; says which and why."""


def free_port(wished: int = 0) -> int:
    """The wished port, or any free one where it is taken; never one that was given before, for whoever was given it may not
    have it in use yet. Test processes that run side by side have a part of the ports each."""
    part = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % PARTS
    left = [port for port in PORTS[part::PARTS] if port not in _given]
    for port in (wished, *random.SystemRandom().sample(left, 50)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            if port:
                _given.add(port)
                return port
    raise PartFailed("no free port")


def wait_for(what: str, answered: Callable[[], bool], seconds: float = 30.0, pause_seconds: float = 0.1) -> None:
    """Look until it answers; say what did not."""
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


def remove_containers(environment: str) -> None:
    """The containers of this environment, known by Tidegate's label, and no others."""
    engine = docker.from_env()
    try:
        for container in engine.containers.list(all=True, filters={"label": f"tidegate.environment={environment}"}):
            container.remove(force=True)
    finally:
        engine.close()
