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
        return tuple(_one(each) for each in result)
    except MALFORMED:
        raise MetricsError(
            f"Prometheus answered a {kind or 'result'} that cannot be read", reason=Reason.SOURCE_DOWN, retryable=False
        ) from None


def _one(found: Any) -> Series:
    if "histogram" in found or "histograms" in found:
        raise MetricsError(
            "the query answers with native histograms, not with numbers; apply histogram_quantile() or histogram_sum()",
            reason=Reason.BAD_QUERY,
            retryable=False,
        )
    samples = found["values"] if "values" in found else [found["value"]]
    return Series(dict(found["metric"]), tuple(_sample(sample) for sample in samples))


def _sample(pair: Any) -> tuple[float, float]:
    at, value = pair
    return float(at), float(value)


def clip_to_window(series: tuple[Series, ...], window: Window) -> tuple[Series, ...]:
    """Cut to the window, both ends included, whatever this version thinks of the ends of a range (3.0 changed it)."""
    cut = (
        Series(each.labels, tuple(sample for sample in each.samples if window.start <= sample[0] <= window.end))
        for each in series
    )
    return tuple(each for each in cut if each.samples)


def latest_samples(series: tuple[Series, ...]) -> tuple[Series, ...]:
    """One sample a series: the user may have asked for a range by himself."""
    return tuple(Series(each.labels, each.samples[-1:]) for each in series if each.samples)
