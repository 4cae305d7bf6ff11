"""A small disk of the test's own, which can be filled and made read-only under those who write on it."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from support.prerequisites import missing, program, run

PAUSE_SECONDS = 0.02


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("ab", buffering=0) as out:
        for size in (65536, 512):
            try:
                while True:
                    out.write(b"\0" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        os.fsync(out)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Its disk, for this block: what others give back meanwhile is taken as well."""
    filler = folder / "filler"
    try:
        with again_and_again(lambda: fill(filler)):
            yield
    finally:
        filler.unlink()


@contextmanager
def again_and_again(act: Callable[[], None]) -> Iterator[None]:
    """Done once before this block, and then until its end."""
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(PAUSE_SECONDS):
            act()

    act()
    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def read_only(*files: Path) -> Iterator[None]:
    """Not even root, and who has them open, may write them in this block. Needs ext4."""
    names = [str(file) for file in files]
    run("chattr", "+i", *names)
    try:
        yield
    finally:
        run("chattr", "-i", *names)


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """An ext4 of this size in a file, none of it kept back for root; where it is mounted."""
    program("mkfs.ext4")
    if os.geteuid() != 0:
        missing("the right to mount a file system (root)")
    with tempfile.TemporaryDirectory(prefix="tgd") as name:
        image, place = Path(name, "image"), Path(name, "disk")
        place.mkdir()
        with image.open("wb") as file:
            file.truncate(megabytes * 1024 * 1024)
        run("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
        Path(name).chmod(0o755)
        run("mount", "-o", "loop", str(image), str(place))
        try:
            yield place
        finally:
            run("umount", str(place))
