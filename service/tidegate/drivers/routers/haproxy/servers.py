"""What HAProxy's statistics say of a backend: its servers, and how its requests ended."""

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
    weight: int  # as it was set; while it drains or starts slowly HAProxy reckons with another one
    status: str
    sessions: int  # requests on it, and those that are queued for it
    tally: RequestCounts
    member: Member | None  # None: Tidegate did not add it

    @property
    def takes_new(self) -> bool:
        """Whether it is sent new requests. One that HAProxy's own checks find down still belongs to the route."""
        return not self.status.startswith(("DRAIN", "MAINT"))


def parse_servers(rows: Sequence[StatsRow]) -> list[HAProxyServer]:
    """The servers among a backend's rows."""
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
    """The backend's own row; its counters outlive its servers."""
    return next((row for row in rows if row["svname"] == "BACKEND"), None)


def _parse_counts(row: StatsRow) -> RequestCounts:
    """Of a server's row. `eresp` counts a reset twice, and a broken body, too; `stot` each attempt, and those whose client
    left. Neither alone tells the silent ones, which are no more than either has beyond what is known."""
    answered, refused, broken = counter_value(row, "req_tot"), counter_value(row, "econ"), counter_value(row, "srv_abrt")
    attempts = counter_value(row, "stot") - counter_value(row, "wretr") - counter_value(row, "wredis")
    silent = min(counter_value(row, "eresp") - broken, attempts - answered - refused)
    return RequestCounts(answered, counter_value(row, "hrsp_5xx"), refused, broken, max(0, silent))


def counts_by_release(
    servers: Iterable[HAProxyServer], of_deleted: Mapping[str, RequestCounts]
) -> dict[str, RequestCounts]:
    """The sums of the servers that are there, and of those that were deleted.

    `of_deleted` is by server, or by release where the server's name may come again.
    """
    counts = {server.name: server.tally for server in servers}
    sums: dict[str, RequestCounts] = {}
    for name, tally in {**of_deleted, **counts}.items():
        member = parse_server_name(name, "")
        release = member.release if member else name
        sums[release] = sums.get(release, RequestCounts()) + tally
    return sums


def backend_traffic(rows: Sequence[StatsRow], tallies: Mapping[str, RequestCounts]) -> Traffic | None:
    """How the requests of a backend ended; None when HAProxy does not count them (another mode than http). `srv_abrt` are
    the answers that broke off after their head."""
    row = backend_row(rows)
    if row is None or row.get("mode") != "http":
        return None
    lost = counter_value(row, "econ") + counter_value(row, "srv_abrt") + _generated_responses(row, tallies)
    return Traffic(counter_value(row, "req_tot"), lost, _count_errors(row, tallies))


def release_traffic(rows: Sequence[StatsRow], tallies: Mapping[str, RequestCounts]) -> dict[str, Traffic]:
    """The same by release. A request that another server answered in the end is that one's alone, and one for which there
    was no server is nobody's."""
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
    """The answers that HAProxy made up because a server gave none, for which it has no counter.

    `hrsp_5xx` of the backend has the application's 5xx among them, and `eresp` counts a reset twice and a broken body, too.
    So they are the 5xx that are left when those of the servers and the failed connections (`econ`, each a 503) are taken
    away, and never more than `eresp` has.
    """
    unexplained = counter_value(row, "hrsp_5xx") - _count_errors(row, tallies) - counter_value(row, "econ")
    return max(0, min(unexplained, counter_value(row, "eresp") - counter_value(row, "srv_abrt")))
