"""What the command line prints of times and of what a rollout waits for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tidegate.cli.console import relative_time
from tidegate.cli.watch import format_waiting

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
        (61, "in 1 min"),
        (3600 * 47, "in 1 d"),
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
    text = "Draining v1-1/0 and v1-1/1 (since 12 min ago, deadline in 1 min); then the instances are stopped"
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
