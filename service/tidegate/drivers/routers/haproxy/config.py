"""HAProxy's configuration file: whole where Tidegate owns it, a marked block of servers where it stands already.

The file is the truth for restarts and reloads; it is replaced by an atomic rename, and only with what HAProxy accepts.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tidegate.core.routing import Backend, Member
from tidegate.drivers.routers.atomic_files import TEMPLATES, read
from tidegate.drivers.routers.haproxy import frontends
from tidegate.drivers.routers.members import bind_address, server_name
from tidegate.errors import RouterError

SECTION = re.compile(
    r"^(global|defaults|frontend|backend|listen|userlist|peers|resolvers|cache|program|ring|mailers)\b", re.M
)
BLOCK = re.compile(r"^[ \t]*# tidegate: begin [^\n]*\n.*?^[ \t]*# tidegate: end [^\n]*\n", re.M | re.S)
DYNAMIC_ALGORITHMS = {"roundrobin", "leastconn", "first", "random"}
WEIGHTLESS_ALGORITHM = "first"  # of these: fills one server after the other


def server_lines(members: Iterable[Member]) -> list[str]:
    """One `server` line each. The weight always stands there: a `default-server` of an adopted file may have another."""
    return [f"server {server_name(member)} {member.address} weight {member.weight}" for member in members]


@dataclass(frozen=True)
class OwnedConfig:
    """The file that Tidegate writes whole."""

    directory: Path
    exporter: str
    log: str = ""

    @property
    def path(self) -> Path:
        """The file."""
        return self.directory / "haproxy.cfg"

    def render(self, backends: Mapping[str, tuple[Backend, Sequence[Member]]]) -> str:
        """The configuration with these backends and their servers. A preview that a frontend sends to is there, too."""
        wanted = dict(backends)
        for backend, _ in backends.values():
            if frontends.preview_condition(backend) and backend.previewed:
                wanted.setdefault(backend.previewed.name, (backend.previewed, ()))
        sections = [
            {
                "name": backend.name,
                "frontend": frontends.frontend_name(backend),
                "bind": bind_address(backend.listen),
                "preview": frontends.preview_condition(backend),
                "servers": server_lines(members),
            }
            for _, (backend, members) in sorted(wanted.items())
        ]
        template = TEMPLATES.get_template("haproxy.cfg.j2")
        exporter = bind_address(self.exporter)
        return template.render(directory=self.directory, exporter=exporter, log=log_address(self.log), sections=sections)


def log_address(log: str) -> str:
    """A path is a unix socket."""
    return f"unix@{log}" if log.startswith("/") else log


def check_config(path: Path, binary: str) -> None:
    """HAProxy's own check of the file. Raises `RouterError` with its words. Server lines alone need none: it takes longer
    than a switch."""
    done = subprocess.run([binary, "-c", "-f", str(path)], capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        message = " ".join(line for line in done.stderr.splitlines() if "ALERT" in line) or done.stderr.strip()
        raise RouterError(f"HAProxy refuses the configuration, nothing was changed: {message}", retryable=False)


@dataclass(frozen=True)
class AdoptedConfig:
    """A file of somebody else's, in which Tidegate keeps a marked block of servers in each of its backends."""

    path: Path

    def read(self) -> str:
        """The whole file."""
        text = read(self.path)
        if not text:
            raise RouterError(f"{self.path} is missing or empty: correct router.config", retryable=False)
        return text

    def section(self, text: str, backend: str) -> tuple[int, int]:
        """Where the section of the backend begins and ends."""
        begins = re.search(rf"^(backend|listen)[ \t]+{re.escape(backend)}[ \t]*(#.*)?$", text, re.M)
        if begins is None:
            raise RouterError(f"{self.path} has no `backend {backend}`: add it, and reload HAProxy", retryable=False)
        following = SECTION.search(text, begins.end())
        return begins.start(), following.start() if following else len(text)

    def with_servers(self, backend: str, members: Sequence[Member]) -> str:
        """The file with these servers in the block of the backend; the block is made where there is none yet."""
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
        """Why the file cannot be kept true for this backend: each with what to change."""
        text = self.read()
        start, end = self.section(text, backend.name)
        section = BLOCK.sub("", text[start:end])
        messages = []
        foreign = re.findall(r"^\s*(?:server|server-template)\s+(\S+)", section, re.M)
        if foreign:
            messages.append(f"`backend {backend.name}` has servers of its own ({', '.join(foreign)}): remove them")
        balance = re.search(r"^\s*balance\s+([a-z-]+)", section, re.M)
        if balance and balance[1] not in DYNAMIC_ALGORITHMS:
            messages.append(
                f"`balance {balance[1]}` cannot add servers at run time: use one of {', '.join(sorted(DYNAMIC_ALGORITHMS))}"
            )
        if balance and balance[1] == WEIGHTLESS_ALGORITHM and len({member.weight for member in members}) > 1:
            others = ", ".join(sorted(DYNAMIC_ALGORITHMS - {WEIGHTLESS_ALGORITHM}))
            messages.append(f"`balance {WEIGHTLESS_ALGORITHM}` does not heed weights: use one of {others}")
        if backend.previewed and (condition := frontends.preview_condition(backend)):
            name = backend.previewed.name
            if not re.search(rf"^\s*use_backend\s+({re.escape(name)}\b|%\[)", text, re.M):
                line = f"use_backend {name} if {{ {condition} }}"
                messages.append(f"no frontend sends to the preview: add `backend {name}`, and `{line}` to the frontend")
        if not os.access(self.path, os.W_OK) or not os.access(self.path.parent, os.W_OK):
            messages.append(f"{self.path} and its folder must be writable, so that a reload keeps the route")
        return messages
