"""Requests to a service's public address, as its clients send them."""

from __future__ import annotations

import ipaddress
import socket
import time
from http.client import HTTPException
from urllib.parse import urlsplit

from tidegate.core.probes import Probe, ProbeResult
from tidegate.drivers.http_client import DeadlineHttpClient, describe_error
from tidegate.ports import ProbeClient

MAX_BYTES = 1_000_000  # of a response; a longer one is cut, which is not a failure


class HttpProbeClient(ProbeClient):
    """See `ports.ProbeClient` for the contract."""

    def __init__(self, probe: Probe, api_port: int = 0) -> None:
        """`api_port`: where Tidegate's API listens on this machine, which is never probed; 0: nowhere."""
        place = urlsplit(probe.url)
        self._probe, self._api_port = probe, api_port
        self._path = (place.path or "/") + (f"?{place.query}" if place.query else "")
        self._kept_client = self._new_client()

    def _new_client(self) -> DeadlineHttpClient:
        return DeadlineHttpClient(self._probe.url, refuse=self._refuse)

    def _refuse(self, connection: socket.socket) -> str:
        """Why this connection must not be used. Names may change their address, so only the connection shows it."""
        (host, port), own = connection.getpeername()[:2], connection.getsockname()[0]
        address = ipaddress.ip_address(host.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        if address.is_link_local:
            return f"{address} is a link-local address, which is never probed"
        if self._api_port and port == self._api_port and host == own:
            return "this is Tidegate's API, which is never probed"
        return ""

    def probe(self, *, kept: bool) -> ProbeResult:
        started, client = time.monotonic(), self._kept_client if kept else self._new_client()
        headers = {"Accept": "*/*"} if kept else {"Accept": "*/*", "Connection": "close"}
        try:
            response = client.get(self._path, self._probe.timeout_seconds, MAX_BYTES, headers)
        except (OSError, HTTPException) as error:
            return ProbeResult(time.monotonic() - started, describe_error(error, self._probe.timeout_seconds))
        finally:
            if not kept:
                client.close()
        failure = "" if 200 <= response.status < 400 else f"answered {response.status}"
        return ProbeResult(time.monotonic() - started, failure, response.headers.get(self._probe.header.lower(), ""))

    def close(self) -> None:
        self._kept_client.close()
