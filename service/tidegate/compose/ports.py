"""Reading `ports`, `expose` and `x-tidegate.port`: where instances take requests, and where the proxy does. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from tidegate.compose import extension
from tidegate.compose.interpolation import Variables, interpolate
from tidegate.compose.reader import Reader, integer, list_of
from tidegate.errors import Problem

SHORT = re.compile(
    r"(?:(?:(?P<ip>\[[0-9a-fA-F:.]+\]|[0-9.]+|[0-9a-fA-F:]*::[0-9a-fA-F:.]*):)?(?P<published>[0-9]*(?:-[0-9]+)?):)?"
    r"(?P<target>[0-9]+(?:-[0-9]+)?)(?:/(?P<protocol>tcp|udp|sctp))?"
)
ALLOWED = "ports such as 8080, 8000:8080, 127.0.0.1:8000:8080, or objects with target and published"
LONG_KEYS = {"target", "published", "host_ip", "protocol", "mode", "name", "app_protocol"}
MAX_RANGE = 100  # ports of one entry


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """A TCP port of the container, and where Compose would publish it; `published` is empty if Docker chooses the port."""

    target: int
    published: str = ""
    address: str = ""

    @property
    def listen(self) -> str:
        """The address for the proxy, as in `x-tidegate.listen`; empty without a single published port."""
        if not self.published.isdigit():
            return ""
        ip = ip_address(self.address) if self.address else None
        if ip is None or str(ip) == "0.0.0.0":
            return self.published
        return f"[{ip}]:{self.published}" if ip.version == 6 else f"{ip}:{self.published}"


def named_ports(body: Mapping[str, object], variables: Variables) -> dict[int, str]:
    """The ports that a service's `ports` and `expose` name, each with the address that it is published on; empty if that is
    none, or has a variable that is not set. An entry whose port in the container cannot be read is left out."""
    addresses: dict[int, str] = {}
    for key in ("expose", "ports"):
        entries = body.get(key)
        for entry in entries if isinstance(entries, list) else ():
            problems: list[Problem] = []
            resolved = interpolate(entry, variables, problems, key)
            with suppress(ValueError):
                for port in _ports([_target(entry) if problems else resolved]):
                    addresses[port.target] = port.listen or addresses.get(port.target, "")
    return addresses


def _target(entry: object) -> object:
    """The container's port of an entry, as it is written."""
    return entry.get("target") if isinstance(entry, Mapping) else str(entry).rpartition(":")[2]


def read_ports(root: Reader, own: Reader) -> tuple[int, str]:
    """The port that takes traffic (0: the only one that the image exposes), and where the proxy listens (empty: nowhere of
    its own)."""
    ports = root.take("ports", _ports, tuple[PublishedPort, ...]())
    exposed = root.take("expose", _exposed, tuple[int, ...]())
    targets = tuple(dict.fromkeys((*(entry.target for entry in ports), *exposed)))
    port = own.take("port", integer(1, 65535), 0)
    if "port" not in own and len(targets) > 1:
        own.complain("port", f"is required: which of {', '.join(map(str, targets))} takes the traffic")
    port = port or (targets[0] if len(targets) == 1 else 0)
    return port, _read_listen(root, own, ports, port)


def _read_listen(root: Reader, own: Reader, ports: tuple[PublishedPort, ...], port: int) -> str:
    """`listen`, or else the address at which Compose would publish the port; with notes about what is not published."""
    listen = own.take("listen", extension.parse_listen, "")
    published = [entry.listen for entry in ports if entry.target == port and entry.listen]
    others = sorted({entry.target for entry in ports if entry.target != port})
    if "listen" not in own and published:
        root.note(
            "ports", f"{published[0]} is used as x-tidegate.listen: the proxy publishes the service, not the container"
        )
        if published[1:]:
            root.note("ports", f"not published: {', '.join(published[1:])}; the proxy listens on one address")
    elif ports and (published or not others):
        root.note(
            "ports", f"not published: {port or 'the port'} is reached through the proxy" + (f" at {listen}" * bool(listen))
        )
    if others and port:
        root.note("ports", f"not published: {', '.join(map(str, others))}; the proxy serves port {port} only")
    return listen or next(iter(published if "listen" not in own else ()), "")


def _exposed(value: object) -> tuple[int, ...]:
    """The TCP ports in `expose`."""
    entries = list_of('ports, such as ["8080"]')(value)
    matches = [re.fullmatch(r"([0-9]+(?:-[0-9]+)?)(?:/(tcp|udp|sctp))?", str(entry)) for entry in entries]
    if not all(matches) or any(isinstance(entry, bool) for entry in entries):
        raise ValueError('ports, such as ["8080"]')
    return tuple(port for match in matches if match and match[2] in (None, "tcp") for port in _range(match[1]))


def _ports(value: object) -> tuple[PublishedPort, ...]:
    return tuple(port for entry in list_of(ALLOWED)(value) for port in _port(entry))


def _port(entry: object) -> Iterator[PublishedPort]:
    """The TCP ports of one entry."""
    if isinstance(entry, Mapping):
        ip, published, protocol = (str(entry.get(key) or "") for key in ("host_ip", "published", "protocol"))
        target = str(entry.get("target") or "")
        unknown = {key for key in map(str, entry) if key not in LONG_KEYS and not key.startswith("x-")}
        if unknown or not re.fullmatch(r"[0-9]+", target) or not re.fullmatch(r"([0-9]+(-[0-9]+)?)?", published):
            raise ValueError(ALLOWED)
    else:
        match = SHORT.fullmatch(str(entry)) if isinstance(entry, str | int) and not isinstance(entry, bool) else None
        if match is None:
            raise ValueError(ALLOWED)
        ip, published, target, protocol = (match[key] or "" for key in ("ip", "published", "target", "protocol"))
    ip = ip.strip("[]")
    if ip:
        ip_address(ip)  # raises ValueError
    targets, sources = _range(target), _range(published) if published else ()
    one_each = len(targets) == len(sources) > 1
    for index, port in enumerate(targets if protocol in ("", "tcp") else ()):
        yield PublishedPort(port, str(sources[index]) if one_each else published, ip)


def _range(text: str) -> tuple[int, ...]:
    first, _, last = text.partition("-")
    ports = range(int(first), int(last or first) + 1)
    if not ports or len(ports) > MAX_RANGE or not 1 <= ports[0] <= ports[-1] <= 65535:
        raise ValueError(f"ports from 1 to 65535, at most {MAX_RANGE} in a range")
    return tuple(ports)
