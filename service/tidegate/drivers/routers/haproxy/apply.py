"""From what a process of HAProxy does to what it shall do, in commands. Whatever was left half done is a beginning, too."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from tidegate.core.routing import Backend, Member
from tidegate.drivers.routers.haproxy.runtime_api import ProcessReplaced, RunCommand, stats_rows
from tidegate.drivers.routers.haproxy.servers import HAProxyServer, parse_servers
from tidegate.drivers.routers.members import parse_endpoint
from tidegate.errors import RouterError

REMOVE_POLL_SECONDS = 0.05  # how long it is waited for servers to become idle; the rest is for a later write


class HAProxyUpdate:
    """One change of one backend. `ask` speaks to one and the same process: nobody is taken out of another than the new ones
    were added to. Raises `RouterError`, and `ProcessReplaced` when a reload ends it."""

    def __init__(self, ask: RunCommand, backend: Backend, wanted: Mapping[str, Member]) -> None:
        self._ask = ask
        self._backend = backend.name
        self._target = wanted
        self.running = self._servers()
        if foreign := [name for name, server in self.running.items() if server.member is None]:
            text = f"backend {self._backend} has servers that Tidegate did not add ({', '.join(foreign)}): remove them"
            raise RouterError(text, retryable=False)

    def done(self) -> bool:
        """Whether the wanted ones take new requests at their addresses with their weights, and nobody else does."""
        taking = {name: server for name, server in self.running.items() if server.takes_new}
        return {name: (parse_endpoint(server.address), server.weight) for name, server in taking.items()} == {
            name: (parse_endpoint(server.address), server.weight) for name, server in self._target.items()
        }

    def add_members(self) -> None:
        """Have the wanted ones take new requests, whatever a crash or a drain left of them."""
        for name, member in self._target.items():
            server, present = f"{self._backend}/{name}", self.running.get(name)
            if present is None:
                self._command(f"add server {server} {member.address} weight {member.weight}", "New server registered.")
                self._command(f"enable server {server}", "")
                continue
            if parse_endpoint(present.address) != parse_endpoint(member.address):
                self._change_address(server, member)
            if present.weight != member.weight:
                self._command(f"set server {server} weight {member.weight}", "")
            if not present.takes_new:
                self._command(f"set server {server} state ready", "")

    def _change_address(self, server: str, member: Member) -> None:
        """The same instance at another address: its container was restarted, nothing is at the old one any more."""
        host, _, port = member.address.rpartition(":")
        response = self._ask(f"set server {server} addr {host.strip('[]')} port {port}").strip()
        if "changed from" not in response and "no need to change" not in response:
            raise RouterError(f"HAProxy did not change the address of {server}: {response}")

    def drain(self) -> None:
        """Have the others take nothing new."""
        for name in self._removed_servers():
            if self.running[name].takes_new:
                self._command(f"set server {self._backend}/{name} state drain", "")

    def remove_drained(self, first: Callable[[Sequence[HAProxyServer]], None]) -> None:
        """Delete the others as far as they are idle, waiting for a moment. `first` is told whose counters end."""
        leaving, deadline = self._removed_servers(), time.monotonic() + REMOVE_POLL_SECONDS
        while leaving:
            servers = self._servers()
            idle = [servers[name] for name in leaving if name in servers and servers[name].sessions == 0]
            first(idle)
            removed = {server.name for server in idle if self._delete(f"{self._backend}/{server.name}")}
            leaving = [name for name in leaving if name in servers and name not in removed]
            if time.monotonic() >= deadline:
                return
            if leaving:
                time.sleep(0.005)

    def _delete(self, server: str) -> bool:
        """Maint only now: before, connections that become idle would not be closed, and hold the deletion up for long."""
        self._command(f"set server {server} state maint", "")
        return self._ask(f"del server {server}").strip() == "Server deleted."

    def _removed_servers(self) -> list[str]:
        return [name for name in self.running if name not in self._target]

    def _servers(self) -> dict[str, HAProxyServer]:
        if not (rows := stats_rows(self._ask, self._backend)):
            raise ProcessReplaced(f"the process that answers has no backend {self._backend}; another one has")
        return {server.name: server for server in parse_servers(rows)}

    def _command(self, command: str, expected: str) -> None:
        response = self._ask(command).strip()
        if response != expected:
            raise RouterError(f"HAProxy answered `{response}` to `{command}`", retryable="ermission" not in response)
