"""Generations of nginx's configuration, and which of its processes serves which.

nginx has no interface that could be asked. But each configuration has a file of its own, as a log that nothing is ever
written to: so a process that serves the configuration holds that file open, and the kernel tells which one it is. In it
stands where the configuration sends traffic. What is read is bound to the process, not to what a file of ours says by now:
it is true after a crash of Tidegate, after a reload by somebody else, and when the file was replaced or removed. The same
stands in a comment of the configuration, so that its file alone is enough to start from.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tidegate.core.routing import Member
from tidegate.drivers.routers import atomic_files
from tidegate.errors import RouterError

PROC = Path("/proc")
WORKER, SHUTTING_DOWN, MASTER = "nginx: worker process", "is shutting down", "nginx: master process"
NUMBERED = re.compile(r"(\d+)\.json")
COMMENT = re.compile(r"^# generation (\d+): (\{.*\})$", re.M)


@dataclass(frozen=True)
class BackendRoute:
    """One backend in a configuration. `header`: requests with it at this address go to the backend's preview."""

    members: tuple[Member, ...] = ()
    listen: str = ""
    header: str = ""


@dataclass(frozen=True)
class Generation:
    """What a configuration does, by backend. Numbers grow; 0 is the one before any was written."""

    number: int = 0
    spots: Mapping[str, BackendRoute] = field(default_factory=dict)

    @property
    def serialized(self) -> str:
        """What it does, in one line."""
        return json.dumps({name: asdict(spot) for name, spot in self.spots.items()})

    @property
    def comment(self) -> str:
        """As it stands in its configuration."""
        return f"# generation {self.number}: {self.serialized}"

    def differs_from(self, backend: str, members: Collection[str]) -> set[str]:
        """Instances that it sends requests to, for this backend, besides these."""
        return {member.instance for member in self.spots.get(backend, BackendRoute()).members} - set(members)


@dataclass(frozen=True)
class NginxWorker:
    """A process of nginx that serves a generation. One that is `leaving` takes no new connections."""

    pid: int
    generation: Generation
    leaving: bool


class GenerationFiles:
    """Their files, in `directory`; and the one that is in the file `configuration`."""

    def __init__(self, directory: Path, configuration: Path) -> None:
        self.folder = (directory / "generations").resolve()
        self._configuration = configuration

    def path(self, number: int) -> Path:
        """Where the one with this number is, for nginx to hold open."""
        return self.folder / f"{number}.json"

    def numbers(self) -> set[int]:
        """Those that have a file."""
        matches = (NUMBERED.fullmatch(path.name) for path in self.folder.glob("*.json"))
        return {int(match[1]) for match in matches if match}

    def save(self, generation: Generation) -> None:
        """Before nginx is told to serve it, or where somebody removed the file."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        except OSError as error:
            text = f"{self.folder} cannot be made: {error.strerror}: make it a folder that Tidegate may write"
            raise RouterError(text, retryable=False) from error
        path = self.path(generation.number)
        if not path.exists():
            atomic_files.replace(path, generation.serialized)
        elif not path.stat().st_size:
            path.write_text(generation.serialized)  # nginx made it, and has it open

    def in_file(self) -> Generation:
        """The one that nginx would serve after a reload or a restart; 0 where the file is none of ours."""
        match = COMMENT.search(atomic_files.read(self._configuration))
        return _parse_generation(int(match[1]), match[2]) if match else Generation()

    def forget(self, kept: Collection[int]) -> None:
        """Remove the others' files."""
        for number in self.numbers() - set(kept):
            self.path(number).unlink(missing_ok=True)

    def workers(self, master: int | None) -> tuple[NginxWorker, ...]:
        """The processes that serve one of these, also those whose master was killed. Raises `RouterError`."""
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
                return None  # somebody else's nginx
            text = (
                f"it cannot be seen what nginx's process {pid} serves: run Tidegate as root or as nginx's user, and in a "
                "container with the capability SYS_PTRACE"
            )
            raise RouterError(text, retryable=False) from error
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            return None
        return None if generation is None else NginxWorker(pid, generation, SHUTTING_DOWN in words)

    def _held_files(self, pid: int) -> Generation | None:
        folder = PROC / str(pid) / "fd"
        for each in sorted(os.listdir(folder), key=int):  # logs are opened first, and connections may be many
            where = Path(os.readlink(folder / each).removesuffix(" (deleted)"))
            number = NUMBERED.fullmatch(where.name)
            if number and where.parent == self.folder:
                return self._parse_cached(int(number[1]), (folder / each).read_text())
        return None

    def _parse_cached(self, number: int, text: str) -> Generation:
        """nginx makes the file anew, and empty, where it was removed before a reload."""
        generation = Generation() if text else self.in_file()
        return generation if generation.number == number else _parse_generation(number, text)


def _parse_generation(number: int, text: str) -> Generation:
    try:
        document = json.loads(text)
        spots = {
            name: BackendRoute(tuple(Member(**member) for member in spot["members"]), spot["listen"], spot["header"])
            for name, spot in document.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        message = f"what nginx's generation {number} does cannot be understood: {error}: stop nginx and remove its folder"
        raise RouterError(f"{message}, to begin with nothing routed", retryable=False) from error
    return Generation(number, spots)


def serving_generation(workers: Sequence[NginxWorker]) -> Generation:
    """What new connections get: the newest that has a worker which is not leaving."""
    taking = (worker.generation for worker in workers if not worker.leaving)
    return max(taking, key=lambda generation: generation.number, default=Generation())


def _is_starting_worker(pid: int, words: str, master: int | None) -> bool:
    """Whether it is a worker that does not say so yet: it takes requests as soon as it is on the processor again.

    Where the master was killed just after it started one, the session is what distinguishes them: a master leads its own.
    """
    if not words.startswith(MASTER) or pid == master:
        return False
    return parent_pid(pid) == master if master is not None else session_leader_pid(pid) != pid


def process_title(pid: int) -> str:
    """What a process calls itself; nothing when it is gone."""
    try:
        with open(f"{PROC}/{pid}/cmdline", "rb", buffering=0) as file:  # of every process there is: so in the quickest way
            return (file.read(4096) or b"").decode(errors="replace").rstrip("\0 ")
    except OSError:
        return ""


def parent_pid(pid: int) -> int | None:
    """Its parent's process id; None when it is gone."""
    return _stat(pid, 1)


def session_leader_pid(pid: int) -> int | None:
    """The process id of its session's leader; None when it is gone."""
    return _stat(pid, 3)


def _stat(pid: int, field: int) -> int | None:
    try:
        return int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[field])
    except OSError:
        return None
