"""Requests to a service's public address, as its clients send them."""

from __future__ import annotations

import time
from http.client import HTTPException
from urllib.parse import urlsplit

from tidegate.core.probes import Probe, ProbeResult
from tidegate.drivers.http_client import DeadlineHttpClient, describe_error
from tidegate.ports import ProbeClient

MAX_BYTES = 1_000_000  # of a response; a longer one is cut, which is not a failure


class HttpProbeClient(ProbeClient):
    """See `ports.ProbeClient` for the contract."""

    def __init__(self, probe: Probe) -> None:
        place = urlsplit(probe.url)
        self._probe = probe
        self._path = (place.path or "/") + (f"?{place.query}" if place.query else "")
        self._kept_client = DeadlineHttpClient(probe.url)

    def probe(self, *, kept: bool) -> ProbeResult:
        started, client = time.monotonic(), self._kept_client if kept else DeadlineHttpClient(self._probe.url)
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
