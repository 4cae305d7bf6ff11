"""Readiness probes: one GET to an instance with a time limit, each over a new connection."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

READY_CACHE_SECONDS = 1.0  # how long a positive result is reused
MAX_THREADS = 32
MAX_STATUS_LINE_BYTES = 8192


@dataclass(frozen=True, slots=True)
class ReadinessProbe:
    """One probe. `key` identifies one start of one instance, so that results of an earlier start do not count."""

    key: str
    host: str
    port: int
    path: str
    timeout_seconds: float


class ReadinessProber:
    """Probes in parallel; caches positive results for `READY_CACHE_SECONDS`, negative ones not at all."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pool = ThreadPoolExecutor(MAX_THREADS, "probe")
        self._ready: dict[str, dict[str, float]] = {}  # service: {probe key: last time ready}
        self._lock = threading.Lock()

    def ask(self, service: str, probes: Collection[ReadinessProbe]) -> Mapping[str, str]:
        """By key: empty if ready, otherwise what is wrong. `probes` must be all probes of the service."""
        now = self._clock()
        with self._lock:
            known = self._ready.get(service, {})
        fresh = {
            probe.key: at
            for probe in probes
            if now - (at := known.get(probe.key, -READY_CACHE_SECONDS)) < READY_CACHE_SECONDS
        }
        due = [probe for probe in probes if probe.key not in fresh]
        answers = map(probe_instance, due) if len(due) == 1 else self._pool.map(probe_instance, due)
        results = dict(zip((probe.key for probe in due), answers, strict=True))
        with self._lock:
            self._ready[service] = fresh | {key: now for key, problem in results.items() if not problem}
        return {probe.key: results.get(probe.key, "") for probe in probes}

    def close(self) -> None:
        """Wait for running probes."""
        self._pool.shutdown(wait=True)


def probe_instance(probe: ReadinessProbe) -> str:
    """Empty if the response is 2xx or 3xx; otherwise what is wrong."""
    request, deadline = f"GET {probe.path}", time.monotonic() + probe.timeout_seconds
    try:
        line = _status_line(probe, deadline)
    except TimeoutError:
        return f"{request} timed out after {probe.timeout_seconds:g} s"
    except ConnectionRefusedError:
        return f"connection refused on port {probe.port}"
    except OSError as error:
        return f"{request} failed: {error.strerror or error}"
    words = line.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        problem = "connection closed without a response" if not line else "the response is not HTTP"
        return f"{request} failed: {problem}"
    status = int(words[1])
    return "" if 200 <= status < 400 else f"{request} answered {status}"


def _status_line(probe: ReadinessProbe, deadline: float) -> bytes:
    """The first line of the response. The deadline applies to the whole line, however slowly it arrives."""
    with socket.create_connection((probe.host, probe.port), timeout=probe.timeout_seconds) as line:
        host = f"[{probe.host}]" if ":" in probe.host else probe.host
        head = f"GET {probe.path} HTTP/1.1\r\nHost: {host}:{probe.port}\r\nUser-Agent: tidegate\r\n"
        line.sendall(f"{head}Accept: */*\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while b"\n" not in answer and len(answer) < MAX_STATUS_LINE_BYTES:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            line.settimeout(remaining)
            got = line.recv(MAX_STATUS_LINE_BYTES)
            if not got:
                break
            answer += got
        return answer.partition(b"\n")[0].strip()
