"""The address of a client (the peer's address, or the one that a trusted proxy reports) and the host that it asked for."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from flask import g
from werkzeug.sansio.utils import host_is_trusted

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


def is_allowed_host(host: str, allowed: Collection[str]) -> bool:
    """Whether a `Host` header, with or without a port, may be one of this server.

    A page of another site whose name was pointed to this server's address (DNS rebinding) has that name in `Host`. That is
    neither an address nor a name without a dot, of which nobody owns a public one. `allowed` as in `web.allowed_hosts`.
    """
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        plain = name.removesuffix(".").lower()
        is_known = any(host_is_trusted(plain, [known.lower()]) for known in allowed)
        return "*" in allowed or is_known or (bool(plain) and "." not in plain)
    return True


def client_address() -> str:
    """The client address of the current request."""
    return str(g.get("source", "unknown"))
