"""Text for terminals and pipes, without rich, which takes long to import. Control characters are always escaped."""

from __future__ import annotations

import json
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from tidegate.text import CONTROL_CHARS, escape

UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
COLUMN_GAP = 2
DETAIL_INDENT = "    "


def json_text(answer: object, indent: int | None = None) -> str:
    """A JSON document that parses to the same value, with control characters as JSON escapes."""
    text = json.dumps(answer, indent=indent, ensure_ascii=False)
    return CONTROL_CHARS.sub(lambda match: match[0] if match[0] == "\n" else json.dumps(match[0])[1:-1], text)


def relative_time(timestamp: str | None, now: datetime | None = None) -> str:
    """`2 min ago` or `in 3 h 20 min` for an ISO 8601 `timestamp`; empty for None. `now` defaults to this moment.

    Rounded down, to one unit for the past and two for the future: a person plans by the time that is left.
    """
    if not timestamp:
        return ""
    seconds = (datetime.fromisoformat(timestamp) - (now or datetime.now(UTC))).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"in {duration(seconds, 2)}" if seconds > 0 else f"{duration(-seconds)} ago"


def duration(seconds: float, units: int = 1) -> str:
    """`3 h 20 min` for a number of seconds of at least 1, in at most `units` units."""
    first = next(index for index, (_, size) in enumerate(UNITS) if seconds >= size)
    parts, left = list[str](), int(seconds)
    for unit, size in UNITS[first : first + units]:
        amount, left = divmod(left, size)
        if amount:
            parts.append(f"{amount} {unit}")
    return " ".join(parts)


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[tuple[str, int | None]]:
    """The lines of a table, each at most `width` characters unless a word is longer, with the number of the row that it
    begins: -1 for the header, None for lines that begin none.

    The leading columns that fit are aligned. The others follow below their row, by name and wrapped between words, so that
    an ID is never broken.
    """
    widths = [max(map(_text_width, cells)) for cells in zip(columns, *rows, strict=True)]
    aligned, used = 0, -COLUMN_GAP
    while aligned < len(columns) and used + COLUMN_GAP + widths[aligned] <= width:
        used += COLUMN_GAP + widths[aligned]
        aligned += 1
    aligned = max(1, aligned)
    yield _aligned(columns[:aligned], widths), -1
    for number, row in enumerate(rows):
        yield _aligned(row[:aligned], widths), number
        for name, cell in zip(columns[aligned:], row[aligned:], strict=True):
            if cell:
                for line in _wrapped(f"{name}: {cell}", width):
                    yield line, None


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=DETAIL_INDENT,
        subsequent_indent=DETAIL_INDENT * 2,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell + " " * (width - _text_width(cell)) for cell, width in zip(cells, widths, strict=False))
    return (" " * COLUMN_GAP).join(padded).rstrip()


def _text_width(text: str) -> int:
    """The number of terminal columns: East Asian wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def cell_text(cell: object) -> str:
    """A cell on one line: lists joined by commas, control characters escaped."""
    if cell is None:
        return ""
    return escape(", ".join(map(str, cell)) if isinstance(cell, list) else str(cell))
