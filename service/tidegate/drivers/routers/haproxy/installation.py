"""The two ways in which a HAProxy stands there: owned, file and process, or adopted, with a block in each backend."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from tidegate.core.routing import Backend, Member, Preview
from tidegate.drivers.routers import atomic_files
from tidegate.drivers.routers.haproxy import config, frontends
from tidegate.drivers.routers.haproxy.process import HAProxyProcess
from tidegate.drivers.routers.haproxy.runtime_api import RuntimeSession, all_stats_rows, send_command, stats_rows
from tidegate.drivers.routers.haproxy.servers import parse_servers
from tidegate.drivers.routers.members import bind_address
from tidegate.drivers.routers.state_file import BackendState
from tidegate.errors import RouterError
from tidegate.ports import Diagnosis


class HAProxyInstallation(Protocol):
    """Where the file is and who runs the process. `admin` is its runtime socket, `master` its master's, if there is one."""

    admin: Path
    master: Path | None

    @property
    def pid(self) -> int | None:
        """The master process, when it is ours; None while it does not run."""

    def running(self) -> bool:
        """Whether it runs, as far as that is ours to see to."""

    def start(self, state: Mapping[str, BackendState]) -> None:
        """Have it run, with the route that its file has."""

    def ensure(self, backend: Backend, members: Sequence[Member], state: Mapping[str, BackendState]) -> None:
        """The backend is there and can be kept true with these members, or `RouterError` before anything is changed."""

    def keep(self, backend: Backend, members: Sequence[Member], state: Mapping[str, BackendState]) -> None:
        """Have these in the file as the servers of the backend, for the next reload or restart. Others stay as they are."""

    def missing(self) -> Diagnosis | None:
        """Why there is nobody to be asked, where that can be told without asking."""

    def warnings(self) -> Sequence[Diagnosis]:
        """What works and could be better."""


class OwnedHAProxy:
    """Tidegate writes the whole file and starts the process."""

    def __init__(self, directory: Path, exporter: str, binary: str, log: str) -> None:
        self._binary = shutil.which(binary) or binary
        self._process = HAProxyProcess(directory, self._binary)
        self.admin = self._process.admin
        self.master: Path | None = self._process.master
        self._file = config.OwnedConfig(directory, exporter, log)

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def _accepted(self, draft: Path) -> None:
        config.check_config(draft, self._binary)

    def running(self) -> bool:
        return self.pid is not None or self._process.answers()  # a second one would take the sockets from the first

    def start(self, state: Mapping[str, BackendState]) -> None:
        if self.running():
            return
        if not self._file.path.exists():
            sections = {name: (backend, ()) for name, backend in _recorded_backends(state).items()}
            atomic_files.replace(self._file.path, self._file.render(sections), self._accepted)
        self._process.start()

    def ensure(self, backend: Backend, members: Sequence[Member], state: Mapping[str, BackendState]) -> None:
        if not backend.listen and not backend.inside:
            text = f"{backend.name} needs `x-tidegate.listen`: where HAProxy shall listen for it"
            if frontends.PREVIEW.fullmatch(backend.name):
                text = f"{backend.name} needs `listen` or `header`: how it is reached"
            raise RouterError(text, retryable=False)
        self.start(state)
        if self._is_serving(backend):
            return
        sections = self._sections(state)
        before, members_before = sections.get(backend.name, (None, ()))
        if backend.listen:
            _require_free(backend, beside_itself=before is not None and _addresses_overlap(before.listen, backend.listen))
        present = atomic_files.read(self._file.path)
        atomic_files.replace(
            self._file.path, self._file.render({**sections, backend.name: (backend, members_before)}), self._accepted
        )
        try:
            self._process.reload(lambda: self._is_serving(backend))
        except RouterError:
            atomic_files.replace(self._file.path, present)
            raise

    def keep(self, backend: Backend, members: Sequence[Member], state: Mapping[str, BackendState]) -> None:
        text = self._file.render({**self._sections(state), backend.name: (backend, members)})
        atomic_files.update(self._file.path, text)

    def missing(self) -> Diagnosis | None:
        if shutil.which(self._binary) is None:
            return Diagnosis("haproxy", False, f"no program {self._binary}", "install haproxy, or set router.binary")
        if not self.running():
            return Diagnosis("haproxy", True, "not running yet: it is started with the first rollout")
        return None

    def warnings(self) -> Sequence[Diagnosis]:
        return ()

    def _is_serving(self, backend: Backend) -> bool:
        """Whether the running process has the backend, behind a frontend at this very address if any, and no other."""
        with RuntimeSession(self.admin) as process:
            rows = all_stats_rows(process.ask)
        wanted = {frontends.frontend_name(backend)} - {""}
        return backend.name in rows and frontends.frontends_of(backend.name, rows) == wanted

    def _sections(self, state: Mapping[str, BackendState]) -> dict[str, tuple[Backend, Sequence[Member]]]:
        """Every backend and who takes new requests there, asked from the running process.

        Not from the file, which a crash may have left behind what the process does; and not from what is remembered, which
        somebody may have removed.
        """
        rows = all_stats_rows(partial(send_command, self.admin))
        backends = _recorded_backends(state)
        for proxy in rows:
            known = frontends.backend_behind(proxy) or (Backend(proxy) if frontends.PREVIEW.fullmatch(proxy) else None)
            if known and (
                known.name not in backends or (known.listen and frontends.frontend_name(backends[known.name]) != proxy)
            ):
                backends[known.name] = known
        servers = {name: parse_servers(rows.get(name, ())) for name in backends}
        return {
            name: (backends[name], [server.member for server in servers[name] if server.takes_new and server.member])
            for name in backends
        }


