"""Routes traffic with nginx: each change is a new configuration, and the driver verifies which processes serve it.

nginx cannot change upstreams at run time. A write replaces the file and reloads it: new workers take over, and the old ones
finish their requests and exit. The write is complete when a worker has the new configuration and no worker accepts new
connections with another one. A removed instance is drained when no process that knows it is left (see `generations`).

After a crash at any step `read` reports every instance that any process knows or that the file would bring back.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tidegate.core.routing import Backend, Member, RouterState
from tidegate.drivers.routers import atomic_files
from tidegate.drivers.routers.nginx import config
from tidegate.drivers.routers.nginx.adoption import AdoptedNginx
from tidegate.drivers.routers.nginx.connections import InFlight, requests_of_worker
from tidegate.drivers.routers.nginx.generations import (
    BackendRoute,
    Generation,
    GenerationFiles,
    NginxWorker,
    serving_generation,
)
from tidegate.drivers.routers.nginx.installation import NginxInstallation, OwnedNginx
from tidegate.drivers.routers.nginx.process import wait_until
from tidegate.drivers.routers.nginx.request_log import NginxRequestLog
from tidegate.drivers.routers.nginx.their_config import SUPPORTED_BALANCING
from tidegate.drivers.routers.options import RouterOptions
from tidegate.drivers.routers.state_file import BackendState, RouterStateFile, retire
from tidegate.errors import RouterError
from tidegate.ports import CheckStatus, Diagnosis, Router

RELOAD_SECONDS = 10.0
PENDING_SECONDS = 1.0  # a reload that an earlier process requested just before it crashed takes effect within this time
IDLE_SECONDS = 0.3  # how long a write waits for idle old workers to exit
WORKERS_SECONDS = 2.0  # nginx replaces a killed worker within this time
NO_LOG = "off"
SAFE_PATH = re.compile(r"/[A-Za-z0-9_./+@,=-]*")
STATUS_ADDRESS = r"^((\d{1,3}\.){3}\d{1,3}|\*|\[[0-9A-Fa-f:.]+\]):\d{1,5}$"


class NginxOptions(RouterOptions):
    """`owned`: Tidegate writes `directory`/nginx.conf and runs nginx. `adopted`: Tidegate uses a running nginx."""

    mode: Literal["owned", "adopted"] = "owned"
    directory: Path = Path("/var/lib/tidegate/nginx")
    status: str = Field(default="127.0.0.1:8406", pattern=STATUS_ADDRESS)  # answers 503 for backends without members
    log: Path | Literal["off"] | None = None  # one line per request; adopted: the file of your own `access_log`
    log_rotate_bytes: int = Field(default=64 * 2**20, ge=1)  # owned: rotate the log at this size
    shutdown_timeout_seconds: float = Field(default=config.MAX_DRAIN_SECONDS, ge=1.0)  # owned: for old workers
    close_gap: bool = True  # owned: close a client's connection after each response
    user: str = Field(default="www-data", pattern=r"^[a-z_][a-z0-9_-]*( [a-z_][a-z0-9_-]*)?$")  # owned, if run as root
    binary: str = "nginx"
    config: Path | None = None
    include: Path | None = None
    pid: Path = Path("/run/nginx.pid")
    balance: dict[str, Annotated[str, Field(pattern=f"^({SUPPORTED_BALANCING.pattern})$")]] = {}  # adopted: by backend

    @model_validator(mode="after")
    def _check_mode(self) -> NginxOptions:
        if self.mode == "adopted" and (self.config is None or self.include is None):
            raise ValueError(
                "mode adopted requires config (your nginx.conf) and include (the file of Tidegate that it includes)"
            )
        if self.mode == "owned" and (self.config or self.include or "pid" in self.model_fields_set):
            raise ValueError("config, include and pid require mode adopted; mode owned creates its own in directory")
        if self.mode == "adopted" and (options := self.client_options()):
            raise ValueError(f"{', '.join(options)}: only mode owned has these; configure your own nginx instead")
        if self.mode == "owned" and self.balance:
            raise ValueError("balance requires mode adopted: it keeps how your own upstreams choose servers")
        for name in ("directory", "log", "config", "include"):
            path = getattr(self, name)
            if path not in (None, NO_LOG) and not SAFE_PATH.fullmatch(str(path)):
                raise ValueError(
                    f"{name} is {str(path)!r}; it must be an absolute path of letters, digits and _ . / + @ , = -"
                )
        return self


class NginxRouter(Router):
    """See `ports.Router` for the contract of each method."""

    Options = NginxOptions

    @staticmethod
    def installed(binary: str) -> bool:
        """Whether the program is installed."""
        return shutil.which(binary) is not None

    def __init__(self, options: NginxOptions, environment: str) -> None:
        log = _log_file(options)
        frame = config.NginxFrame(
            status=options.status,
            directory=options.directory.resolve(),
            log=str(log or ""),
            close_gap=options.close_gap,
            user=options.user if options.mode == "owned" else "",
            shutdown_timeout_seconds=options.shutdown_timeout_seconds,
            clients=options,
            balance=options.balance,
        )
        self._memory = RouterStateFile(options.directory)
        self._has_settings_applied = False
        self._generations = GenerationFiles(options.directory, options.include or frame.directory / "nginx.conf")
        binary = shutil.which(options.binary) or options.binary
        self._installation: NginxInstallation
        if options.config is not None and options.include is not None:
            self._installation = AdoptedNginx(
                frame, self._generations, binary, options.config, options.include, options.pid
            )
        else:
            self._installation = OwnedNginx(frame, self._generations, binary)
        rotate_bytes = options.log_rotate_bytes if options.mode == "owned" else None
        lock = options.directory / "request-log.lock"
        self.request_log = NginxRequestLog(log, self._installation.process, rotate_bytes, lock) if log is not None else None

    @property
    def pid(self) -> int | None:
        """The master's process id; None while it is not running."""
        return self._installation.process.pid

    def unsupported(self, backend: Backend) -> Mapping[str, str]:
        found = {"protocol": config.protocol_problem(backend)}
        if not backend.listen and isinstance(self._installation, OwnedNginx):
            found["listen"] = "required, because Tidegate's own nginx has to listen somewhere: a port such as 8001"
        return {key: problem for key, problem in found.items() if problem}

    # -- reading --------------------------------------------------------------------------------------------------------

    def read(self, backend: Backend) -> RouterState:
        revived = self.pid is None
        if revived:
            with self._memory.locked() as state:
                revived = bool(state)  # False before the first write: nginx has not run yet
                self._installation.start()
        self._apply_settings()
        workers = self._workers()
        present = serving_generation(workers)
        members = present.routes.get(backend.name, BackendRoute()).members
        ids = {member.instance for member in members}
        leaving = self._requests_in_flight(backend.name, ids, workers)
        fence = self._memory.load().get(backend.name, BackendState(backend.name)).fence
        traffic, by_release = self.request_log.traffic(backend.name) if self.request_log else (None, {})
        draining = {instance: count.requests for instance, count in sorted(leaving.items())}
        upgraded = {instance: count.upgraded for instance, count in leaving.items() if count.upgraded}
        return RouterState(members, draining, dict.fromkeys(ids), fence, traffic, upgraded, by_release, revived)

    def _requests_in_flight(
        self, backend: str, members: Collection[str], workers: Sequence[NginxWorker]
    ) -> dict[str, InFlight]:
        """The instances outside the route that may still have or get requests, with their requests."""
        found: dict[str, InFlight] = {}
        for member in self._generations.in_file().others_than(backend, members):
            found[member.instance] = InFlight(None)  # a reload would bring it back
        for worker in workers:
            for member in worker.generation.others_than(backend, members):
                in_flight = requests_of_worker(worker, backend, member)
                found[member.instance] = found.get(member.instance, InFlight(0)) + in_flight
        return {instance: count for instance, count in found.items() if count.requests != 0}

    def _apply_settings(self) -> None:
        """Reload nginx once if its file was written with other settings, or by another version of Tidegate."""
        if self._has_settings_applied or self._file_is_current():
            self._has_settings_applied = True
            return
        with self._memory.locked():
            present = serving_generation(self._workers())
            if present.number and not self._file_is_current():
                self._generations.save(present)
                self._switch(present, present.routes)
        self._has_settings_applied = True

    def _file_is_current(self) -> bool:
        """Whether the file is what these settings make of the routes in it; also if Tidegate has not written it yet."""
        in_file = self._generations.in_file()
        return not in_file.number or atomic_files.read(self._installation.path) == self._installation.render(in_file)

    def _workers(self) -> tuple[NginxWorker, ...]:
        """The workers that serve a generation; empty if nginx runs a configuration without Tidegate's part."""
        workers: tuple[NginxWorker, ...] = ()

        def has_serving_worker() -> bool:
            nonlocal workers
            workers = self._generations.workers(self.pid)
            return any(not worker.leaving for worker in workers)

        seconds = WORKERS_SECONDS if self._generations.in_file().number else 0.0
        if not wait_until(has_serving_worker, seconds) and self.pid is None:
            raise RouterError("nginx has just exited; the next read starts it again")
        return workers

    # -- writing --------------------------------------------------------------------------------------------------------

    def write(self, backend: Backend, members: Collection[Member], fence: int) -> None:
        _validate_members(backend, members)
        with self._memory.locked() as state:
            kept = state.setdefault(backend.name, BackendState(backend.name))
            kept.require_current(fence)
            self._installation.start()
            wait_until(
                lambda: serving_generation(self._workers()).number == self._generations.in_file().number, PENDING_SECONDS
            )
            present = serving_generation(self._workers())
            if present.number:
                self._generations.save(present)
            config.require_distinct_name(backend.name, present.routes)
            self._installation.ensure(backend, present)
            if fence > kept.fence:
                kept.fence = fence
                self._memory.save(state)
            routes = {**present.routes, backend.name: config.backend_route(backend, members)}
            if not members and not self._installation.serves_empty(backend, present):
                return
            if not self._is_applied(present, routes):
                self._switch(present, routes)

    def remove(self, backend: Backend, fence: int) -> None:
        with self._memory.locked() as state:
            names = retire(state, backend, fence)
            self._memory.save(state)
            if not isinstance(self._installation, OwnedNginx):
                return  # its owner's configuration refers to the upstream
            self._installation.start()
            present = serving_generation(self._workers())
            routes = {name: route for name, route in present.routes.items() if name not in names}
            if not self._is_applied(present, routes):
                self._generations.save(present)
                self._switch(present, routes)

    def _is_applied(self, present: Generation, routes: Mapping[str, BackendRoute]) -> bool:
        """Whether all workers that accept connections, and the file, have exactly these routes."""
        numbers = {worker.generation.number for worker in self._workers() if not worker.leaving}
        same = numbers == {present.number} and present.routes == routes
        return same and atomic_files.read(self._installation.path) == self._installation.render(present)

    def _switch(self, present: Generation, routes: Mapping[str, BackendRoute]) -> None:
        """Write, reload and verify. If nginx rejects the configuration the old file is restored."""
        used = self._generations.numbers() | {worker.generation.number for worker in self._workers()}
        new = Generation(max(used, default=0) + 1, routes)
        text, before = self._installation.render(new), atomic_files.read(self._installation.path)
        self._generations.save(new)
        self._installation.test(text, routes.keys() - present.routes.keys())
        atomic_files.replace(self._installation.path, text)
        try:
            complaint = self._installation.reload()
            wait_until(lambda: self._await_single_generation(new.number) or bool(complaint()), RELOAD_SECONDS)
            if not self._await_single_generation(new.number):
                reason = complaint()
                text = "nginx did not load the new configuration and keeps serving the old one: "
                raise RouterError(text + (reason or "see its error log"), retryable=not reason)
        except RouterError:
            if before:
                atomic_files.replace(self._installation.path, before)
            else:
                self._installation.path.unlink(missing_ok=True)
            raise
        wait_until(lambda: {worker.generation.number for worker in self._workers()} == {new.number}, IDLE_SECONDS)
        self._generations.forget({new.number, *(worker.generation.number for worker in self._workers())})

    def _await_single_generation(self, number: int) -> bool:
        """Whether new connections go to this generation only."""
        workers = self._generations.workers(self.pid)
        return {worker.generation.number for worker in workers if not worker.leaving} == {number}

    # -- checks ---------------------------------------------------------------------------------------------------------

    def check(self) -> Sequence[Diagnosis]:
        try:
            if (problem := self._installation.missing()) is not None:
                return (problem,)
            present = serving_generation(self._workers())
            summary = f"{self._version()}, process {self.pid}, generation {present.number}"
            return (Diagnosis("nginx", CheckStatus.OK, summary), *self._installation.warnings(present))
        except RouterError as error:
            return (Diagnosis("nginx", CheckStatus.WRONG, error.message, "see docs/nginx.md for what Tidegate requires"),)

    def _version(self) -> str:
        done = subprocess.run(
            [self._installation.process.binary, "-v"], capture_output=True, text=True, check=False, timeout=10
        )
        return done.stderr.strip().rpartition("nginx/")[2]

    def stop_process(self) -> None:
        """Stop an owned nginx and with it all traffic: for demos, tests and decommissioning a machine."""
        if self.pid is not None and isinstance(self._installation, OwnedNginx):
            os.kill(self.pid, signal.SIGTERM)


def _log_file(options: NginxOptions) -> Path | None:
    """The request log; an owned nginx has one unless the settings say otherwise."""
    if options.log is None and options.mode == "owned":
        return options.directory.resolve() / "requests.log"
    return options.log if isinstance(options.log, Path) else None


def _validate_members(backend: Backend, members: Collection[Member]) -> None:
    """Raise `RouterError` with every problem; retryable if the only problem is an address that is not known yet."""
    problems, unknown = list(config.config_problems(backend, members)), config.members_without_address(members)
    if problems or unknown:
        raise RouterError("; ".join([*problems, *unknown]), retryable=not problems)
