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
import signal
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from tidegate.core.model import Backend, Member, Routed
from tidegate.drivers.routers import haproxy_config as config
from tidegate.drivers.routers.haproxy_memory import Kept, Memory
from tidegate.drivers.routers.haproxy_places import AdoptedPlace, OwnedPlace, Place
from tidegate.drivers.routers.haproxy_process import listed, old_processes
from tidegate.drivers.routers.haproxy_servers import Server, servers, traffic
from tidegate.drivers.routers.haproxy_socket import identity, info, rows, say
from tidegate.errors import RouterError
from tidegate.ports import Diagnosis, Router

LOG_ADDRESS = re.compile(r"/[^\s\"'#]{1,100}|[A-Za-z0-9.:\[\]-]+:\d{1,5}")
STRIKE_SECONDS = 0.05  # how long one write waits for servers to become idle; the rest is for a later write
PASSES = 5  # how often a write begins again because HAProxy was reloaded in the middle of it
GONE = "No such server."  # a reload in the middle: the new process never knew it
NAMELESS = ""  # in `Kept.errors`: of all that were deleted, whose names may come again
THERE = "Already exists a server with the same name in backend."  # a reload in the middle: it had it from the file


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
    def _whole(self) -> HAProxyOptions:
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

    def __init__(self, options: HAProxyOptions, environment: str) -> None:
        self._memory = Memory(options.directory)
        self._place: Place
        if options.socket is not None and options.config is not None:
            self._place = AdoptedPlace(options.socket, options.master, options.config)
        else:
            self._place = OwnedPlace(options.directory, options.exporter, options.binary, options.log)

    @property
    def pid(self) -> int | None:
        """The master process of an owned HAProxy; None while it does not run."""
        return self._place.pid

    def workers(self) -> tuple[int, ...]:
        """The process ids of the workers that take new connections; empty where no master can be asked."""
        return (listed(self._place.master) or ((), ()))[0] if self._place.master is not None else ()

    # -- reading --------------------------------------------------------------------------------------------------------

    def read(self, backend: Backend) -> Routed:
        if not self._place.running():
            with self._memory.locked() as state:
                self._place.start(state)
        process = identity(self._place.admin)
        found = rows(self._place.admin, backend.name)
        kept = self._memory.load().get(backend.name, Kept(backend.name))  # after the rows: it has who is missing there
        there = servers(found)
        members = tuple(each.member for each in there if each.takes_new and each.member)
        busy = {each.member.instance: each.sessions for each in there if each.takes_new and each.member}
        deleted = kept.errors if kept.process == process else {}
        return Routed(members, self._draining(there, kept), busy, kept.fence, traffic(found, deleted))

    def _draining(self, there: Sequence[Server], kept: Kept) -> dict[str, int | None]:
        """Those that take nothing new, with their requests in flight.

        After a reload the old process answers its idle clients' next request with the servers that it knew. So while there
        is one, nobody can tell how many requests are on those that left, not even on those that were deleted since.
        """
        serving = {each.name for each in there if each.takes_new}
        draining: dict[str, int | None] = {
            each.member.instance: each.sessions for each in there if not each.takes_new and each.member
        }
        left = ({each.name for each in there} | set(kept.known)) - serving
        if left and old_processes(self._place.admin, self._place.master):
            draining.update((each.instance, None) for name in left if (each := config.member_of(name, "")))
        return draining

    # -- writing --------------------------------------------------------------------------------------------------------

    def write(self, backend: Backend, members: Collection[Member], fence: int) -> None:
        _refuse_faults(members)
        wanted = {config.server_name(member): member for member in sorted(members, key=config.server_name)}
        with self._memory.locked() as state:
            kept = state.setdefault(backend.name, Kept(backend.name))
            if fence < kept.fence:
                raise RouterError(
                    f"fence {fence} is too old for backend {backend.name}: {kept.fence} has written since", retryable=False
                )
            self._place.ensure(backend, state)
            kept.listen, kept.fence = backend.listen, fence
            for _ in range(PASSES):
                if self._apply(backend, wanted, state):
                    return
        raise RouterError(f"HAProxy was reloaded {PASSES} times while backend {backend.name} was written")

    def _apply(self, backend: Backend, wanted: Mapping[str, Member], state: Mapping[str, Kept]) -> bool:
        """From what runs to what is wanted; False when a reload in the middle has put another process in place."""
        running = self._servers(backend)
        _refuse_foreign(backend, running.values())
        self._remember(running, wanted, state, state[backend.name])
        for name, member in wanted.items():
            self._admit(f"{backend.name}/{name}", member, running.get(name))
        self._place.keep(backend, list(wanted.values()), state)
        if not _serves(self._servers(backend), wanted):
            return False  # before anybody is taken out
        left_out = [name for name in running if name not in wanted]
        for name in left_out:
            if running[name].takes_new:
                self._command(f"set server {backend.name}/{name} state drain", "", GONE)
        if not _serves(self._servers(backend), wanted, alone=True):
            return False
        self._strike(backend, left_out, state)
        return _serves(self._servers(backend), wanted, alone=True)

    def _remember(
        self, running: Mapping[str, Server], wanted: Mapping[str, Member], state: Mapping[str, Kept], kept: Kept
    ) -> None:
        """Who may be known to a process of HAProxy, before that comes about: `read` must not miss one after a crash."""
        old = old_processes(self._place.admin, self._place.master)  # after `running`, which a reload could have emptied
        kept.known = sorted({*running, *wanted, *(kept.known if old else ())})
        process = identity(self._place.admin)
        if kept.process != process:
            kept.process, kept.errors = process, {}
        deleted = sum(count for name, count in kept.errors.items() if name not in running)
        kept.errors = {name: count for name, count in kept.errors.items() if name in running}
        if deleted:
            kept.errors[NAMELESS] = deleted
        self._memory.save(state)

    def _admit(self, server: str, member: Member, present: Server | None) -> None:
        """Have it take new requests at its address, whatever a crash or a drain left of it."""
        if present is None:
            self._command(f"add server {server} {member.address}", "New server registered.", THERE)
            self._command(f"enable server {server}", "", GONE)
            return
        if config.endpoint(present.address) != config.endpoint(member.address):
            self._move(server, member)
        if not present.takes_new:
            self._command(f"set server {server} state ready", "", GONE)

    def _move(self, server: str, member: Member) -> None:
        """The same instance at another address: its container was restarted, nothing is at the old one any more."""
        host, _, port = member.address.rpartition(":")
        said = self._say(f"set server {server} addr {host.strip('[]')} port {port}")
        if said != GONE and "changed from" not in said and "no need to change" not in said:
            raise RouterError(f"HAProxy did not change the address of {server}: {said}")

    def _strike(self, backend: Backend, names: Sequence[str], state: Mapping[str, Kept]) -> None:
        """Delete those that are idle, waiting for a moment."""
        left, deadline = list(names), time.monotonic() + STRIKE_SECONDS
        while left:
            there = self._servers(backend)
            if any(there[name].takes_new for name in left if name in there):
                return  # a reload put another process in place, which was not told that they left
            idle = [name for name in left if name not in there or there[name].sessions == 0]
            self._keep_errors(state, backend, [there[name] for name in idle if name in there])
            left = [name for name in left if name not in idle or not self._delete(f"{backend.name}/{name}")]
            if time.monotonic() >= deadline:
                return
            if left:
                time.sleep(0.005)

    def _keep_errors(self, state: Mapping[str, Kept], backend: Backend, idle: Sequence[Server]) -> None:
        """What they answered with 5xx: their counters end with them."""
        kept = state[backend.name]
        errors = {**kept.errors, **{each.name: each.errors for each in idle if each.errors}}
        if errors != kept.errors:
            kept.errors = errors
            self._memory.save(state)

    def _delete(self, server: str) -> bool:
        """Maint only now: before, connections that become idle would not be closed, and hold the deletion up for long."""
        self._command(f"set server {server} state maint", "", GONE)
        return self._say(f"del server {server}") in ("Server deleted.", GONE)

    def _servers(self, backend: Backend) -> dict[str, Server]:
        return {each.name: each for each in servers(rows(self._place.admin, backend.name))}

    def _command(self, command: str, *expected: str) -> None:
        said = self._say(command)
        if said not in expected:
            raise RouterError(f"HAProxy answered `{said}` to `{command}`", retryable="ermission" not in said)

    def _say(self, command: str) -> str:
        return say(self._place.admin, command).strip()

    # -- around ---------------------------------------------------------------------------------------------------------

    def check(self) -> Sequence[Diagnosis]:
        try:
            if (found := self._place.missing()) is not None:
                return (found,)
            about = info(self._place.admin)
            up = Diagnosis("haproxy", True, f"{about['Version']}, process {about['Pid']}, up {about['Uptime']}")
            return (up, *self._place.warnings())
        except RouterError as error:
            mend = "start HAProxy, or correct router.socket and router.config"
            return (Diagnosis("haproxy", False, error.message, mend),)

    def stop_process(self) -> None:
        """End an owned HAProxy, and with it all traffic: for demos, tests and taking a machine down."""
        pid = self._place.pid
        if pid is not None:
            os.kill(pid, signal.SIGTERM)


def _serves(there: Mapping[str, Server], wanted: Mapping[str, Member], *, alone: bool = False) -> bool:
    """Whether these take new requests, at their addresses; and nobody besides."""
    taking = {name: config.endpoint(each.address) for name, each in there.items() if each.takes_new}
    needed = {name: config.endpoint(each.address) for name, each in wanted.items()}
    return taking == needed if alone else needed.items() <= taking.items()


def _refuse_faults(members: Collection[Member]) -> None:
    """All of them at once, before anything is written. An address that is lacking yet may come."""
    problems = [problem for member in members for problem in config.faults(member)]
    if problems:
        raise RouterError("; ".join(problems), retryable=len(problems) == sum(not member.address for member in members))


def _refuse_foreign(backend: Backend, found: Collection[Server]) -> None:
    foreign = [server.name for server in found if server.member is None]
    if foreign:
        text = f"backend {backend.name} has servers that Tidegate did not add ({', '.join(foreign)}): remove them"
        raise RouterError(text, retryable=False)
