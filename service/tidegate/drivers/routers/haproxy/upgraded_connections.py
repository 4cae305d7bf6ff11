"""Which of a backend's sessions are upgraded connections (WebSockets, CONNECT): they end when their client likes.

HAProxy has no counter for them. A request that is still one has an analyser on one of its two channels, until its body has
passed; an upgraded connection has none on either, for there is nothing left to be looked at.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from tidegate.drivers.routers.haproxy.runtime_api import ResponseTooLong, RuntimeSession
from tidegate.drivers.routers.haproxy.servers import HAProxyServer

UPGRADED_SESSION = re.compile(r"^0x\S+ .* be=(\S+) srv=(\S+) .* rq\[[^\]]*\ban=00h[^\]]*\] rp\[[^\]]*\ban=00h", re.M)
MAX_BYTES = 4 << 20  # of `show sess`: some 15,000 sessions, 5 µs each


def count_upgraded_connections(process: RuntimeSession, backend: str, servers: Sequence[HAProxyServer]) -> dict[str, int]:
    """How many there are on each instance. Looked for only when a server that drains has sessions, for HAProxy tells all of
    all backends; nothing where that is too much. The last question of a conversation."""
    if not any(one.sessions for one in servers if not one.takes_new):
        return {}
    try:
        sessions = process.ask("show sess", MAX_BYTES)
    except ResponseTooLong:
        return {}
    counts = Counter(server for at, server in UPGRADED_SESSION.findall(sessions) if at == backend)
    return {one.member.instance: min(counts[one.name], one.sessions) for one in servers if one.member}
