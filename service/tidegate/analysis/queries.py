"""The queries to the metrics source, and its results. Pure.

Counters are queried raw, never through `rate` or `increase`: those miss the first jump of a new series, and so the first
errors of a new instance. Raw samples are queried from before the last known one, so that no increase is lost, also after an
outage of the source. The history before the rollout is queried in steps of a minute.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tidegate.analysis import promql
from tidegate.analysis.verdict import Reason
from tidegate.clock import Time, Window
from tidegate.core.model import Check, Rollout

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Series:
    """Samples of one series: (time in seconds since the epoch, value), oldest first. NaN and Inf are kept."""

    labels: Labels
    samples: tuple[tuple[Time, float], ...]


#: Raw samples are queried from this long before the last known one: allows scrape intervals of up to a minute.
LOOKBACK_SECONDS = 120.0
#: The longest range of raw samples in one query; after a longer outage the oldest part is skipped.
MAX_RANGE_SECONDS = 3600.0
HISTORY_SECONDS = 7200.0
HISTORY_STEP_SECONDS = 60.0
RESPONSES = "haproxy_server_http_responses_total"
COUNTED_RESPONSES = "tidegate_responses_total"  # of proxies that do not count by server themselves; the same labels
CONNECTION_ERRORS = "haproxy_server_connection_errors_total"
RESPONSE_ERRORS = "haproxy_server_response_errors_total"
RESPONSE_SECONDS = "tidegate_response_seconds_bucket"
REQUEST_LOG_UP = "tidegate_request_log_up"
ENVIRONMENT_LABEL = (
    "tidegate_environment"  # of what engines count; not `environment`, which scrape configurations often set
)
ENVOY_RESPONSES = "envoy_tidegate_responses_total"  # Envoy puts its name before each of its metrics
ENVOY_RESPONSE_MICROSECONDS = "envoy_tidegate_response_microseconds_bucket"

#: One series if Prometheus scrapes a proxy that has a histogram of its own.
OWN_HISTOGRAM_QUERY = f'count({{__name__=~"{ENVOY_RESPONSE_MICROSECONDS}|envoy_server_live"}})'


class QueryPurpose(StrEnum):
    """What a query is for."""

    HISTORY = "history"  # counters before the rollout, in coarse steps
    SAMPLES = "samples"  # raw samples of counters, or of a gauge of each instance
    CANDIDATE = "candidate"  # one value of the new release
    BASELINE = "baseline"  # one value of the old release


@dataclass(frozen=True, slots=True)
class Query:
    """A query for the metrics source. `window`: the range; `step_seconds`: the resolution, 0 for raw samples."""

    check: str
    purpose: QueryPurpose
    query: str
    window: Window
    step_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class QueryFailure:
    """The result of a query without data: the reason, and a message."""

    reason: Reason
    message: str


QueryResult = tuple[Series, ...] | QueryFailure


def history_query(check: str, query: str, origin: Time) -> Query:
    """The query for the two hours before the rollout."""
    return Query(check, QueryPurpose.HISTORY, query, Window(origin - HISTORY_SECONDS, origin), HISTORY_STEP_SECONDS)


def samples_query(check: str, query: str, known_until: Time, now: Time) -> Query:
    """The query for the samples since `known_until`, and a little before."""
    start = max(known_until - LOOKBACK_SECONDS, now - MAX_RANGE_SECONDS)
    return Query(check, QueryPurpose.SAMPLES, query, Window(start, now))


def value_query(check: Check, part: QueryPurpose, rollout: Rollout, release: str, window: Window) -> Query:
    """The user's PromQL for one release, evaluated at the end of the window.

    `$service` is the Compose name of the service, `$window` whole seconds, at least one.
    """
    return Query(check.name, part, fill_query(check.query, rollout, release, window), window)


def fill_query(query: str, rollout: Rollout, release: str, window: Window) -> str:
    """The query with its placeholders replaced."""
    name = rollout.service.rpartition("/")[2]
    seconds = f"{max(1, math.ceil(window.seconds))}s"
    return promql.fill_placeholders(query, {"release": release, "service": name, "window": seconds})


def histogram_query(environment: str) -> str:
    """One series if Prometheus scrapes an engine with the request log of this environment: 1 if one of them counts it."""
    return f"max({REQUEST_LOG_UP}{{{ENVIRONMENT_LABEL}={promql.quote(environment)}}})"


def server_selector(names: Sequence[str], rollout: Rollout, releases: Sequence[str], more: str = "") -> str:
    """A selector for these metrics of all servers of these releases, which are named `<release>.<ordinal>.<instance>`.

    It is one query, so that all metrics come from the same scrapes. An engine counts for several environments, in which the
    names may be the same; a proxy's own exporter has no label for the environment.
    """
    assert rollout.backend is not None, "only a service with a proxy has checks of its requests"
    alternatives = "|".join(promql.escape_regex(release) for release in releases)
    server = rf"({alternatives})\.[0-9]+\.[a-z0-9]+"
    metric = "|".join(names)
    environment = f"|{promql.escape_regex(rollout.service.partition('/')[0])}"
    matchers = f"proxy={promql.quote(rollout.backend.name)},{ENVIRONMENT_LABEL}=~{promql.quote(environment)}"
    return f"{{__name__=~{promql.quote(metric)},{matchers},server=~{promql.quote(server)}{more}}}"
