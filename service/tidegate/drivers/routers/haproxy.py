"""HAProxy as a router: servers are added, drained and deleted at run time; the file is the truth for restarts.

The order is what was measured to lose nothing (docs/haproxy.md): add and enable; write the file; drain; and only when no
request is on a server: maint, del. HAProxy refuses `del server` while anything is on it, so "Server deleted." is the proof
that no request is there and none can come.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from tidegate.core.model import Backend, Member, Routed, Traffic
from tidegate.drivers.routers import haproxy_config as config
from tidegate.drivers.routers.haproxy_memory import Kept, Memory
from tidegate.drivers.routers.haproxy_process import Process
from tidegate.drivers.routers.haproxy_socket import number, rows, say
from tidegate.errors import RouterError
from tidegate.ports import Diagnosis, Router

STRIKE_SECONDS = 0.05  # how long one write waits for servers to become idle; the rest is for a later write
GONE = "No such server."  # a reload in the middle: the new process never knew it
REMEMBERED_SECONDS = 600.0  # how long a deleted server may matter to an old worker


class HAProxyOptions(BaseModel):
    """`owned`: Tidegate writes `directory`/haproxy.cfg and starts HAProxy. `adopted`: one that stands there already."""

    model_config = ConfigDict(extra="forbid")
    mode: Literal["owned", "adopted"] = "owned"
    directory: Path = Path("/var/lib/tidegate/haproxy")  # adopted: only the fences are kept there
    exporter: str = "127.0.0.1:8405"
    binary: str = "haproxy"
    socket: Path | None = None
    config: Path | None = None
    master: Path | None = None

    @model_validator(mode="after")
    def _whole(self) -> HAProxyOptions:
        if self.mode == "adopted" and (self.socket is None or self.config is None):
            raise ValueError("mode adopted needs socket (its stats socket, level admin) and config (its file)")
        if self.mode == "owned" and (self.socket or self.config or self.master):
            raise ValueError("socket, config and master are for mode adopted; mode owned makes its own in directory")
        return self


@dataclass(frozen=True)
class Server:
    """A server of the running process."""

    name: str
    address: str
    status: str
    sessions: int
    member: Member | None

    @property
    def takes_new(self) -> bool:
        """Whether it is sent new requests."""
        return not self.status.startswith(("DRAIN", "MAINT"))


class HAProxyRouter(Router):
    """What each verb promises is said in `ports.Router`."""

    Options = HAProxyOptions

    def __init__(self, options: HAProxyOptions, environment: str) -> None:
        self._options = options
        self._binary = shutil.which(options.binary) or options.binary
        self._directory = options.directory
        self._process = Process(options.directory, self._binary)
        self._memory = Memory(options.directory)

    @property
    def pid(self) -> int | None:
        """The master process of an owned HAProxy; None while it does not run."""
        return self._process.pid

    def workers(self) -> tuple[int, ...]:
        """The process ids of the workers that take new connections."""
        return self._process.workers()

    @property
    def _socket(self) -> Path:
        return self._options.socket or self._process.admin

    # -- reading --------------------------------------------------------------------------------------------------------

    def read(self, backend: Backend) -> Routed:
        self._ensure_running()
        found = rows(self._socket, backend.name)
        kept = self._memory.load().get(backend.name, Kept(backend.name))
        servers = [each for each in _servers(found) if each.member]
        members = tuple(each.member for each in servers if each.takes_new and each.member)
        draining: dict[str, int | None] = {
            each.member.instance: each.sessions for each in servers if not each.takes_new and each.member
        }
        draining.update(self._left_to_old_workers(kept, {each.instance for each in members}))
        busy = {each.member.instance: each.sessions for each in servers if each.takes_new and each.member}
        return Routed(members, draining, busy, kept.fence, _traffic(found))

    def _left_to_old_workers(self, kept: Kept, serving: set[str]) -> Mapping[str, None]:
        """After a reload the old process answers its idle clients' next request with the servers that it knew.

        So what was deleted since may still be sent requests by it, nobody can tell how many, until it is gone.
        """
        recent = {name for name, at in kept.deleted.items() if time.time() - at < REMEMBERED_SECONDS}
        if not recent or not self._old_workers():
            return {}
        left = (member.instance for name in recent if (member := config.member_of(name, "")))
        return {instance: None for instance in left if instance not in serving}

    def _old_workers(self) -> tuple[int, ...]:
        if self._options.mode == "adopted" and self._options.master is None:
            return ()
        return self._process.old_workers()

    # -- writing --------------------------------------------------------------------------------------------------------

    def write(self, backend: Backend, members: Collection[Member], fence: int) -> None:
        _require_addresses(members)
        with self._memory.locked() as state:
            kept = state.setdefault(backend.name, Kept(backend.name))
            if fence < kept.fence:
                raise RouterError(
                    f"fence {fence} is too old for backend {backend.name}: {kept.fence} has written since", retryable=False
                )
            self._ensure_backend(backend, state, kept)
            kept.fence = fence
            self._memory.save(state)
            self._apply(backend, sorted(members, key=config.server_name), state, kept)

    def _apply(self, backend: Backend, members: Sequence[Member], state: dict[str, Kept], kept: Kept) -> None:
        """From what runs to what is wanted. Whatever a crash left half done is only another beginning."""
        wanted = {config.server_name(member): member for member in members}
        running = {server.name: server for server in _servers(rows(self._socket, backend.name))}
        _refuse_foreign(backend, running.values())
        moved = [name for name, server in running.items() if name in wanted and server.address != wanted[name].address]
        new = [name for name in wanted if name not in running]
        if new or moved:
            union = {**{name: s.member for name, s in running.items() if s.takes_new and s.member}, **wanted}
            self._write_file(state, backend, list(union.values()))
        for name in moved:
            self._move(backend, name, wanted[name])
        for name in new:
            self._add(backend, name, wanted[name])
        for name, server in running.items():
            if name in wanted and not server.takes_new:
                self._command(f"set server {backend.name}/{name} state ready", "")
        left_out = [name for name in running if name not in wanted]
        for name in left_out:
            if running[name].takes_new:
                self._command(f"set server {backend.name}/{name} state drain", "", GONE)
        if new or moved or any(running[name].takes_new for name in left_out):
            self._write_file(state, backend, list(members))
        struck = self._strike(backend, left_out)
        if struck:
            now = time.time()
            kept.deleted = {name: at for name, at in kept.deleted.items() if now - at < REMEMBERED_SECONDS}
            kept.deleted.update(dict.fromkeys(struck, now))
            self._memory.save(state)

    def _add(self, backend: Backend, name: str, member: Member) -> None:
        self._command(f"add server {backend.name}/{name} {member.address}", "New server registered.")
        self._command(f"enable server {backend.name}/{name}", "")

    def _move(self, backend: Backend, name: str, member: Member) -> None:
        """The same instance at another address: its container was restarted, nothing is at the old one any more."""
        host, _, port = member.address.rpartition(":")
        said = self._say(f"set server {backend.name}/{name} addr {host} port {port}")
        if "changed from" not in said and "no need to change" not in said:
            raise RouterError(f"HAProxy did not change the address of {name}: {said}")

    def _strike(self, backend: Backend, names: Sequence[str]) -> list[str]:
        """Delete those that are idle, waiting for a moment; which ones are gone."""
        gone: list[str] = []
        left, deadline = list(names), time.monotonic() + STRIKE_SECONDS
        while left:
            sessions = {server.name: server.sessions for server in _servers(rows(self._socket, backend.name))}
            idle = [name for name in left if sessions.get(name, 0) == 0]
            struck = [name for name in idle if self._delete(backend, name)]
            gone += struck
            left = [name for name in left if name not in struck]
            if time.monotonic() >= deadline:
                break
            if left:
                time.sleep(0.005)
        return gone

    def _delete(self, backend: Backend, name: str) -> bool:
        """Maint only now: before, connections that become idle would not be closed, and hold the deletion up for long."""
        self._command(f"set server {backend.name}/{name} state maint", "", GONE)
        said = self._say(f"del server {backend.name}/{name}")
        return said in ("Server deleted.", GONE)

    def _command(self, command: str, *expected: str) -> None:
        said = self._say(command)
        if said not in expected:
            raise RouterError(f"HAProxy answered `{said}` to `{command}`", retryable="ermission" not in said)

    def _say(self, command: str) -> str:
        return say(self._socket, command).strip()

    # -- the file, the process and what is remembered ---------------------------------------------------------------------

    def _write_file(
        self, state: Mapping[str, Kept], backend: Backend, members: Sequence[Member], *, check: bool = False
    ) -> None:
        """Bring the file up to what the process has or shall have, for the next reload or restart."""
        binary = self._binary if check else ""
        if self._options.mode == "adopted":
            adopted = self._adopted()
            config.replace(adopted.path, adopted.with_servers(backend.name, members), binary)
            return
        sections: dict[str, tuple[Backend, Sequence[Member]]] = {}
        for name, kept in state.items():
            if not kept.listen:
                continue  # refused before it was ever served
            there = members if name == backend.name else self._members_in_file(name)
            sections[name] = (Backend(name, kept.listen), there)
        config.replace(self._owned().path, self._owned().render(sections), binary)

    def _members_in_file(self, backend: str) -> list[Member]:
        """The servers that the file has for another backend."""
        text = self._owned().path.read_text() if self._owned().path.exists() else ""
        return config.members_in(text, backend)

    def _owned(self) -> config.Owned:
        return config.Owned(self._directory, self._options.exporter)

    def _adopted(self) -> config.Adopted:
        assert self._options.config is not None, "validated with the options"
        return config.Adopted(self._options.config)

    def _ensure_running(self) -> None:
        """Owned: start HAProxy from its file when it does not run. The file has the route, so that it is as it was."""
        if self._options.mode == "adopted" or (self._process.admin.exists() and self._process.pid is not None):
            return
        with self._memory.locked() as state:
            self._start(state)

    def _start(self, state: Mapping[str, Kept]) -> None:
        if self._process.pid is not None and self._process.answers():
            return
        if not self._owned().path.exists():
            sections: dict[str, tuple[Backend, Sequence[Member]]] = {
                name: (Backend(name, kept.listen), ()) for name, kept in state.items() if kept.listen
            }
            config.replace(self._owned().path, self._owned().render(sections), self._binary)
        self._process.start()

    def _ensure_backend(self, backend: Backend, state: dict[str, Kept], kept: Kept) -> None:
        """The backend is there and can be kept true, or `RouterError` before anything is changed."""
        if self._options.mode == "adopted":
            self._require_adoptable(backend)
            return
        if not backend.listen:
            raise RouterError(
                f"{backend.name} needs `x-tidegate.listen`: where HAProxy shall listen for it", retryable=False
            )
        self._start(state)
        if kept.listen == backend.listen and rows(self._socket, backend.name):
            return
        if kept.listen != backend.listen:
            _require_free(backend)
        before = self._owned().path.read_text()
        kept.listen = backend.listen
        self._write_file(state, backend, self._members_in_file(backend.name), check=True)
        try:
            self._process.reload(lambda: bool(rows(self._socket, backend.name)))
        except RouterError:
            config.replace(self._owned().path, before)
            raise

    def _require_adoptable(self, backend: Backend) -> None:
        adopted = self._adopted()
        problems = adopted.problems(backend.name)
        if not rows(self._socket, backend.name):
            problems.append(f"the running HAProxy has no `backend {backend.name}`: reload it with {adopted.path}")
        if self._say("show cli level") != "admin":
            problems.append("the stats socket needs `level admin`")
        if problems:
            raise RouterError(f"{adopted.path}: " + "; ".join(problems), retryable=False)

    # -- around ---------------------------------------------------------------------------------------------------------

    def check(self) -> Sequence[Diagnosis]:
        if shutil.which(self._binary) is None and self._options.mode == "owned":
            return (Diagnosis("haproxy", False, f"no program {self._binary}", "install haproxy, or set router.binary"),)
        try:
            if self._options.mode == "owned" and self._process.pid is None:
                return (Diagnosis("haproxy", True, "not running yet: it is started with the first rollout"),)
            info = dict(line.split(": ", 1) for line in self._say("show info").splitlines() if ": " in line)
            found = [Diagnosis("haproxy", True, f"{info['Version']}, process {info['Pid']}, up {info['Uptime']}")]
            if self._options.mode == "adopted" and "idle-close-on-response" not in self._adopted().read():
                mend = "add `option idle-close-on-response` to defaults, so that a reload loses nothing"
                found.append(Diagnosis("haproxy config", False, "idle clients are cut at a reload", mend))
        except RouterError as error:
            return (
                Diagnosis("haproxy", False, error.message, "start HAProxy, or correct router.socket and router.config"),
            )
        return tuple(found)

    def stop_process(self) -> None:
        """End an owned HAProxy, and with it all traffic: for demos, tests and taking a machine down."""
        pid = self._process.pid
        if pid is not None:
            os.kill(pid, signal.SIGTERM)


def _servers(found: Sequence[Mapping[str, str]]) -> list[Server]:
    """The servers among a backend's rows."""
    servers = (row for row in found if row["svname"] not in ("BACKEND", "FRONTEND"))
    return [
        Server(
            row["svname"],
            row["addr"],
            row["status"],
            number(row, "scur") + number(row, "qcur"),
            config.member_of(row["svname"], row["addr"]),
        )
        for row in servers
    ]


