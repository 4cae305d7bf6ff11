"""What HAProxy's statistics say of a backend: its servers, and how its requests ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tidegate.core.routing import Member, Traffic
from tidegate.drivers.routers.haproxy_socket import number
from tidegate.drivers.routers.members import member_of
from tidegate.drivers.routers.memory import Tally

Row = Mapping[str, str]


@dataclass(frozen=True)
class Server:
    """A server of the running process."""

    name: str
    address: str
    weight: int  # as it was set; while it drains or starts slowly HAProxy reckons with another one
    status: str
    sessions: int  # requests on it, and those that are queued for it
    tally: Tally
    member: Member | None  # None: Tidegate did not add it

    @property
    def takes_new(self) -> bool:
        """Whether it is sent new requests. One that HAProxy's own checks find down still belongs to the route."""
        return not self.status.startswith(("DRAIN", "MAINT"))


def servers(found: Sequence[Row]) -> list[Server]:
    """The servers among a backend's rows."""
    return [
        Server(
            row["svname"],
            row["addr"],
            number(row, "uweight"),
            row["status"],
            number(row, "scur") + number(row, "qcur"),
            _tally(row),
            member_of(row["svname"], row["addr"], number(row, "uweight")),
        )
        for row in found
        if row["svname"] not in ("BACKEND", "FRONTEND")
    ]


def own_row(found: Sequence[Row]) -> Row | None:
    """The backend's own row; its counters outlive its servers."""
    return next((row for row in found if row["svname"] == "BACKEND"), None)


def _tally(row: Row) -> Tally:
    """Of a server's row. `eresp` counts a reset twice, and a broken body, too; `stot` each attempt, and those whose client
    left. Neither alone tells the silent ones, which are no more than either has beyond what is known."""
    answered, refused, broken = number(row, "req_tot"), number(row, "econ"), number(row, "srv_abrt")
    attempts = number(row, "stot") - number(row, "wretr") - number(row, "wredis")
    silent = min(number(row, "eresp") - broken, attempts - answered - refused)
    return Tally(answered, number(row, "hrsp_5xx"), refused, broken, max(0, silent))


def by_release(found: Iterable[Server], of_deleted: Mapping[str, Tally]) -> dict[str, Tally]:
    """The sums of the servers that are there, and of those that were deleted.

    `of_deleted` is by server, or by release where the server's name may come again.
    """
    there = {server.name: server.tally for server in found}
    sums: dict[str, Tally] = {}
    for name, tally in {**of_deleted, **there}.items():
        member = member_of(name, "")
        release = member.release if member else name
        sums[release] = sums.get(release, Tally()) + tally
    return sums


def traffic(found: Sequence[Row], tallies: Mapping[str, Tally]) -> Traffic | None:
    """How the requests of a backend ended; None when HAProxy does not count them (another mode than http). `srv_abrt` are
    the answers that broke off after their head."""
    row = own_row(found)
    if row is None or row.get("mode") != "http":
        return None
    lost = number(row, "econ") + number(row, "srv_abrt") + _made_up(row, tallies)
    return Traffic(number(row, "req_tot"), lost, _errors(row, tallies))


def release_traffic(found: Sequence[Row], tallies: Mapping[str, Tally]) -> dict[str, Traffic]:
    """The same by release. A request that another server answered in the end is that one's alone, and one for which there
    was no server is nobody's."""
    row = own_row(found)
    if row is None or row.get("mode") != "http":
        return {}
    most, sums = _made_up(row, tallies), {}
    for release, tally in tallies.items():
        silent = min(tally.silent, most)
        lost = tally.refused + tally.broken + silent
        sums[release] = Traffic(tally.answered + tally.refused + silent, lost, tally.errors)
    return sums


def _errors(row: Row, tallies: Mapping[str, Tally]) -> int:
    return min(number(row, "hrsp_5xx"), sum(tally.errors for tally in tallies.values()))


def _made_up(row: Row, tallies: Mapping[str, Tally]) -> int:
    """The answers that HAProxy made up because a server gave none, for which it has no counter.

    `hrsp_5xx` of the backend has the application's 5xx among them, and `eresp` counts a reset twice and a broken body, too.
    So they are the 5xx that are left when those of the servers and the failed connections (`econ`, each a 503) are taken
    away, and never more than `eresp` has.
    """
    left = number(row, "hrsp_5xx") - _errors(row, tallies) - number(row, "econ")
    return max(0, min(left, number(row, "eresp") - number(row, "srv_abrt")))
