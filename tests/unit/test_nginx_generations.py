"""Which of nginx's processes serves which generation, told from what the kernel shows of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tidegate.core.routing import Member
from tidegate.drivers.routers.nginx import generations
from tidegate.drivers.routers.nginx.generations import BackendRoute, Generation, GenerationFiles, serving_generation

INIT = 2  # stands for whoever takes orphans in
MASTER = 100
MADE = "nginx: master process /usr/sbin/nginx -c /srv/nginx.conf"
OLD = Generation(1, {"shop": BackendRoute((Member("a", "v1-1", 0, "127.0.0.1:1"),))})
NEW = Generation(2, {"shop": BackendRoute((Member("b", "v2-2", 0, "127.0.0.1:2"),))})


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GenerationFiles:
    """Both have their files; no process is there."""
    (tmp_path / "proc").mkdir()
    monkeypatch.setattr(generations, "PROC", tmp_path / "proc")
    found = GenerationFiles(tmp_path, tmp_path / "nginx.conf")
    for each in (OLD, NEW):
        found.save(each)
    return found


@pytest.fixture
def shows(there: GenerationFiles) -> Callable[[int, str, int, Generation], None]:
    """A process as the kernel shows it: its number, what it calls itself, its parent, what it serves."""

    def show(pid: int, words: str, parent: int, generation: Generation) -> None:
        folder = generations.PROC / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "cmdline").write_text(words + "\0")
        session = pid if parent == 1 and words == MADE else MASTER  # a master leads its own
        (folder / "stat").write_text(f"{pid} (nginx) S {parent} {session} {session}")
        (folder / "fd" / "4").symlink_to(there.path(generation.number))

    return show


def test_a_worker_that_was_only_just_made_serves_too(
    there: GenerationFiles, shows: Callable[[int, str, int, Generation], None]
) -> None:
    """On a busy machine it may call itself its master for long, and answers with the old route when it wakes."""
    shows(MASTER, MADE, 1, NEW)
    shows(101, "nginx: worker process", MASTER, NEW)
    shows(102, MADE, MASTER, OLD)
    found = there.workers(MASTER)
    assert {(each.pid, each.generation.number, each.leaving) for each in found} == {(101, 2, False), (102, 1, False)}
    assert serving_generation(found) == NEW


def test_a_worker_that_was_only_just_made_when_its_master_was_killed_serves_too(
    there: GenerationFiles, shows: Callable[[int, str, int, Generation], None]
) -> None:
    """It listens at the addresses that the next master needs. It has another parent now, and still its session."""
    shows(101, "nginx: worker process", INIT, NEW)
    shows(102, MADE, INIT, NEW)
    assert {worker.pid for worker in there.workers(None)} == {101, 102}


def test_masters_are_no_workers(there: GenerationFiles, shows: Callable[[int, str, int, Generation], None]) -> None:
    shows(MASTER, MADE, 1, NEW)
    shows(200, MADE, 1, OLD)  # the one before, whose program was replaced
    shows(201, "nginx: worker process is shutting down", 200, OLD)
    assert {(each.pid, each.leaving) for each in there.workers(MASTER)} == {(201, True)}
    assert {each.pid for each in there.workers(None)} == {201}
