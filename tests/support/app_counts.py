"""The counts that the demo's application keeps in files, which survive its end (examples/demo/app.c, COUNTERS)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

LAYOUT = "5q"


class AppCounts(NamedTuple):
    """Requests of one process, or of several."""

    started: int = 0
    finished: int = 0
    posts: int = 0
    in_flight_at_sigterm: int = 0
    late_while_sick: int = 0


def read_app_counts(file: Path) -> AppCounts:
    """The counts of one process."""
    return AppCounts(*struct.unpack(LAYOUT, file.read_bytes()))


def sum_app_counts(folder: Path) -> AppCounts:
    """The sums over all processes that ever ran."""
    counts = [read_app_counts(file) for file in folder.rglob("*") if file.is_file()]
    return AppCounts(*map(sum, zip(*counts, strict=True))) if counts else AppCounts()
