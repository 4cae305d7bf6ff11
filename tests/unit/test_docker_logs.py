"""Docker's log lines are parsed to the nanosecond."""

from __future__ import annotations

import pytest

from tidegate.core.logs import LogLine
from tidegate.drivers.platforms.docker.logs import MAX_LINE_CHARS, parse_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("2026-11-23T16:12:03.123456789Z hello world", LogLine(1_795_450_323_123_456_789, "hello world")),
        ("2026-11-23T16:12:03.5Z hello\r", LogLine(1_795_450_323_500_000_000, "hello")),
        ("2026-11-23T16:12:03Z ", LogLine(1_795_450_323_000_000_000, "")),
        ("no timestamp", None),
        ("", None),
    ],
)
def test_lines(text: str, line: LogLine | None) -> None:
    assert parse_line(text) == line


def test_a_long_line_is_cut() -> None:
    line = parse_line("2026-11-23T16:12:03Z " + "x" * 100_000)
    assert line is not None
    assert len(line.text) == MAX_LINE_CHARS
