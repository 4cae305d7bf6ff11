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
import shutil
import signal
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import partial

from tidegate.core.routing import Backend, Member, RouterState
from tidegate.drivers.error_translation import guard_response
from tidegate.drivers.routers.haproxy.adoption import AdoptedHAProxy
from tidegate.drivers.routers.haproxy.apply import HAProxyUpdate
from tidegate.drivers.routers.haproxy.installation import HAProxyInstallation, OwnedHAProxy
from tidegate.drivers.routers.haproxy.options import NO_LOG, HAProxyOptions
from tidegate.drivers.routers.haproxy.process import HAProxyProcess, has_old_processes, list_workers
from tidegate.drivers.routers.haproxy.request_log import HAProxyRequestLog, LogSource, PipeSource, StreamSource
from tidegate.drivers.routers.haproxy.runtime_api import (
    ProcessReplaced,
    RuntimeSession,
    process_identity,
    process_info,
    send_command,
    server_states,
    stats_rows,
)
from tidegate.drivers.routers.haproxy.servers import (
    TOTAL,
    HAProxyServer,
    StatsRow,
    counts_by_release,
    parse_haproxy_name,
    parse_servers,
    routed_members,
    sessions_by_instance,
    total_traffic,
)
from tidegate.drivers.routers.haproxy.sessions import count_old_requests, count_upgraded_connections
from tidegate.drivers.routers.members import header_problems, member_problems, server_name
from tidegate.drivers.routers.state_file import BackendState, RequestCounts, RouterStateFile, retire
from tidegate.errors import RouterError
from tidegate.ports import CheckStatus, Diagnosis, Router

MAX_DROPPED = 0.01  # of the log lines; on a busy machine a few are dropped because two threads write at a time
RELOAD_RETRY_SECONDS = 5.0  # how long reads and writes are repeated when HAProxy is reloaded while they run


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
            self._installation = OwnedHAProxy(options)
        source = _log_source(options)
        self.request_log = HAProxyRequestLog(source) if source is not None else None
        self._refreshed = False

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
        restarted = self._start_and_refresh()
        process, rows, servers, tunnels = self._read_statistics(backend)
        kept = self._memory.load().get(
            backend.name, BackendState(backend.name)
        )  # loaded after the rows, so that it contains servers that are missing there
        in_route, sessions = routed_members(servers), sessions_by_instance(servers)
        draining, old_tunnels = self._draining(backend, in_route, sessions, kept, process)
        traffic = total_traffic(rows, servers, kept, process)
        return RouterState(
            members=tuple(in_route.values()),
            draining=draining,
            busy={instance: sessions[instance] for instance in in_route},
            fence=kept.fence,
            traffic=traffic.pop(TOTAL, None),
            tunnels=Counter(tunnels) + Counter(old_tunnels) if old_tunnels else tunnels,
            by_release=traffic,
            restarted=restarted,
            down=frozenset(one.member.instance for one in servers if one.member and one.takes_new and one.is_down),
        )

    def _start_and_refresh(self) -> bool:
        """Start HAProxy if it does not run; whether it did not. The first time, make changed settings take effect."""
        restarted = not self._installation.running()
        if restarted or not self._refreshed:
            with self._memory.locked() as state:
                restarted = restarted and bool(state)  # False before the first write: HAProxy has not run yet
                self._installation.start(state)
                self._refreshed, refresh = True, not self._refreshed
                if refresh and state and self._installation.refresh(state):
                    self._memory.save(state)
        return restarted

    def _read_statistics(
        self, backend: Backend
    ) -> tuple[str, Sequence[StatsRow], Sequence[HAProxyServer], Mapping[str, int]]:
        """The identity of the current process, the backend's rows and servers, and its upgraded connections by instance."""
        deadline = time.monotonic() + RELOAD_RETRY_SECONDS
        while True:
            try:
                with self._current_session() as one:
                    process, rows = process_identity(one.ask), stats_rows(one.ask, backend.name)
                    servers = parse_servers(rows, server_states(one.ask, backend.name)) if rows else []
                    return process, rows, servers, count_upgraded_connections(one, backend.name, servers)
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

    def _draining(
        self,
        backend: Backend,
        in_route: Mapping[str, Member],
        sessions: Mapping[str, int],
        kept: BackendState,
        process: str,
    ) -> tuple[dict[str, int | None], Mapping[str, int]]:
        """Instances that take no new requests, with their requests in flight (None: unknown), and the upgraded connections
        among those of old processes.

        After a reload an old process still has the requests of its clients. Where it cannot be counted, the number of
        requests on removed servers, even deleted ones, is unknown while an old process exists.
        """
        draining: dict[str, int | None] = {each: number for each, number in sessions.items() if each not in in_route}
        known = {member.instance for name in kept.known if (member := parse_haproxy_name(name))}
        leaving = (known | set(sessions)) - set(in_route)
        if not leaving:
            return draining, {}
        admin, master, replaced = self._installation.admin, self._installation.master, self._installation.replaced
        old = count_old_requests(admin, master, replaced, backend.name)
        if old is None or self._process() != process:
            return {**draining, **dict.fromkeys(leaving)}, {}
        for instance in leaving & set(old.requests):
            draining[instance] = (draining.get(instance) or 0) + old.requests[instance]
        return draining, {instance: old.tunnels[instance] for instance in leaving & set(old.requests)}

    def _process(self) -> str:
        return process_identity(partial(send_command, self._installation.admin))

    # -- writing --------------------------------------------------------------------------------------------------------

    @guard_response(RouterError, "HAProxy")
    def write(self, backend: Backend, members: Collection[Member], fence: int) -> None:
        _validate_members(backend, members)
        ordered = sorted(members, key=server_name)
        with self._memory.locked() as state:
            kept = state.setdefault(backend.name, BackendState(backend.name))
            kept.require_current(fence)
            self._installation.ensure(backend, ordered, state)
            kept.listen, kept.fence, kept.options = backend.listen, fence, backend.options
            kept.former_listen = backend.former_listen
            kept.header = backend.preview.header if backend.preview else ""
            deadline = time.monotonic() + RELOAD_RETRY_SECONDS
            while not self._apply(backend, ordered, state):
                if time.monotonic() >= deadline:
                    raise RouterError(
                        f"HAProxy did not apply the route of {backend.name} within {RELOAD_RETRY_SECONDS:g} s. Check "
                        "whether something reloads it continuously."
                    )
                time.sleep(0.01)

    @guard_response(RouterError, "HAProxy")
    def remove(self, backend: Backend, fence: int) -> None:
        with self._memory.locked() as state:
            names = retire(state, backend, fence)
            self._memory.save(state)
            self._installation.remove(names, state)
            self._memory.save(state)

    def _apply(self, backend: Backend, members: Sequence[Member], state: Mapping[str, BackendState]) -> bool:
        """Change the current process to the target; False if a reload replaced it meanwhile."""
        kept, wanted = state[backend.name], self._installation.servers(backend, members)

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
                self._installation.save(backend, members, state)
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
            kept.process, kept.counts, kept.earlier = process, {}, {}
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
