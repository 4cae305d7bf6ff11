"""Counters: what raw samples say of a window."""

from __future__ import annotations

import math

import pytest

from support.judging import NEW, counters, labels, server_of
from tidegate.core.judge.counting import Scrapes, copies, increases, tally
from tidegate.core.judge.series import Series
from tidegate.core.judge.verdict import Window

NAME = "haproxy_server_http_responses_total"
NAN = math.nan


def series(*samples: tuple[float, float], server: str = "v2-4.0.aa", **more: str) -> Series:
    return Series(labels(NAME, server, "2xx", **more), samples)


#: Another server of the same target that is always there: it shows when the target was scraped.
WITNESS = series(*((float(at), 1.0) for at in range(0, 101, 10)), server="v1-1.0.bb")


def growth(subject: Series, window: Window, *witnesses: Series) -> float:
    return sum(value for _, value in increases(subject, Scrapes.of([[subject, *witnesses]]), window)[0])


@pytest.mark.parametrize(
    ("samples", "grown"),
    [
        pytest.param([(40, 100), (50, 110), (60, 130)], 30, id="the sample before the window is the base"),
        pytest.param([(50, 110), (60, 130)], 130, id="a new server began at 0: its first jump counts"),
        pytest.param([(40, 100), (50, 110), (60, 4), (70, 6)], 16, id="a fall is a restart: the new value counts"),
        pytest.param([(40, 100), (50, 110)], 10, id="a deleted server counts up to its last sample"),
        pytest.param([(40, 100), (50, 110), (80, 120)], 130, id="absent while others were scraped: began anew"),
        pytest.param([(10, 100), (80, 120)], 120, id="absent since before the window"),
        pytest.param([(40, 100), (50, NAN), (60, 130)], 30, id="NaN is there, and says nothing"),
        pytest.param([(40, 100), (50, math.inf), (60, 130)], 30, id="Inf too"),
        pytest.param([(40, 100), (60, 130), (50, 110)], 30, id="order does not matter"),
        pytest.param([(40, 100), (45, 105)], 0, id="nothing inside the window"),
        pytest.param([], 0, id="nothing at all"),
        pytest.param([(40, 100), (50, 110), (90, 500)], 10, id="what is after the window does not count"),
    ],
)
def test_growth_inside_the_window(samples: list[tuple[float, float]], grown: float) -> None:
    witness = Series(WITNESS.labels, (*WITNESS.samples, (45.0, 1.0))) if (45, 105) in samples else WITNESS
    assert growth(series(*samples), Window(45, 85), witness) == grown


def test_a_missed_scrape_is_not_a_restart() -> None:
    gap = [(40.0, 100.0), (50.0, 110.0), (80.0, 140.0)]
    witness = series((40, 1), (50, 1), (80, 1), server="v1-1.0.bb")
    assert growth(series(*gap), Window(45, 85), witness) == 40


def test_what_came_before_the_source_looked_does_not_count() -> None:
    """Prometheus itself began inside the window: the first value may be years old."""
    first = series((60, 1_000_000), (70, 1_000_010))
    scrapes = Scrapes.of([[first]])
    grown, known = increases(first, scrapes, Window(45, 85))
    assert sum(value for _, value in grown) == 10
    assert not known


def test_another_targets_scrapes_prove_nothing() -> None:
    other = Series({**WITNESS.labels, "instance": "elsewhere:1"}, WITNESS.samples)
    assert growth(series((60, 1_000_000), (70, 1_000_010)), Window(45, 85), other) == 10


def test_failed_requests_are_5xx_and_what_haproxy_answered_itself() -> None:
    times = [0.0, 10.0, 20.0]
    answer = [
        *counters("v2-4.0.aa", times, lambda at: (10 * at, at)),
        Series(labels("haproxy_server_connection_errors_total", "v2-4.0.aa"), ((0, 0), (10, 3), (20, 3))),
        Series(labels("haproxy_server_response_errors_total", "v2-4.0.aa"), ((0, 0), (10, 0), (20, 2))),
        Series(labels(NAME, "v2-4.0.aa", "4xx"), ((0, 0), (10, 0), (20, 50))),
    ]
    found = tally(answer, Scrapes.of([answer]), Window(0, 20))
    assert (found.failed, found.requests) == (20 + 3 + 2, 200 + 3 + 2 + 50)
    assert found.servers == {"v2-4.0.aa"}
    assert (found.dropped, found.cut, found.newest) == (0, 0, 20.0)
    assert sum(requests for requests, _ in found.blocks) == found.requests


def test_one_server_by_two_targets_keeps_its_share_and_says_so() -> None:
    times = [0.0, 10.0, 20.0]
    one = counters(server_of(NEW), times, lambda at: (10 * at, at))
    two = counters(server_of(NEW), [at + 1 for at in times], lambda at: (10 * at, at), instance="other:8405")
    alone = tally(one, Scrapes.of([one]), Window(0, 25))
    both = tally(one + two, Scrapes.of([one + two]), Window(0, 25))
    assert (alone.copies, both.copies) == (1, 2)
    assert both.share == pytest.approx(alone.share)
    assert copies(()) == 1


def test_the_scrape_interval_is_that_of_the_slowest_target() -> None:
    slow = series(*((float(at), 1.0) for at in range(0, 100, 15)), instance="slow:1")
    assert Scrapes.of([[WITNESS, slow]]).interval_seconds() == 15
    assert Scrapes.of([[WITNESS, slow]]).stale_seconds() == 45
    assert Scrapes.of([[series((1, 1))]]).interval_seconds() is None
    assert Scrapes.of([]).stale_seconds() == 30
