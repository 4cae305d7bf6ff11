"""The address of a client: the peer's address, or the one that a trusted proxy reports."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from flask import g

Networks = Collection[ipaddress.IPv4Network | ipaddress.IPv6Network]


def find_client_address(peer: str, forwarded: str, trusted: Networks) -> str:
    """The last address in `X-Forwarded-For` plus `peer` that is not a trusted proxy.

    Any client can send the header, so it is read from its end and only while the entry came from a trusted proxy.
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
    """The client address of the current request."""
    return str(g.get("source", "unknown"))
