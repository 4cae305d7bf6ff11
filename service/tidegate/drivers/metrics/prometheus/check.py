"""Checks Prometheus for `tidegate check`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from tidegate.analysis import promql
from tidegate.analysis.queries import COUNTED_RESPONSES, ENVOY_RESPONSES, REQUEST_LOG_UP, RESPONSES, Series
from tidegate.drivers.error_translation import guard_response
from tidegate.drivers.metrics.prometheus import decode
from tidegate.errors import MetricsError
from tidegate.ports import CheckStatus, Diagnosis

PART = "prometheus"
SKEW_SECONDS = 2.0  # a larger difference between the clocks makes new samples look old
SLOW_SECONDS = 15.0  # a longer scrape interval delays every verdict
EXPORTER_QUERY = f'group by (job, instance) ({{__name__=~"{RESPONSES}|{COUNTED_RESPONSES}|{ENVOY_RESPONSES}"}})'
#: The series that a proxy exports even before the first server was added.
IDLE = "haproxy_(process_start_time_seconds|frontend_status|backend_status)|envoy_server_live"
IDLE_EXPORTER_QUERY = f'group by (job, instance) ({{__name__=~"{IDLE}"}} or {REQUEST_LOG_UP}{{outcomes="true"}})'

RunQuery = Callable[[str, float | None], tuple[str, Any]]


def check(url: str, ask: RunQuery, version: Callable[[], str], clock: Callable[[], float]) -> Sequence[Diagnosis]:
    """All diagnoses; only the first if Prometheus does not answer."""
    try:
        sent = clock()
        server_time = _time(ask)
        here = (sent + clock()) / 2
        named = version()
    except MetricsError as error:
        return (
            Diagnosis(
                PART,
                CheckStatus.WRONG,
                error.message,
                f"start Prometheus, or set `url` in the metrics settings (now {url})",
            ),
        )
    diagnoses = [
        Diagnosis(PART, CheckStatus.OK, f"{'Prometheus ' + named if named else 'a Prometheus API'} at {url}"),
        _skew(server_time - here),
    ]
    try:
        diagnoses += _exported(ask)
    except MetricsError as error:
        diagnoses.append(
            Diagnosis(
                f"{PART} exporter",
                CheckStatus.WRONG,
                error.message,
                "run the check again; if the error persists, see Prometheus' log",
            )
        )
    return tuple(diagnoses)


@guard_response(MetricsError, "Prometheus")
def _time(ask: RunQuery) -> float:
    return _series(ask("time()", None))[0].samples[0][1]


@guard_response(MetricsError, "Prometheus")
def _exported(ask: RunQuery) -> list[Diagnosis]:
    return list(_exporter(ask))


def _series(answer: tuple[str, Any]) -> tuple[Series, ...]:
    return decode.decode_series(*answer)


def _skew(seconds: float) -> Diagnosis:
    """The difference between Prometheus' clock and this machine's, measured by its function `time()`."""
    word = "ahead of" if seconds > 0 else "behind"
    if abs(seconds) <= SKEW_SECONDS:
        return Diagnosis(f"{PART} clock", CheckStatus.OK, f"within {SKEW_SECONDS:g} s of this machine's clock")
    fix = "synchronise the clocks of both machines (chrony, systemd-timesyncd)"
    return Diagnosis(f"{PART} clock", CheckStatus.WRONG, f"{abs(seconds):.1f} s {word} this machine's clock", fix)


def _exporter(ask: RunQuery) -> Iterator[Diagnosis]:
    """Whether Prometheus scrapes the proxy's exporter, and how often."""
    part = f"{PART} exporter"
    targets, message = _series(ask(EXPORTER_QUERY, None)), "scrapes the proxy's servers"
    if not targets:
        targets, message = _series(ask(IDLE_EXPORTER_QUERY, None)), "scrapes the proxy, which has no server yet"
    if not targets:
        fix = (
            "add HAProxy's prometheus-exporter, Envoy's `exporter`, or for nginx the /metrics of Tidegate's engine to "
            "Prometheus' scrape_configs; HAProxy with ?scope=server exports nothing before the first server is added"
        )
        problem = f"no data from a proxy's exporter ({RESPONSES}, {COUNTED_RESPONSES} or {ENVOY_RESPONSES})"
        yield Diagnosis(part, CheckStatus.WRONG, problem, fix, needs_rollout=True)
        return
    if len(targets) > 1:
        message += f" from {len(targets)} targets; if two of them are the same proxy, its requests are counted twice"
        yield Diagnosis(part, CheckStatus.WARNING, message, "scrape each proxy once")
    else:
        yield Diagnosis(part, CheckStatus.OK, message)
    for target in targets:
        yield _interval(ask, target)


def _interval(ask: RunQuery, target: Series) -> Diagnosis:
    """The median time between two scrapes of a target."""
    matchers = ",".join(f"{name}={promql.quote(value)}" for name, value in sorted(target.labels.items()))
    part, name = f"{PART} scrapes", target.labels.get("instance", "the exporter")
    times = sorted(at for series in _series(ask(f"up{{{matchers}}}[5m]", None)) for at, _ in series.samples)
    if len(times) < 2:
        fix = "wait for a second scrape; if there is none, see Prometheus' targets page"
        return Diagnosis(part, CheckStatus.WARNING, f"{name}: {len(times)} scrapes in the last 5 minutes", fix)
    seconds = statistics.median(later - earlier for earlier, later in pairwise(times))
    if seconds > SLOW_SECONDS:
        fix = f"set scrape_interval to between 1s and {SLOW_SECONDS:g}s: a verdict needs at least three scrapes"
        return Diagnosis(part, CheckStatus.WARNING, f"{name} is scraped every {seconds:.3g} s", fix)
    return Diagnosis(part, CheckStatus.OK, f"{name} is scraped every {seconds:.3g} s")
