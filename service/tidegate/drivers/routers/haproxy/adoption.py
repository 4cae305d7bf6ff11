"""An HAProxy that others run: Tidegate maintains a marked block of servers in each backend that it routes."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from tidegate.core.routing import Backend, Member
from tidegate.drivers.routers import atomic_files
from tidegate.drivers.routers.haproxy import frontends
from tidegate.drivers.routers.haproxy.runtime_api import send_command, stats_rows
from tidegate.drivers.routers.haproxy.servers import WantedServer, parse_haproxy_name, wanted_servers
from tidegate.drivers.routers.state_file import BackendState
from tidegate.errors import RouterError
from tidegate.ports import CheckStatus, Diagnosis

SECTION = re.compile(
    r"^(global|defaults|frontend|backend|listen|userlist|peers|resolvers|cache|program|ring|mailers)\b", re.M
)
BLOCK = re.compile(r"^[ \t]*# tidegate: begin [^\n]*\n.*?^[ \t]*# tidegate: end [^\n]*\n", re.M | re.S)
DYNAMIC_ALGORITHMS = {"roundrobin", "leastconn", "first", "random"}
WEIGHTLESS_ALGORITHM = "first"  # the only dynamic algorithm that ignores weights
STICKINESS = re.compile(r"^[ \t]*(cookie|stick[ \t]+(?:on|match|store-request|store-response))\b", re.M)
SERVER = re.compile(r"^[ \t]*(?:server|server-template)[ \t]+(\S+)", re.M)
BALANCE = re.compile(r"^[ \t]*balance[ \t]+([a-z-]+)", re.M)
DEFAULT_SERVER = re.compile(r"^[ \t]*default-server[ \t]+([^\n#]+)", re.M)
ALL_BACKUPS = re.compile(r"^[ \t]*option[ \t]+allbackups\b", re.M)
IDLE_CLOSE = re.compile(r"^[ \t]*option[ \t]+idle-close-on-response\b", re.M)
HARD_STOP = re.compile(r"^[ \t]*hard-stop-after\b", re.M)
HOW_TO_ADOPT = "docs/haproxy.md#adopt-a-backend-without-an-outage"


class AdoptedConfig:
    """The file. Every method reads it again, because its owner may have changed it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> str:
        """The text of the file. Raises `RouterError` if it is missing or empty."""
        text = atomic_files.read(self.path)
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

    def _lines(self, text: str, backend: str) -> str:
        """The lines that apply to a backend, without Tidegate's: those of the last `defaults` before it, and its own."""
        start, end = self.section(text, backend)
        defaults = ""
        for begin in re.finditer(r"^defaults\b", text[:start], re.M):
            following = SECTION.search(text, begin.end())
            defaults = text[begin.end() : following.start() if following else start]
        return defaults + "\n" + BLOCK.sub("", text[start:end])

    def servers(self, backend: Backend, members: Sequence[Member]) -> dict[str, WantedServer]:
        """The servers of the backend by name, with the parameters that the file gives to all servers.

        Backups need `option allbackups`, without which HAProxy uses only the first of them.
        """
        lines = self._lines(self.read(), backend.name)
        defaults = " ".join(match.strip() for match in DEFAULT_SERVER.findall(lines))
        backups = ALL_BACKUPS.search(lines) is not None and "check" not in defaults.split()
        return wanted_servers(backend, members, defaults=defaults, backups=backups)

    def with_servers(self, backend: Backend, members: Sequence[Member]) -> str:
        """The file's text with these servers in the backend's block, which is added if it is missing."""
        text, servers = self.read(), self.servers(backend, members)
        start, end = self.section(text, backend.name)
        section = text[start:end]
        lines = [f"server {server.line}" for server in servers.values()]
        lines = [f"# tidegate: begin {backend.name}", *lines, f"# tidegate: end {backend.name}"]
        block = "".join(f"    {line}\n" for line in lines)
        if BLOCK.search(section):
            section = BLOCK.sub(lambda _: block, section)
        else:
            section = section.rstrip("\n") + "\n" + block + "\n"
        return text[:start] + section + text[end:]

    def backend_problems(self, text: str, name: str) -> Iterator[str]:
        """What prevents Tidegate from maintaining this backend; each message says what to change."""
        lines = self._lines(text, name)
        if own := SERVER.findall(lines):
            yield (
                f"`backend {name}` has servers of its own ({', '.join(own)}), which keep its traffic until you move it: "
                "add a second backend with its other lines, reload, set it as `x-tidegate.route`, deploy, and then let "
                f"your frontends use it ({HOW_TO_ADOPT})"
            )
        balance = BALANCE.findall(lines)[-1:]
        if balance and balance[0] not in DYNAMIC_ALGORITHMS:
            known = ", ".join(sorted(DYNAMIC_ALGORITHMS))
            yield f"`balance {balance[0]}` cannot add servers at run time; use one of {known}"
        if sticky := STICKINESS.search(lines):
            yield (
                f"`{sticky[1]}` of `backend {name}` would send clients to instances that are about to be stopped, and "
                "HAProxy accepts no `cookie` for servers added at run time; remove it from the backend that Tidegate routes"
            )

    def problems(self, backend: Backend, members: Sequence[Member]) -> list[str]:
        """Why Tidegate cannot maintain this backend in the file; each message says what to change."""
        text = self.read()
        messages = list(self.backend_problems(text, backend.name))
        balance = BALANCE.findall(self._lines(text, backend.name))[-1:]
        if balance == [WEIGHTLESS_ALGORITHM] and len({member.weight for member in members}) > 1:
            others = ", ".join(sorted(DYNAMIC_ALGORITHMS - {WEIGHTLESS_ALGORITHM}))
            messages.append(f"`balance {WEIGHTLESS_ALGORITHM}` ignores weights; use one of {others}")
        if backend.preview_backend and (condition := frontends.preview_condition(backend)):
            name = backend.preview_backend.name
            if not re.search(rf"^\s*use_backend\s+({re.escape(name)}\b|%\[)", text, re.M):
                line = f"use_backend {name} if {{ {condition} }}"
                messages.append(f"no frontend routes to the preview; add `backend {name}`, and `{line}` to the frontend")
        return messages + self.file_problems()

    def file_problems(self) -> list[str]:
        """Why Tidegate cannot write the file."""
        if os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK):
            return []
        return [f"{self.path} and its directory must be writable, so that a reload keeps the route"]

    def summary(self) -> str:
        """Which backends can be routed, and what prevents it for the others."""
        text, ready, others = self.read(), [], []
        for name in re.findall(r"^(?:backend|listen)[ \t]+(\S+)", text, re.M):
            lines = self._lines(text, name)
            reasons = [f"servers of its own: {', '.join(own)}"] if (own := SERVER.findall(lines)) else []
            reasons += [f"balance {each}" for each in BALANCE.findall(lines)[-1:] if each not in DYNAMIC_ALGORITHMS]
            reasons += [each[1] for each in [STICKINESS.search(lines)] if each]
            ready += [] if reasons else [name]
            others += [f"{name} ({'; '.join(reasons)})"] if reasons else []
        parts = [f"can be routed: {', '.join(ready) or 'none'}"]
        return "; ".join([*parts, *([f"not as they are: {', '.join(others)}"] if others else [])])


