"""HAProxy's configuration file: written whole in mode owned; a marked block of servers per backend in mode adopted.

HAProxy uses the file for restarts and reloads. It is replaced by an atomic rename, and only after HAProxy accepted it.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tidegate.core.routing import EVERY_ADDRESS, Backend, Member, split_listen
from tidegate.drivers.routers.atomic_files import TEMPLATES, read
from tidegate.drivers.routers.haproxy import frontends
from tidegate.drivers.routers.haproxy.request_log import PIPE_DESCRIPTOR
from tidegate.drivers.routers.members import bind_address, server_name
from tidegate.errors import RouterError

SECTION = re.compile(
    r"^(global|defaults|frontend|backend|listen|userlist|peers|resolvers|cache|program|ring|mailers)\b", re.M
)
BLOCK = re.compile(r"^[ \t]*# tidegate: begin [^\n]*\n.*?^[ \t]*# tidegate: end [^\n]*\n", re.M | re.S)
DYNAMIC_ALGORITHMS = {"roundrobin", "leastconn", "first", "random"}
WEIGHTLESS_ALGORITHM = "first"  # the only dynamic algorithm that ignores weights


def server_lines(members: Iterable[Member]) -> list[str]:
    """One `server` line per member, always with its weight: an adopted file may set another one in `default-server`."""
    return [f"server {server_name(member)} {member.address} weight {member.weight}" for member in members]


@dataclass(frozen=True)
class OwnedConfig:
    """The file of mode owned."""

    directory: Path
    exporter: str
    log: bool = True

    @property
    def path(self) -> Path:
        """The file."""
        return self.directory / "haproxy.cfg"

    def render(self, backends: Mapping[str, tuple[Backend, Sequence[Member]]]) -> str:
        """The configuration with these backends and their servers, and the previews that their frontends refer to."""
        wanted = dict(backends)
        for backend, _ in backends.values():
            if frontends.preview_condition(backend) and backend.preview_backend:
                wanted.setdefault(backend.preview_backend.name, (backend.preview_backend, ()))
        sections = [
            {
                "name": backend.name,
                "frontend": frontends.frontend_name(backend),
                "binds": bind_lines(backend.listen) if backend.listen else [],
                "preview": frontends.preview_condition(backend),
                "servers": server_lines(members),
            }
            for _, (backend, members) in sorted(wanted.items())
        ]
        template = TEMPLATES.get_template("haproxy.cfg.j2")
        exporter = bind_address(self.exporter)
        log = PIPE_DESCRIPTOR if self.log else None
        return template.render(directory=self.directory, exporter=exporter, log=log, sections=sections)


def bind_lines(listen: str) -> list[str]:
    """The addresses of `bind` lines. IPv4 has a socket of its own, so that its clients' addresses look as usual."""
    host, port = split_listen(listen)
    return [f"*:{port}", f"[::]:{port} v6only"] if host == EVERY_ADDRESS else [bind_address(listen)]


def check_config(path: Path, binary: str) -> None:
    """Have HAProxy check the file (`haproxy -c`). Raises `RouterError` with HAProxy's message.

    Not used when only server lines change: the check takes longer than the change itself.
    """
    done = subprocess.run([binary, "-c", "-f", str(path)], capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        message = " ".join(line for line in done.stderr.splitlines() if "ALERT" in line) or done.stderr.strip()
        raise RouterError(f"HAProxy rejected the configuration; nothing was changed: {message}", retryable=False)


@dataclass(frozen=True)
class AdoptedConfig:
    """An existing file in which Tidegate maintains a marked block of servers in each backend that it routes."""

    path: Path

    def read(self) -> str:
        """The text of the file. Raises `RouterError` if it is missing or empty."""
        text = read(self.path)
        if not text:
            raise RouterError(f"{self.path} is missing or empty. Correct router.config.", retryable=False)
        return text

    def section(self, text: str, backend: str) -> tuple[int, int]:
        """The offsets at which the backend's section begins and ends."""
        begins = re.search(rf"^(backend|listen)[ \t]+{re.escape(backend)}[ \t]*(#.*)?$", text, re.M)
        if begins is None:
            raise RouterError(f"{self.path} has no `backend {backend}`. Add it and reload HAProxy.", retryable=False)
        following = SECTION.search(text, begins.end())
        return begins.start(), following.start() if following else len(text)

    def with_servers(self, backend: str, members: Sequence[Member]) -> str:
        """The file's text with these servers in the backend's block, which is added if it is missing."""
        text = self.read()
        start, end = self.section(text, backend)
        section = text[start:end]
        lines = [f"# tidegate: begin {backend}", *server_lines(members), f"# tidegate: end {backend}"]
        block = "".join(f"    {line}\n" for line in lines)
        if BLOCK.search(section):
            section = BLOCK.sub(lambda _: block, section)
        else:
            section = section.rstrip("\n") + "\n" + block + "\n"
        return text[:start] + section + text[end:]

    def problems(self, backend: Backend, members: Sequence[Member]) -> list[str]:
        """Why Tidegate cannot maintain this backend in the file; each message says what to change."""
        text = self.read()
        start, end = self.section(text, backend.name)
        section = BLOCK.sub("", text[start:end])
        messages = []
        foreign = re.findall(r"^\s*(?:server|server-template)\s+(\S+)", section, re.M)
        if foreign:
            messages.append(f"`backend {backend.name}` has servers of its own ({', '.join(foreign)}); remove them")
        balance = re.search(r"^\s*balance\s+([a-z-]+)", section, re.M)
        if balance and balance[1] not in DYNAMIC_ALGORITHMS:
            messages.append(
                f"`balance {balance[1]}` cannot add servers at run time; use one of {', '.join(sorted(DYNAMIC_ALGORITHMS))}"
            )
        if balance and balance[1] == WEIGHTLESS_ALGORITHM and len({member.weight for member in members}) > 1:
            others = ", ".join(sorted(DYNAMIC_ALGORITHMS - {WEIGHTLESS_ALGORITHM}))
            messages.append(f"`balance {WEIGHTLESS_ALGORITHM}` ignores weights; use one of {others}")
        if backend.preview_backend and (condition := frontends.preview_condition(backend)):
            name = backend.preview_backend.name
            if not re.search(rf"^\s*use_backend\s+({re.escape(name)}\b|%\[)", text, re.M):
                line = f"use_backend {name} if {{ {condition} }}"
                messages.append(f"no frontend routes to the preview; add `backend {name}`, and `{line}` to the frontend")
        if not os.access(self.path, os.W_OK) or not os.access(self.path.parent, os.W_OK):
            messages.append(f"{self.path} and its directory must be writable, so that a reload keeps the route")
        return messages
