"""Envoy's admin API on its Unix socket: Envoy's state, and a barrier that proves that all threads have applied it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tidegate.core.routing import Member
from tidegate.drivers.error_translation import guard_response
from tidegate.drivers.http_client import DeadlineHttpClient, describe_error
from tidegate.drivers.routers.envoy import config
from tidegate.drivers.routers.members import parse_server_name
from tidegate.errors import RouterError

RESPONSE_SECONDS = 5.0
MAX_RESPONSE_BYTES = 64 * 2**20
BARRIER_SECONDS = 5.0
TAKES_NEW, DRAINING = "HEALTHY", "DRAINING"  # Envoy's names of the health states


@dataclass(frozen=True)
class UpstreamHost:
    """An endpoint as Envoy reports it."""

    name: str
    address: str
    state: str
    weight: int
    requests: int  # active, and queued for a connection
    is_checked: bool = True  # a health check has succeeded or failed
    is_down: bool = False  # Envoy's health checks found it down

    @property
    def member(self) -> Member | None:
        """None when Tidegate did not add it."""
        return parse_server_name(self.name, self.address, self.weight)

    @property
    def takes_new(self) -> bool:
        """Whether it receives new requests."""
        return self.state == TAKES_NEW


class EnvoyAdmin:
    """Queries to one Envoy. Every method raises `RouterError` if Envoy does not answer."""

    def __init__(self, files: config.EnvoyFiles) -> None:
        self._files = files

    @guard_response(RouterError, "Envoy")
    def ask(self, path: str) -> str:
        """The body of the response to a GET."""
        connection = _client(self._files.admin)
        try:
            response = connection.get(path, RESPONSE_SECONDS, MAX_RESPONSE_BYTES, {})
            text = response.body.decode()
        except PermissionError as error:
            message = f"Permission denied at {self._files.admin}. Give the user that runs Tidegate access to the socket."
            raise RouterError(message, retryable=False) from error
        except (OSError, HTTPException) as error:
            problem = describe_error(error, RESPONSE_SECONDS)
            raise RouterError(f"Envoy does not answer at {self._files.admin}: the request {problem}") from error
        finally:
            connection.close()
        if not response.complete:
            raise RouterError(f"Envoy's response to {path} is larger than {MAX_RESPONSE_BYTES} bytes")
        if response.status != 200:
            raise RouterError(f"Envoy answered {response.status} to {path}: {text.strip()}")
        return text

    def ready(self) -> bool:
        """Whether Envoy runs and has read all its files."""
        try:
            return self.ask("/ready").strip() == "LIVE"
        except RouterError:
            return False

    @guard_response(RouterError, "Envoy")
    def version(self) -> str:
        """Envoy's version, such as `1.40.0`."""
        words = str(self._json("/server_info").get("version", "")).split("/")
        return words[1] if len(words) > 1 else "unknown"

    @guard_response(RouterError, "Envoy")
    def clusters(self, backend: str) -> dict[str, dict[str, UpstreamHost]]:
        """The endpoints, by name, of each cluster of a backend."""
        return {
            cluster["name"]: {host.name: host for host in map(_parse_host, cluster.get("host_statuses", []))}
            for cluster in self._json("/clusters?format=json").get("cluster_statuses", [])
            if config.backend_of(cluster["name"]) == backend
        }

    @guard_response(RouterError, "Envoy")
    def active_listeners(self) -> set[str]:
        """The names of the active listeners."""
        return {listener["name"] for listener in self._json("/listeners?format=json").get("listener_statuses", [])}

    @guard_response(RouterError, "Envoy")
    def accepted_version(self, stat: str) -> str:
        """The version of a file that Envoy applied last; `stat` is the prefix of the file's counters."""
        match = re.search(rf'^{re.escape(stat)}\.version_text: "(.*)"$', self.ask("/stats?filter=version_text$"), re.M)
        return match[1] if match else ""

    @guard_response(RouterError, "Envoy")
    def rejected_updates(self, stat: str) -> int:
        """How often Envoy has rejected a file; `stat` is the prefix of the file's counters."""
        match = re.search(rf"^{re.escape(stat)}\.update_rejected: (\d+)$", self.ask("/stats?filter=update_rejected$"), re.M)
        return int(match[1]) if match else 0

    @guard_response(RouterError, "Envoy")
    def rejection_reason(self, listener: str) -> str:
        """Why Envoy rejected the last state of a listener; empty if it did not."""
        configs = self._json("/config_dump?resource=dynamic_listeners").get("configs", [])
        errors = [entry["error_state"] for entry in configs if "error_state" in entry]
        mine = (str(error["details"]) for error in errors if error["failed_configuration"]["name"] == listener)
        return next(mine, "")

    @guard_response(RouterError, "Envoy")
    def barrier(self) -> None:
        """Return when every worker thread has applied all earlier changes.

        A thread receives changes and new connections through the same queue. A thread that has answered on a connection
        made after a change has therefore applied that change.
        """
        before, deadline = self._connections(), time.monotonic() + BARRIER_SECONDS
        while True:
            with ExitStack() as connections:
                for _ in before:
                    connection = _client(self._files.barrier)
                    connections.callback(connection.close)
                    self._request_barrier(connection)
                after = self._connections()
            if before and all(after.get(name, 0) > number for name, number in before.items()):
                return
            if time.monotonic() >= deadline:
                raise RouterError(f"Not all threads of Envoy answered within {BARRIER_SECONDS:g} s")

    @staticmethod
    def _request_barrier(connection: DeadlineHttpClient) -> None:
        try:
            connection.get("/", RESPONSE_SECONDS, MAX_RESPONSE_BYTES, {})
        except (OSError, HTTPException) as error:
            problem = describe_error(error, RESPONSE_SECONDS)
            raise RouterError(f"A thread of Envoy does not answer at the barrier socket: the request {problem}") from error

    def _connections(self) -> dict[str, int]:
        """The number of connections that each worker thread has accepted at the barrier, by counter name."""
        text = self.ask(rf"/stats?filter=^listener\.{config.BARRIER}\.worker_.*cx_total$")
        return {name: int(value) for name, value in re.findall(r"^(\S+): (\d+)$", text, re.M)}

    def _json(self, path: str) -> Mapping[str, Any]:
        try:
            document: Mapping[str, Any] = json.loads(self.ask(path))
        except ValueError as error:
            raise RouterError(f"Envoy's response to {path} is not JSON") from error
        return document


