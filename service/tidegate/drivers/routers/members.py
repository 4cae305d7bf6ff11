"""Members as every proxy knows them: their names, where they are, and what no proxy could take."""

from __future__ import annotations

import ipaddress
import re

from tidegate.core.routing import PREVIEW_HEADER, Backend, Member

MAX_WEIGHT = 256


def server_name(member: Member) -> str:
    """`v2-4.0.3f9a1c0b77de`: release, ordinal, instance; so the exporter's series tell releases apart."""
    return f"{member.release}.{member.ordinal}.{member.instance}"


def parse_server_name(name: str, address: str, weight: int = 1) -> Member | None:
    """The other way round; None for a server that Tidegate did not add."""
    match = re.fullmatch(r"([a-z0-9-]+)\.(\d+)\.([a-z0-9]+)", name)
    return Member(match[3], match[1], int(match[2]), address, weight) if match else None


def member_problems(member: Member) -> list[str]:
    """Why no proxy could take this member, told before anything is written: with a bad line it would not start again."""
    problems, name = [], server_name(member)
    if parse_server_name(name, member.address, member.weight) != member:
        problems.append(f"{name} is no name for a server: release of [a-z0-9-], instance of [a-z0-9]")
    if not member.address:
        problems.append(f"{name} has no address yet")
    elif parse_endpoint(member.address) is None:
        problems.append(f"{name} has the address {member.address!r}: it must be ip:port")
    if not 1 <= member.weight <= MAX_WEIGHT:
        problems.append(f"{name} has the weight {member.weight}: it must be 1 to {MAX_WEIGHT}")
    return problems


def parse_endpoint(address: str) -> tuple[str, int] | None:
    """IP and port in one form; None when it is no `ip:port`."""
    host, _, port = address.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    return (str(ip), int(port)) if re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65536 else None


def header_problems(backend: Backend) -> list[str]:
    """Why no proxy could look for the header of this backend's preview: it stands in its file."""
    header = backend.preview.header if backend.preview else ""
    if not header or PREVIEW_HEADER.fullmatch(header):
        return []
    wanted = "`Name: value`, the name of letters, digits and -, the value of these and . _ ~ + / = : @"
    return [f"the preview of {backend.name} has the header {header!r}: it must be {wanted}"]


def bind_address(listen: str) -> str:
    """`8001` binds every address, `127.0.0.1:8001` one."""
    return listen if ":" in listen else f"*:{listen}"
