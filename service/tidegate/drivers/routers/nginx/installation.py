"""The two ways in which a nginx stands there: owned, file and process, or adopted, with one include file of ours."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from tidegate.core.routing import Backend
from tidegate.drivers.routers import atomic_files
from tidegate.drivers.routers.members import bind_address
from tidegate.drivers.routers.nginx import config
from tidegate.drivers.routers.nginx.generations import Generation, GenerationFiles
from tidegate.drivers.routers.nginx.process import NginxProcess, reload_error, wait_until
from tidegate.errors import RouterError
from tidegate.ports import Diagnosis

START_SECONDS = 10.0  # for what takes some milliseconds on an idle machine


class NginxInstallation(Protocol):
    """Where the file is and who runs the process."""

    path: Path
    process: NginxProcess

    def render(self, generation: Generation) -> str:
        """The file's text."""

    def start(self) -> None:
        """Have it run, as far as that is ours to see to. Raises `RouterError`."""

    def ensure(self, backend: Backend, present: Generation) -> None:
        """The backend can be served, or `RouterError` before anything is changed."""

    def test(self, text: str) -> None:
        """What nginx itself says of this text in the file's place, before it is there. Raises `RouterError`."""

    def reload(self) -> Callable[[], str]:
        """Have the file read again. Gives what tells why nginx would not take it; nothing as long as it may yet."""

    def missing(self) -> Diagnosis | None:
        """Why there is nobody to be asked."""

    def warnings(self) -> Sequence[Diagnosis]:
        """What works and could be better."""


@dataclass
class OwnedNginx:
    """Tidegate writes the whole file and starts the process."""

    frame: config.NginxFrame
    generations: GenerationFiles
    binary: str

    def __post_init__(self) -> None:
        directory = self.frame.directory
        self.path = directory / "nginx.conf"
        self.process = NginxProcess(self.binary, directory / "nginx.pid", str(self.path))
        self._errors = directory / "error.log"
        if os.geteuid() != 0:
            self.frame = replace(self.frame, user="")  # only root may choose

    def render(self, generation: Generation) -> str:
        return config.render_config(self.frame, generation, self.generations.path(generation.number))

    def start(self) -> None:
        if self.process.pid is not None:
            return
        self._make_folder()
        present = self.generations.in_file()
        if not present.number:
            present = Generation(max(self.generations.numbers(), default=0) + 1)
            atomic_files.replace(self.path, self.render(present))
        self.generations.save(present)
        self._end_orphans()
        self.process.start(["-c", str(self.path), "-e", str(self._errors)])
        if not wait_until(self._is_serving, START_SECONDS):
            raise RouterError("nginx was started and has no workers")

    def _is_serving(self) -> bool:
        return any(not worker.leaving for worker in self.generations.workers(self.process.pid))

    def _make_folder(self) -> None:
        """Open to nginx's workers, which may be of another user."""
        try:
            self.frame.directory.mkdir(parents=True, exist_ok=True, mode=0o755)
            if self.frame.user:
                self.frame.directory.chmod(0o755)
        except OSError as error:
            text = f"{self.frame.directory} cannot be used: {error.strerror}: make it a folder that Tidegate may write"
            raise RouterError(text, retryable=False) from error
        above = {*self.frame.directory.parents, *(Path(self.frame.log).parents if self.frame.log else ())}
        closed = sorted(str(folder) for folder in above if folder.exists() and not folder.stat().st_mode & 0o001)
        if self.frame.user and closed:
            text = (
                f"nginx's user {self.frame.user} cannot enter {', '.join(closed)}: chmod o+x, or choose another directory"
            )
            raise RouterError(text, retryable=False)

    def _end_orphans(self) -> None:
        """Workers whose master was killed go on, at its addresses: let them finish, so that a new one can listen there."""
        orphans = [worker.pid for worker in self.generations.workers(None) if not worker.leaving]
        for pid in orphans:
            os.kill(pid, signal.SIGQUIT)
        if orphans and not wait_until(lambda: not self._is_serving(), START_SECONDS):
            raise RouterError(f"nginx's workers {orphans} have no master and do not end")

    def ensure(self, backend: Backend, present: Generation) -> None:
        if not backend.listen and not backend.inside:
            text = f"{backend.name} needs `x-tidegate.listen`: where nginx shall listen for it"
            raise RouterError(text, retryable=False)
        here = {name: spot.listen for name, spot in present.spots.items() if spot.listen}
        if not backend.listen or here.get(backend.name) == backend.listen:
            return
        for name, listen in {**here, "nginx itself": self.frame.status}.items():
            if _addresses_overlap(listen, backend.listen):
                text = (
                    f"nginx listens on {listen} for {name}, and cannot listen on {backend.listen} for {backend.name}, too: "
                    "choose another `listen`"
                )
                raise RouterError(text, retryable=False)
        _require_free(backend)

    def test(self, text: str) -> None:
        with _draft_file(self.path, text) as draft:
            self.process.test(["-c", draft, "-e", "stderr"])

    def reload(self) -> Callable[[], str]:
        before = len(atomic_files.read(self._errors))
        self.process.reload()
        return lambda: reload_error(atomic_files.read(self._errors)[before:])

    def missing(self) -> Diagnosis | None:
        if shutil.which(self.binary) is None:
            return program_missing(self.binary)
        if self.process.pid is None:
            return Diagnosis("nginx", True, "not running yet: it is started with the first rollout")
        return None

    def warnings(self) -> Sequence[Diagnosis]:
        if self.frame.close_gap:
            return ()
        return (Diagnosis("nginx config", True, "close_gap is off: idle clients are cut at each change of a route"),)


