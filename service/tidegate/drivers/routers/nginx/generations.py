"""Generations of nginx's configuration, and which nginx process serves which generation.

nginx has no API to query. Each configuration therefore names a file of its own as a log that nothing is written to: every
process that serves the configuration keeps this file open, and /proc shows which one it is. The file contains the
configuration's routes. The information belongs to the process and not to a file on disk, so it is also correct after a
crash of Tidegate, after a reload by somebody else, and when the file was replaced or removed. The routes are also in a
comment of the configuration, so that the configuration file alone is enough to start from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from tidegate.core.routing import Member, Timeouts
from tidegate.drivers.routers import atomic_files
from tidegate.errors import RouterError

PROC = Path("/proc")
WORKER, SHUTTING_DOWN, MASTER = "nginx: worker process", "is shutting down", "nginx: master process"
PREVIEW = "_preview"  # end of the name of a preview's backend
NUMBERED = re.compile(r"(\d+)\.json")
COMMENT = re.compile(r"^# generation (\d+): (\{.*\})$", re.M)


@dataclass(frozen=True)
class BackendRoute:
    """The route of one backend. `header`: requests with it at the same address go to the backend's preview.

    Other options of the backend are not here: everybody can read a generation, and health checks may have secrets.
    """

    members: tuple[Member, ...] = ()
    listen: str = ""
    header: str = ""
    timeouts: Timeouts = field(default_factory=Timeouts)


ROUTES = TypeAdapter(dict[str, BackendRoute])


@dataclass(frozen=True)
class Generation:
    """The routes of one configuration, by backend. Numbers increase; 0 means that none has been written yet."""

    number: int = 0
    routes: Mapping[str, BackendRoute] = field(default_factory=dict)

    @property
    def serialized(self) -> str:
        """The routes as one line of JSON."""
        return ROUTES.dump_json(dict(self.routes)).decode()

    @property
    def comment(self) -> str:
        """The comment in the configuration file."""
        return f"# generation {self.number}: {self.serialized}"

    def others_than(self, backend: str, members: Collection[str]) -> tuple[Member, ...]:
        """Members of this backend in the generation that are not among `members` (instance ids)."""
        found = self.routes.get(backend, BackendRoute()).members
        return tuple(member for member in found if member.instance not in members)


@dataclass(frozen=True)
class NginxWorker:
    """An nginx worker process and the generation that it serves. A `leaving` worker accepts no new connections."""

    pid: int
    generation: Generation
    leaving: bool


class GenerationFiles:
    """The files of generations in `directory`/generations, and the generation in the file `configuration`."""

    def __init__(self, directory: Path, configuration: Path) -> None:
        self.folder = (directory / "generations").resolve()
        self._configuration = configuration

    def path(self, number: int) -> Path:
        """The file of a generation, which nginx keeps open."""
        return self.folder / f"{number}.json"

    def numbers(self) -> set[int]:
        """The numbers of generations that have a file."""
        matches = (NUMBERED.fullmatch(path.name) for path in self.folder.glob("*.json"))
        return {int(match[1]) for match in matches if match}

    def save(self, generation: Generation) -> None:
        """Write the file before nginx serves the generation, or if somebody removed it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        except OSError as error:
            text = f"Cannot create {self.folder}: {error.strerror}. Make its parent writable for Tidegate's user."
            raise RouterError(text, retryable=False) from error
        path = self.path(generation.number)
        if not path.exists():
            atomic_files.replace(path, generation.serialized)
        elif not path.stat().st_size:
            path.write_text(generation.serialized)  # nginx created it and has it open

    def in_file(self) -> Generation:
        """The generation that nginx would serve after a reload or restart; number 0 if Tidegate did not write the file."""
        match = COMMENT.search(atomic_files.read(self._configuration))
        return _parse_generation(int(match[1]), match[2]) if match else Generation()

    def forget(self, kept: Collection[int]) -> None:
        """Remove the files of all other generations."""
        for number in self.numbers() - set(kept):
            self.path(number).unlink(missing_ok=True)

    def workers(self, master: int | None) -> tuple[NginxWorker, ...]:
        """The workers that serve a generation, including those whose master was killed. Raises `RouterError`."""
        candidates = (self._worker(int(name), master) for name in os.listdir(PROC) if name.isdecimal())
        return tuple(name for name in candidates if name is not None)

    def _worker(self, pid: int, master: int | None) -> NginxWorker | None:
        words = process_title(pid)
        if not words.startswith(WORKER) and not _is_starting_worker(pid, words, master):
            return None
        try:
            generation = self._held_files(pid)
        except PermissionError as error:
            if master is None or parent_pid(pid) != master:
                return None  # another nginx
            text = (
                f"Permission denied reading the open files of nginx's process {pid}. Run Tidegate as root or as nginx's "
                "user, and in a container with the capability SYS_PTRACE."
            )
            raise RouterError(text, retryable=False) from error
        except (FileNotFoundError, ProcessLookupError):  # the process has ended
            return None
        return None if generation is None else NginxWorker(pid, generation, SHUTTING_DOWN in words)

    def _held_files(self, pid: int) -> Generation | None:
        folder = PROC / str(pid) / "fd"
        for descriptor in sorted(os.listdir(folder), key=int):  # logs come first; there may be many connections
            target = Path(os.readlink(folder / descriptor).removesuffix(" (deleted)"))
            number = NUMBERED.fullmatch(target.name)
            if number and target.parent == self.folder:
                return self._parse_cached(int(number[1]), (folder / descriptor).read_text())
        return None

    def _parse_cached(self, number: int, text: str) -> Generation:
        """The generation in a file; from the configuration if the file is empty.

        nginx creates an empty file if it was removed before a reload.
        """
        generation = Generation() if text else self.in_file()
        return generation if generation.number == number else _parse_generation(number, text)


def _parse_generation(number: int, text: str) -> Generation:
    try:
        return Generation(number, ROUTES.validate_json(text))
    except ValueError as error:
        text = f"Cannot parse nginx's generation {number}: {error}. Stop nginx and remove its directory to start empty."
        raise RouterError(text, retryable=False) from error


def serving_generation(workers: Sequence[NginxWorker]) -> Generation:
    """The generation of new connections: the newest one with a worker that is not leaving."""
    taking = (worker.generation for worker in workers if not worker.leaving)
    return max(taking, key=lambda generation: generation.number, default=Generation())


def _is_starting_worker(pid: int, words: str, master: int | None) -> bool:
    """Whether the process is a worker that has not set its title yet; it may accept requests at any moment.

    If the master was killed just after forking it, only the session tells them apart: a master leads its own session.
    """
    if not words.startswith(MASTER) or pid == master:
        return False
    return parent_pid(pid) == master if master is not None else session_leader_pid(pid) != pid


def process_title(pid: int) -> str:
    """The title of a process; empty if it does not exist."""
    try:
        with open(f"{PROC}/{pid}/cmdline", "rb", buffering=0) as file:  # unbuffered: called for every process
            return (file.read(4096) or b"").decode(errors="replace").rstrip("\0 ")
    except OSError:
        return ""


def parent_pid(pid: int) -> int | None:
    """The process id of its parent; None if the process does not exist."""
    return _stat(pid, 1)


def session_leader_pid(pid: int) -> int | None:
    """The process id of its session's leader; None if the process does not exist."""
    return _stat(pid, 3)


def _stat(pid: int, field: int) -> int | None:
    try:
        return int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[field])
    except OSError:
        return None
