"""The bare floor of a rolling update: the same starts, switches and stops by a plain script that records nothing."""

from __future__ import annotations

import shutil
import socket
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker

from support.wait import eventually, exit_status

CONFIG = """\
global
  stats socket {home}/admin.sock mode 600 level admin
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
frontend fe
  bind 127.0.0.1:{port}
  default_backend be
backend be
  balance roundrobin
"""
LABEL = "tidegate-bench-floor"


class BareUpdate:
    """One HAProxy and the containers behind it."""

    def __init__(self, home: Path, port: int, replicas: int, image: str) -> None:
        home.mkdir(parents=True)
        self._socket, self._replicas, self._image = home / "admin.sock", replicas, image
        (home / "haproxy.cfg").write_text(CONFIG.format(home=home, port=port))
        self._haproxy = subprocess.Popen([shutil.which("haproxy") or "haproxy", "-f", str(home / "haproxy.cfg")])
        self._client = docker.from_env()
        self._background = ThreadPoolExecutor(max_workers=4)
        self._leaving: list[Future[None]] = []
        self._serving: list[tuple[str, str]] = []  # (server name, container id)
        eventually("HAProxy's socket is there", self._socket.exists, process=self._haproxy)

    def deploy(self, version: str) -> None:
        """Replace all, one by one, new before old; the stops run behind and are waited for at the end."""
        before, self._serving = self._serving, []
        for number in range(self._replicas):
            self._serving.append(self._start(version))
            if number < len(before):
                self._drain(*before[number])
        for leaving in self._leaving:
            leaving.result()
        self._leaving.clear()

    def _start(self, version: str) -> tuple[str, str]:
        api: Any = self._client.api
        made = api.create_container(f"{self._image}:{version}", labels={LABEL: "1"}, host_config=api.create_host_config())
        api.start(made["Id"])
        address = api.inspect_container(made["Id"])["NetworkSettings"]["IPAddress"]
        eventually(f"{address} answers", lambda: self._healthy(address), poll_seconds=0.002)
        name = made["Id"][:12]
        self._say(f"add server be/{name} {address}:8080")
        self._say(f"enable server be/{name}")
        return name, made["Id"]

    @staticmethod
    def _healthy(address: str) -> bool:
        try:
            with socket.create_connection((address, 8080), timeout=60) as probe:
                probe.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                return probe.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def _drain(self, name: str, container: str) -> None:
        self._say(f"set server be/{name} state drain")
        eventually(f"{name} is drained", lambda: not self._sessions(name), poll_seconds=0.005)
        self._say(f"set server be/{name} state maint")
        deleted = f"del server be/{name}"
        eventually(f"{name} is deleted", lambda: "Server deleted" in self._say(deleted), poll_seconds=0.005)
        self._leaving.append(self._background.submit(self._stop, container))

    def _sessions(self, name: str) -> int:
        rows = [line.split(",") for line in self._say("show stat be 4 -1").splitlines()]
        return next((int(row[4] or 0) for row in rows if len(row) > 4 and row[1] == name), 0)

    def _stop(self, container: str) -> None:
        self._client.api.stop(container, timeout=60)
        self._client.api.remove_container(container)

    def _say(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self._socket))
            line.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: line.recv(65536), b"")).decode()

    def stop(self) -> None:
        """Remove the containers and end HAProxy."""
        self._background.shutdown(wait=True)
        for container in self._client.containers.list(all=True, filters={"label": LABEL}):
            container.remove(force=True)
        self._client.close()
        self._haproxy.terminate()
        exit_status(self._haproxy)
