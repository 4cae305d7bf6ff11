"""HAProxy as a router: servers are added, drained and deleted at run time; the file is the truth for restarts.

The order is what was measured to lose nothing (docs/haproxy.md): add and enable; write the file; drain; and only when no
request is on a server: maint, del. HAProxy refuses `del server` while anything is on it, so "Server deleted." is the proof
that no request is there and none can come.

Wherever a crash ends it, two things hold. Who is in the file, or takes new requests in a process of HAProxy, is either a
member or draining as `read` tells it, so that nobody stops it; and the next `write` begins with what it finds.
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

from pydantic import BaseModel, ConfigDict, model_validator

from tidegate.core.routing import Backend, Member, RouterState
from tidegate.drivers.error_translation import guard_response
from tidegate.drivers.routers.haproxy.apply import HAProxyUpdate
from tidegate.drivers.routers.haproxy.installation import AdoptedHAProxy, HAProxyInstallation, OwnedHAProxy
from tidegate.drivers.routers.haproxy.process import has_old_processes, list_workers
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
from tidegate.drivers.routers.state_file import BackendState, RequestCounts, RouterStateFile
from tidegate.errors import RouterError
from tidegate.ports import Diagnosis, Router

LOG_ADDRESS = re.compile(r"/[^\s\"'#]{1,100}|[A-Za-z0-9.:\[\]-]+:\d{1,5}")
RELOAD_RETRY_SECONDS = 5.0  # how long a write begins again and again because HAProxy is reloaded in the middle of it


class HAProxyOptions(BaseModel):
    """`owned`: Tidegate writes `directory`/haproxy.cfg and starts HAProxy. `adopted`: one that stands there already."""

    model_config = ConfigDict(extra="forbid")
    mode: Literal["owned", "adopted"] = "owned"
    directory: Path = Path("/var/lib/tidegate/haproxy")  # adopted: only what is remembered is kept there
    exporter: str = "127.0.0.1:8405"
    log: str = ""  # who is told a line for each request: a unix socket's path, or host:port; empty: nobody
    binary: str = "haproxy"
    socket: Path | None = None
    config: Path | None = None
    master: Path | None = None

    @model_validator(mode="after")
    def _check_mode(self) -> HAProxyOptions:
        if self.mode == "adopted" and (self.socket is None or self.config is None):
            raise ValueError("mode adopted needs socket (its stats socket, level admin) and config (its file)")
        if self.log and not LOG_ADDRESS.fullmatch(self.log):
            raise ValueError("log must be the absolute path of a unix socket, or host:port")
        if self.mode == "adopted" and self.log:
            raise ValueError("log is for mode owned; in your own file the lines of docs/latency.md do it")
        if self.mode == "owned" and (self.socket or self.config or self.master):
            raise ValueError("socket, config and master are for mode adopted; mode owned makes its own in directory")
        return self


class HAProxyRouter(Router):
    """What each verb promises is said in `ports.Router`."""

    Options = HAProxyOptions

    @staticmethod
    def installed(binary: str) -> bool:
        """Whether the program is there."""
        return shutil.which(binary) is not None

    def __init__(self, options: HAProxyOptions, environment: str) -> None:
        self._memory = RouterStateFile(options.directory)
        self._installation: HAProxyInstallation
        if options.socket is not None and options.config is not None:
            self._installation = AdoptedHAProxy(options.socket, options.master, options.config)
        else:
            self._installation = OwnedHAProxy(options.directory, options.exporter, options.binary, options.log)

    @property
    def pid(self) -> int | None:
        """The master process of an owned HAProxy; None while it does not run."""
        return self._installation.pid

    def workers(self) -> tuple[int, ...]:
        """The process ids of the workers that take new connections; empty where no master can be asked."""
        return (list_workers(self._installation.master) or ((), ()))[0] if self._installation.master is not None else ()

    # -- reading --------------------------------------------------------------------------------------------------------

    @guard_response(RouterError, "HAProxy")
    def read(self, backend: Backend) -> RouterState:
        revived = not self._installation.running()
        if revived:
            with self._memory.locked() as state:
                revived = bool(state)  # before the first write there was none
                self._installation.start(state)
        process, rows, upgraded_connections = self._read_statistics(backend)
        servers = parse_servers(rows)
        kept = self._memory.load().get(
            backend.name, BackendState(backend.name)
        )  # after the rows: it has who is missing there
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
            revived=revived,
        )

    def _read_statistics(self, backend: Backend) -> tuple[str, Sequence[StatsRow], Mapping[str, int]]:
        """Which process it is, the rows of the backend there, and its upgraded connections."""
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
        """A conversation with the present process. For a moment after a reload the one before answers, too: where the
        master knows that it is that one, `ProcessReplaced`."""
        with RuntimeSession(self._installation.admin) as one:
            workers = self.workers()
            if workers and int(process_info(one.ask)["Pid"]) not in workers:
                raise ProcessReplaced("HAProxy was reloaded, and the process of before still answers")
            yield one

    def _draining(self, servers: Sequence[HAProxyServer], kept: BackendState, process: str) -> dict[str, int | None]:
        """Those that take nothing new, with their requests in flight.

        After a reload the old process answers its idle clients' next request with the servers that it knew. So while there
        is one, nobody can tell how many requests are on those that left, not even on those that were deleted since.
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
            if fence < kept.fence:
                raise RouterError(
                    f"fence {fence} is too old for backend {backend.name}: {kept.fence} has written since", retryable=False
                )
            self._installation.ensure(backend, list(wanted.values()), state)
            kept.listen, kept.fence = backend.listen, fence
            kept.header = backend.preview.header if backend.preview else ""
            deadline = time.monotonic() + RELOAD_RETRY_SECONDS
            while not self._apply(backend, wanted, state):
                if time.monotonic() >= deadline:
                    raise RouterError(
                        f"HAProxy does not come to do as written for {backend.name}: is it reloaded all the time?"
                    )
                time.sleep(0.01)

    def _apply(self, backend: Backend, wanted: Mapping[str, Member], state: Mapping[str, BackendState]) -> bool:
        """Lead the process from what it does to what is wanted; False when a reload has put another one in its place."""
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
                self._installation.keep(backend, list(wanted.values()), state)
                switch.drain()
                switch.remove_drained(keep_counts)
            with self._current_session() as one:
                return HAProxyUpdate(one.ask, backend, wanted).done()
        except ProcessReplaced:
            return False

    def _record_known_servers(self, running: Set[str], wanted: Set[str], process: str, kept: BackendState) -> None:
        """Who may be known to a process of HAProxy, before that comes about: `read` must not miss one after a crash."""
        old = has_old_processes(
            self._installation.admin, self._installation.master
        )  # after `running`, which a reload could have emptied
        kept.known = sorted({*running, *wanted, *(kept.known if old else ())})
        if kept.process != process:
            kept.process, kept.counts = process, {}
        present = {name: tally for name, tally in kept.counts.items() if name in running}
        deleted = {name: tally for name, tally in kept.counts.items() if name not in running}
        kept.counts = {**present, **counts_by_release((), deleted)}

    # -- around ---------------------------------------------------------------------------------------------------------

    def check(self) -> Sequence[Diagnosis]:
        try:
            if (problem := self._installation.missing()) is not None:
                return (problem,)
            return (Diagnosis("haproxy", True, self._about()), *self._installation.warnings())
        except RouterError as error:
            fix = "start HAProxy, or correct router.socket and router.config"
            return (Diagnosis("haproxy", False, error.message, fix),)

    @guard_response(RouterError, "HAProxy")
    def _about(self) -> str:
        about = process_info(partial(send_command, self._installation.admin))
        return f"{about['Version']}, process {about['Pid']}, up {about['Uptime']}"

    def stop_process(self) -> None:
        """End an owned HAProxy, and with it all traffic: for demos, tests and taking a machine down."""
        pid = self._installation.pid
        if pid is not None:
            os.kill(pid, signal.SIGTERM)


def _validate_members(backend: Backend, members: Collection[Member]) -> None:
    """All of them at once, before anything is written. An address that is lacking yet may come."""
    problems = [*header_problems(backend), *(problem for member in members for problem in member_problems(member))]
    if problems:
        raise RouterError("; ".join(problems), retryable=len(problems) == sum(not member.address for member in members))
