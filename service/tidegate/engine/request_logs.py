"""Counts the request logs of the proxies that have no histogram of response times, and exports the counts to Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tidegate.analysis.queries import (
    COUNTED_RESPONSES,
    ENVIRONMENT_LABEL,
    OWN_HISTOGRAM_QUERY,
    REQUEST_LOG_UP,
    RESPONSE_SECONDS,
    histogram_query,
)
from tidegate.clock import Time, Window
from tidegate.core.response_counts import BUCKET_BOUNDS_MS, LoggedRouter, RequestLog, ResponseCounts, ResponseTimes
from tidegate.engine.background import BackgroundThread
from tidegate.errors import DriverError
from tidegate.ports import CheckStatus, Clock, Diagnosis, MetricsSource, Router

logger = structlog.get_logger("tidegate.engine")

POLL_SECONDS = 0.25  # a pipe of 1 MiB then holds the lines of 80,000 requests per second
HISTOGRAM = "latency"  # the part in `tidegate check`
LABELS = [f"{1e-3 * bound:g}" for bound in BUCKET_BOUNDS_MS] + ["+Inf"]


def check_histogram(router: Router, source: MetricsSource, environment: str, now: Time) -> Diagnosis:
    """Whether Prometheus scrapes a histogram of response times. Never raises."""
    log = router.request_log if isinstance(router, LoggedRouter) else None
    if isinstance(router, LoggedRouter) and log is None:
        fix = "remove `log` from the router's settings; in mode adopted, set it as docs/latency.md describes"
        return Diagnosis(HISTOGRAM, CheckStatus.WARNING, "the proxy has no log of its requests", fix)
    query = histogram_query(environment) if log is not None else OWN_HISTOGRAM_QUERY
    try:
        series = source.fetch(query, Window(now - 1.0, now))
    except DriverError as error:
        fix = "see the line `prometheus` of `tidegate check`"
        return Diagnosis(HISTOGRAM, CheckStatus.WARNING, f"the metrics source does not answer: {error.message}", fix)
    if log is not None and not series:
        text = "Prometheus does not scrape the engine, which has the response times"
        fix = (
            "add the address of `tidegate serve --with-engine`, or `engine.metrics_listen` of `tidegate engine`, to "
            "scrape_configs (docs/latency.md)"
        )
        return Diagnosis(HISTOGRAM, CheckStatus.WARNING, text, fix)
    if log is not None and not any(value for each in series for _, value in each.samples):
        fix = "see the log of the engine, and whether one runs on the machine of the proxy"
        return Diagnosis(HISTOGRAM, CheckStatus.WARNING, "no engine counts the log of the proxy's requests", fix)
    if not series:
        fix = "add the router's `exporter` to scrape_configs (docs/latency.md)"
        return Diagnosis(
            HISTOGRAM, CheckStatus.WARNING, "Prometheus does not scrape Envoy, which has the response times", fix
        )
    return Diagnosis(HISTOGRAM, CheckStatus.OK, "Prometheus scrapes the response times of the proxy's servers")


class RequestLogs(BackgroundThread, Collector):
    """Counts the logs, by environment, inside its `with` block. The metrics are in `registry` for as long.

    Each log is counted by one engine; the others take over when it ends.
    """

    def __init__(self, logs: Mapping[str, RequestLog], registry: CollectorRegistry, clock: Clock) -> None:
        super().__init__("request-logs")
        self._logs, self._registry, self._clock = logs, registry, clock
        self._errors: dict[str, str] = {}
        self._counting: set[str] = set()

    def _run(self) -> None:
        self._registry.register(self)
        try:
            while not self._stopping.is_set() and self._logs:
                for environment, log in self._logs.items():
                    self._poll(environment, log)
                self._stopping.wait(POLL_SECONDS)
        finally:
            self._registry.unregister(self)
            for log in self._logs.values():
                log.close()

    def _poll(self, environment: str, log: RequestLog) -> None:
        try:
            counting, error = log.poll(self._clock()), ""
        except DriverError as raised:
            counting, error = False, raised.message
        except Exception as raised:
            counting, error = False, f"{type(raised).__name__}: {raised}"
            if self._errors.get(environment) != error:
                logger.exception("counting the request log failed", environment=environment)
        if error and self._errors.get(environment) != error:
            logger.warning("cannot count the request log", environment=environment, error=error)
        self._errors[environment] = error
        (self._counting.add if counting else self._counting.discard)(environment)

    # -- metrics ------------------------------------------------------------------------------------------------------

    def describe(self) -> Iterable[Metric]:
        """No metric, so that registration reads nothing."""
        return []

    def collect(self) -> Iterable[Metric]:
        """All metrics."""
        server = [ENVIRONMENT_LABEL, "proxy", "server"]
        times = HistogramMetricFamily(
            RESPONSE_SECONDS.removesuffix("_bucket"),
            "Time until the response began, by server of the proxy.",
            labels=server,
        )
        responses = CounterMetricFamily(
            COUNTED_RESPONSES, "Responses by server of an nginx; 5xx also without one.", labels=[*server, "code"]
        )
        lines = CounterMetricFamily(
            "tidegate_request_log_lines_total",
            "Lines of the proxy's request log, by what they were.",
            labels=[ENVIRONMENT_LABEL, "result"],
        )
        up = GaugeMetricFamily(
            REQUEST_LOG_UP,
            "Whether this engine counts the request log, and whether it counts outcomes, too.",
            labels=[ENVIRONMENT_LABEL, "outcomes"],
        )
        for environment, log in self._logs.items():
            counting = environment in self._counting
            up.add_metric([environment, str(log.has_outcomes).lower()], float(counting))
            if counting:
                self._add(environment, log.counts(), times, responses, lines)
        return times, responses, lines, up

    @staticmethod
    def _add(
        environment: str,
        counts: ResponseCounts,
        times: HistogramMetricFamily,
        responses: CounterMetricFamily,
        lines: CounterMetricFamily,
    ) -> None:
        for server, counted in counts.times.items():
            times.add_metric([environment, *server], _buckets(counted), 1e-3 * counted.milliseconds)
        for server, outcomes in counts.outcomes.items():
            for outcome, number in outcomes.items():
                responses.add_metric([environment, *server, outcome], number)
        lines.add_metric([environment, "counted"], counts.counted)
        lines.add_metric([environment, "ignored"], counts.ignored)


def _buckets(times: ResponseTimes) -> list[tuple[str, float]]:
    return list(zip(LABELS, map(float, times.cumulative), strict=True))
