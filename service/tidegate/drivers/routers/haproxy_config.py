"""HAProxy's configuration file: whole where Tidegate owns it, a marked block of servers where it stands already.

The file is the truth for restarts and reloads; it is replaced by an atomic rename, and only with what HAProxy accepts.
"""

from __future__ import annotations

import ipaddress
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from tidegate.core.routing import Backend, Member
from tidegate.drivers.routers import haproxy_frontends as frontends
from tidegate.errors import RouterError

TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("tidegate.drivers.routers"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # not HTML; the names that go in are checked by `core.spec`
)
SECTION = re.compile(
    r"^(global|defaults|frontend|backend|listen|userlist|peers|resolvers|cache|program|ring|mailers)\b", re.M
)
BLOCK = re.compile(r"^[ \t]*# tidegate: begin [^\n]*\n.*?^[ \t]*# tidegate: end [^\n]*\n", re.M | re.S)
DYNAMIC = {"roundrobin", "leastconn", "first", "random"}
WEIGHTLESS = "first"  # of these: fills one server after the other
MOST_WEIGHT = 256


def server_name(member: Member) -> str:
    """`v2-4.0.3f9a1c0b77de`: release, ordinal, instance; so the exporter's series tell releases apart."""
    return f"{member.release}.{member.ordinal}.{member.instance}"


def member_of(name: str, address: str, weight: int = 1) -> Member | None:
    """The other way round; None for a server that Tidegate did not add."""
    found = re.fullmatch(r"([a-z0-9-]+)\.(\d+)\.([a-z0-9]+)", name)
    return Member(found[3], found[1], int(found[2]), address, weight) if found else None


def server_lines(members: Iterable[Member]) -> list[str]:
    """One `server` line each. The weight always stands there: a `default-server` of an adopted file may have another."""
    return [f"server {server_name(each)} {each.address} weight {each.weight}" for each in members]


def faults(member: Member) -> list[str]:
    """Why HAProxy could not take this member, told before anything is written: with a bad line it would not start again."""
    found, name = [], server_name(member)
    if member_of(name, member.address, member.weight) != member:
        found.append(f"{name} is no name for a server: release of [a-z0-9-], instance of [a-z0-9]")
    if not member.address:
        found.append(f"{name} has no address yet")
    elif endpoint(member.address) is None:
        found.append(f"{name} has the address {member.address!r}: it must be ip:port")
    if not 1 <= member.weight <= MOST_WEIGHT:
        found.append(f"{name} has the weight {member.weight}: it must be 1 to {MOST_WEIGHT}")
    return found


def endpoint(address: str) -> tuple[str, int] | None:
    """IP and port in the one form that HAProxy shows, too; None when it is no `ip:port`."""
    host, _, port = address.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    return (str(ip), int(port)) if re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65536 else None


@dataclass(frozen=True)
class Owned:
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
            if frontends.condition(backend) and backend.previewed:
                wanted.setdefault(backend.previewed.name, (backend.previewed, ()))
        sections = [
            {
                "name": backend.name,
                "frontend": frontends.name(backend),
                "bind": frontends.bind_address(backend.listen),
                "preview": frontends.condition(backend),
                "servers": server_lines(members),
            }
            for _, (backend, members) in sorted(wanted.items())
        ]
        template = TEMPLATES.get_template("haproxy.cfg.j2")
        exporter = frontends.bind_address(self.exporter)
        return template.render(directory=self.directory, exporter=exporter, log=log_address(self.log), sections=sections)


def log_address(log: str) -> str:
    """A path is a unix socket."""
    return f"unix@{log}" if log.startswith("/") else log


def replace(path: Path, text: str, binary: str = "") -> None:
    """Put a new file in the old one's place, with its owner and rights; with `binary`, only after HAProxy has accepted it.

    Raises `RouterError` with HAProxy's words. Server lines alone need no such check, which takes longer than a switch.
    """
    path = path.resolve()  # a link stays one
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as draft:
            draft.write(text.encode(errors="surrogateescape"))
            draft.flush()
            os.fsync(draft.fileno())
        name = Path(draft.name)
        try:
            if binary:
                accepted(name, binary)
            if path.exists():
                _like(name, path.stat())
            name.rename(path)
        finally:
            name.unlink(missing_ok=True)
        _sync(path.parent)
    except OSError as error:
        raise RouterError(f"{path} cannot be written: {error.strerror or error}", retryable=False) from error


def update(path: Path, text: str) -> None:
    """Replace it when it has another text: a crash, or somebody's editor, may have left it behind or ahead."""
    if read(path) != text:
        replace(path, text)


def read(path: Path) -> str:
    """Its text, in whatever encoding its comments are; nothing when there is no such file. Raises `RouterError`."""
    try:
        return path.read_bytes().decode(errors="surrogateescape")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise RouterError(f"{path} cannot be read: {error.strerror or error}", retryable=False) from error


def _like(path: Path, old: os.stat_result) -> None:
    path.chmod(old.st_mode & 0o777)
    mine = path.stat()
    if (mine.st_uid, mine.st_gid) != (old.st_uid, old.st_gid):
        os.chown(path, old.st_uid, old.st_gid)


def _sync(folder: Path) -> None:
    """A rename is on the disk only when its folder is."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def accepted(path: Path, binary: str) -> None:
    """HAProxy's own check of the file."""
    done = subprocess.run([binary, "-c", "-f", str(path)], capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        said = " ".join(line for line in done.stderr.splitlines() if "ALERT" in line) or done.stderr.strip()
        raise RouterError(f"HAProxy refuses the configuration, nothing was changed: {said}", retryable=False)


@dataclass(frozen=True)
class Adopted:
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
        found = []
        foreign = re.findall(r"^\s*(?:server|server-template)\s+(\S+)", section, re.M)
        if foreign:
            found.append(f"`backend {backend.name}` has servers of its own ({', '.join(foreign)}): remove them")
        balance = re.search(r"^\s*balance\s+([a-z-]+)", section, re.M)
        if balance and balance[1] not in DYNAMIC:
            found.append(f"`balance {balance[1]}` cannot add servers at run time: use one of {', '.join(sorted(DYNAMIC))}")
        if balance and balance[1] == WEIGHTLESS and len({each.weight for each in members}) > 1:
            found.append(
                f"`balance {WEIGHTLESS}` does not heed weights: use one of {', '.join(sorted(DYNAMIC - {WEIGHTLESS}))}"
            )
        if backend.previewed and (condition := frontends.condition(backend)):
            name = backend.previewed.name
            if not re.search(rf"^\s*use_backend\s+({re.escape(name)}\b|%\[)", text, re.M):
                line = f"use_backend {name} if {{ {condition} }}"
                found.append(f"no frontend sends to the preview: add `backend {name}`, and `{line}` to the frontend")
        if not os.access(self.path, os.W_OK) or not os.access(self.path.parent, os.W_OK):
            found.append(f"{self.path} and its folder must be writable, so that a reload keeps the route")
        return found
