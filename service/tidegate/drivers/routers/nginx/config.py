"""nginx's configuration: the part that Tidegate writes in both modes, and the whole file around it of an owned one."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from tidegate.core.routing import PREVIEW_HEADER, Backend, Member
from tidegate.drivers.routers.atomic_files import TEMPLATES
from tidegate.drivers.routers.members import bind_address, header_problems, parse_endpoint, parse_server_name, server_name
from tidegate.drivers.routers.nginx.generations import BackendRoute, Generation

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
PREVIEW = "_preview"
MAX_WEIGHT = 256


@dataclass(frozen=True)
class NginxFrame:
    """What is the same in every generation of one nginx."""

    status: str
    directory: Path
    log: str = ""
    close_gap: bool = True
    user: str = ""  # of the workers; empty: that of the master


def backend_route(backend: Backend, members: Collection[Member]) -> BackendRoute:
    """The backend as a configuration has it, in the one order and form that makes equal things equal."""
    ordered = tuple(sorted((_normalise(member) for member in members), key=server_name))
    return BackendRoute(ordered, backend.listen, backend.preview.header if backend.preview else "")


def _normalise(member: Member) -> Member:
    found = parse_endpoint(member.address)
    if found is None:
        return member
    host, port = found
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Member(member.instance, member.release, member.ordinal, address, member.weight)


def render_routes(frame: NginxFrame, generation: Generation, file: Path) -> str:
    """Upstreams, maps and the log's format: the include file of an adopted one."""
    return _render("nginx_routes.conf.j2", frame, generation, file)


def render_config(frame: NginxFrame, generation: Generation, file: Path) -> str:
    """The file of an owned one."""
    return _render("nginx.conf.j2", frame, generation, file)


def _render(template: str, frame: NginxFrame, generation: Generation, file: Path) -> str:
    spots = dict(sorted(generation.spots.items()))
    for name, spot in list(spots.items()):
        if spot.header:
            spots.setdefault(name + PREVIEW, BackendRoute())  # what the header leads to; without members it answers 503
    servers = {_normalise(member).address: server_name(member) for place in spots.values() for member in place.members}
    return TEMPLATES.get_template(template).render(
        frame=frame, comment=generation.comment, file=file, spots=spots, servers=servers,
        bind=bind_address, variable=route_variable, header=parse_header,
    )  # fmt: skip


def route_variable(backend: str) -> str:
    """nginx's name for where requests for a backend go: to itself, or to its preview."""
    return "tidegate_to_" + backend.replace("-", "_")


def parse_header(text: str) -> tuple[str, str]:
    """nginx's variable of a header, and the value that it must have."""
    name, value = PREVIEW_HEADER.fullmatch(text).groups()  # type: ignore[union-attr]  # `config_problems` has seen it
    return f"http_{name.lower().replace('-', '_')}", value


def config_problems(backend: Backend, members: Collection[Member]) -> Iterator[str]:
    """Why nginx could not do this, but for addresses that are lacking."""
    if not NAME.fullmatch(backend.name):
        yield f"{backend.name!r} is no name for an upstream: a-z, 0-9, - and _"
    yield from header_problems(backend)
    for member in members:
        yield from _member_problems(member)
    addresses = [member.address for member in members if member.address]
    for address in sorted({duplicate for duplicate in addresses if addresses.count(duplicate) > 1}):
        yield f"two members have the address {address}"


def _member_problems(member: Member) -> Iterator[str]:
    name = server_name(member)
    if parse_server_name(name, member.address) is None:
        yield f"{name} is no name for a server: release of [a-z0-9-], instance of [a-z0-9]"
    if member.address and parse_endpoint(member.address) is None:
        yield f"{name} has the address {member.address!r}: it must be ip:port"
    if not 1 <= member.weight <= MAX_WEIGHT:
        yield f"{name} has the weight {member.weight}: it must be 1 to {MAX_WEIGHT}"


def members_without_address(members: Collection[Member]) -> list[str]:
    """Those without an address, which may come yet."""
    return [f"{server_name(member)} has no address yet" for member in members if not member.address]