def _client(path: Path) -> DeadlineHttpClient:
    return DeadlineHttpClient("http://localhost", unix_socket=path)


def _parse_host(status: Mapping[str, Any]) -> UpstreamHost:
    where = status["address"]["socket_address"]
    numbers = {stat["name"]: int(stat.get("value", 0)) for stat in status["stats"]}
    address = f"[{where['address']}]" if ":" in where["address"] else where["address"]
    health = status["health_status"]
    return UpstreamHost(
        status.get("hostname", ""),
        f"{address}:{where['port_value']}",
        health["eds_health_status"],
        int(status.get("weight", 1)),
        numbers["rq_active"] + numbers["rq_pending_active"],
        is_checked=not health.get("pending_active_hc", False),
        is_down=bool(health.get("failed_active_health_check", False)),
    )


def merge_hosts(clusters: Mapping[str, Mapping[str, UpstreamHost]]) -> dict[str, UpstreamHost]:
    """The endpoints of all clusters of a backend: an endpoint's requests are those in all of them, and it takes new
    requests if it does so in one."""
    merged: dict[str, UpstreamHost] = {}
    for name, host in (item for hosts in clusters.values() for item in hosts.items()):
        before = merged.get(name, replace(host, requests=0))
        taking = before if before.takes_new else host
        merged[name] = replace(taking, requests=before.requests + host.requests)
    return merged


def wait_until(holds: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Poll `holds` until it is true; raise `RouterError(otherwise)` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() >= deadline:
            raise RouterError(otherwise)
        time.sleep(0.002)
