"""Prometheus' JSON to series."""

from __future__ import annotations

from typing import Any

from tidegate.analysis.queries import Series
from tidegate.analysis.verdict import Reason
from tidegate.clock import Window
from tidegate.drivers.error_translation import MALFORMED
from tidegate.errors import MetricsError


def decode_series(kind: str, result: Any) -> tuple[Series, ...]:
    """The series of a result; raises `MetricsError` (bad-query) for text and native histograms, which are no numbers.

    Values come as strings, NaN and Inf too; a scalar comes as a bare pair.
    """
    if kind == "string":
        raise MetricsError("the query answers with text, not with a number", reason=Reason.BAD_QUERY, retryable=False)
    try:
        if kind == "scalar":
            return (Series({}, (_sample(result),)),)
        return tuple(_one(item) for item in result)
    except MALFORMED:
        raise MetricsError(
            f"Prometheus answered a {kind or 'result'} that cannot be read", reason=Reason.SOURCE_DOWN, retryable=False
        ) from None


def _one(item: Any) -> Series:
    if "histogram" in item or "histograms" in item:
        raise MetricsError(
            "the query answers with native histograms, not with numbers; apply histogram_quantile() or histogram_sum()",
            reason=Reason.BAD_QUERY,
            retryable=False,
        )
    samples = item["values"] if "values" in item else [item["value"]]
    return Series(dict(item["metric"]), tuple(_sample(sample) for sample in samples))


def _sample(pair: Any) -> tuple[float, float]:
    at, value = pair
    return float(at), float(value)


def clip_to_window(series: tuple[Series, ...], window: Window) -> tuple[Series, ...]:
    """Cut to the window, both ends included, whatever this version thinks of the ends of a range (3.0 changed it)."""
    cut = (
        Series(one.labels, tuple(sample for sample in one.samples if window.start <= sample[0] <= window.end))
        for one in series
    )
    return tuple(one for one in cut if one.samples)


def latest_samples(series: tuple[Series, ...]) -> tuple[Series, ...]:
    """One sample a series: the user may have asked for a range by himself."""
    return tuple(Series(one.labels, one.samples[-1:]) for one in series if one.samples)
