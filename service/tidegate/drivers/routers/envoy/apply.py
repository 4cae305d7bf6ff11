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
from tidegate.drivers.routers.envoy.admin import DRAINING, EnvoyAdmin, UpstreamHost, merge_hosts, wait_until
from tidegate.drivers.routers.envoy.endpoints import Endpoint
from tidegate.drivers.routers.listen_addresses import require_free
from tidegate.drivers.routers.options import LimitedRouterOptions
from tidegate.errors import RouterError

ACCEPT_SECONDS = 5.0  # Envoy normally applies a file within a few milliseconds
RETRY_SECONDS = 1.0  # after this time the file is replaced again, in case Envoy missed the change
CHECK_MARGIN_SECONDS = 0.5  # more than the timeout of a check, for its first result
REMOVE_POLL_SECONDS = 0.05  # how long a write waits for members to become idle; a later write removes the rest


class EnvoyUpdate:
    """One change of one backend. All methods raise `RouterError`."""

    def __init__(self, files: config.EnvoyFiles, admin: EnvoyAdmin, listeners: EnvoyListeners, backend: Backend) -> None:
        self._files, self._admin, self._listeners, self._backend = files, admin, listeners, backend
        self._path, self._cluster = files.endpoints(backend.name), config.cluster_name(backend)

    def add_members(self, members: Collection[Member]) -> None:
        """Send new requests to exactly these members; drain all others."""
        active = {host.name: endpoints.endpoint_of_host(host, host.state) for host in self._hosts().values()}
        present = {**endpoints.read_endpoints(self._path), **active}
        self._write_endpoints(endpoints.target_endpoints(members, present))
        inner = config.header_preview(self._backend)
        if inner is not None and not self._files.endpoints(inner.name).exists():
            _write_resources(self._files.endpoints(inner.name), [endpoints.endpoint_resource(inner, ())])
        self._ensure_clusters([self._backend, *([inner] if inner is not None else [])])
        self._await_endpoints()
        self._await_checks()

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
            self._listeners.ensure(kept, config.EXPORTER, [*kept[1:], *mine])
            return
        wanted = self._listeners.listener_of(self._backend)
        if wanted["name"] not in self._admin.active_listeners():
            ours = [str(listener["name"]).partition("@")[2] for listener in mine]
            require_free(
                self._backend, "Envoy", shared=any(addresses_overlap(listen, self._backend.listen) for listen in ours)
            )
            old = [listener for listener in mine if listener["name"] != wanted["name"]]
            self._listeners.ensure([*kept, *old, wanted], wanted["name"], [*kept, *old])
        self._listeners.ensure([*kept, wanted], wanted["name"], [*kept, *mine])

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

    def remove_clusters(self) -> None:
        """Remove clusters with earlier options of the backend when they have no request in flight; a later write removes
        the others."""
        present = endpoints.read_resources(self._files.clusters)
        used = {self._cluster, *endpoints.routed_clusters(self._files)}
        obsolete = {
            str(cluster["name"])
            for cluster in present
            if config.backend_of(cluster["name"]) == self._backend.name and cluster["name"] not in used
        }
        if not obsolete:
            return
        self._admin.barrier()
        for _ in range(2):  # for a moment a request is counted neither queued nor active
            hosts = self._admin.clusters(self._backend.name)
            obsolete = {name for name in obsolete if not any(host.requests for host in hosts.get(name, {}).values())}
            time.sleep(0.005)
        self._write_clusters([cluster for cluster in present if cluster["name"] not in obsolete])

    def remove(self, exporter: str) -> None:
        """Stop listening for the backend, then remove its clusters and files: no file refers to what is gone."""
        self.listen(exporter)
        self._files.routes(self._backend.name).unlink(missing_ok=True)
        present = endpoints.read_resources(self._files.clusters)
        others = [one for one in present if config.backend_of(one["name"]) != self._backend.name]
        if others != present:
            self._write_clusters(others)
        self._path.unlink(missing_ok=True)

    def _idle(self, names: Set[str]) -> set[str]:
        """The members without active or queued requests."""
        hosts = self._hosts()
        return {name for name in names if name not in hosts or hosts[name].requests == 0}

    # -- files, and that Envoy has applied them ---------------------------------------------------------------------------

    def _hosts(self) -> dict[str, UpstreamHost]:
        return merge_hosts(self._admin.clusters(self._backend.name))

    def _read_file(self) -> list[Endpoint]:
        return list(endpoints.read_endpoints(self._path).values())

    def _write_endpoints(self, wanted: Iterable[Endpoint]) -> None:
        _write_resources(self._path, [endpoints.endpoint_resource(self._backend, wanted)])

    def _await_endpoints(self) -> None:
        wanted = endpoints.read_endpoints(self._path)

        def is_accepted() -> bool:
            clusters = self._admin.clusters(self._backend.name)
            return self._cluster in clusters and all(
                wanted == {host.name: endpoints.endpoint_of_host(host, host.state) for host in hosts.values()}
                for hosts in clusters.values()
            )

        # a new cluster is used when its endpoints have been checked
        _await(is_accepted, self._path, self._backend.options.health.timeout_seconds)

    def _await_checks(self) -> None:
        """Wait until Envoy has checked each new endpoint once, so that it takes requests at once.

        Envoy checks a new endpoint immediately. One that does not answer keeps no write waiting for longer than a check.
        """
        deadline = time.monotonic() + self._backend.options.health.timeout_seconds + CHECK_MARGIN_SECONDS
        while time.monotonic() < deadline:
            hosts = self._admin.clusters(self._backend.name).get(self._cluster, {})
            if all(host.is_checked for host in hosts.values() if host.takes_new):
                return
            time.sleep(0.002)

    def _ensure_clusters(self, backends: Sequence[Backend]) -> None:
        present = {resource["name"]: resource for resource in endpoints.read_resources(self._files.clusters)}
        wanted = {config.cluster_name(backend): config.cluster_config(backend, self._files) for backend in backends}
        self._write_clusters(list({**present, **wanted}.values()))

    def _write_clusters(self, wanted: Sequence[config.Resource]) -> None:
        version = _write_resources(self._files.clusters, _sort_by_name(wanted))
        self._await_accepted("cluster_manager.cds", version, self._files.clusters)

    def _await_accepted(self, stat: str, version: str, path: Path) -> None:
        _await(lambda: self._admin.accepted_version(stat) == version, path)