@dataclass
class AdoptedNginx:
    """Somebody else's nginx, whose file `main` includes ours."""

    frame: config.NginxFrame
    generations: GenerationFiles
    binary: str
    main: Path
    path: Path
    pid_file: Path

    def __post_init__(self) -> None:
        self.process = NginxProcess(self.binary, self.pid_file)

    def render(self, generation: Generation) -> str:
        return config.render_routes(self.frame, generation, self.generations.path(generation.number))

    def start(self) -> None:
        """Whoever owns it starts it."""
        if self.process.pid is None:
            raise RouterError(f"nginx does not run: {self.pid_file} does not name its master process; start nginx")

    def ensure(self, backend: Backend, present: Generation) -> None:
        if problems := self._problems():
            raise RouterError("; ".join(problems), retryable=False)

    def _problems(self) -> list[str]:
        problems = []
        if self._include_line(atomic_files.read(self.main)) is None:
            problems.append(self._missing_include)
        if not os.access(self.path.parent, os.W_OK) or not os.access(self.main.parent, os.W_OK):
            problems.append(f"the folders of {self.path} and {self.main} must be writable")
        return problems

    @property
    def _missing_include(self) -> str:
        return f"{self.main} lacks the line `include {self.path};`: add it to its http section"

    def _include_line(self, text: str) -> re.Match[str] | None:
        """The line that includes our file, as nginx understands its path."""
        lines = re.finditer(r"^([ \t]*include[ \t]+[\"']?)([^\s;\"']+)", text, re.M)
        return next((line for line in lines if self.main.parent / line[2] == self.path), None)

    def test(self, text: str) -> None:
        """In a copy of their file, which lies beside it, since what it includes is sought from there."""
        main = atomic_files.read(self.main)
        line = self._include_line(main)
        if line is None:
            raise RouterError(self._missing_include, retryable=False)
        with (
            _draft_file(self.path, text) as ours,
            _draft_file(self.main, main[: line.start(2)] + ours + main[line.end(2) :]) as theirs,
        ):
            self.process.test(["-c", theirs])

    def reload(self) -> Callable[[], str]:
        self.process.reload()
        return str  # their log is theirs

    def missing(self) -> Diagnosis | None:
        if shutil.which(self.binary) is None:
            return program_missing(self.binary)
        if self.process.pid is None:
            return Diagnosis("nginx", False, f"{self.pid_file} names no nginx", "start nginx, or correct router.pid")
        if problems := self._problems():
            return Diagnosis("nginx config", False, "; ".join(problems), "correct it, or router.config and router.include")
        return None

    def warnings(self) -> Sequence[Diagnosis]:
        text = self.process.shown(["-c", str(self.main)])
        diagnoses = []
        if not re.search(r"^\s*keepalive_timeout\s+0\b", text, re.M):
            fix = "add `keepalive_timeout 0;` to its http section (docs/nginx.md has the price)"
            diagnoses.append(Diagnosis("nginx config", False, "idle clients are cut at each change of a route", fix))
        if re.search(r"^\s*worker_shutdown_timeout\b", text, re.M):
            fix = "remove `worker_shutdown_timeout`"
            diagnoses.append(
                Diagnosis("nginx config", False, "requests that last longer are cut at each change of a route", fix)
            )
        return diagnoses


def program_missing(binary: str) -> Diagnosis:
    """Without it nothing can be checked or started."""
    return Diagnosis("nginx", False, f"no program {binary}", "install nginx, or set router.binary")


@contextmanager
def _draft_file(path: Path, text: str) -> Iterator[str]:
    """A file beside the path, with this text; removed when left."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-") as draft:
            draft.write(text.encode(errors="surrogateescape"))
            draft.flush()
            yield draft.name
    except OSError as error:
        raise RouterError(f"{path.parent} cannot be written: {error.strerror}", retryable=False) from error


def _addresses_overlap(one: str, other: str) -> bool:
    """Whether both cannot be listened on at once."""
    (host, _, port), (its_host, _, its_port) = (bind_address(listen).rpartition(":") for listen in (one, other))
    return port == its_port and (host == its_host or "*" in (host, its_host))


def _require_free(backend: Backend) -> None:
    """Refuse an address that somebody else has, before nginx is touched: its own check does not find it."""
    host, _, port = bind_address(backend.listen).rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.removeprefix("*"), int(port)))
        except OSError as error:
            text = f"nginx cannot listen on {backend.listen} for {backend.name}: {error.strerror}: choose another `listen`"
            raise RouterError(text, retryable=False) from error
