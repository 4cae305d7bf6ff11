"""Members of a route as every proxy sees them: server names, addresses, and validation."""

from __future__ import annotations

import ipaddress
import re

from tidegate.core.routing import EVERY_IPV4, PREVIEW_HEADER, Backend, Member, split_listen

MAX_WEIGHT = 256


def server_name(member: Member) -> str:
    """`v2-4.0.3f9a1c0b77de`: release, ordinal and instance, so that metrics by server can be grouped by release."""
    return f"{member.release}.{member.ordinal}.{member.instance}"


def parse_server_name(name: str, address: str, weight: int = 1) -> Member | None:
    """The member with this server name; None for a server that Tidegate did not add."""
    match = re.fullmatch(r"([a-z0-9-]+)\.(\d+)\.([a-z0-9]+)", name)
    return Member(match[3], match[1], int(match[2]), address, weight) if match else None


def member_problems(member: Member) -> list[str]:
    """Why no proxy could use this member. Checked before a write: a proxy does not start with an invalid line."""
    problems, name = [], server_name(member)
    if parse_server_name(name, member.address, member.weight) != member:
        problems.append(f"{name} is not a valid server name: the release must match [a-z0-9-]+, the instance [a-z0-9]+")
    if not member.address:
        problems.append(missing_address(member))
    elif parse_endpoint(member.address) is None:
        problems.append(f"{name} has the address {member.address!r}; it must be ip:port")
    if not 1 <= member.weight <= MAX_WEIGHT:
        problems.append(f"{name} has the weight {member.weight}; it must be 1 to {MAX_WEIGHT}")
    return problems


def missing_address(member: Member) -> str:
    """The problem of a member whose address is not known yet; the only one that waiting solves."""
    return f"{server_name(member)} has no address yet"


def parse_endpoint(address: str) -> tuple[str, int] | None:
    """IP in canonical form, and port; None unless the address is `ip:port`."""
    host, _, port = address.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    return (str(ip), int(port)) if re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65536 else None


def header_problems(backend: Backend) -> list[str]:
    """Why the header of this backend's preview cannot be written to a proxy's configuration."""
    header = backend.preview.header if backend.preview else ""
    if not header or PREVIEW_HEADER.fullmatch(header):
        return []
    allowed = "`Name: value` with a name of letters, digits and -, and a value of these and . _ ~ + / = : @"
    return [f"the preview of {backend.name} has the header {header!r}; it must be {allowed}"]


def bind_address(listen: str) -> str:
    """A `listen` value with its address in canonical form: `*:8001`, `127.0.0.1:8001`, `[::1]:8001`; `[::]:8001` is every
    IPv6 and IPv4 address."""
    host, port = split_listen(listen)
    if host == EVERY_IPV4:
        return f"*:{port}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
