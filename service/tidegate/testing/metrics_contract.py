"""The contract of every `ports.MetricsSource`: inherit `MetricsContract`, give the two fixtures, and pytest runs it.

    class TestMine(MetricsContract):
        @pytest.fixture
        def metrics(self): ...      # the subject
        @pytest.fixture
        def publish(self): ...      # (text) -> None: the source collects this text at least once

`publish` takes Prometheus' text format and returns when the source has stored it. Each test uses its own metric names, so
that one source may serve all tests.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable

import pytest

from tidegate.analysis.counters import Counters
from tidegate.analysis.queries import Series
from tidegate.analysis.verdict import Reason
from tidegate.clock import Window
from tidegate.errors import MetricsError
from tidegate.ports import MetricsSource
from tidegate.testing.wait import wait_until

Publish = Callable[[str], None]


def since(start: float) -> Window:
    """From then until now."""
    return Window(start, time.time())


def counter_increases(series: tuple[Series, ...], window: Window) -> dict[str, float]:
    """How much each counter grew, by its `part` label; all of one target."""
    found: dict[str, float] = {}
    for each in Counters().add([Series({"server": each.labels["part"]}, each.samples) for each in series]):
        if window.start < each.at <= window.end:
            found[each.labels["server"]] = found.get(each.labels["server"], 0.0) + each.amount
    return found


class MetricsContract:
    """What a source of metrics has to do."""

    @pytest.fixture
    def name(self) -> str:
        """A metric name that no other test has."""
        return f"contract_{uuid.uuid4().hex[:8]}_total"

    def test_a_name_that_nothing_has_is_an_empty_answer(self, metrics: MetricsSource, name: str) -> None:
        assert metrics.fetch(name, since(time.time() - 60)) == ()
        assert metrics.fetch(f"sum({name})", since(time.time() - 60)) == ()

    def test_a_selector_gives_the_raw_samples_with_all_labels(
        self, metrics: MetricsSource, publish: Publish, name: str
    ) -> None:
        start = time.time()
        for value in (5, 7, 7.5):
            publish(f'{name}{{part="a"}} {value}\n')
        (series,) = metrics.fetch(f'{name}{{part="a"}}', since(start))
        assert series.labels["part"] == "a"
        assert series.labels["__name__"] == name
        values = [value for _, value in series.samples]
        assert values == sorted(values)
        assert set(values) == {5.0, 7.0, 7.5}
        assert [at for at, _ in series.samples] == sorted({at for at, _ in series.samples})
        assert all(start - 1 <= at <= time.time() for at, _ in series.samples)

    def test_only_samples_inside_the_window_come(self, metrics: MetricsSource, publish: Publish, name: str) -> None:
        start = time.time()
        publish(f'{name}{{part="a"}} 1\n')
        publish(f'{name}{{part="a"}} 2\n')
        (whole,) = metrics.fetch(name, since(start))
        first, last = whole.samples[0][0], whole.samples[-1][0]
        (both_ends,) = metrics.fetch(name, Window(first, last))
        assert both_ends.samples == whole.samples
        (without_first,) = metrics.fetch(name, Window(first + 0.001, last))
        assert without_first.samples == whole.samples[1:]
        (without_last,) = metrics.fetch(name, Window(first, last - 0.001))
        assert without_last.samples == whole.samples[:-1]
        assert metrics.fetch(name, Window(first - 20, first - 10)) == ()

    def test_an_expression_gives_one_value_at_the_windows_end(
        self, metrics: MetricsSource, publish: Publish, name: str
    ) -> None:
        start = time.time()
        publish(f'{name}{{part="a"}} 2\n{name}{{part="b"}} 3\n')
        window = since(start)
        (series,) = metrics.fetch(f"sum({name}) * 10", window)
        ((at, value),) = series.samples
        assert value == 50.0
        assert at == pytest.approx(window.end, abs=0.002)
        assert len(metrics.fetch(f"{name} * 1", window)) == 2

    def test_in_steps_there_is_a_value_at_each_multiple(self, metrics: MetricsSource, publish: Publish, name: str) -> None:
        start = time.time()
        publish(f'{name}{{part="a"}} 2\n')

        def stored() -> float:
            """How many seconds the samples span."""
            return sum(series.samples[-1][0] - series.samples[0][0] for series in metrics.fetch(name, since(start)))

        wait_until(lambda: stored() >= 1.6, observed=stored)
        first = metrics.fetch(name, since(start))[0].samples[0][0]
        window = Window(first, first + 1.6)
        for query, value in ((name, 2.0), (f"sum({name}) * 10  # all", 20.0)):
            (series,) = metrics.fetch(query, window, 0.5)
            assert 2 <= len(series.samples) <= 4
            assert {number for _, number in series.samples} == {value}
            assert all(round(at / 0.5, 6) == round(at / 0.5) for at, _ in series.samples)

    def test_a_scalar_is_one_series_without_labels(self, metrics: MetricsSource) -> None:
        (series,) = metrics.fetch("scalar(vector(4)) + 1", since(time.time() - 1))
        assert dict(series.labels) == {}
        assert [value for _, value in series.samples] == [5.0]

    def test_nan_and_inf_are_kept(self, metrics: MetricsSource, publish: Publish, name: str) -> None:
        start = time.time()
        publish(f'{name}{{part="a"}} NaN\n{name}{{part="b"}} +Inf\n{name}{{part="c"}} -Inf\n')
        found = {each.labels["part"]: each.samples[-1][1] for each in metrics.fetch(name, since(start))}
        assert math.isnan(found["a"])
        assert (found["b"], found["c"]) == (math.inf, -math.inf)
        ((_, value),) = metrics.fetch(f'sum({name}{{part="a"}}) / 0', since(start))[0].samples
        assert math.isnan(value)

    def test_labels_with_any_character_come_back(self, metrics: MetricsSource, publish: Publish, name: str) -> None:
        start, odd = time.time(), 'a "b" \\ c{}=,$é'
        label = odd.replace("\\", "\\\\").replace('"', '\\"')
        publish(f'{name}{{part="{label}"}} 1\n')
        (series,) = metrics.fetch(name, since(start))
        assert series.labels["part"] == odd

    def test_white_space_and_comments_of_a_query_are_kept(
        self, metrics: MetricsSource, publish: Publish, name: str
    ) -> None:
        start = time.time()
        publish(f'{name}{{part="a"}} 2\n')
        (series,) = metrics.fetch(f"# raw\n{name}{{ part = 'a' }} # all of it", since(start))
        assert {value for _, value in series.samples} == {2.0}
        (summed,) = metrics.fetch(f"sum( # both\n  {name}\n) + 1 # one more", since(start))
        assert summed.samples[-1][1] == 3.0

    @pytest.mark.parametrize("query", ["sum(", "nonsense{", "rate(up)", "a b", ""])
    def test_what_is_no_query_is_refused_for_good(self, metrics: MetricsSource, query: str) -> None:
        with pytest.raises(MetricsError) as caught:
            metrics.fetch(query, since(time.time() - 10))
        assert caught.value.reason == Reason.BAD_QUERY
        assert not caught.value.retryable

    def test_counters_are_differenced_with_resets_gaps_and_new_series(
        self, metrics: MetricsSource, publish: Publish, name: str
    ) -> None:
        def text(**parts: int) -> str:
            return "".join(f'{name}{{part="{part}"}} {value}\n' for part, value in parts.items())

        publish(text(steady=100, reset=100, back=5))
        start = time.time()
        publish(text(steady=110, reset=120, back=8))
        publish(text(steady=120, reset=4, new=40))  # reset: restarted; back: missing; new: first sample is 40
        publish(text(steady=125, reset=6, new=41, back=9))  # back: restarted, although 9 is more than 8
        window = since(start)
        found = counter_increases(metrics.fetch(name, Window(start - 60, window.end)), window)
        assert found == {"steady": 25.0, "reset": 20.0 + 6.0, "new": 41.0, "back": 3.0 + 9.0}
