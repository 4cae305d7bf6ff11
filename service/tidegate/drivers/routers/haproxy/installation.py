"""An HAProxy that Tidegate owns: it writes the whole file and runs the process. And what both modes have in common."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from tidegate.core.routing import Backend, Member, Preview, Traffic, addresses_overlap
from tidegate.drivers.routers import atomic_files
from tidegate.drivers.routers.haproxy import config, frontends
from tidegate.drivers.routers.haproxy.options import HAProxyOptions
from tidegate.drivers.routers.haproxy.process import HAProxyProcess
from tidegate.drivers.routers.haproxy.runtime_api import (
    RuntimeSession,
    all_stats_rows,
    process_identity,
    process_info,
    send_command,
    server_states,
)
from tidegate.drivers.routers.haproxy.servers import (
    WantedServer,
    parse_servers,
    routed_members,
    total_traffic,
    wanted_servers,
)
from tidegate.drivers.routers.listen_addresses import require_free
from tidegate.drivers.routers.state_file import BackendState
from tidegate.errors import RouterError
from tidegate.ports import CheckStatus, Diagnosis

State = Mapping[str, BackendState]


class HAProxyInstallation(Protocol):
    """HAProxy's file and process. `admin`: its runtime socket; `master`: the master process's socket, if it has one;
    `replaced`: the map by which a process hands new requests over to its successor, if its frontends have one."""

    admin: Path
    master: Path | None
    replaced: Path | None

    @property
    def pid(self) -> int | None:
        """The master's process id in mode owned; None while it is not running, and in mode adopted."""

    def running(self) -> bool:
        """Whether HAProxy runs; always True in mode adopted."""

    def start(self, state: State) -> None:
        """Start HAProxy with the route in its file, unless it runs or is not ours to start."""

    def refresh(self, state: State) -> bool:
        """Make changed settings take effect; whether that took a reload."""

    def ensure(self, backend: Backend, members: Sequence[Member], state: State) -> None:
        """Make sure that the backend exists and can have these members; raise `RouterError` before changing anything."""

    def servers(self, backend: Backend, members: Sequence[Member]) -> Mapping[str, WantedServer]:
        """The servers that these members should have, by name."""

    def save(self, backend: Backend, members: Sequence[Member], state: State) -> None:
        """Write these servers of the backend to the file, for the next reload or restart; keep all other backends."""

    def remove(self, names: Collection[str], state: State) -> None:
        """Remove these backends with their addresses; in mode adopted their owner does."""

    def missing(self) -> Diagnosis | None:
        """Why no process can be queried, if that is known without querying; None otherwise."""

    def warnings(self) -> Sequence[Diagnosis]:
        """Settings that work but lose requests or features."""


