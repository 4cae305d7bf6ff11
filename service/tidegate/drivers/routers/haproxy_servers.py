"""What HAProxy's statistics say of a backend: its servers, and how its requests ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tidegate.core.routing import Member, Traffic
from tidegate.drivers.routers import haproxy_config as config
from tidegate.drivers.routers.haproxy_socket import number

Row = Mapping[str, str]


@dataclass(frozen=True)
class Server:
    """A server of the running process."""

    name: str
    address: str
    weight: int  # as it was set; while it drains or starts slowly HAProxy reckons with another one
    status: str
    sessions: int  # requests on it, and those that are queued for it
    errors: int  # answers 5xx that it gave itself
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
            number(row, "hrsp_5xx"),
            config.member_of(row["svname"], row["addr"], number(row, "uweight")),
        )
        for row in found
        if row["svname"] not in ("BACKEND", "FRONTEND")
    ]


def own_row(found: Sequence[Row]) -> Row | None:
    """The backend's own row; its counters outlive its servers."""
    return next((row for row in found if row["svname"] == "BACKEND"), None)


def known_errors(found: Iterable[Server], of_deleted: Mapping[str, int]) -> int:
    """The application's own 5xx: of the servers that are there, and of those that were deleted."""
    there = {server.name: server.errors for server in found}
    return sum(there.values()) + sum(count for name, count in of_deleted.items() if name not in there)


def traffic(found: Sequence[Row], of_deleted: Mapping[str, int]) -> Traffic | None:
    """How the requests of a backend ended; None when HAProxy does not count them (another mode than http).

    HAProxy has no counter for an answer that it made up because the server gave none: `hrsp_5xx` of the backend has the
    application's 5xx among them, and `eresp` counts a reset twice and a broken body, too. So they are the 5xx that are left
    when those of the servers and the failed connections (`econ`, each a 503) are taken away, and never more than `eresp`
    has. `srv_abrt` are the answers that broke off after their head.
    """
    row = own_row(found)
    if row is None or row.get("mode") != "http":
        return None
    answered = number(row, "hrsp_5xx")
    errors = min(answered, known_errors(servers(found), of_deleted))
    refused, broken = number(row, "econ"), number(row, "srv_abrt")
    made_up = min(answered - errors - refused, number(row, "eresp") - broken)
    return Traffic(number(row, "req_tot"), refused + broken + max(0, made_up), errors)
