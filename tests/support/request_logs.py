"""Counts of a proxy's request log, exported as an engine does."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.request import urlopen

from prometheus_client import CollectorRegistry, start_http_server

from processes import free_port
from support.wait import eventually
from tidegate.analysis.queries import RESPONSE_SECONDS
from tidegate.core.response_counts import LoggedRouter
from tidegate.engine.request_logs import RequestLogs

ENVIRONMENT = "demo"  # of `support.measurements`
SAMPLE = re.compile(r"(\w+)\{(.*)\} (\S+)")


@dataclass(frozen=True)
class ExportedCounts:
    """What Prometheus scrapes."""

    port: int

    @property
    def address(self) -> str:
        """Where it is scraped."""
        return f"127.0.0.1:{self.port}"

    def series(self, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        """The values of a metric by their labels, without the one of the environment."""
        with urlopen(f"http://{self.address}/metrics", timeout=60) as answer:
            samples = SAMPLE.findall(answer.read().decode())
        found = {}
        for sample, labels, value in samples:
            pairs = re.findall(r'(\w+)="([^"]*)"', labels)
            if sample == name:
                found[tuple(sorted(pair for pair in pairs if pair[0] != "tidegate_environment"))] = float(value)
        return found

    def timed(self) -> dict[str, int]:
        """The number of timed responses by server."""
        every = ((dict(labels), int(value)) for labels, value in self.series(RESPONSE_SECONDS).items())
        return {labels["server"]: value for labels, value in every if labels["le"] == "+Inf"}

    def await_timed(self, server: str, number: int) -> None:
        """Until so many responses of a server are counted."""
        eventually(f"{number} responses of {server} are counted", lambda: self.timed().get(server, 0) >= number)


@contextmanager
def exported_counts(router: LoggedRouter) -> Iterator[ExportedCounts]:
    """The counts of the router's log, from the lines that are written inside the block."""
    log = router.request_log
    assert log is not None
    registry, port = CollectorRegistry(), free_port()
    server, thread = start_http_server(port, "127.0.0.1", registry)
    try:
        with RequestLogs({ENVIRONMENT: log}, registry, time.time):
            counts = ExportedCounts(port)
            up = "tidegate_request_log_up"
            eventually("the log is counted", lambda: list(counts.series(up).values()) == [1.0])
            yield counts
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
