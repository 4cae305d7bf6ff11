"""Where a request comes from: the address at the other end, or what a proxy that is trusted says of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from flask import g

Networks = Collection[ipaddress.IPv4Network | ipaddress.IPv6Network]


def find_client_address(peer: str, forwarded: str, trusted: Networks) -> str:
    """The address nearest to us that is no trusted proxy, of `X-Forwarded-For` and the peer.

    Anybody may send the header; so it is read from its end, and only as far as trusted proxies wrote it.
    """
    address = peer
    for part in reversed(forwarded.split(",") if forwarded else []):
        if not _is_trusted(address, trusted):
            break
        try:
            address = str(ipaddress.ip_address(part.strip()))
        except ValueError:
            break
    return address


def _is_trusted(address: str, trusted: Networks) -> bool:
    try:
        return any(ipaddress.ip_address(address) in network for network in trusted)
    except ValueError:
        return False


def client_address() -> str:
    """Of the present request."""
    return str(g.get("source", "unknown"))
