"""A wall clock that a test sets, for programs of its own."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

from build import compile_c

SOURCE = Path(__file__).with_name("clock.c")


class ShiftedClock:
    """`under` is a command that runs another one by it, but not what that one starts."""

    def __init__(self, file: Path) -> None:
        self._file, self._ahead = file, 0
        file.write_bytes(struct.pack("=q", 0))
        file.chmod(0o644)
        # Beside it, where another user can read it as well.
        preloaded = shutil.copy(compile_c(SOURCE, "-shared", "-fPIC"), file.with_suffix(".so"))
        self.under = ("env", f"CLOCK={file}", f"LD_PRELOAD={preloaded}")

    def jump(self, seconds: int) -> None:
        """At once, for all that run by it."""
        self.show(self._ahead + seconds)

    def show(self, ahead: int) -> None:
        """So many seconds more than the real one."""
        self._ahead = ahead
        with self._file.open("r+b") as out:
            out.write(struct.pack("=q", self._ahead))
