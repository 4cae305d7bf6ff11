"""HAProxy's servers: how they are written, their state in a process, and the outcomes of their requests. Pure.

An owned HAProxy has two servers for each member: one with health checks, and a backup at the same address without them.
HAProxy uses the backups only while all checked servers of the backend are down, so that traffic stays as it is then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tidegate.core.routing import Backend, BackendProtocol, Member, Traffic
from tidegate.drivers.routers.haproxy.runtime_api import counter_value
from tidegate.drivers.routers.members import parse_server_name, server_name
from tidegate.drivers.routers.state_file import BackendState, RequestCounts

StatsRow = Mapping[str, str]
BACKUP = ".backup"  # the suffix of a backup's name
CHECK_ENABLED = 4  # of `srv_check_state`
TOTAL = ""  # the key of a whole backend among counts by release


@dataclass(frozen=True)
class WantedServer:
    """A server as it should be. `parameters`: those of its line before the weight."""

    name: str
    member: Member
    parameters: str

    @property
    def line(self) -> str:
        """Its words after `server`, always with the weight: an adopted file may set another one in `default-server`."""
        return f"{self.name} {self.member.address} {self.parameters} weight {self.member.weight}"

    @property
    def checked(self) -> bool:
        """Whether it has health checks."""
        return "check" in self.parameters.split()


def wanted_servers(
    backend: Backend, members: Iterable[Member], *, defaults: str = "", backups: bool = True
) -> dict[str, WantedServer]:
    """The servers of these members by name. `defaults`: parameters of an adopted file's `default-server` lines, which
    HAProxy does not apply to servers added at run time; checks among them are used instead of the service's. `backups`:
    whether each member has one."""
    health = backend.options.health
    protocol = "proto h2" if backend.options.protocol is BackendProtocol.H2C else ""
    check = (
        f"check inter {milliseconds(health.interval_seconds)}ms fall {health.unhealthy_threshold} "
        f"rise {health.healthy_threshold}" + (" check-ssl verify none" if health.scheme == "https" else "")
    )
    words = (defaults, "" if "check" in defaults.split() else check, protocol)
    checked, backup = (" ".join(filter(None, each)) for each in (words, (defaults, "backup", protocol)))
    servers = {}
    for member in sorted(members, key=server_name):
        name = server_name(member)
        servers[name] = WantedServer(name, member, checked)
        if backups:
            servers[name + BACKUP] = WantedServer(name + BACKUP, member, backup)
    return servers


def milliseconds(seconds: float) -> int:
    """At least one: HAProxy takes 0 for no limit."""
    return max(1, round(seconds * 1000))


def parse_haproxy_name(name: str, address: str = "", weight: int = 1) -> Member | None:
    """The member of a server or of its backup; None for a server that Tidegate did not add."""
    return parse_server_name(name.removesuffix(BACKUP), address, weight)


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
    removed: bool  # in maintenance or drained, or deleted a moment ago
    checked: bool  # its health checks are enabled

    @property
    def takes_new(self) -> bool:
        """Whether it is in rotation. A server that HAProxy's own health checks find down still is."""
        return not self.removed and not self.status.startswith(("DRAIN", "MAINT"))

    @property
    def is_down(self) -> bool:
        """Whether HAProxy's health checks found it down."""
        return self.status.startswith("DOWN")


def parse_servers(rows: Sequence[StatsRow], states: Sequence[StatsRow]) -> list[HAProxyServer]:
    """The servers in the rows of a backend, and in those of `show servers state`: the status alone shows no drain of a
    server that is down."""
    state_of = {(state["be_name"], state["srv_name"]): state for state in states}
    servers = []
    for row in rows:
        name, state = row["svname"], state_of.get((row["pxname"], row["svname"]), {})
        if name in ("BACKEND", "FRONTEND"):
            continue
        weight = counter_value(row, "uweight")
        servers.append(
            HAProxyServer(
                name=name,
                address=row["addr"],
                weight=weight,
                status=row["status"],
                sessions=counter_value(row, "scur") + counter_value(row, "qcur"),
                tally=_parse_counts(row),
                member=parse_haproxy_name(name, row["addr"], weight),
                removed=not state or bool(counter_value(state, "srv_admin_state")),
                checked=bool(counter_value(state, "srv_check_state") & CHECK_ENABLED),
            )
        )
    return servers


def routed_members(servers: Iterable[HAProxyServer]) -> dict[str, Member]:
    """The members that take new requests, by instance: on their checked server or on their backup."""
    return {server.member.instance: server.member for server in servers if server.takes_new and server.member}


def sessions_by_instance(servers: Iterable[HAProxyServer]) -> dict[str, int]:
    """The requests in flight of each instance."""
    sums: dict[str, int] = {}
    for server in servers:
        if server.member:
            sums[server.member.instance] = sums.get(server.member.instance, 0) + server.sessions
    return sums


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
        member = parse_haproxy_name(name)
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


def total_traffic(
    rows: Sequence[StatsRow], servers: Iterable[HAProxyServer], kept: BackendState, process: str
) -> dict[str, Traffic]:
    """The outcomes of a backend's requests by release and, with the key `TOTAL`, of all, in this process and in those
    before a reload. Empty if HAProxy does not count them."""
    is_recorded = kept.process == process
    tallies = counts_by_release(servers, kept.counts if is_recorded else {})
    total = backend_traffic(rows, tallies)
    if total is None:
        return {}
    sums = {TOTAL: total, **release_traffic(rows, tallies)}
    for key, before in (kept.earlier if is_recorded else {}).items():
        now = sums.get(key, Traffic(0, 0, 0))
        sums[key] = Traffic(now.requests + before.requests, now.lost + before.lost, now.errors + before.errors)
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
