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

from tidegate.causes import understood
from tidegate.core.routing import Backend, Member, Routed
from tidegate.drivers.routers.haproxy_places import AdoptedPlace, OwnedPlace, Place
from tidegate.drivers.routers.haproxy_process import listed, old_processes
from tidegate.drivers.routers.haproxy_servers import Row, Server, by_release, release_traffic, servers, traffic
from tidegate.drivers.routers.haproxy_sessions import tunnels
from tidegate.drivers.routers.haproxy_socket import Conversation, Replaced, identity, info, rows, say
from tidegate.drivers.routers.haproxy_switch import Switch
from tidegate.drivers.routers.members import faults, header_faults, member_of, server_name
from tidegate.drivers.routers.memory import Kept, Memory, Tally
from tidegate.errors import RouterError
from tidegate.ports import Diagnosis, Router

LOG_ADDRESS = re.compile(r"/[^\s\"'#]{1,100}|[A-Za-z0-9.:\[\]-]+:\d{1,5}")
RELOADED_SECONDS = 5.0  # how long a write begins again and again because HAProxy is reloaded in the middle of it


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

    @staticmethod
    def installed(binary: str) -> bool:
        """Whether the program is there."""
        return shutil.which(binary) is not None

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

    @understood(RouterError, "HAProxy")
    def read(self, backend: Backend) -> Routed:
        revived = not self._place.running()
        if revived:
            with self._memory.locked() as state:
                revived = bool(state)  # before the first write there was none
                self._place.start(state)
        process, found, upgraded = self._looked(backend)
        there = servers(found)
        kept = self._memory.load().get(backend.name, Kept(backend.name))  # after the rows: it has who is missing there
        members = tuple(each.member for each in there if each.takes_new and each.member)
        busy = {each.member.instance: each.sessions for each in there if each.takes_new and each.member}
        tallies = by_release(there, kept.counts if kept.process == process else {})
        return Routed(
            members,
            self._draining(there, kept, process),
            busy,
            kept.fence,
            traffic(found, tallies),
            tunnels=upgraded,
            by_release=release_traffic(found, tallies),
            revived=revived,
        )

    def _looked(self, backend: Backend) -> tuple[str, Sequence[Row], Mapping[str, int]]:
        """Which process it is, the rows of the backend there, and its upgraded connections."""
        deadline = time.monotonic() + RELOADED_SECONDS
        while True:
            try:
                with self._present() as one:
                    process, found = identity(one.ask), rows(one.ask, backend.name)
                    return process, found, tunnels(one, backend.name, servers(found))
            except Replaced:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.01)

    @contextmanager
    def _present(self) -> Iterator[Conversation]:
        """A conversation with the present process. For a moment after a reload the one before answers, too: where the
        master knows that it is that one, `Replaced`."""
        with Conversation(self._place.admin) as one:
            workers = self.workers()
            if workers and int(info(one.ask)["Pid"]) not in workers:
                raise Replaced("HAProxy was reloaded, and the process of before still answers")
            yield one

    def _draining(self, there: Sequence[Server], kept: Kept, process: str) -> dict[str, int | None]:
        """Those that take nothing new, with their requests in flight.

        After a reload the old process answers its idle clients' next request with the servers that it knew. So while there
        is one, nobody can tell how many requests are on those that left, not even on those that were deleted since.
        """
        serving = {each.name for each in there if each.takes_new}
        draining: dict[str, int | None] = {
            each.member.instance: each.sessions for each in there if not each.takes_new and each.member
        }
        left = ({each.name for each in there} | set(kept.known)) - serving
        if left and (old_processes(self._place.admin, self._place.master) or self._process() != process):
            draining.update((each.instance, None) for name in left if (each := member_of(name, "")))
        return draining

    def _process(self) -> str:
        return identity(partial(say, self._place.admin))

    # -- writing --------------------------------------------------------------------------------------------------------

    @understood(RouterError, "HAProxy")
    def write(self, backend: Backend, members: Collection[Member], fence: int) -> None:
        _refuse_faults(backend, members)
        wanted = {server_name(member): member for member in sorted(members, key=server_name)}
        with self._memory.locked() as state:
            kept = state.setdefault(backend.name, Kept(backend.name))
            if fence < kept.fence:
                raise RouterError(
                    f"fence {fence} is too old for backend {backend.name}: {kept.fence} has written since", retryable=False
                )
            self._place.ensure(backend, list(wanted.values()), state)
            kept.listen, kept.fence = backend.listen, fence
            kept.header = backend.preview.header if backend.preview else ""
            deadline = time.monotonic() + RELOADED_SECONDS
            while not self._switched(backend, wanted, state):
                if time.monotonic() >= deadline:
                    raise RouterError(
                        f"HAProxy does not come to do as written for {backend.name}: is it reloaded all the time?"
                    )
                time.sleep(0.01)

    def _switched(self, backend: Backend, wanted: Mapping[str, Member], state: Mapping[str, Kept]) -> bool:
        """Lead the process from what it does to what is wanted; False when a reload has put another one in its place."""
        kept = state[backend.name]

        def keep_counts(idle: Sequence[Server]) -> None:
            if counted := {each.name: each.tally for each in idle if each.tally != Tally()}:
                kept.counts.update(counted)
                self._memory.save(state)

        try:
            with self._present() as one:
                switch = Switch(one.ask, backend, wanted)
                self._remember({*switch.running}, {*wanted}, identity(one.ask), kept)
                self._memory.save(state)
                switch.admit()
                self._place.keep(backend, list(wanted.values()), state)
                switch.drain()
                switch.strike(keep_counts)
            with self._present() as one:
                return Switch(one.ask, backend, wanted).done()
        except Replaced:
            return False

    def _remember(self, running: Set[str], wanted: Set[str], process: str, kept: Kept) -> None:
        """Who may be known to a process of HAProxy, before that comes about: `read` must not miss one after a crash."""
        old = old_processes(self._place.admin, self._place.master)  # after `running`, which a reload could have emptied
        kept.known = sorted({*running, *wanted, *(kept.known if old else ())})
        if kept.process != process:
            kept.process, kept.counts = process, {}
        there = {name: tally for name, tally in kept.counts.items() if name in running}
        deleted = {name: tally for name, tally in kept.counts.items() if name not in running}
        kept.counts = {**there, **by_release((), deleted)}

    # -- around ---------------------------------------------------------------------------------------------------------

    def check(self) -> Sequence[Diagnosis]:
        try:
            if (found := self._place.missing()) is not None:
                return (found,)
            return (Diagnosis("haproxy", True, self._about()), *self._place.warnings())
        except RouterError as error:
            mend = "start HAProxy, or correct router.socket and router.config"
            return (Diagnosis("haproxy", False, error.message, mend),)

    @understood(RouterError, "HAProxy")
    def _about(self) -> str:
        about = info(partial(say, self._place.admin))
        return f"{about['Version']}, process {about['Pid']}, up {about['Uptime']}"

    def stop_process(self) -> None:
        """End an owned HAProxy, and with it all traffic: for demos, tests and taking a machine down."""
        pid = self._place.pid
        if pid is not None:
            os.kill(pid, signal.SIGTERM)


def _refuse_faults(backend: Backend, members: Collection[Member]) -> None:
    """All of them at once, before anything is written. An address that is lacking yet may come."""
    problems = [*header_faults(backend), *(problem for member in members for problem in faults(member))]
    if problems:
        raise RouterError("; ".join(problems), retryable=len(problems) == sum(not member.address for member in members))
