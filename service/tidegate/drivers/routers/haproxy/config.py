"""The configuration file of an owned HAProxy, which is written whole.

HAProxy uses the file for restarts and reloads. It is replaced by an atomic rename, and only after HAProxy accepted it.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

from tidegate.core.container import Health
from tidegate.core.routing import EVERY_ADDRESS, Backend, Member, split_listen
from tidegate.drivers.routers import atomic_files
from tidegate.drivers.routers.haproxy import frontends
from tidegate.drivers.routers.haproxy.options import NO_LOG, HAProxyOptions
from tidegate.drivers.routers.haproxy.request_log import PIPE_DESCRIPTOR
from tidegate.drivers.routers.haproxy.servers import milliseconds, wanted_servers
from tidegate.drivers.routers.members import bind_address
from tidegate.drivers.routers.options import EXPORTER_CONNECTIONS
from tidegate.errors import RouterError

Sections = Mapping[str, tuple[Backend, Sequence[Member]]]

REWRITE_BYTES = 2048  # for the headers that are added to a request
OVERHEAD_BYTES = 4096  # HAProxy keeps up to four more bytes for each header
BYTES_PER_HEADER = 64  # so many headers are accepted that they have this size on average
NETWORKS_PER_LINE = 32  # a line has at most 64 words
ADDRESS_OF_SERVER = """'%[bc_dst,regsub("^(.*:.*)$","[\\1]")]:%[bc_dst_port]'"""  # with brackets around IPv6
EXAMPLE = Member("0", "v0", 0, "127.0.0.1:1")
FORWARDED = (
    ("X-Forwarded-Proto", "http"),
    ("X-Forwarded-Host", "%[req.fhdr(host)]"),
    ("X-Forwarded-Port", "%[dst_port]"),
)


@dataclass(frozen=True)
class OwnedConfig:
    """The file of mode owned. `open_files` returns how many files HAProxy may open."""

    options: HAProxyOptions
    open_files: Callable[[], int]

    @property
    def path(self) -> Path:
        """The file."""
        return self.options.directory / "haproxy.cfg"

    @property
    def replaced(self) -> Path:
        """The map in which a process looks whether it was replaced by another one."""
        return self.options.directory / "replaced.map"

    def render(self, backends: Sections) -> str:
        """The configuration with these backends and their servers, and the previews that their frontends refer to."""
        wanted = with_previews(backends)
        return self._render(wanted, self.digest(wanted))

    def digest(self, backends: Sections) -> str:
        """The part of the configuration that a running process cannot change: all but its servers. HAProxy shows it."""
        examples = {name: (backend, (EXAMPLE,)) for name, (backend, _) in with_previews(backends).items()}
        return hashlib.sha256(self._render(examples, "").encode()).hexdigest()[:16]

    def _render(self, backends: Sections, digest: str) -> str:
        headers, networks = self.options.max_header_bytes, [str(each) for each in self.options.trusted_proxies]
        addresses = count_addresses(backends)
        max_connections = self.options.connections_per_address(addresses, self.open_files())
        return atomic_files.TEMPLATES.get_template("haproxy.cfg.j2").render(
            options=self.options,
            directory=self.options.directory,
            digest=digest,
            bufsize=headers + REWRITE_BYTES + OVERHEAD_BYTES,
            maxrewrite=REWRITE_BYTES,
            maxhdr=max(101, headers // BYTES_PER_HEADER),
            max_connections=max_connections,
            all_connections=addresses * max_connections + EXPORTER_CONNECTIONS,
            exporter=bind_address(self.options.exporter),
            exporter_connections=EXPORTER_CONNECTIONS,
            log=PIPE_DESCRIPTOR if self.options.log != NO_LOG else None,
            forwarded=FORWARDED,
            trusted_proxies=[
                " ".join(networks[begin : begin + NETWORKS_PER_LINE])
                for begin in range(0, len(networks), NETWORKS_PER_LINE)
            ],
            sections=[self._section(backend, members) for _, (backend, members) in sorted(backends.items())],
        )

    def _section(self, backend: Backend, members: Sequence[Member]) -> dict[str, Any]:
        timeouts, health = backend.options.timeouts, backend.options.health
        return {
            "name": backend.name,
            "frontend": frontends.frontend_name(backend),
            "binds": [line for listen in (backend.listen, backend.former_listen) if listen for line in bind_lines(listen)],
            "handover": self.options.directory / f"s-{crc32(backend.name.encode()):08x}",
            "preview": frontends.preview_condition(backend),
            "response_ms": milliseconds(timeouts.response_seconds),
            "idle_ms": milliseconds(timeouts.idle_seconds),
            "headers_ms": milliseconds(timeouts.headers_seconds),
            "check_ms": milliseconds(health.timeout_seconds),
            "check": check_lines(health),
            "servers": [f"server {server.line}" for server in wanted_servers(backend, members).values()],
        }


def count_addresses(backends: Sections) -> int:
    """How many addresses of services and previews HAProxy listens on."""
    return sum(bool(backend.listen) for backend, _ in backends.values())


def with_previews(backends: Sections) -> dict[str, tuple[Backend, Sequence[Member]]]:
    """The backends and the previews that their frontends refer to, which have the options of their service."""
    result = dict(backends)
    for backend, _ in backends.values():
        preview = backend.preview_backend
        if preview is None:
            continue
        if preview.name in result:
            present, members = result[preview.name]
            result[preview.name] = (replace(present, options=backend.options), members)
        elif frontends.preview_condition(backend):
            result[preview.name] = (preview, ())
    return result


def bind_lines(listen: str) -> list[str]:
    """The addresses of `bind` lines. IPv4 has a socket of its own, so that its clients' addresses look as usual."""
    host, port = split_listen(listen)
    return [f"*:{port}", f"[::]:{port} v6only"] if host == EVERY_ADDRESS else [bind_address(listen)]


def check_lines(health: Health) -> list[str]:
    """How a backend's instances are checked by a request; empty without a path: HAProxy then opens a connection."""
    if not health.path:
        return []
    host = quote(health.host) if health.host else ADDRESS_OF_SERVER
    headers = "".join(f" hdr {name} {quote(value.replace('%', '%%'))}" for name, value in health.headers)
    statuses = ",".join(f"{first}-{last}" for first, last in health.expect)
    return [
        "option httpchk",
        f"http-check send meth GET uri {quote(health.path)} ver HTTP/1.1 hdr Host {host}{headers}",
        f"http-check expect status {statuses}",
    ]


def quote(text: str) -> str:
    """A word of HAProxy's configuration. (A `%` begins a variable in the value of a header, and is none when doubled.)"""
    return "'" + text.replace("'", "'\\''") + "'"


def check_config(path: Path, binary: str) -> None:
    """Have HAProxy check the file (`haproxy -c`). Raises `RouterError` with HAProxy's message.

    Not used when only server lines change: the check takes longer than the change itself.
    """
    done = subprocess.run([binary, "-c", "-f", str(path)], capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        message = " ".join(line for line in done.stderr.splitlines() if "ALERT" in line) or done.stderr.strip()
        raise RouterError(f"HAProxy rejected the configuration; nothing was changed: {message}", retryable=False)