def _traffic(found: Sequence[Mapping[str, str]]) -> Traffic | None:
    """The backend's own row, which outlives its servers.

    Lost: no connection (econ: refused, no server), or an answer that broke off (eresp, srv_abrt count the same event
    twice when a server vanishes in the middle). The rest of the 5xx came from the application.
    """
    row = next((row for row in found if row["svname"] == "BACKEND"), None)
    if row is None:
        return None
    lost = number(row, "econ") + max(number(row, "eresp"), number(row, "srv_abrt"))
    return Traffic(number(row, "req_tot"), lost, max(0, number(row, "hrsp_5xx") - lost))


def _require_addresses(members: Collection[Member]) -> None:
    lacking = [config.server_name(member) for member in members if not member.address]
    if lacking:
        raise RouterError(f"no address yet: {', '.join(lacking)}")


def _refuse_foreign(backend: Backend, servers: Collection[Server]) -> None:
    foreign = [server.name for server in servers if server.member is None]
    if foreign:
        text = f"backend {backend.name} has servers that Tidegate did not add ({', '.join(foreign)}): remove them"
        raise RouterError(text, retryable=False)


def _require_free(backend: Backend) -> None:
    """Refuse a listening address that somebody else has, before HAProxy is touched."""
    host, _, port = backend.listen.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            text = (
                f"HAProxy cannot listen on {backend.listen} for {backend.name}: {error.strerror}: choose another `listen`"
            )
            raise RouterError(text, retryable=False) from error
