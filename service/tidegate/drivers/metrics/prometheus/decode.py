"""Decodes Prometheus' JSON results into series. Pure."""

from __future__ import annotations

from typing import Any

from tidegate.analysis.queries import Series
from tidegate.analysis.verdict import Reason
from tidegate.clock import Window
from tidegate.drivers.error_translation import MALFORMED
from tidegate.errors import MetricsError


def decode_series(kind: str, result: Any) -> tuple[Series, ...]:
    """The series of a result. Raises `MetricsError` (bad-query) for strings and native histograms.

    Prometheus sends values as strings, including NaN and Inf, and a scalar as one bare pair.
    """
    if kind == "string":
        raise MetricsError("The query returns a string; it must return numbers", reason=Reason.BAD_QUERY, retryable=False)
    try:
        if kind == "scalar":
            return (Series({}, (_sample(result),)),)
        return tuple(_one(item) for item in result)
    except MALFORMED:
        raise MetricsError(
            f"Cannot parse the {kind or 'result'} that Prometheus returned", reason=Reason.SOURCE_DOWN, retryable=False
        ) from None


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
