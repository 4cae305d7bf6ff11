"""Backends in the proxy, and their observed state. Frozen, without side effects."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tidegate.core.container import Health

#: What every proxy can look for: a name of letters, digits and -, a value without anything that a configuration could read.
PREVIEW_HEADER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]{0,63}): *([A-Za-z0-9][A-Za-z0-9._~+/=:@-]{0,99})")


EVERY_IPV4 = "0.0.0.0"  # of `8001` and `*:8001`
EVERY_ADDRESS = "::"  # of `[::]:8001`: IPv6 and IPv4


def split_listen(listen: str) -> tuple[str, int]:
    """The IP address and the port of a `listen` value: `8001`, `127.0.0.1:8001`, `*:8001`, `[::1]:8001`. The address is
    `EVERY_IPV4`, `EVERY_ADDRESS` or a single one. Raises `ValueError`."""
    host, _, port = listen.rpartition(":")
    if host in ("", "*"):
        return EVERY_IPV4, int(port)
    bracketed = host.startswith("[") and host.endswith("]")
    address = ipaddress.IPv6Address(host[1:-1]) if bracketed else ipaddress.IPv4Address(host)
    return str(address), int(port)


def addresses_overlap(one: str, other: str) -> bool:
    """Whether a process that listens on one address prevents another from listening on the other; not if one is empty."""
    if not one or not other:
        return False
    (host, port), (other_host, other_port) = split_listen(one), split_listen(other)
    hosts = {host, other_host}
    shared = len(hosts) == 1 or EVERY_ADDRESS in hosts or (EVERY_IPV4 in hosts and not any(":" in each for each in hosts))
    return port == other_port and shared


@dataclass(frozen=True, slots=True)
class Preview:
    """How a new release is reached before it takes traffic: at an address of its own, by a header at the service's own
    address (`X-Shop-Preview: blue`), or both."""

    listen: str = ""
    header: str = ""


class BackendProtocol(StrEnum):
    """What the instances of a service speak."""

    HTTP1 = "http1"
    H2C = "h2c"  # HTTP/2 in clear text, as gRPC uses it


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long an owned proxy waits, in seconds.

    `response_seconds`: while an instance, or a client that sends a body, is silent; upgraded connections are not limited by
    it. `idle_seconds`: for the next request on a client's connection. `headers_seconds`: for all headers of a request.
    """

    response_seconds: float = 300.0
    idle_seconds: float = 60.0
    headers_seconds: float = 15.0


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """How an owned proxy treats the instances and the clients of a service.

    `health`: how the proxy itself checks instances; without a path, where it is checked at another port, by a connection.
    """

    health: Health = field(default_factory=Health)
    timeouts: Timeouts = Timeouts()
    protocol: BackendProtocol = BackendProtocol.HTTP1


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend in the proxy: that of the service, or of its preview.

    `name` is the name of the backend; `listen` (as in `split_listen`) the address that an owned proxy binds, empty for
    an adopted proxy with its own frontends. `former_listen`: where it listened before, which an owned HAProxy keeps.
    `parent` is the backend at whose address the preview is also reachable, by its header.
    """

    name: str
    listen: str = ""
    preview: Preview | None = None
    parent: str = ""
    options: BackendOptions = field(default_factory=BackendOptions)
    former_listen: str = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that an owned proxy binds for it."""
        return tuple(address for address in (self.listen, self.preview.listen if self.preview else "") if address)

    @property
    def preview_backend(self) -> Backend | None:
        """The preview's own place, which is written and read like any other; None without a preview."""
        if self.preview is None:
            return None
        inside = self.name if self.preview.header else ""
        return Backend(f"{self.name}_preview", self.preview.listen, parent=inside, options=self.options)


@dataclass(frozen=True, slots=True)
class Member:
    """An instance in the proxy. `weight` is relative to the weights of the other members."""

    instance: str  # Instance.id
    release: str
    ordinal: int
    address: str
    weight: int = 1  # 1 to 256


@dataclass(frozen=True, slots=True)
class Traffic:
    """The proxy's counters for one backend, or for one release in it, since its last start or reload. `lost`: requests
    without a proper answer because of the proxy or a vanished instance (refused, reset, no server, aborted); `errors`: the
    application's 5xx."""

    requests: int
    lost: int
    errors: int


@dataclass(frozen=True, slots=True)
class RouterState:
    """What the proxy really does for one backend, asked from the proxy.

    `members` take new requests. `draining` are still known to the proxy but take none: instance (as in `Member`) to its
    requests in flight, None where the proxy cannot tell. Requests in flight on members are in `busy`. `tunnels` are those
    of `draining` and `busy` that are upgraded connections (WebSockets), where the proxy can tell them apart. `by_release`
    has counters of releases that take requests or did, as far as the proxy counts by server. `restarted`: the proxy had
    ended, and was started by this very look. `down`: members that the proxy's own health checks found down, so that they
    take no new requests unless all members are down.
    """

    members: tuple[Member, ...] = ()
    draining: Mapping[str, int | None] = field(default_factory=dict)
    busy: Mapping[str, int | None] = field(default_factory=dict)
    fence: int = 0  # the highest that ever wrote
    traffic: Traffic | None = None
    tunnels: Mapping[str, int] = field(default_factory=dict)
    by_release: Mapping[str, Traffic] = field(default_factory=dict)
    restarted: bool = False
    down: frozenset[str] = frozenset()