def _recorded_backends(state: Mapping[str, BackendState]) -> dict[str, Backend]:
    """The backends that have a frontend of their own, as they were written last."""
    return {
        name: Backend(name, kept.listen, preview=Preview(header=kept.header) if kept.header else None)
        for name, kept in state.items()
        if kept.listen
    }


class AdoptedHAProxy:
    """Somebody else's file and process."""

    def __init__(self, admin: Path, master: Path | None, path: Path) -> None:
        self.admin = admin
        self.master = master
        self._file = config.AdoptedConfig(path)

    @property
    def pid(self) -> int | None:
        return None

    def running(self) -> bool:
        return True

    def start(self, state: Mapping[str, BackendState]) -> None:
        """Whoever owns it starts it."""

    def ensure(self, backend: Backend, members: Sequence[Member], state: Mapping[str, BackendState]) -> None:
        problems = self._file.problems(backend, members)
        if not stats_rows(partial(send_command, self.admin), backend.name):
            problems.append(f"the running HAProxy has no `backend {backend.name}`: reload it with {self._file.path}")
        if send_command(self.admin, "show cli level").strip() != "admin":
            problems.append("the stats socket needs `level admin`")
        if problems:
            raise RouterError(f"{self._file.path}: " + "; ".join(problems), retryable=False)

    def keep(self, backend: Backend, members: Sequence[Member], state: Mapping[str, BackendState]) -> None:
        atomic_files.update(self._file.path, self._file.with_servers(backend.name, members))

    def missing(self) -> Diagnosis | None:
        return None

    def warnings(self) -> Sequence[Diagnosis]:
        if re.search(r"^\s*option\s+idle-close-on-response\b", self._file.read(), re.M):
            return ()
        fix = "add `option idle-close-on-response` to defaults, so that a reload loses nothing"
        return (Diagnosis("haproxy config", False, "idle clients are cut at a reload", fix),)


def _addresses_overlap(one: str, other: str) -> bool:
    """Whether who listens at the one takes the other, too."""
    hosts, ports = zip(*(bind_address(listen).rpartition(":")[::2] for listen in (one, other)), strict=True)
    return ports[0] == ports[1] and ("*" in hosts or hosts[0] == hosts[1])


def _require_free(backend: Backend, *, beside_itself: bool) -> None:
    """Refuse a listening address that somebody else has, before HAProxy is touched.

    HAProxy's own check does not find it, and while a new process tries to get the address, which takes it a second or more,
    the old one listens nowhere. `beside_itself`: our HAProxy has it already; it shares its ports, as does the probe then.
    """
    host, _, port = bind_address(backend.listen).rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if beside_itself else socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.removeprefix("*"), int(port)))
        except OSError as error:
            text = (
                f"HAProxy cannot listen on {backend.listen} for {backend.name}: {error.strerror}: choose another `listen`"
            )
            raise RouterError(text, retryable=False) from error
