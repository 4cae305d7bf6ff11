"""The two modes of HAProxy: owned (Tidegate writes the file and runs the process) and adopted (a block per backend)."""

from __future__ import annotations

import re
import shutil
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
from tidegate.drivers.routers.listen_addresses import addresses_overlap, require_free
from tidegate.drivers.routers.state_file import BackendState
from tidegate.errors import RouterError
from tidegate.ports import CheckStatus, Diagnosis


class HAProxyInstallation(Protocol):
    """HAProxy's file and process. `admin`: its runtime socket; `master`: the master process's socket, if it has one."""

    admin: Path
    master: Path | None

    @property
    def pid(self) -> int | None:
        """The master's process id in mode owned; None while it is not running, and in mode adopted."""

    def running(self) -> bool:
        """Whether HAProxy runs; always True in mode adopted."""

    def start(self, state: Mapping[str, BackendState]) -> None:
        """Start HAProxy with the route in its file, unless it runs or is not ours to start."""

    def ensure(self, backend: Backend, members: Sequence[Member], state: Mapping[str, BackendState]) -> None:
        """Make sure that the backend exists and can have these members; raise `RouterError` before changing anything."""

    def save(self, backend: Backend, members: Sequence[Member], state: Mapping[str, BackendState]) -> None:
        """Write these servers of the backend to the file, for the next reload or restart; keep all other backends."""

    def missing(self) -> Diagnosis | None:
        """Why no process can be queried, if that is known without querying; None otherwise."""

    def warnings(self) -> Sequence[Diagnosis]:
        """Settings that work but lose requests or features."""


class OwnedHAProxy:
    """Mode owned: Tidegate writes the whole file and starts the process."""

    def __init__(self, directory: Path, exporter: str, binary: str, log: bool) -> None:
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
        return self.pid is not None or self._process.answers()  # a second process would take over the first one's sockets

    def start(self, state: Mapping[str, BackendState]) -> None:
        if self.running():
            return
        if not self._file.path.exists():
            sections = {name: (backend, ()) for name, backend in _recorded_backends(state).items()}
            atomic_files.replace(self._file.path, self._file.render(sections), self._accepted)
        self._process.start()

    def ensure(self, backend: Backend, members: Sequence[Member], state: Mapping[str, BackendState]) -> None:
        if not backend.listen and not backend.parent:
            problem = "it has no listen address. Set `x-tidegate.listen` in the Compose file."
            if frontends.PREVIEW.fullmatch(backend.name):
                problem = "the preview has no address. Set `listen` or `header` of the preview in the Compose file."
            raise RouterError(f"Cannot route {backend.name}: {problem}", retryable=False)
        self.start(state)
        if self._is_serving(backend):
            return
        sections = self._sections(state)
        before, members_before = sections.get(backend.name, (None, ()))
        if backend.listen:
            require_free(backend, "HAProxy", shared=before is not None and addresses_overlap(before.listen, backend.listen))
        present = atomic_files.read(self._file.path)
        atomic_files.replace(
            self._file.path, self._file.render({**sections, backend.name: (backend, members_before)}), self._accepted
        )
        try:
            self._process.reload(lambda: self._is_serving(backend))
        except RouterError:
            atomic_files.replace(self._file.path, present)
            raise

    def save(self, backend: Backend, members: Sequence[Member], state: Mapping[str, BackendState]) -> None:
        text = self._file.render({**self._sections(state), backend.name: (backend, members)})
        atomic_files.update(self._file.path, text)

    def missing(self) -> Diagnosis | None:
        if shutil.which(self._binary) is None:
            return Diagnosis(
                "haproxy", CheckStatus.WRONG, f"program {self._binary} not found", "install haproxy, or set router.binary"
            )
        if not self.running():
            return Diagnosis("haproxy", CheckStatus.OK, "not running yet; the first rollout starts it")
        return None

    def warnings(self) -> Sequence[Diagnosis]:
        return ()

    def _is_serving(self, backend: Backend) -> bool:
        """Whether the running process has the backend and exactly the frontend that it should have."""
        with RuntimeSession(self.admin) as process:
            rows = all_stats_rows(process.ask)
        wanted = {frontends.frontend_name(backend)} - {""}
        return backend.name in rows and frontends.frontends_of(backend.name, rows) == wanted

    def _sections(self, state: Mapping[str, BackendState]) -> dict[str, tuple[Backend, Sequence[Member]]]:
        """Every backend with the servers that take new requests, read from the running process.

        The file may lag behind the process after a crash, and the state file may have been removed.
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
    """The backends with a frontend of their own, as last written."""
    return {
        name: Backend(name, kept.listen, preview=Preview(header=kept.header) if kept.header else None)
        for name, kept in state.items()
        if kept.listen
    }


class AdoptedHAProxy:
    """Mode adopted: a file and process that others manage."""

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
        """Nothing to do: others start it."""

    def ensure(self, backend: Backend, members: Sequence[Member], state: Mapping[str, BackendState]) -> None:
        problems = self._file.problems(backend, members)
        if not stats_rows(partial(send_command, self.admin), backend.name):
            problems.append(f"the running HAProxy has no `backend {backend.name}`; reload it with {self._file.path}")
        if send_command(self.admin, "show cli level").strip() != "admin":
            problems.append(f"the stats socket {self.admin} has no admin rights; add `level admin` to its line")
        if problems:
            raise RouterError(f"Cannot route with {self._file.path}: " + "; ".join(problems), retryable=False)

    def save(self, backend: Backend, members: Sequence[Member], state: Mapping[str, BackendState]) -> None:
        atomic_files.update(self._file.path, self._file.with_servers(backend.name, members))

    def missing(self) -> Diagnosis | None:
        return None

    def warnings(self) -> Sequence[Diagnosis]:
        if re.search(r"^\s*option\s+idle-close-on-response\b", self._file.read(), re.M):
            return ()
        fix = "add `option idle-close-on-response` to `defaults`"
        return (
            Diagnosis(
                "haproxy config", CheckStatus.WARNING, "a reload closes idle client connections and may lose requests", fix
            ),
        )
