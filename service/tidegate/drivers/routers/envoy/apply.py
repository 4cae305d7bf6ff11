"""From what Envoy does to what it shall do, file by file, each proved before the next. Whatever was left half done is a
beginning, too."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection, Iterable, Sequence, Set
from pathlib import Path

from tidegate.core.routing import Backend, Member
from tidegate.drivers.routers.atomic_files import read, replace
from tidegate.drivers.routers.envoy import config, endpoints
from tidegate.drivers.routers.envoy.admin import DRAINING, EnvoyAdmin, UpstreamHost, wait_until
from tidegate.drivers.routers.envoy.endpoints import Endpoint
from tidegate.drivers.routers.members import bind_address
from tidegate.errors import RouterError

ACCEPT_SECONDS = 5.0  # Envoy takes a file in a few milliseconds
RETRY_SECONDS = 1.0  # after which it is put in place once more, in case Envoy was not told of it
REMOVE_POLL_SECONDS = 0.05  # how long it is waited for members to become idle; the rest is for a later write


class EnvoyUpdate:
    """One change of one backend. Raises `RouterError`."""

    def __init__(self, files: config.EnvoyFiles, admin: EnvoyAdmin, backend: Backend) -> None:
        self._files, self._admin, self._backend = files, admin, backend
        self._path = files.endpoints(backend.name)

    def add_members(self, members: Collection[Member]) -> None:
        """Have exactly these take new requests; the others that are there take none."""
        there = {host.name: endpoints.endpoint_of_host(host, host.state) for host in self._hosts().values()}
        present = {**endpoints.read_endpoints(self._path), **there}
        self._write_endpoints(endpoints.target_endpoints(members, present))
        inner = config.header_preview(self._backend)
        needed = [self._backend.name, *([inner.name] if inner is not None else [])]
        if inner is not None and not self._files.endpoints(inner.name).exists():
            _write_resources(self._files.endpoints(inner.name), [endpoints.endpoint_resource(inner.name, ())])
        self._ensure_clusters(needed)
        self._await_endpoints()

    def route(self) -> None:
        """Have all requests at its address go to it, and those for its preview to that."""
        path, name = self._files.routes(self._backend.name), self._backend.name
        version = _write_resources(path, [config.routes_resource(self._backend)])
        if any(_is_listener_of(active, name) for active in self._admin.active_listeners()):
            self._await_accepted(f"http.{name}.rds.{name}", version, path)

    def listen(self, exporter: str) -> None:
        """Have it listened for at its address, and nowhere else; the old address is given up when the new one serves."""
        resources = endpoints.read_resources(self._files.listeners)
        present = [resource for resource in resources if resource["name"] != config.EXPORTER]
        mine = [listener for listener in present if _is_listener_of(listener["name"], self._backend.name)]
        kept = [config.exporter_listener(exporter), *(listener for listener in present if listener not in mine)]
        if not self._backend.listen:
            self._ensure_listeners(kept, config.EXPORTER, [*kept[1:], *mine])
            return
        wanted = config.listener_config(self._backend, self._files)
        if wanted["name"] not in self._admin.active_listeners():
            ours = [str(listener["name"]).partition("@")[2] for listener in mine]
            _require_free(self._backend, beside_itself=any(_overlap(listen, self._backend.listen) for listen in ours))
            old = [listener for listener in mine if listener["name"] != wanted["name"]]
            self._ensure_listeners([*kept, *old, wanted], wanted["name"], [*kept, *old])
        self._ensure_listeners([*kept, wanted], wanted["name"], [*kept, *mine])

    def remove_drained(self) -> None:
        """Take out those that are idle, waiting for a moment. The barrier first: after it no thread picks them any more."""
        draining = {endpoint.name for endpoint in self._read_file() if endpoint.state == DRAINING}
        if not draining:
            return
        self._admin.barrier()
        idle, deadline = self._idle(draining), time.monotonic() + REMOVE_POLL_SECONDS
        while True:
            time.sleep(0.005)
            before, idle = idle, self._idle(draining)
            if struck := idle & before:  # twice: a request is for a moment neither waiting nor on its way
                self._write_endpoints([endpoint for endpoint in self._read_file() if endpoint.name not in struck])
                self._await_endpoints()
                draining -= struck
            if not draining or time.monotonic() >= deadline:
                return

    def _idle(self, names: Set[str]) -> set[str]:
        """Those that nothing is on, and that nothing waits for."""
        hosts = self._hosts()
        return {name for name in names if name not in hosts or hosts[name].requests == 0}

    # -- files, and that they are taken -----------------------------------------------------------------------------------

    def _hosts(self) -> dict[str, UpstreamHost]:
        return self._admin.hosts(self._backend.name) or {}

    def _read_file(self) -> list[Endpoint]:
        return list(endpoints.read_endpoints(self._path).values())

    def _write_endpoints(self, wanted: Iterable[Endpoint]) -> None:
        _write_resources(self._path, [endpoints.endpoint_resource(self._backend.name, wanted)])

    def _await_endpoints(self) -> None:
        wanted = endpoints.read_endpoints(self._path)

        def is_accepted() -> bool:
            hosts = self._admin.hosts(self._backend.name)
            return hosts is not None and wanted == {
                host.name: endpoints.endpoint_of_host(host, host.state) for host in hosts.values()
            }

        self._await(is_accepted, self._path)

    def _ensure_clusters(self, names: Sequence[str]) -> None:
        present = {resource["name"]: resource for resource in endpoints.read_resources(self._files.clusters)}
        every = {**present, **{name: config.cluster_config(name, self._files) for name in names}}
        version = _write_resources(self._files.clusters, [every[name] for name in sorted(every)])
        self._await_accepted("cluster_manager.cds", version, self._files.clusters)

    def _ensure_listeners(
        self, wanted: Sequence[config.Resource], proof: str, otherwise: Sequence[config.Resource]
    ) -> None:
        """Have these; when Envoy cannot take the one called `proof`, `otherwise` is put back.

        Envoy takes those that it can, and refuses the whole when there is one that it cannot: another service's, too, whose
        address somebody took while Envoy was gone.
        """
        path, refused = self._files.listeners, self._admin.rejected_updates("listener_manager.lds")
        before, version = read(path), _write_resources(path, _sort_by_name(wanted))
        if read(path) == before and self._admin.accepted_version("listener_manager.lds") != version:
            replace(path, before)  # refused the last time; it is tried again

        def is_accepted() -> bool:
            if self._admin.accepted_version("listener_manager.lds") == version:
                return True
            if self._admin.rejected_updates("listener_manager.lds") == refused:
                return False
            if reason := self._admin.rejection_reason(proof):
                _write_resources(path, _sort_by_name(otherwise))
                raise RouterError(f"Envoy cannot listen as {proof}, the old address goes on: {reason}", retryable=False)
            return proof in self._admin.active_listeners()

        self._await(is_accepted, path)

    def _await_accepted(self, stat: str, version: str, path: Path) -> None:
        self._await(lambda: self._admin.accepted_version(stat) == version, path)

    @staticmethod
    def _await(accepted: Callable[[], bool], path: Path) -> None:
        try:
            wait_until(accepted, RETRY_SECONDS, "")
        except RouterError as error:
            if not error.retryable:
                raise
            replace(path, read(path))
            wait_until(accepted, ACCEPT_SECONDS - RETRY_SECONDS, f"Envoy does not take {path}: its log is beside it")


def _is_listener_of(listener: str, backend: str) -> bool:
    return listener.partition("@")[0] == backend


def _sort_by_name(resources: Sequence[config.Resource]) -> list[config.Resource]:
    return sorted(resources, key=lambda resource: str(resource["name"]))


def _write_resources(path: Path, resources: Sequence[config.Resource]) -> str:
    """Have the file say so; its version."""
    version, text = config.render_document(resources)
    if read(path) != text:
        replace(path, text)
    return version


def _overlap(one: str, other: str) -> bool:
    """Whether who listens at the one takes the other, too."""
    hosts, ports = zip(*(bind_address(listen).rpartition(":")[::2] for listen in (one, other)), strict=True)
    return ports[0] == ports[1] and ("*" in hosts or hosts[0] == hosts[1])


def _require_free(backend: Backend, *, beside_itself: bool) -> None:
    """Refuse a listening address that somebody else has. `beside_itself`: our Envoy has it, and shares its ports."""
    host, _, port = bind_address(backend.listen).rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if beside_itself else socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.removeprefix("*"), int(port)))
        except OSError as error:
            text = f"Envoy cannot listen on {backend.listen} for {backend.name}: {error.strerror}: choose another `listen`"
            raise RouterError(text, retryable=False) from error