class OwnedHAProxy:
    """Mode owned: Tidegate writes the whole file and starts the process."""

    def __init__(self, options: HAProxyOptions) -> None:
        self._binary = shutil.which(options.binary) or options.binary
        self._process = HAProxyProcess(options.directory, self._binary)
        self.admin = self._process.admin
        self.master: Path | None = self._process.master
        self._file = config.OwnedConfig(options, self._process.open_files)
        self.replaced: Path | None = self._file.replaced

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def _accepted(self, draft: Path) -> None:
        config.check_config(draft, self._binary)

    def running(self) -> bool:
        return self.pid is not None or self._process.answers()  # a second process would take over the first one's sockets

    def start(self, state: State) -> None:
        if self.running():
            return
        self._write_map()
        if not self._file.path.exists():
            sections = {name: (backend, ()) for name, backend in _recorded_backends(state).items()}
            atomic_files.replace(self._file.path, self._file.render(sections), self._accepted)
        self._process.start()

    def _write_map(self) -> None:
        atomic_files.update(self._file.replaced, "replaced 0\n")

    def refresh(self, state: State) -> bool:
        sections = self._sections(state)
        if self._runs(sections):
            return False
        self._reload(sections, state)
        return True

    def ensure(self, backend: Backend, members: Sequence[Member], state: State) -> None:
        if not backend.listen and not backend.parent:
            problem = "it has no listen address. Set `x-tidegate.listen` in the Compose file."
            if frontends.PREVIEW.fullmatch(backend.name):
                problem = "the preview has no address. Set `listen` or `header` of the preview in the Compose file."
            raise RouterError(f"Cannot route {backend.name}: {problem}", retryable=False)
        self.start(state)
        sections = self._sections(state)
        before, members_before = sections.get(backend.name, (None, ()))
        wanted = {**sections, backend.name: (backend, members_before)}
        if self._runs(wanted):
            return
        if backend.listen and (before is None or before.listen != backend.listen):
            require_free(backend, "HAProxy", shared=before is not None and addresses_overlap(before.listen, backend.listen))
        self._reload(wanted, state)

    def _runs(self, sections: config.Sections) -> bool:
        """Whether the running process has all of this configuration, apart from the servers."""
        return self._shown_digest() == self._file.digest(sections)

    def _shown_digest(self) -> str:
        return process_info(partial(send_command, self.admin)).get("description", "")

    def _reload(self, sections: config.Sections, state: State) -> None:
        """Load this configuration, and carry the counters of all backends over to the new process."""
        present, digest = atomic_files.read(self._file.path), self._file.digest(sections)
        self._write_map()
        atomic_files.replace(self._file.path, self._file.render(sections), self._accepted)
        counters: dict[str, Mapping[str, Traffic]] = {}
        try:
            with RuntimeSession(self.admin) as old:
                identity = process_identity(old.ask)

                def is_loaded() -> bool:
                    """Also reads the old process's counters once more, until it no longer shows any."""
                    with suppress(RouterError):
                        counters.update(_read_counters(old, identity, state))
                    return self._shown_digest() == digest

                is_loaded()
                self._process.reload(is_loaded)
        except RouterError:
            atomic_files.replace(self._file.path, present)
            raise
        process = process_identity(partial(send_command, self.admin))
        for name, kept in state.items():
            kept.process, kept.counts, kept.earlier = process, {}, dict(counters.get(name, {}))

    def servers(self, backend: Backend, members: Sequence[Member]) -> Mapping[str, WantedServer]:
        return wanted_servers(backend, members)

    def save(self, backend: Backend, members: Sequence[Member], state: State) -> None:
        text = self._file.render({**self._sections(state), backend.name: (backend, members)})
        atomic_files.update(self._file.path, text)

    def remove(self, names: Collection[str], state: State) -> None:
        self.start(state)
        sections = {name: section for name, section in self._sections(state).items() if name not in names}
        if not self._runs(sections):
            self._reload(sections, state)

    def missing(self) -> Diagnosis | None:
        if shutil.which(self._binary) is None:
            fix = "install haproxy, or set router.binary"
            return Diagnosis("haproxy", CheckStatus.WRONG, f"program {self._binary} not found", fix)
        if not self.running():
            return Diagnosis("haproxy", CheckStatus.OK, "not running yet; the first rollout starts it")
        return None

    def warnings(self) -> Sequence[Diagnosis]:
        addresses = config.count_addresses(self._sections({}))
        return self._file.options.connection_warnings("haproxy", addresses, self._process.open_files())

    def _sections(self, state: State) -> dict[str, tuple[Backend, Sequence[Member]]]:
        """Every backend with the servers that take new requests, read from the running process.

        The file may lag behind the process after a crash, and the state file may have been removed.
        """
        with RuntimeSession(self.admin) as process:
            rows, states = all_stats_rows(process.ask), server_states(process.ask)
        backends = _recorded_backends(state)
        for proxy in rows:
            is_frontend = any(row["svname"] == "FRONTEND" for row in rows[proxy])
            known = frontends.backend_behind(proxy) if is_frontend else None
            if not is_frontend and frontends.is_preview(proxy):
                known = Backend(proxy)
            if known and known.name in backends and known.listen and not _has_frontend(backends[known.name], proxy):
                backends[known.name] = replace(known, options=backends[known.name].options)
            elif known:
                backends.setdefault(known.name, known)
        return {
            name: (backend, list(routed_members(parse_servers(rows.get(name, ()), states)).values()))
            for name, backend in backends.items()
        }


def _has_frontend(backend: Backend, name: str) -> bool:
    return frontends.frontend_name(backend) == name


def _read_counters(process: RuntimeSession, identity: str, state: State) -> dict[str, Mapping[str, Traffic]]:
    """The counters of all backends that the process shows, with those of the processes before it."""
    rows = all_stats_rows(process.ask)
    return {
        name: total_traffic(rows[name], parse_servers(rows[name], ()), kept, identity)
        for name, kept in state.items()
        if name in rows
    }


def _recorded_backends(state: State) -> dict[str, Backend]:
    """The backends as last written."""
    return {
        name: Backend(
            name,
            kept.listen,
            preview=Preview(header=kept.header) if kept.header else None,
            options=kept.options,
            former_listen=kept.former_listen,
        )
        for name, kept in state.items()
        if kept.listen or frontends.is_preview(name)
    }
