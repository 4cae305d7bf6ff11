"""The settings that all routers of Tidegate have in common, and the limits of the system that some of them must obey."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from tidegate.ports import CheckStatus, Diagnosis

MIN_HEADER_BYTES = 8 * 1024
MAX_HEADER_BYTES = 1024 * 1024
UNLIMITED_FILES = 1 << 20  # what Linux allows where the limit of open files is none
FILES_PER_CONNECTION = 2  # to the client and to the instance
SPARE_FILES = 500  # for listeners, logs and the proxy's own API; and a twentieth of all for health checks
EXPORTER_CONNECTIONS = 64
FEW_CONNECTIONS = 1000  # fewer for each address are a warning

Network = IPv4Network | IPv6Network


class RouterOptions(BaseModel):
    """What an owned proxy accepts from clients.

    `trusted_proxies`: networks of load balancers and CDNs in front of it, whose `X-Forwarded-*` headers are passed on;
    those of all other clients are replaced. `accept_proxy_protocol`: each connection begins with a header of the PROXY
    protocol (v1 or v2) that names the client; others are refused. `max_header_bytes`: of all headers of one request.
    """

    model_config = ConfigDict(extra="forbid")
    trusted_proxies: tuple[Network, ...] = ()
    accept_proxy_protocol: bool = False
    max_header_bytes: int = Field(default=16 * 1024, ge=MIN_HEADER_BYTES, le=MAX_HEADER_BYTES)

    def client_options(self) -> list[str]:
        """Those of these settings that are set: an adopted proxy cannot have them, because its owner writes its file."""
        return sorted(self.model_fields_set & set(RouterOptions.model_fields))


class LimitedRouterOptions(RouterOptions):
    """The settings of proxies that limit the connections of each address by itself.

    `max_connections`: connections that clients of one address may have open at once. All addresses and the exporter have
    room at the same time, so that slow clients of one service take it from no other.
    """

    max_connections: int = Field(default=10_000, ge=1, le=1_000_000)

    def connections_per_address(self, addresses: int, open_files: int) -> int:
        """`max_connections`, or fewer where a proxy that listens on so many addresses may not open enough files."""
        room = (open_files - SPARE_FILES - open_files // 20) // FILES_PER_CONNECTION - EXPORTER_CONNECTIONS
        return max(1, min(self.max_connections, room // max(1, addresses)))

    def connection_warnings(self, proxy: str, addresses: int, open_files: int) -> Sequence[Diagnosis]:
        """A warning if an address has less room than was set, or little by default; else empty."""
        room = self.connections_per_address(addresses, open_files)
        is_set = "max_connections" in self.model_fields_set
        if room >= (self.max_connections if is_set else min(self.max_connections, FEW_CONNECTIONS)):
            return ()
        text = f"{open_files} open files are enough for {room} connections at each of {addresses} addresses"
        fix = f"raise the limit of open files (LimitNOFILE) and start {proxy} again, or set max_connections to {room}"
        return (Diagnosis(f"{proxy} connections", CheckStatus.WARNING, f"{text}, not {self.max_connections}", fix),)


def open_files_limit(pid: int | None) -> int:
    """How many files a process may open, by its hard limit; without one those of this process, which would start it."""
    try:
        _, limit = resource.prlimit(pid or 0, resource.RLIMIT_NOFILE)
    except OSError:  # it has just ended, or is another user's
        _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED_FILES if limit == resource.RLIM_INFINITY else limit


def require_socket_path(directory: Path, socket: str, max_bytes: int, proxy: str) -> None:
    """Raise `ValueError` if the path of `socket` in `directory` has more than `max_bytes` bytes.

    The kernel limits a socket's path to 107 bytes; some proxies need part of them for a temporary name.
    """
    length = len(os.fsencode(directory / socket))
    if length > max_bytes:
        extra = len(os.fsencode(f"/{socket}"))
        raise ValueError(
            f"is {str(directory)!r} ({length - extra} bytes), which makes the path of {proxy}'s socket {socket} "
            f"{length} bytes long; {proxy} accepts at most {max_bytes}: choose a directory of at most "
            f"{max_bytes - extra} bytes"
        )