class EnvoyListeners:
    """The listeners of one Envoy, which are in one file. `open_files`: how many files Envoy may open. All methods raise
    `RouterError`."""

    def __init__(self, files: config.EnvoyFiles, admin: EnvoyAdmin, clients: LimitedRouterOptions, open_files: int) -> None:
        self._files, self._admin, self._clients, self._open_files = files, admin, clients, open_files

    def listener_of(self, backend: Backend) -> config.Resource:
        """The listener of a backend that has an address."""
        return config.listener_config(backend, self._files, self._clients)

    def refresh(self, backends: Iterable[Backend], exporter: str) -> None:
        """Apply settings that were changed to the exporter and to the listeners of these backends."""
        present = endpoints.read_resources(self._files.listeners)
        wanted = [config.exporter_listener(exporter)]
        wanted += [self.listener_of(backend) for backend in backends if backend.listen]
        by_name = {listener["name"]: listener for listener in wanted}
        changed = self._limited([by_name.get(listener["name"], listener) for listener in present])
        if changed != present:
            self.ensure(changed, config.EXPORTER, present)

    def ensure(self, wanted: Sequence[config.Resource], proof: str, otherwise: Sequence[config.Resource]) -> None:
        """Write these listeners; if Envoy rejects the one named `proof`, write `otherwise` and raise.

        Envoy applies the valid listeners but rejects the whole update if one is invalid, including another service's
        listener whose address was taken while Envoy was not running.
        """
        path, rejections = self._files.listeners, self._admin.rejected_updates("listener_manager.lds")
        before, version = read(path), _write_resources(path, self._limited(wanted))
        if read(path) == before and self._admin.accepted_version("listener_manager.lds") != version:
            replace(path, before)  # rejected before; try again

        def is_accepted() -> bool:
            if self._admin.accepted_version("listener_manager.lds") == version:
                return True
            if self._admin.rejected_updates("listener_manager.lds") == rejections:
                return False
            if reason := self._admin.rejection_reason(proof):
                _write_resources(path, self._limited(otherwise))
                raise RouterError(
                    f"Envoy rejected the listener {proof} and keeps the old address: {reason}", retryable=False
                )
            return proof in self._admin.active_listeners()

        _await(is_accepted, path)

    def _limited(self, listeners: Sequence[config.Resource]) -> list[config.Resource]:
        return config.limit_connections(_sort_by_name(listeners), self._clients, self._open_files)


def _await(accepted: Callable[[], bool], path: Path, more_seconds: float = 0.0) -> None:
    try:
        wait_until(accepted, RETRY_SECONDS, "")
    except RouterError as error:
        if not error.retryable:
            raise
        replace(path, read(path))
        seconds = ACCEPT_SECONDS + more_seconds
        late = f"Envoy did not apply {path} within {seconds:g} s; see {path.parent}/envoy.log"
        wait_until(accepted, seconds - RETRY_SECONDS, late)


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
