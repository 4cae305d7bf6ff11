"""Counts a backend's upgraded connections (WebSockets, CONNECT), which stay open until one side closes them.

HAProxy has no counter for them. In `show sess` a request has an analyser on at least one of its two channels until its body
has passed; an upgraded connection has none on either (`an=00h`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from tidegate.drivers.routers.haproxy.runtime_api import ResponseTooLong, RuntimeSession
from tidegate.drivers.routers.haproxy.servers import HAProxyServer

UPGRADED_SESSION = re.compile(r"^0x\S+ .* be=(\S+) srv=(\S+) .* rq\[[^\]]*\ban=00h[^\]]*\] rp\[[^\]]*\ban=00h", re.M)
MAX_BYTES = 4 << 20  # of the response to `show sess`: about 15,000 sessions


def count_upgraded_connections(process: RuntimeSession, backend: str, servers: Sequence[HAProxyServer]) -> dict[str, int]:
    """The number of upgraded connections by instance; empty if unknown.

    Queried only while a draining server has sessions, because `show sess` lists all sessions of all backends; unknown if
    that is longer than `MAX_BYTES`. Must be the last command of a session.
    """
    if not any(one.sessions for one in servers if not one.takes_new):
        return {}
    try:
        sessions = process.ask("show sess", MAX_BYTES)
    except ResponseTooLong:
        return {}
    counts = Counter(server for at, server in UPGRADED_SESSION.findall(sessions) if at == backend)
    return {one.member.instance: min(counts[one.name], one.sessions) for one in servers if one.member}
