"""TCP connections of nginx's worker processes: which requests of an earlier configuration are still in flight.

A worker that is shutting down accepts no connection and keeps no idle one. So each of its connections from a client is a
request, and each connection to an instance is a request that this instance answers. While a client has a connection and no
instance has one for it, the request, or its response, is on its way, and the worker may still choose any instance for it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from tidegate.core.routing import EVERY_ADDRESS, EVERY_IPV4, Member, split_listen
from tidegate.drivers.routers.members import parse_endpoint
from tidegate.drivers.routers.nginx import generations
from tidegate.drivers.routers.nginx.generations import PREVIEW, NginxWorker

SOCKET = re.compile(r"socket:\[(\d+)\]")
#: local address and port, remote address and port, state, timer, inode; without listening sockets and those of no process
LINE = re.compile(
    rb"^ *\d+: ([0-9A-F]+):([0-9A-F]{4}) ([0-9A-F]+):([0-9A-F]{4}) (?!0A|06)([0-9A-F]{2}) "
    rb"\S+ (\d\d):\S+ \S+ +\d+ +\d+ (\d+)",
    re.M,
)
KEEPALIVE_TIMER = b"02"  # runs on connections to instances that are upgraded: nginx.conf enables keepalive probes for these
RESPONSE_ENDED = frozenset(
    {b"04", b"05", b"09", b"0B"}
)  # nginx has closed its side: FIN_WAIT1, FIN_WAIT2, LAST_ACK, CLOSING
ATTEMPTS = 3  # to read connections that do not change meanwhile

Endpoint = tuple[str, int]


@dataclass(frozen=True)
class Connection:
    """A TCP connection of a worker.

    `is_ending`: nginx has sent everything that it will send. `is_upgraded`: it is an upgraded connection to an instance.
    """

    local: Endpoint
    remote: Endpoint
    is_ending: bool = False
    is_upgraded: bool = False


def worker_connections(pid: int) -> tuple[Connection, ...] | None:
    """The worker's connections at one moment; None if they changed each time while they were read.

    Raises `FileNotFoundError` or `ProcessLookupError` if the process has ended.
    """
    for _ in range(ATTEMPTS):
        before = _sockets(pid)
        if not before:
            return ()
        connections = tuple(_table(pid, before))
        if _sockets(pid) == before:
            return connections
    return None


def _sockets(pid: int) -> frozenset[int]:
    folder = generations.PROC / str(pid) / "fd"
    links = []
    for descriptor in os.listdir(folder):
        try:
            links.append(os.readlink(folder / descriptor))
        except FileNotFoundError:  # closed meanwhile
            continue
    matches = (SOCKET.fullmatch(link) for link in links)
    return frozenset(int(match[1]) for match in matches if match)


def _table(pid: int, inodes: Collection[int]) -> Iterator[Connection]:
    for name in ("tcp", "tcp6"):
        try:
            text = (generations.PROC / str(pid) / "net" / name).read_bytes()
        except FileNotFoundError:  # no IPv6 in this kernel, or the process has ended, which reading its sockets again shows
            continue
        for local, local_port, remote, remote_port, state, timer, inode in LINE.findall(text):
            if int(inode) in inodes:
                ends = (_decode(local), int(local_port, 16)), (_decode(remote), int(remote_port, 16))
                yield Connection(*ends, state in RESPONSE_ENDED, timer == KEEPALIVE_TIMER)


def _decode(digits: bytes) -> str:
    """An address in the kernel's notation: words of 32 bits in the order of the machine."""
    words = (int(digits[start : start + 8], 16) for start in range(0, len(digits), 8))
    address = ipaddress.ip_address(b"".join(struct.pack("=I", word) for word in words))
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


@dataclass(frozen=True)
class InFlight:
    """Requests of old workers on one instance, `upgraded` of which are upgraded connections.

    `requests` is None while one more may still be sent to it.
    """

    requests: int | None
    upgraded: int = 0

    def __add__(self, other: InFlight) -> InFlight:
        unknown = self.requests is None or other.requests is None
        requests = None if unknown else (self.requests or 0) + (other.requests or 0)
        return InFlight(requests, self.upgraded + other.upgraded)


def requests_of_worker(worker: NginxWorker, backend: str, member: Member) -> InFlight:
    """The requests of a worker of an earlier configuration on a member that this configuration has.

    They are unknown if the worker accepts connections, and in mode adopted, where listen addresses are not Tidegate's.
    """
    name = backend.removesuffix(PREVIEW)
    routes = [route for other, route in worker.generation.routes.items() if other in (name, name + PREVIEW)]
    listens = {route.listen for route in routes if route.listen}
    if not worker.leaving or not listens:
        return InFlight(None)
    try:
        connections = worker_connections(worker.pid)
    except (FileNotFoundError, ProcessLookupError):  # the process has ended
        return InFlight(0)
    if connections is None:
        return InFlight(None)
    return count_requests(
        connections, listens, {each.address for route in routes for each in route.members}, member.address
    )


def count_requests(
    connections: Sequence[Connection], listens: Collection[str], servers: Collection[str], address: str
) -> InFlight:
    """The requests of a worker that is shutting down on the instance at `address`.

    `listens`: the listen addresses whose requests may be sent to it; `servers`: the addresses of all instances that get
    requests from there.
    """
    endpoints = {parse_endpoint(server) for server in servers}
    to_servers = [connection for connection in connections if connection.remote in endpoints]
    clients = sum(
        connection.remote not in endpoints and not connection.is_ending and _is_at(connection.local, listens)
        for connection in connections
    )
    ours = [connection for connection in to_servers if connection.remote == parse_endpoint(address)]
    upgraded = sum(connection.is_upgraded for connection in ours)
    return InFlight(len(ours) if clients <= len(to_servers) else None, upgraded)


def _is_at(local: Endpoint, listens: Collection[str]) -> bool:
    return any(port == local[1] and _covers(host, local[0]) for host, port in map(split_listen, listens))


def _covers(host: str, address: str) -> bool:
    return host in (address, EVERY_ADDRESS) or (host == EVERY_IPV4 and ":" not in address)
