"""Changes a running Envoy to the target route file by file, and verifies each file before it writes the next.

Starts from any state that a crash left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence, Set
from pathlib import Path

from tidegate.core.routing import Backend, Member, addresses_overlap
from tidegate.drivers.routers.atomic_files import read, replace
from tidegate.drivers.routers.envoy import config, endpoints
from tidegate.drivers.routers.envoy.admin import DRAINING, EnvoyAdmin, UpstreamHost, wait_until
from tidegate.drivers.routers.envoy.endpoints import Endpoint
from tidegate.drivers.routers.listen_addresses import require_free
from tidegate.errors import RouterError

ACCEPT_SECONDS = 5.0  # Envoy normally applies a file within a few milliseconds
RETRY_SECONDS = 1.0  # after this time the file is replaced again, in case Envoy missed the change
REMOVE_POLL_SECONDS = 0.05  # how long a write waits for members to become idle; a later write removes the rest


class EnvoyUpdate:
    """One change of one backend. All methods raise `RouterError`."""

    def __init__(self, files: config.EnvoyFiles, admin: EnvoyAdmin, backend: Backend) -> None:
        self._files, self._admin, self._backend = files, admin, backend
        self._path = files.endpoints(backend.name)

    def add_members(self, members: Collection[Member]) -> None:
        """Send new requests to exactly these members; drain all others."""
        active = {host.name: endpoints.endpoint_of_host(host, host.state) for host in self._hosts().values()}
        present = {**endpoints.read_endpoints(self._path), **active}
        self._write_endpoints(endpoints.target_endpoints(members, present))
        inner = config.header_preview(self._backend)
        needed = [self._backend.name, *([inner.name] if inner is not None else [])]
        if inner is not None and not self._files.endpoints(inner.name).exists():
            _write_resources(self._files.endpoints(inner.name), [endpoints.endpoint_resource(inner.name, ())])
        self._ensure_clusters(needed)
        self._await_endpoints()

    def route(self) -> None:
        """Route the requests at the backend's address to it, and those with its preview's header to the preview."""
        path, name = self._files.routes(self._backend.name), self._backend.name
        version = _write_resources(path, [config.routes_resource(self._backend)])
        if any(_is_listener_of(active, name) for active in self._admin.active_listeners()):
            self._await_accepted(f"http.{name}.rds.{name}", version, path)

    def listen(self, exporter: str) -> None:
        """Listen at the backend's address and at no other; an old address is removed when the new one serves."""
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
            require_free(
                self._backend, "Envoy", shared=any(addresses_overlap(listen, self._backend.listen) for listen in ours)
            )
            old = [listener for listener in mine if listener["name"] != wanted["name"]]
            self._ensure_listeners([*kept, *old, wanted], wanted["name"], [*kept, *old])
        self._ensure_listeners([*kept, wanted], wanted["name"], [*kept, *mine])

    def remove_drained(self) -> None:
        """Remove draining members that are idle, polling for up to `REMOVE_POLL_SECONDS`.

        The barrier comes first: after it no Envoy thread selects a draining member any more.
        """
        draining = {endpoint.name for endpoint in self._read_file() if endpoint.state == DRAINING}
        if not draining:
            return
        self._admin.barrier()
        idle, deadline = self._idle(draining), time.monotonic() + REMOVE_POLL_SECONDS
        while True:
            time.sleep(0.005)
            before, idle = idle, self._idle(draining)
            if removed := idle & before:  # idle in two reads: for a moment a request is counted neither queued nor active
                self._write_endpoints([endpoint for endpoint in self._read_file() if endpoint.name not in removed])
                self._await_endpoints()
                draining -= removed
            if not draining or time.monotonic() >= deadline:
                return

    def _idle(self, names: Set[str]) -> set[str]:
        """The members without active or queued requests."""
        hosts = self._hosts()
        return {name for name in names if name not in hosts or hosts[name].requests == 0}

    # -- files, and that Envoy has applied them ---------------------------------------------------------------------------

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
        """Write these listeners; if Envoy rejects the one named `proof`, write `otherwise` and raise.

        Envoy applies the valid listeners but rejects the whole update if one is invalid, including another service's
        listener whose address was taken while Envoy was not running.
        """
        path, rejections = self._files.listeners, self._admin.rejected_updates("listener_manager.lds")
        before, version = read(path), _write_resources(path, _sort_by_name(wanted))
        if read(path) == before and self._admin.accepted_version("listener_manager.lds") != version:
            replace(path, before)  # rejected before; try again

        def is_accepted() -> bool:
            if self._admin.accepted_version("listener_manager.lds") == version:
                return True
            if self._admin.rejected_updates("listener_manager.lds") == rejections:
                return False
            if reason := self._admin.rejection_reason(proof):
                _write_resources(path, _sort_by_name(otherwise))
                raise RouterError(
                    f"Envoy rejected the listener {proof} and keeps the old address: {reason}", retryable=False
                )
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
            late = f"Envoy did not apply {path} within {ACCEPT_SECONDS:g} s; see {path.parent}/envoy.log"
            wait_until(accepted, ACCEPT_SECONDS - RETRY_SECONDS, late)


def _is_listener_of(listener: str, backend: str) -> bool:
    return listener.partition("@")[0] == backend


def _sort_by_name(resources: Sequence[config.Resource]) -> list[config.Resource]:
    return sorted(resources, key=lambda resource: str(resource["name"]))


def _write_resources(path: Path, resources: Sequence[config.Resource]) -> str:
    """Write the resources to the file unless it has them already; returns their version."""
    version, text = config.render_document(resources)
    if read(path) != text:
        replace(path, text)
    return version