class AdoptedHAProxy:
    """Mode adopted: a file and process that others manage."""

    replaced: Path | None = None

    def __init__(self, admin: Path, master: Path | None, path: Path) -> None:
        self.admin = admin
        self.master = master
        self._file = AdoptedConfig(path)

    @property
    def pid(self) -> int | None:
        return None

    def running(self) -> bool:
        return True

    def start(self, state: Mapping[str, BackendState]) -> None:
        """Nothing to do: others start it."""

    def refresh(self, state: Mapping[str, BackendState]) -> bool:
        return False

    def ensure(self, backend: Backend, members: Sequence[Member], state: Mapping[str, BackendState]) -> None:
        problems = self._file.problems(backend, members)
        rows = stats_rows(partial(send_command, self.admin), backend.name)
        if not rows:
            problems.append(f"the running HAProxy has no `backend {backend.name}`; reload it with {self._file.path}")
        foreign = [row["svname"] for row in rows if row["svname"] != "BACKEND" and not parse_haproxy_name(row["svname"])]
        if foreign and not problems:
            problems.append(
                f"the running HAProxy has servers in `backend {backend.name}` that Tidegate did not add "
                f"({', '.join(foreign)}); they keep its traffic until you move it ({HOW_TO_ADOPT})"
            )
        problems += self._socket_problems()
        if problems:
            raise RouterError(f"Cannot route with {self._file.path}: " + "; ".join(problems), retryable=False)

    def _socket_problems(self) -> list[str]:
        if send_command(self.admin, "show cli level").strip() == "admin":
            return []
        return [f"the stats socket {self.admin} has no admin rights; add `level admin` to its line"]

    def servers(self, backend: Backend, members: Sequence[Member]) -> Mapping[str, WantedServer]:
        return self._file.servers(backend, members)

    def save(self, backend: Backend, members: Sequence[Member], state: Mapping[str, BackendState]) -> None:
        atomic_files.update(self._file.path, self._file.with_servers(backend, members))

    def remove(self, names: Collection[str], state: Mapping[str, BackendState]) -> None:
        """Nothing to do: the backend is its owner's."""

    def missing(self) -> Diagnosis | None:
        return None

    def warnings(self) -> Sequence[Diagnosis]:
        text, part = self._file.read(), "haproxy config"
        wrong = [*self._file.file_problems(), *self._socket_problems()]
        found = [Diagnosis(part, CheckStatus.WRONG, problem, HOW_TO_ADOPT) for problem in wrong]
        if not IDLE_CLOSE.search(text):
            fix = "add `option idle-close-on-response` to `defaults`"
            problem = "a reload closes idle client connections and may lose requests"
            found.append(Diagnosis(part, CheckStatus.WARNING, problem, fix))
        if not HARD_STOP.search(text):
            fix = "add `hard-stop-after 1d` to `global`"
            problem = "after a reload one slow client keeps the old process, and each rollout waits its whole drain time"
            found.append(Diagnosis(part, CheckStatus.WARNING, problem, fix))
        return [*found, Diagnosis("haproxy backends", CheckStatus.OK, self._file.summary())]
