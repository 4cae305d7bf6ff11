#!/usr/bin/env python3
"""Check that containers of the Docker engine can be reached at their own addresses, as the tests need.

Exit status 1, and the state of the machine, when a container does not answer within two minutes.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples" / "demo"))

import docker  # noqa: E402 - the path comes first

from images import demo_image, remove_images  # noqa: E402
from processes import unique_name  # noqa: E402

TIMEOUT_SECONDS = 120.0
STATE = (
    "uptime",
    "free -m",
    "df -h / /tmp",
    "ip -brief address",
    "ip route",
    "iptables -S",
    "docker ps --all",
)


def main() -> int:
    """Start one container, connect to it, remove it."""
    client = docker.from_env(timeout=60)
    name = unique_name("reach")
    container = None
    try:
        demo_image(client, f"{name}:v1", {"VERSION": "v1"})
        container = client.containers.run(f"{name}:v1", detach=True, labels={"tidegate.environment": name})
        error = answer_within(client, container.id)
        if error:
            print(f"error: a container cannot be reached: {error}", file=sys.stderr)
            show_state(client, container.id)
        return int(bool(error))
    finally:
        if container is not None:
            container.remove(force=True)
        remove_images(client, f"{name}:")
        client.close()


def answer_within(client: docker.DockerClient, container: str) -> str:
    """Empty once it has answered; otherwise the last error."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    error = ""
    while time.monotonic() < deadline:
        address = client.api.inspect_container(container)["NetworkSettings"]["IPAddress"]
        try:
            with urllib.request.urlopen(f"http://{address}:8080/health", timeout=5) as response:
                response.read()
            return ""
        except OSError as failure:
            error = f"{address}:8080: {failure}"
        time.sleep(0.2)
    return error


def show_state(client: docker.DockerClient, container: str) -> None:
    """What could be the reason."""
    state = client.api.inspect_container(container)["State"]
    print(f"state: {state}\nlog: {client.api.logs(container)!r}", file=sys.stderr)
    pid = state.get("Pid") or 0
    inside = (f"cat /proc/{pid}/status", f"nsenter -t {pid} -n ip -brief address", f"nsenter -t {pid} -n ss -ltn")
    for command in (*STATE, *inside):
        with contextlib.suppress(FileNotFoundError):
            done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
            print(f"--- {command}\n{done.stdout}{done.stderr}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
