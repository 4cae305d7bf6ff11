"""What the command line prints of times and of what a rollout waits for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tidegate.cli.console import relative_time, table_lines
from tidegate.cli.watch import Rates, format_waiting

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


def iso(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "now"),
        (0.9, "now"),
        (-1, "1 s ago"),
        (-59, "59 s ago"),
        (-60, "1 min ago"),
        (-3599, "59 min ago"),
        (-7200, "2 h ago"),
        (-86_400 * 3, "3 d ago"),
        (61, "in 1 min 1 s"),
        (3600 * 47, "in 1 d 23 h"),
    ],
)
def test_relative_times(seconds: float, text: str) -> None:
    assert relative_time(iso(seconds), NOW) == text


def test_a_missing_time_is_empty() -> None:
    assert relative_time(None) == ""


def test_waiting_until_a_deadline() -> None:
    waiting = {
        "kind": "drain",
        "reason": "Draining v1-1/0 and v1-1/1",
        "since": iso(-720),
        "until": iso(95),
        "then": "the instances are stopped",
    }
    text = "Draining v1-1/0 and v1-1/1 (since 12 min ago, deadline in 1 min 35 s); then the instances are stopped"
    assert format_waiting({"waiting_for": waiting}, NOW) == text


def test_waiting_without_a_deadline() -> None:
    waiting = {
        "kind": "pause",
        "reason": "Paused",
        "since": iso(-60),
        "until": None,
        "then": "`tidegate resume` continues it",
    }
    expected = "Paused (since 1 min ago, no deadline); `tidegate resume` continues it"
    assert format_waiting({"waiting_for": waiting}, NOW) == expected


def test_a_rollout_that_waits_for_nothing() -> None:
    assert format_waiting({"waiting_for": None}, NOW) == ""


# -- tables ------------------------------------------------------------------------------------------------------------

ID = "6a1c3f0d5b2e47"
ROW = (ID, "production/a-service-with-a-long-name", "v1-1", "v2-2", "rolled_back", "2 min ago", "2 of 3 failed " * 9)


def test_a_table_fits_80_columns_and_breaks_no_word() -> None:
    lines = list(table_lines(("id", "service", "old", "new", "phase", "created", "reason"), [ROW], 80))
    assert max(len(line) for line, _ in lines) <= 80
    assert set(" ".join(line for line, _ in lines).split()) >= set(" ".join(ROW).split())
    assert [number for _, number in lines if number is not None] == [-1, 0]


def test_a_table_with_room_has_one_line_for_each_row() -> None:
    assert [line for line, _ in table_lines(("id", "reason"), [(ID, "why"), ("店", "")], 80)] == [
        "id              reason",
        f"{ID}  why",
        "店",
    ]


# -- rates -------------------------------------------------------------------------------------------------------------


def counts(requests: int, errors: int = 0) -> dict[str, int]:
    return {"requests": requests, "errors": errors, "lost": 0}


def test_rates_of_both_releases_and_a_proxy_that_counts_from_zero_again() -> None:
    times = iter([0.0, 4.0, 5.0, 6.0])
    rates = Rates(lambda: next(times))
    assert rates.update({"v1-1": counts(1000)}) == {}
    assert rates.update({"v1-1": counts(1040), "v2-2": counts(20, 5)}) == {
        "v1-1": "10 requests/s, errors 0 % (0 of 40 in 4 s)",
        "v2-2": "5 requests/s, errors 25 % (5 of 20 in 4 s)",
    }
    assert rates.update({"v1-1": counts(3), "v2-2": counts(0)}) == {}
    assert rates.update({"v1-1": counts(8), "v2-2": counts(0)})["v1-1"] == "5 requests/s, errors 0 % (0 of 5 in 1 s)"
