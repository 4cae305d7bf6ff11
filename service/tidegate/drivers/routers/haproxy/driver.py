"""Routes traffic with HAProxy: adds, drains and deletes servers at run time, and keeps the file for restarts.

The order of commands was measured to lose no request (docs/haproxy.md): add and enable; write the file; drain; and only
when a server has no request left: maint, del. HAProxy refuses `del server` while a server has a request or a connection,
so "Server deleted." proves that it has none and can get none.

After a crash at any step two properties hold. Every server that is in the file, or takes new requests in any HAProxy
process, is reported by `read` as a member or as draining, so the engine does not stop it. And the next `write` starts from
what it finds.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

from tidegate.core.routing import Backend, Member, RouterState
from tidegate.drivers.error_translation import guard_response
from tidegate.drivers.routers.haproxy.apply import HAProxyUpdate
from tidegate.drivers.routers.haproxy.installation import AdoptedHAProxy, HAProxyInstallation, OwnedHAProxy
from tidegate.drivers.routers.haproxy.process import HAProxyProcess, has_old_processes, list_workers
from tidegate.drivers.routers.haproxy.request_log import HAProxyRequestLog, LogSource, PipeSource, StreamSource
from tidegate.drivers.routers.haproxy.runtime_api import (
    ProcessReplaced,
    RuntimeSession,
    process_identity,
    process_info,
    send_command,
    stats_rows,
)
from tidegate.drivers.routers.haproxy.servers import (
    HAProxyServer,
    StatsRow,
    backend_traffic,
    counts_by_release,
    parse_servers,
    release_traffic,
)
from tidegate.drivers.routers.haproxy.upgraded_connections import count_upgraded_connections
from tidegate.drivers.routers.members import header_problems, member_problems, parse_server_name, server_name
from tidegate.drivers.routers.socket_paths import require_socket_path
from tidegate.drivers.routers.state_file import BackendState, RequestCounts, RouterStateFile
from tidegate.errors import RouterError
from tidegate.ports import CheckStatus, Diagnosis, Router

MAX_SOCKET_PATH_BYTES = 97  # of 107 HAProxy keeps 10 for the temporary name of a socket that it is about to replace
CHECKED_SOCKET = "master.sock"  # the longest name of its sockets
NO_LOG = "off"
LOG_ADDRESS = re.compile(r"/[^\s\"'#]{1,96}|[A-Za-z0-9.:\[\]-]+:\d{1,5}")
MAX_DROPPED = 0.01  # of the log lines; on a busy machine a few are dropped because two threads write at a time
RELOAD_RETRY_SECONDS = 5.0  # how long reads and writes are repeated when HAProxy is reloaded while they run


class HAProxyOptions(BaseModel):
    """`owned`: Tidegate writes `directory`/haproxy.cfg and runs HAProxy. `adopted`: Tidegate uses a running HAProxy."""

    model_config = ConfigDict(extra="forbid")
    mode: Literal["owned", "adopted"] = "owned"
    directory: Path = Path("/var/lib/tidegate/haproxy")  # adopted: holds Tidegate's state file only
    exporter: str = "127.0.0.1:8405"
    log: str = ""  # "off": no response times; adopted: where to receive the log, the path of a Unix socket or host:port
    binary: str = "haproxy"
    socket: Path | None = None
    config: Path | None = None
    master: Path | None = None

    @field_validator("directory")
    @classmethod
    def _has_room_for_sockets(cls, directory: Path, info: ValidationInfo) -> Path:
        if info.data.get("mode") == "owned":
            require_socket_path(directory, CHECKED_SOCKET, MAX_SOCKET_PATH_BYTES, "HAProxy")
        return directory

    @model_validator(mode="after")
    def _check_mode(self) -> HAProxyOptions:
        if self.mode == "adopted" and (self.socket is None or self.config is None):
            raise ValueError("mode adopted requires socket (a stats socket with level admin) and config (HAProxy's file)")
        if self.mode == "owned" and self.log not in ("", NO_LOG):
            raise ValueError(f"log must be {NO_LOG!r} or left out in mode owned, which logs to a pipe in directory")
        if self.log not in ("", NO_LOG) and not LOG_ADDRESS.fullmatch(self.log):
            raise ValueError(
                f"log must be the absolute path of a Unix socket (at most 97 characters), host:port, or {NO_LOG!r}"
            )
        if self.mode == "owned" and (self.socket or self.config or self.master):
            raise ValueError("socket, config and master require mode adopted; mode owned creates its own in directory")
        return self


class HAProxyRouter(Router):
    """See `ports.Router` for the contract of each method."""

    Options = HAProxyOptions

    @staticmethod
    def installed(binary: str) -> bool:
        """Whether the program is installed."""
        return shutil.which(binary) is not None

    def __init__(self, options: HAProxyOptions, environment: str) -> None:
        self._memory = RouterStateFile(options.directory)
        self._installation: HAProxyInstallation
        if options.socket is not None and options.config is not None:
            self._installation = AdoptedHAProxy(options.socket, options.master, options.config)
        else:
            self._installation = OwnedHAProxy(options.directory, options.exporter, options.binary, options.log != NO_LOG)
        source = _log_source(options)
        self.request_log = HAProxyRequestLog(source) if source is not None else None

    @property
    def pid(self) -> int | None:
        """The process id of an owned HAProxy's master process; None while it is not running."""
        return self._installation.pid

    def workers(self) -> tuple[int, ...]:
        """The process ids of the workers that accept new connections; empty where there is no master socket."""
        return (list_workers(self._installation.master) or ((), ()))[0] if self._installation.master is not None else ()

    # -- reading --------------------------------------------------------------------------------------------------------

    @guard_response(RouterError, "HAProxy")
    def read(self, backend: Backend) -> RouterState:
        revived = not self._installation.running()
        if revived:
            with self._memory.locked() as state:
                revived = bool(state)  # False before the first write: HAProxy has not run yet
                self._installation.start(state)
        process, rows, upgraded_connections = self._read_statistics(backend)
        servers = parse_servers(rows)
        kept = self._memory.load().get(
            backend.name, BackendState(backend.name)
        )  # loaded after the rows, so that it contains servers that are missing there
        members = tuple(server.member for server in servers if server.takes_new and server.member)
        busy = {server.member.instance: server.sessions for server in servers if server.takes_new and server.member}
        tallies = counts_by_release(servers, kept.counts if kept.process == process else {})
        return RouterState(
            members,
            self._draining(servers, kept, process),
            busy,
            kept.fence,
            backend_traffic(rows, tallies),
            tunnels=upgraded_connections,
            by_release=release_traffic(rows, tallies),
            restarted=revived,
        )

    def _read_statistics(self, backend: Backend) -> tuple[str, Sequence[StatsRow], Mapping[str, int]]:
        """The identity of the current process, the backend's rows, and its upgraded connections by instance."""
        deadline = time.monotonic() + RELOAD_RETRY_SECONDS
        while True:
            try:
                with self._current_session() as one:
                    process, rows = process_identity(one.ask), stats_rows(one.ask, backend.name)
                    return process, rows, count_upgraded_connections(one, backend.name, parse_servers(rows))
            except ProcessReplaced:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.01)

    @contextmanager
    def _current_session(self) -> Iterator[RuntimeSession]:
        """A session with the current process.

        For a moment after a reload the previous process answers too; raises `ProcessReplaced` if the master reports that it
        is the previous one.
        """
        with RuntimeSession(self._installation.admin) as one:
            workers = self.workers()
            if workers and int(process_info(one.ask)["Pid"]) not in workers:
                raise ProcessReplaced("HAProxy was reloaded, and its previous process still answers")
            yield one

    def _draining(self, servers: Sequence[HAProxyServer], kept: BackendState, process: str) -> dict[str, int | None]:
        """Instances that take no new requests, with their requests in flight (None: unknown).

        After a reload the old process serves the next request of its idle clients with the servers it knew. While an old
        process exists, the number of requests on removed servers, even deleted ones, is therefore unknown.
        """
        serving = {server.name for server in servers if server.takes_new}
        draining: dict[str, int | None] = {
            server.member.instance: server.sessions for server in servers if not server.takes_new and server.member
        }
        leaving = ({server.name for server in servers} | set(kept.known)) - serving
        if leaving and (
            has_old_processes(self._installation.admin, self._installation.master) or self._process() != process
        ):
            draining.update((server.instance, None) for name in leaving if (server := parse_server_name(name, "")))
        return draining

    def _process(self) -> str:
        return process_identity(partial(send_command, self._installation.admin))

    # -- writing --------------------------------------------------------------------------------------------------------

    @guard_response(RouterError, "HAProxy")
    def write(self, backend: Backend, members: Collection[Member], fence: int) -> None:
        _validate_members(backend, members)
        wanted = {server_name(member): member for member in sorted(members, key=server_name)}
        with self._memory.locked() as state:
            kept = state.setdefault(backend.name, BackendState(backend.name))
            kept.require_current(fence)
            self._installation.ensure(backend, list(wanted.values()), state)
            kept.listen, kept.fence = backend.listen, fence
            kept.header = backend.preview.header if backend.preview else ""
            deadline = time.monotonic() + RELOAD_RETRY_SECONDS
            while not self._apply(backend, wanted, state):
                if time.monotonic() >= deadline:
                    raise RouterError(
                        f"HAProxy did not apply the route of {backend.name} within {RELOAD_RETRY_SECONDS:g} s. Check "
                        "whether something reloads it continuously."
                    )
                time.sleep(0.01)

    def _apply(self, backend: Backend, wanted: Mapping[str, Member], state: Mapping[str, BackendState]) -> bool:
        """Change the current process to the target; False if a reload replaced it meanwhile."""
        kept = state[backend.name]

        def keep_counts(idle: Sequence[HAProxyServer]) -> None:
            if counted := {server.name: server.tally for server in idle if server.tally != RequestCounts()}:
                kept.counts.update(counted)
                self._memory.save(state)

        try:
            with self._current_session() as one:
                switch = HAProxyUpdate(one.ask, backend, wanted)
                self._record_known_servers({*switch.running}, {*wanted}, process_identity(one.ask), kept)
                self._memory.save(state)
                switch.add_members()
                self._installation.save(backend, list(wanted.values()), state)
                switch.drain()
                switch.remove_drained(keep_counts)
            with self._current_session() as one:
                return HAProxyUpdate(one.ask, backend, wanted).done()
        except ProcessReplaced:
            return False

    def _record_known_servers(self, running: Set[str], wanted: Set[str], process: str, kept: BackendState) -> None:
        """Record the servers that a process may know before it learns them, so that `read` finds them after a crash."""
        old = has_old_processes(
            self._installation.admin, self._installation.master
        )  # checked after `running` was read, because a reload may empty that
        kept.known = sorted({*running, *wanted, *(kept.known if old else ())})
        if kept.process != process:
            kept.process, kept.counts = process, {}
        present = {name: tally for name, tally in kept.counts.items() if name in running}
        deleted = {name: tally for name, tally in kept.counts.items() if name not in running}
        kept.counts = {**present, **counts_by_release((), deleted)}

    # -- checks ---------------------------------------------------------------------------------------------------------

    def check(self) -> Sequence[Diagnosis]:
        try:
            if (problem := self._installation.missing()) is not None:
                return (problem,)
            return (*self._about(), *self._installation.warnings())
        except RouterError as error:
            fix = "start HAProxy, or correct router.socket and router.config"
            return (Diagnosis("haproxy", CheckStatus.WRONG, error.message, fix),)

    @guard_response(RouterError, "HAProxy")
    def _about(self) -> Sequence[Diagnosis]:
        about = process_info(partial(send_command, self._installation.admin))
        text = f"{about['Version']}, process {about['Pid']}, up {about['Uptime']}"
        return (Diagnosis("haproxy", CheckStatus.OK, text), *self._lost_lines(about))

    def _lost_lines(self, about: Mapping[str, str]) -> Sequence[Diagnosis]:
        """A warning if many requests are missing in the response times."""
        dropped, requests = int(about.get("DroppedLogs", 0)), int(about.get("CumReq", 0))
        if self.request_log is None or dropped <= MAX_DROPPED * requests:
            return ()
        text = f"HAProxy dropped the log lines of {dropped} of {requests} requests since its start; `latency` misses them"
        fix = "if the number grows while an engine runs, see the engine's log"
        return (Diagnosis("haproxy log", CheckStatus.WARNING, text, fix),)

    def stop_process(self) -> None:
        """Stop an owned HAProxy and with it all traffic: for demos, tests and decommissioning a machine."""
        pid = self._installation.pid
        if pid is not None:
            os.kill(pid, signal.SIGTERM)


def _log_source(options: HAProxyOptions) -> LogSource | None:
    if options.log == NO_LOG:
        return None
    if options.mode == "owned":
        return PipeSource(HAProxyProcess(options.directory, options.binary).pipe)
    return StreamSource(options.log) if options.log else None


def _validate_members(backend: Backend, members: Collection[Member]) -> None:
    """Raise `RouterError` with every problem; retryable if the only problem is an address that is not known yet."""
    problems = [*header_problems(backend), *(problem for member in members for problem in member_problems(member))]
    if problems:
        raise RouterError("; ".join(problems), retryable=len(problems) == sum(not member.address for member in members))
