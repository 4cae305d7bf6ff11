"""Decodes Prometheus' JSON results into series. Pure."""

from __future__ import annotations

from typing import Any

from tidegate.analysis.queries import Series
from tidegate.analysis.verdict import Reason
from tidegate.clock import Window
from tidegate.drivers.error_translation import MALFORMED
from tidegate.drivers.metrics.prometheus.errors import NARROW
from tidegate.errors import MetricsError

MAX_SERIES = 10_000  # of one query
MAX_SAMPLES = 500_000  # of all its series


def decode_series(kind: str, result: Any) -> tuple[Series, ...]:
    """The series of a result. Raises `MetricsError` (bad-query) for strings, native histograms, and more series or samples
    than allowed.

    Prometheus sends values as strings, including NaN and Inf, and a scalar as one bare pair.
    """
    if kind == "string":
        raise MetricsError("The query returns a string; it must return numbers", reason=Reason.BAD_QUERY, retryable=False)
    try:
        if kind == "scalar":
            return (Series({}, (_sample(result),)),)
        _require_few("series", len(result), MAX_SERIES)
        _require_few("samples", sum(len(item.get("values", "1")) for item in result), MAX_SAMPLES)
        return tuple(_one(item) for item in result)
    except MALFORMED:
        raise MetricsError(
            f"Cannot parse the {kind or 'result'} that Prometheus returned", reason=Reason.SOURCE_DOWN, retryable=False
        ) from None


def _require_few(what: str, count: int, limit: int) -> None:
    if count > limit:
        text = f"The query returns {count:,} {what}; at most {limit:,} are allowed. {NARROW}"
        raise MetricsError(text, reason=Reason.BAD_QUERY, retryable=False)


def _one(item: Any) -> Series:
    if "histogram" in item or "histograms" in item:
        raise MetricsError(
            "The query returns native histograms; apply histogram_quantile() or histogram_sum() to get numbers",
            reason=Reason.BAD_QUERY,
            retryable=False,
        )
    samples = item["values"] if "values" in item else [item["value"]]
    return Series(dict(item["metric"]), tuple(_sample(sample) for sample in samples))


def _sample(pair: Any) -> tuple[float, float]:
    at, value = pair
    return float(at), float(value)


def clip_to_window(series: tuple[Series, ...], window: Window) -> tuple[Series, ...]:
    """Keep samples inside the window, both ends included. Prometheus 3.0 changed which ends a range includes."""
    cut = (
        Series(one.labels, tuple(sample for sample in one.samples if window.start <= sample[0] <= window.end))
        for one in series
    )
    return tuple(one for one in cut if one.samples)


def latest_samples(series: tuple[Series, ...]) -> tuple[Series, ...]:
    """Keep the last sample of each series: a user's query may return a range."""
    return tuple(Series(one.labels, one.samples[-1:]) for one in series if one.samples)
