"""nginx's configuration: the part that Tidegate writes in both modes, and the whole file of mode owned. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tidegate.core.routing import EVERY_ADDRESS, EVERY_IPV4, PREVIEW_HEADER, Backend, BackendProtocol, Member, split_listen
from tidegate.drivers.routers.atomic_files import TEMPLATES
from tidegate.drivers.routers.members import (
    bind_address,
    header_problems,
    member_problems,
    missing_address,
    parse_endpoint,
    server_name,
)
from tidegate.drivers.routers.nginx.generations import PREVIEW, BackendRoute, Generation
from tidegate.drivers.routers.options import RouterOptions
from tidegate.errors import RouterError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


MAX_DRAIN_SECONDS = 86_400.0  # the longest `long_lived` of a service


@dataclass(frozen=True)
class NginxFrame:
    """The settings that are the same in every generation of one nginx."""

    status: str
    directory: Path
    log: str = ""
    close_gap: bool = True
    user: str = ""  # user of the workers; empty: the master's
    shutdown_timeout_seconds: float = MAX_DRAIN_SECONDS  # how long old workers may finish requests
    clients: RouterOptions = field(default_factory=RouterOptions)
    balance: Mapping[str, str] = field(default_factory=dict)  # how an upstream chooses servers, by backend


def backend_route(backend: Backend, members: Collection[Member]) -> BackendRoute:
    """The backend's route in canonical order and form, so that equal routes compare equal."""
    ordered = tuple(sorted((_normalise(member) for member in members), key=server_name))
    header = backend.preview.header if backend.preview else ""
    return BackendRoute(ordered, backend.listen, header, backend.options.timeouts)


def _normalise(member: Member) -> Member:
    endpoint = parse_endpoint(member.address)
    if endpoint is None:
        return member
    host, port = endpoint
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Member(member.instance, member.release, member.ordinal, address, member.weight)


def render_routes(frame: NginxFrame, generation: Generation, file: Path) -> str:
    """Upstreams, maps and log format: the include file of mode adopted."""
    return _render("nginx_routes.conf.j2", frame, generation, file)


def render_config(frame: NginxFrame, generation: Generation, file: Path) -> str:
    """The whole file of mode owned."""
    return _render("nginx.conf.j2", frame, generation, file)


def _render(template: str, frame: NginxFrame, generation: Generation, file: Path) -> str:
    routes = dict(sorted(generation.routes.items()))
    for name, route in list(routes.items()):
        if route.header:
            routes.setdefault(name + PREVIEW, BackendRoute())  # the header's target; without members it answers 503
    servers = {_normalise(member).address: server_name(member) for place in routes.values() for member in place.members}
    return TEMPLATES.get_template(template).render(
        frame=frame, comment=generation.comment, file=file, routes=routes, servers=servers,
        bind=_bind, variable=route_variable, header=parse_header, time=_milliseconds, loopback=_loopback,
    )  # fmt: skip


def _bind(listen: str) -> str:
    """The parameters of `listen`: `[::]` is every address, of IPv4 too."""
    address = bind_address(listen)
    return f"{address} ipv6only=off" if address.startswith("[::]:") else address


def _loopback(listen: str) -> str:
    """Where this machine reaches an address of `listen`."""
    host, port = split_listen(listen)
    host = {EVERY_IPV4: "127.0.0.1", EVERY_ADDRESS: "::1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _milliseconds(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def route_variable(backend: str) -> str:
    """The nginx variable with the upstream of a request: the backend or its preview."""
    return "tidegate_to_" + re.sub(r"[.-]", "_", backend)


def parse_header(text: str) -> tuple[str, str]:
    """nginx's variable of a header, and the value to match."""
    name, value = PREVIEW_HEADER.fullmatch(text).groups()  # type: ignore[union-attr]  # checked by `config_problems`
    return f"http_{name.lower().replace('-', '_')}", value


def config_problems(backend: Backend, members: Collection[Member]) -> Iterator[str]:
    """Why nginx could not serve this route, apart from unknown addresses."""
    if not NAME.fullmatch(backend.name):
        yield f"{backend.name!r} is not a valid upstream name; it must match {NAME.pattern}"
    yield from header_problems(backend)
    if problem := protocol_problem(backend):
        yield problem
    for member in members:
        yield from (problem for problem in member_problems(member) if problem != missing_address(member))
    addresses = [member.address for member in members if member.address]
    for address in sorted({duplicate for duplicate in addresses if addresses.count(duplicate) > 1}):
        yield f"several members have the address {address}"


def protocol_problem(backend: Backend) -> str:
    """Why nginx cannot speak the protocol of this backend's instances; empty if it can."""
    if backend.options.protocol is BackendProtocol.HTTP1:
        return ""
    return f"found h2c for {backend.name}; nginx speaks only HTTP/1.1 to instances: use HAProxy or Envoy for h2c"


def require_distinct_name(name: str, others: Collection[str]) -> None:
    """Raise `RouterError` if nginx could not distinguish the backend from another one."""
    for other in others:
        if other != name and route_variable(other).lower() == route_variable(name).lower():
            text = (
                f"nginx cannot have both backends {name} and {other}: names may not differ only in case, `-`, `_` and `.`"
            )
            raise RouterError(f"{text}. Change `x-tidegate.route` of one.", retryable=False)


def members_without_address(members: Collection[Member]) -> list[str]:
    """A message for each member whose address is not known yet."""
    return [missing_address(member) for member in members if not member.address]
