"""Envoy's admin interface on its unix socket: what Envoy does, and a proof that all its threads do it."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.core.routing import Member
from tidegate.drivers.error_translation import guard_response
from tidegate.drivers.routers.envoy import config
from tidegate.drivers.routers.members import parse_server_name
from tidegate.errors import RouterError

RESPONSE_SECONDS = 5.0
BARRIER_SECONDS = 5.0
TAKES_NEW, DRAINING = "HEALTHY", "DRAINING"  # Envoy's own words


@dataclass(frozen=True)
class UpstreamHost:
    """An endpoint as Envoy knows it."""

    name: str
    address: str
    state: str
    weight: int
    requests: int  # those on it, and those that wait for a connection to it

    @property
    def member(self) -> Member | None:
        """None when Tidegate did not add it."""
        return parse_server_name(self.name, self.address, self.weight)

    @property
    def takes_new(self) -> bool:
        """Whether it is sent new requests."""
        return self.state == TAKES_NEW


class AdminConnection(http.client.HTTPConnection):
    """HTTP on a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=RESPONSE_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(RESPONSE_SECONDS)
        self.sock.connect(str(self._path))


class EnvoyAdmin:
    """Questions to one Envoy. Each raises `RouterError` when it does not answer."""

    def __init__(self, files: config.EnvoyFiles) -> None:
        self._files = files

    @guard_response(RouterError, "Envoy")
    def ask(self, path: str) -> str:
        """The answer to a GET."""
        line = AdminConnection(self._files.admin)
        try:
            line.request("GET", path)
            answer = line.getresponse()
            text = answer.read().decode()
        except PermissionError as error:
            message = (
                f"permission denied at {self._files.admin}: the user that runs Tidegate must be allowed to use the socket"
            )
            raise RouterError(message, retryable=False) from error
        except (OSError, http.client.HTTPException) as error:
            raise RouterError(f"no Envoy answers at {self._files.admin}: {error}") from error
        finally:
            line.close()
        if answer.status != 200:
            raise RouterError(f"Envoy answered {answer.status} to {path}: {text.strip()}")
        return text

    def ready(self) -> bool:
        """Whether it runs, with all its files read."""
        try:
            return self.ask("/ready").strip() == "LIVE"
        except RouterError:
            return False

    @guard_response(RouterError, "Envoy")
    def version(self) -> str:
        """Such as `1.40.0`."""
        words = str(self._json("/server_info").get("version", "")).split("/")
        return words[1] if len(words) > 1 else "unknown"

    @guard_response(RouterError, "Envoy")
    def hosts(self, backend: str) -> dict[str, UpstreamHost] | None:
        """The endpoints of a backend by name; None when Envoy does not know the backend."""
        for cluster in self._json("/clusters?format=json").get("cluster_statuses", []):
            if cluster["name"] == backend:
                return {host.name: host for host in map(_parse_host, cluster.get("host_statuses", []))}
        return None

    @guard_response(RouterError, "Envoy")
    def active_listeners(self) -> set[str]:
        """The names of the listeners that serve."""
        return {listener["name"] for listener in self._json("/listeners?format=json").get("listener_statuses", [])}

    @guard_response(RouterError, "Envoy")
    def accepted_version(self, stat: str) -> str:
        """The version of a file that it took last, by the name of its counters."""
        match = re.search(rf'^{re.escape(stat)}\.version_text: "(.*)"$', self.ask("/stats?filter=version_text$"), re.M)
        return match[1] if match else ""

    @guard_response(RouterError, "Envoy")
    def rejected_updates(self, stat: str) -> int:
        """How often it could not take a file, by the name of its counters."""
        match = re.search(rf"^{re.escape(stat)}\.update_rejected: (\d+)$", self.ask("/stats?filter=update_rejected$"), re.M)
        return int(match[1]) if match else 0

    @guard_response(RouterError, "Envoy")
    def rejection_reason(self, listener: str) -> str:
        """Why it could not take the newest state of a listener; empty when it could."""
        configs = self._json("/config_dump?resource=dynamic_listeners").get("configs", [])
        errors = [entry["error_state"] for entry in configs if "error_state" in entry]
        mine = (str(error["details"]) for error in errors if error["failed_configuration"]["name"] == listener)
        return next(mine, "")

    @guard_response(RouterError, "Envoy")
    def barrier(self) -> None:
        """Returns when each worker thread has done what it had been told before.

        A thread is told of a change, and of a new connection, by the same queue; so one that has answered a request on a
        connection which is newer than the change knows the change.
        """
        before, deadline = self._connections(), time.monotonic() + BARRIER_SECONDS
        while True:
            with ExitStack() as held:
                for _ in before:
                    line = AdminConnection(self._files.barrier)
                    held.callback(line.close)
                    self._request_barrier(line)
                after = self._connections()
            if before and all(after.get(name, 0) > number for name, number in before.items()):
                return
            if time.monotonic() >= deadline:
                raise RouterError("not all threads of Envoy answer")

    @staticmethod
    def _request_barrier(line: AdminConnection) -> None:
        try:
            line.request("GET", "/")
            line.getresponse().read()
        except (OSError, http.client.HTTPException) as error:
            raise RouterError(f"a thread of Envoy does not answer: {error}") from error

    def _connections(self) -> dict[str, int]:
        """How many connections each worker thread took at the barrier."""
        text = self.ask(rf"/stats?filter=^listener\.{config.BARRIER}\.worker_.*cx_total$")
        return {name: int(value) for name, value in re.findall(r"^(\S+): (\d+)$", text, re.M)}

    def _json(self, path: str) -> Mapping[str, Any]:
        try:
            document: Mapping[str, Any] = json.loads(self.ask(path))
        except ValueError as error:
            raise RouterError(f"Envoy's answer to {path} is not JSON") from error
        return document


def _parse_host(status: Mapping[str, Any]) -> UpstreamHost:
    where = status["address"]["socket_address"]
    numbers = {stat["name"]: int(stat.get("value", 0)) for stat in status["stats"]}
    address = f"[{where['address']}]" if ":" in where["address"] else where["address"]
    return UpstreamHost(
        status.get("hostname", ""),
        f"{address}:{where['port_value']}",
        status["health_status"]["eds_health_status"],
        int(status.get("weight", 1)),
        numbers["rq_active"] + numbers["rq_pending_active"],
    )


def wait_until(holds: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Look until it holds; `RouterError` when it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() >= deadline:
            raise RouterError(otherwise)
        time.sleep(0.002)
