"""A small disk of the test's own, which can be filled and made read-only under those who write on it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.need import missing, program, run


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as out:
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
    """Its disk, for this block."""
    filler = folder / "filler"
    try:
        fill(filler)
        yield
    finally:
        filler.unlink()


@contextmanager
def read_only(*files: Path) -> Iterator[None]:
    """Not even root, and who has them open, may write them in this block. Needs ext4."""
    names = [str(each) for each in files]
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
