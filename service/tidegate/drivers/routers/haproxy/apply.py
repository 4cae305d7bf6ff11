"""Changes a running HAProxy process to the target route by runtime commands, starting from any state a crash left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from tidegate.core.routing import Backend, Member
from tidegate.drivers.routers.haproxy.runtime_api import ProcessReplaced, RunCommand, server_states, stats_rows
from tidegate.drivers.routers.haproxy.servers import HAProxyServer, WantedServer, parse_servers
from tidegate.drivers.routers.members import parse_endpoint
from tidegate.errors import RouterError

REMOVE_POLL_SECONDS = 0.05  # how long a write waits for servers to become idle; a later write removes the rest


class HAProxyUpdate:
    """One change of one backend.

    `ask` sends commands to one and the same process, so that servers are removed only from the process to which the new
    ones were added. Raises `RouterError`, and `ProcessReplaced` if a reload ends that process.
    """

    def __init__(self, ask: RunCommand, backend: Backend, wanted: Mapping[str, WantedServer]) -> None:
        self._ask = ask
        self._backend = backend.name
        self._target = wanted
        self.running = self._servers()
        if foreign := [name for name, server in self.running.items() if server.member is None]:
            raise RouterError(
                f"Cannot route backend {self._backend}: it has servers that Tidegate did not add ({', '.join(foreign)}). "
                "Remove them.",
                retryable=False,
            )

    def done(self) -> bool:
        """Whether exactly the target servers take new requests, with the target addresses and weights."""
        taking = {name: server for name, server in self.running.items() if server.takes_new}
        return {name: (parse_endpoint(server.address), server.weight) for name, server in taking.items()} == {
            name: (parse_endpoint(server.member.address), server.member.weight) for name, server in self._target.items()
        }

    def add_members(self) -> None:
        """Make the target servers take new requests, whatever state a crash or a drain left them in."""
        for name, target in self._target.items():
            server, present, member = f"{self._backend}/{name}", self.running.get(name), target.member
            if present is None:
                self._command(f"add server {self._backend}/{target.line}", "New server registered.")
            if target.checked and not (present and present.checked):
                self._command(f"enable health {server}", "")
            if present is None:
                self._command(f"enable server {server}", "")
                continue
            if parse_endpoint(present.address) != parse_endpoint(member.address):
                self._change_address(server, member)
            if present.weight != member.weight:
                self._command(f"set server {server} weight {member.weight}", "")
            if not present.takes_new:
                self._command(f"set server {server} state ready", "")

    def _change_address(self, server: str, member: Member) -> None:
        """Change the address of an instance whose container was restarted; nothing listens at the old address any more."""
        host, _, port = member.address.rpartition(":")
        response = self._ask(f"set server {server} addr {host.strip('[]')} port {port}").strip()
        if "changed from" not in response and "no need to change" not in response:
            raise RouterError(f"HAProxy did not change the address of {server} to {member.address}: {response}")

    def drain(self) -> None:
        """Stop sending new requests to all other servers."""
        for name in self._removed_servers():
            if self.running[name].takes_new:
                self._command(f"set server {self._backend}/{name} state drain", "")

    def remove_drained(self, first: Callable[[Sequence[HAProxyServer]], None]) -> None:
        """Delete the other servers that are idle, polling for up to `REMOVE_POLL_SECONDS`.

        `first` is called with the idle servers before they are deleted, because their counters end then.
        """
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
        """Delete one server. `maint` comes last: set earlier, it would keep idle connections open and delay deletion."""
        self._command(f"set server {server} state maint", "")
        return self._ask(f"del server {server}").strip() == "Server deleted."

    def _removed_servers(self) -> list[str]:
        return [name for name in self.running if name not in self._target]

    def _servers(self) -> dict[str, HAProxyServer]:
        if not (rows := stats_rows(self._ask, self._backend)):
            raise ProcessReplaced(f"The HAProxy process that answers has no backend {self._backend}")
        states = server_states(self._ask, self._backend)
        return {server.name: server for server in parse_servers(rows, states)}

    def _command(self, command: str, expected: str) -> None:
        response = self._ask(command).strip()
        if response != expected:
            raise RouterError(f"HAProxy rejected `{command}`: {response}", retryable="ermission" not in response)
