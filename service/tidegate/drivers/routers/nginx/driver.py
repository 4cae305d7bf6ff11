"""nginx as a router: each change of a route is a new configuration, and it is proved who serves it.

nginx has no way to change upstreams while it runs. So a write puts a file in place and has it read again: new workers take
over, the old ones finish their requests and end. It is done when a worker has the new configuration and none takes new
connections with another; an instance that left is drained when no process that knows it is left (`nginx_generations`).

Wherever a crash ends it, `read` tells of everybody that any process knows, or that the file would bring back.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tidegate.core.routing import Backend, Member, RouterState
from tidegate.drivers.routers import atomic_files
from tidegate.drivers.routers.nginx import config
from tidegate.drivers.routers.nginx.generations import (
    BackendRoute,
    Generation,
    GenerationFiles,
    NginxWorker,
    serving_generation,
)
from tidegate.drivers.routers.nginx.installation import AdoptedNginx, NginxInstallation, OwnedNginx
from tidegate.drivers.routers.nginx.process import wait_until
from tidegate.drivers.routers.nginx.request_log import RequestLog
from tidegate.drivers.routers.state_file import BackendState, RouterStateFile
from tidegate.errors import RouterError
from tidegate.ports import Diagnosis, Router

RELOAD_SECONDS = 10.0
PENDING_SECONDS = 1.0  # a reload that somebody asked for just before his end comes about within this time
IDLE_SECONDS = 0.3  # how long it is waited for old workers that have nothing to do
WORKERS_SECONDS = 2.0  # nginx replaces a worker that was killed
SAFE_PATH = re.compile(r"/[A-Za-z0-9_./+@,=-]*")
STATUS_ADDRESS = r"^((\d{1,3}\.){3}\d{1,3}|\*):\d{1,5}$"


class NginxOptions(BaseModel):
    """`owned`: Tidegate writes `directory`/nginx.conf and starts nginx. `adopted`: one that stands there already."""

    model_config = ConfigDict(extra="forbid")
    mode: Literal["owned", "adopted"] = "owned"
    directory: Path = Path("/var/lib/tidegate/nginx")
    status: str = Field(default="127.0.0.1:8406", pattern=STATUS_ADDRESS)  # answers 503 for those that have no members
    log: Path | None = None  # a line for each request; adopted: where your own `access_log` leads
    log_rotate_bytes: int = Field(default=64 * 2**20, ge=1)  # owned: when it is put aside for a new one
    close_gap: bool = True  # owned
    user: str = Field(default="www-data", pattern=r"^[a-z_][a-z0-9_-]*( [a-z_][a-z0-9_-]*)?$")  # owned, started by root
    binary: str = "nginx"
    config: Path | None = None
    include: Path | None = None
    pid: Path = Path("/run/nginx.pid")

    @model_validator(mode="after")
    def _check_mode(self) -> NginxOptions:
        if self.mode == "adopted" and (self.config is None or self.include is None):
            raise ValueError(
                "mode adopted needs config (its nginx.conf) and include (the file of Tidegate's that it includes)"
            )
        if self.mode == "owned" and (self.config or self.include or "pid" in self.model_fields_set):
            raise ValueError("config, include and pid are for mode adopted; mode owned makes its own in directory")
        for name in ("directory", "log", "config", "include"):
            path = getattr(self, name)
            if path is not None and not SAFE_PATH.fullmatch(str(path)):
                raise ValueError(
                    f"{name} is {str(path)!r}: it must be an absolute path of letters, digits and _ . / + @ , = -"
                )
        return self


class NginxRouter(Router):
    """What each verb promises is said in `ports.Router`."""

    Options = NginxOptions

    @staticmethod
    def installed(binary: str) -> bool:
        """Whether the program is there."""
        return shutil.which(binary) is not None

    def __init__(self, options: NginxOptions, environment: str) -> None:
        log = "" if options.log is None else str(options.log)
        user = options.user if options.mode == "owned" else ""
        frame = config.NginxFrame(options.status, options.directory.resolve(), log, options.close_gap, user)
        self._memory = RouterStateFile(options.directory)
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
        self._log = RequestLog(options.log, self._installation.process, rotate_bytes) if options.log else None

    @property
    def pid(self) -> int | None:
        """The master process; None while it does not run."""
        return self._installation.process.pid

    # -- reading --------------------------------------------------------------------------------------------------------

    def read(self, backend: Backend) -> RouterState:
        revived = self.pid is None
        if revived:
            with self._memory.locked() as state:
                revived = bool(state)  # before the first write there was none
                self._installation.start()
        workers = self._workers()
        present = serving_generation(workers)
        members = present.spots.get(backend.name, BackendRoute()).members
        ids = {member.instance for member in members}
        others = [*(worker.generation for worker in workers), self._generations.in_file()]
        leaving = {instance for other in others for instance in other.differs_from(backend.name, ids)}
        fence = self._memory.load().get(backend.name, BackendState(backend.name)).fence
        traffic, by_release = self._log.traffic(backend.name) if self._log else (None, {})
        unknown: Mapping[str, None] = dict.fromkeys(sorted(leaving))
        return RouterState(members, unknown, dict.fromkeys(ids), fence, traffic, {}, by_release, revived)

    def _workers(self) -> tuple[NginxWorker, ...]:
        """Those that serve a generation; none where nginx runs with a configuration without ours."""
        workers: tuple[NginxWorker, ...] = ()

        def seen() -> bool:
            nonlocal workers
            workers = self._generations.workers(self.pid)
            return any(not worker.leaving for worker in workers)

        if not wait_until(seen, WORKERS_SECONDS if self._generations.in_file().number else 0.0) and self.pid is None:
            raise RouterError("nginx has ended just now")
        return workers

    # -- writing --------------------------------------------------------------------------------------------------------

    def write(self, backend: Backend, members: Collection[Member], fence: int) -> None:
        _validate_members(backend, members)
        with self._memory.locked() as state:
            kept = state.setdefault(backend.name, BackendState(backend.name))
            if fence < kept.fence:
                raise RouterError(
                    f"fence {fence} is too old for backend {backend.name}: {kept.fence} has written since", retryable=False
                )
            self._installation.start()
            wait_until(
                lambda: serving_generation(self._workers()).number == self._generations.in_file().number, PENDING_SECONDS
            )
            present = serving_generation(self._workers())
            if present.number:
                self._generations.save(present)
            self._installation.ensure(backend, present)
            if fence > kept.fence:
                kept.fence = fence
                self._memory.save(state)
            spots = {**present.spots, backend.name: config.backend_route(backend, members)}
            if not self._is_applied(present, spots):
                self._switch(spots)

    def _is_applied(self, present: Generation, spots: Mapping[str, BackendRoute]) -> bool:
        """Whether this is what every worker does that takes new connections, and what the file says."""
        numbers = {worker.generation.number for worker in self._workers() if not worker.leaving}
        same = numbers == {present.number} and present.spots == spots
        return same and atomic_files.read(self._installation.path) == self._installation.render(present)

    def _switch(self, spots: Mapping[str, BackendRoute]) -> None:
        """From the file to the proof. What nginx does not take is put back, and the old configuration goes on."""
        used = self._generations.numbers() | {worker.generation.number for worker in self._workers()}
        new = Generation(max(used, default=0) + 1, spots)
        text, before = self._installation.render(new), atomic_files.read(self._installation.path)
        self._generations.save(new)
        self._installation.test(text)
        atomic_files.replace(self._installation.path, text)
        try:
            complaint = self._installation.reload()
            wait_until(lambda: self._await_single_generation(new.number) or bool(complaint()), RELOAD_SECONDS)
            if not self._await_single_generation(new.number):
                why = complaint()
                text = "nginx did not take the new configuration; the old one goes on serving: "
                raise RouterError(text + (why or "its error log may say why"), retryable=not why)
        except RouterError:
            if before:
                atomic_files.replace(self._installation.path, before)
            else:
                self._installation.path.unlink(missing_ok=True)
            raise
        wait_until(lambda: {worker.generation.number for worker in self._workers()} == {new.number}, IDLE_SECONDS)
        self._generations.forget({new.number, *(worker.generation.number for worker in self._workers())})

    def _await_single_generation(self, number: int) -> bool:
        """Whether this generation, and no other, gets new connections."""
        workers = self._generations.workers(self.pid)
        return {worker.generation.number for worker in workers if not worker.leaving} == {number}

    # -- around ---------------------------------------------------------------------------------------------------------

    def check(self) -> Sequence[Diagnosis]:
        try:
            if (problem := self._installation.missing()) is not None:
                return (problem,)
            present = serving_generation(self._workers())
            summary = f"{self._version()}, process {self.pid}, generation {present.number}"
            return (Diagnosis("nginx", True, summary), *self._installation.warnings())
        except RouterError as error:
            return (Diagnosis("nginx", False, error.message, "docs/nginx.md says what it needs"),)

    def _version(self) -> str:
        done = subprocess.run(
            [self._installation.process.binary, "-v"], capture_output=True, text=True, check=False, timeout=10
        )
        return done.stderr.strip().rpartition("nginx/")[2]

    def stop_process(self) -> None:
        """End an owned nginx, and with it all traffic: for demos, tests and taking a machine down."""
        if self.pid is not None and isinstance(self._installation, OwnedNginx):
            os.kill(self.pid, signal.SIGTERM)


def _validate_members(backend: Backend, members: Collection[Member]) -> None:
    """All of them at once, before anything is written. An address that is lacking yet may come."""
    wrong, lacking = list(config.config_problems(backend, members)), config.members_without_address(members)
    if wrong or lacking:
        raise RouterError("; ".join([*wrong, *lacking]), retryable=not wrong)
