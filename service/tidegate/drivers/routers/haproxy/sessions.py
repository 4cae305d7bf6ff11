"""Requests in flight that `show stat` cannot tell: upgraded connections, and those of processes before a reload.

HAProxy has no counter for upgraded connections (WebSockets, CONNECT). In `show sess` a request has an analyser on at least
one of its two channels until its body has passed; an upgraded connection has none on either (`an=00h`).

An old process does not show its statistics, and refuses to drain a server. But it still takes `set map`: from then on it
hands every new request of its idle clients over to the new process, and its servers keep only the requests that they have.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tidegate.drivers.routers.haproxy.process import has_old_processes, list_workers
from tidegate.drivers.routers.haproxy.runtime_api import ResponseTooLong, RuntimeSession, send_command
from tidegate.drivers.routers.haproxy.servers import HAProxyServer, parse_haproxy_name
from tidegate.errors import RouterError

STREAM = re.compile(
    r"^0x\S+ .* be=(\S+) srv=(\S+) .* rq\[[^\]]*\ban=([0-9a-f]+)h[^\]]*\] rp\[[^\]]*\ban=([0-9a-f]+)h.* scb=\[(\d+)", re.M
)
ESTABLISHED = 8  # of `scb`: lower while the connection to the server is being made, and may lead to another server yet
OWN_SESSION = "fe=GLOBAL"  # that of the command itself, so that no response is without one
NO_PROCESS = "Can't find the target PID"
MAX_BYTES = 4 << 20  # of the response to `show sess`: about 15,000 sessions


@dataclass(frozen=True)
class Stream:
    """A line of `show sess`: a request or an upgraded connection, and where it is sent."""

    backend: str
    server: str
    upgraded: bool
    connected: bool


@dataclass(frozen=True)
class OldRequests:
    """What old processes still serve of one backend, by instance; `tunnels` are the upgraded connections among them."""

    requests: Mapping[str, int] = field(default_factory=dict)
    tunnels: Mapping[str, int] = field(default_factory=dict)


def parse_streams(text: str) -> list[Stream]:
    """The streams in a response to `show sess`."""
    return [
        Stream(backend, server, not int(request, 16) and not int(response, 16), int(state) >= ESTABLISHED)
        for backend, server, request, response, state in STREAM.findall(text)
    ]


def count_upgraded_connections(process: RuntimeSession, backend: str, servers: Sequence[HAProxyServer]) -> dict[str, int]:
    """The number of upgraded connections by instance; empty if unknown.

    Queried only while a draining server has sessions, because `show sess` lists all sessions of all backends; unknown if
    that is longer than `MAX_BYTES`. Must be the last command of a session.
    """
    if not any(one.sessions for one in servers if not one.takes_new):
        return {}
    try:
        text = process.ask("show sess", MAX_BYTES)
    except ResponseTooLong:
        return {}
    upgraded = [stream for stream in parse_streams(text) if stream.upgraded and stream.backend == backend]
    counts = Counter(member.instance for stream in upgraded if (member := parse_haproxy_name(stream.server)))
    return {one.member.instance: counts[one.member.instance] for one in servers if one.member}


def count_old_requests(admin: Path, master: Path | None, replaced: Path | None, backend: str) -> OldRequests | None:
    """What old processes still serve; None if unknown. Hands the new requests of their clients over to the new process.

    `replaced`: the map of an owned HAProxy's frontends. An adopted one has none, so that an old process may send the next
    request of an idle client to any server that it knew.
    """
    workers = list_workers(master) if master is not None else None
    if master is None or workers is None or (workers[1] and replaced is None):
        return None if has_old_processes(admin, master) else OldRequests()
    requests, tunnels = Counter[str](), Counter[str]()
    for pid in workers[1]:
        streams = _hand_over(master, pid, f"set map {replaced} replaced 1")
        if streams is None:
            return None
        for stream in streams:
            if stream.backend != backend:
                continue
            member = parse_haproxy_name(stream.server)
            if member is None or not stream.connected:
                return None
            requests[member.instance] += 1
            tunnels[member.instance] += stream.upgraded
    return OldRequests(requests, tunnels)


def _hand_over(master: Path, pid: int, command: str) -> list[Stream] | None:
    """The streams of an old process once it hands over what is new; None if it does not. HAProxy stops all its threads
    while it lists streams, so none of them was still on its way to a server."""
    try:
        if response := send_command(master, f"@!{pid} {command}").strip():
            return [] if NO_PROCESS in response else None
        text = send_command(master, f"@!{pid} show sess", max_bytes=MAX_BYTES)
    except RouterError:
        return None
    if NO_PROCESS in text:
        return []
    return parse_streams(text) if OWN_SESSION in text else None
