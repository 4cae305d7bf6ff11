"""nginx's file and process, and those of mode owned: Tidegate writes the whole file and runs the process."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from tidegate.core.routing import Backend, addresses_overlap
from tidegate.drivers.routers import atomic_files
from tidegate.drivers.routers.listen_addresses import require_free
from tidegate.drivers.routers.nginx import config
from tidegate.drivers.routers.nginx.generations import Generation, GenerationFiles
from tidegate.drivers.routers.nginx.process import NginxProcess, reload_error, wait_until
from tidegate.errors import RouterError
from tidegate.ports import CheckStatus, Diagnosis

START_SECONDS = 10.0


class NginxInstallation(Protocol):
    """nginx's file and process."""

    path: Path
    process: NginxProcess

    def render(self, generation: Generation) -> str:
        """The file's text for a generation."""

    def start(self) -> None:
        """Start nginx unless it runs; in mode adopted raise `RouterError` if it does not."""

    def ensure(self, backend: Backend, present: Generation) -> None:
        """Raise `RouterError`, before anything is changed, if the backend cannot be served."""

    def serves_empty(self, backend: Backend, present: Generation) -> bool:
        """Whether a backend without members may be written although it is not in the generation `present`."""

    def test(self, text: str, added: Collection[str]) -> None:
        """Have nginx check this text in place of the file (`nginx -t`). Raises `RouterError`.

        `added`: backends that the file does not have yet.
        """

    def reload(self) -> Callable[[], str]:
        """Reload the file. Returns a function for the reason why nginx rejected it; empty while nginx may still accept."""

    def missing(self) -> Diagnosis | None:
        """Why nginx cannot be queried; None if it can."""

    def warnings(self, present: Generation) -> Sequence[Diagnosis]:
        """Settings that work but lose requests or features, and what a person has to do or to know."""


@dataclass
class OwnedNginx:
    """Mode owned: Tidegate writes the whole file and starts the process."""

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
            raise RouterError(f"nginx was started but has no worker within {START_SECONDS:g} s; see {self._errors}")

    def _is_serving(self) -> bool:
        return any(not worker.leaving for worker in self.generations.workers(self.process.pid))

    def _make_folder(self) -> None:
        """Create the directory so that nginx's workers, which may run as another user, can enter it."""
        try:
            self.frame.directory.mkdir(parents=True, exist_ok=True, mode=0o755)
            if self.frame.user:
                self.frame.directory.chmod(0o755)
        except OSError as error:
            text = (
                f"Cannot use the directory {self.frame.directory}: {error.strerror}. Make it writable for Tidegate's user."
            )
            raise RouterError(text, retryable=False) from error
        above = {*self.frame.directory.parents, *(Path(self.frame.log).parents if self.frame.log else ())}
        closed = sorted(str(folder) for folder in above if folder.exists() and not folder.stat().st_mode & 0o001)
        if self.frame.user and closed:
            text = (
                f"nginx's user {self.frame.user} cannot enter {', '.join(closed)}. Run chmod o+x on it, or choose another "
                "directory."
            )
            raise RouterError(text, retryable=False)

    def _end_orphans(self) -> None:
        """Ask workers whose master was killed to exit: they still hold the listen addresses that a new nginx needs."""
        orphans = [worker.pid for worker in self.generations.workers(None) if not worker.leaving]
        for pid in orphans:
            os.kill(pid, signal.SIGQUIT)
        if orphans and not wait_until(lambda: not self._is_serving(), START_SECONDS):
            raise RouterError(
                f"nginx's workers {orphans} have no master and did not exit within {START_SECONDS:g} s; kill them"
            )

    def ensure(self, backend: Backend, present: Generation) -> None:
        if not backend.listen and not backend.parent:
            raise RouterError(
                f"Cannot route {backend.name}: it has no listen address. Set `x-tidegate.listen` in the Compose file.",
                retryable=False,
            )
        addresses = {name: route.listen for name, route in present.routes.items() if route.listen}
        if not backend.listen or addresses.get(backend.name) == backend.listen:
            return
        for name, listen in {**addresses, "its status page": self.frame.status}.items():
            if addresses_overlap(listen, backend.listen):
                raise RouterError(
                    f"nginx cannot listen on {backend.listen} for {backend.name}: it listens on {listen} for {name}. "
                    "Choose another `listen`.",
                    retryable=False,
                )
        require_free(backend, "nginx")

    def serves_empty(self, backend: Backend, present: Generation) -> bool:
        return True  # nobody answered at its address before

    def test(self, text: str, added: Collection[str]) -> None:
        with draft_file(self.path, text) as draft:
            self.process.test(["-c", draft, "-e", "stderr"])

    def reload(self) -> Callable[[], str]:
        before = len(atomic_files.read(self._errors))
        self.process.reload()
        return lambda: reload_error(atomic_files.read(self._errors)[before:])

    def missing(self) -> Diagnosis | None:
        if shutil.which(self.binary) is None:
            return program_missing(self.binary)
        if self.process.pid is None:
            return Diagnosis("nginx", CheckStatus.OK, "not running yet; the first rollout starts it")
        return None

    def warnings(self, present: Generation) -> Sequence[Diagnosis]:
        if self.frame.close_gap:
            return ()
        return (
            Diagnosis(
                "nginx config", CheckStatus.WARNING, "close_gap is off: each route change closes idle client connections"
            ),
        )


def program_missing(binary: str) -> Diagnosis:
    """The diagnosis of a missing nginx program."""
    return Diagnosis("nginx", CheckStatus.WRONG, f"program {binary} not found", "install nginx, or set router.binary")


@contextmanager
def draft_file(path: Path, text: str) -> Iterator[str]:
    """A temporary file with this text in the directory of `path`."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-") as draft:
            draft.write(text.encode(errors="surrogateescape"))
            draft.flush()
            yield draft.name
    except OSError as error:
        raise RouterError(f"Cannot write to {path.parent}: {error.strerror}", retryable=False) from error
