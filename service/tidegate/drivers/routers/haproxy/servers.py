"""HAProxy's statistics of a backend: its servers, and the outcomes of its requests. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tidegate.core.routing import Member, Traffic
from tidegate.drivers.routers.haproxy.runtime_api import counter_value
from tidegate.drivers.routers.members import parse_server_name
from tidegate.drivers.routers.state_file import RequestCounts

StatsRow = Mapping[str, str]


@dataclass(frozen=True)
class HAProxyServer:
    """A server of the running process."""

    name: str
    address: str
    weight: int  # the configured weight; HAProxy uses a lower one during slow start
    status: str
    sessions: int  # active and queued requests
    tally: RequestCounts
    member: Member | None  # None: Tidegate did not add the server

    @property
    def takes_new(self) -> bool:
        """Whether it is in rotation. A server that HAProxy's own health checks find down still is."""
        return not self.status.startswith(("DRAIN", "MAINT"))


def parse_servers(rows: Sequence[StatsRow]) -> list[HAProxyServer]:
    """The servers in the rows of a backend."""
    return [
        HAProxyServer(
            row["svname"],
            row["addr"],
            counter_value(row, "uweight"),
            row["status"],
            counter_value(row, "scur") + counter_value(row, "qcur"),
            _parse_counts(row),
            parse_server_name(row["svname"], row["addr"], counter_value(row, "uweight")),
        )
        for row in rows
        if row["svname"] not in ("BACKEND", "FRONTEND")
    ]


def backend_row(rows: Sequence[StatsRow]) -> StatsRow | None:
    """The row of the backend itself, whose counters include deleted servers."""
    return next((row for row in rows if row["svname"] == "BACKEND"), None)


def _parse_counts(row: StatsRow) -> RequestCounts:
    """The counters of a server's row.

    HAProxy has no counter of requests without a response. `eresp` counts a reset twice and includes broken bodies; `stot`
    counts every attempt and requests whose client left. `silent` is the smaller of the two unexplained remainders.
    """
    answered, refused, broken = counter_value(row, "req_tot"), counter_value(row, "econ"), counter_value(row, "srv_abrt")
    attempts = counter_value(row, "stot") - counter_value(row, "wretr") - counter_value(row, "wredis")
    silent = min(counter_value(row, "eresp") - broken, attempts - answered - refused)
    return RequestCounts(answered, counter_value(row, "hrsp_5xx"), refused, broken, max(0, silent))


def counts_by_release(
    servers: Iterable[HAProxyServer], of_deleted: Mapping[str, RequestCounts]
) -> dict[str, RequestCounts]:
    """The sums by release of existing and of deleted servers.

    `of_deleted` has server names as keys, or release ids where a server name may be used again.
    """
    counts = {server.name: server.tally for server in servers}
    sums: dict[str, RequestCounts] = {}
    for name, tally in {**of_deleted, **counts}.items():
        member = parse_server_name(name, "")
        release = member.release if member else name
        sums[release] = sums.get(release, RequestCounts()) + tally
    return sums


def backend_traffic(rows: Sequence[StatsRow], tallies: Mapping[str, RequestCounts]) -> Traffic | None:
    """The outcomes of a backend's requests; None if the backend is not in mode http, where HAProxy does not count them.

    `srv_abrt` are the responses that broke off after their headers.
    """
    row = backend_row(rows)
    if row is None or row.get("mode") != "http":
        return None
    lost = counter_value(row, "econ") + counter_value(row, "srv_abrt") + _generated_responses(row, tallies)
    return Traffic(counter_value(row, "req_tot"), lost, _count_errors(row, tallies))


def release_traffic(rows: Sequence[StatsRow], tallies: Mapping[str, RequestCounts]) -> dict[str, Traffic]:
    """The same by release.

    A retried request counts only for the server that answered it in the end; one for which there was no server counts for
    no release.
    """
    row = backend_row(rows)
    if row is None or row.get("mode") != "http":
        return {}
    generated, sums = _generated_responses(row, tallies), {}
    for release, tally in tallies.items():
        silent = min(tally.silent, generated)
        lost = tally.refused + tally.broken + silent
        sums[release] = Traffic(tally.answered + tally.refused + silent, lost, tally.errors)
    return sums


def _count_errors(row: StatsRow, tallies: Mapping[str, RequestCounts]) -> int:
    return min(counter_value(row, "hrsp_5xx"), sum(tally.errors for tally in tallies.values()))


def _generated_responses(row: StatsRow, tallies: Mapping[str, RequestCounts]) -> int:
    """The number of 5xx responses that HAProxy generated because a server gave no response; HAProxy has no such counter.

    `hrsp_5xx` of the backend includes the applications' own 5xx; `eresp` counts a reset twice and includes broken bodies.
    The number is `hrsp_5xx` less the servers' 5xx and the failed connections (`econ`, each a 503), at most `eresp`.
    """
    unexplained = counter_value(row, "hrsp_5xx") - _count_errors(row, tallies) - counter_value(row, "econ")
    return max(0, min(unexplained, counter_value(row, "eresp") - counter_value(row, "srv_abrt")))
