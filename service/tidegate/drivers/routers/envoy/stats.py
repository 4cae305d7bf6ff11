"""Request counters in Envoy: each request once, when it ends, by backend, server and outcome.

Envoy's own counters are not enough: those by cluster have no server, those by endpoint neither status nor histogram, and
both count responses that Envoy generated as the application's. The counters here are made by access loggers instead.

Outcomes: `1xx` to `5xx` is the status of the application's response. `lost` is a request without a complete response of
the application: refused, reset, broken off, or no member. A request whose client disconnected first is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tidegate.core.response_counts import BUCKET_BOUNDS_MS
from tidegate.core.routing import Traffic

TYPE = "type.googleapis.com/"
PREFIX = "tidegate"
LOST, ERRORS = "lost", "5xx"
LOGGER, CONFIG = "envoy.access_loggers.stats", "envoy.extensions.access_loggers.stats.v3.Config"
SCOPE = {"prefix": PREFIX, "enable_eviction": True}
EXPORTER_PATH = f"/stats/prometheus?usedonly&filter=^({PREFIX}%5C.response|server%5C.live$)"
STATS_PATH = f"/stats/prometheus?usedonly&filter=^{PREFIX}%5C.(responses_total|requests_total|tunnels)"
STATS_CONFIG = {
    "histogram_bucket_settings": [
        {"match": {"prefix": f"{PREFIX}.response_"}, "buckets": [1000 * bound for bound in BUCKET_BOUNDS_MS]},
    ]
}
#: An upgraded connection (101) may be closed by either side and is complete in any case.
COMPLETE_RESPONSE = "response.code_details == 'via_upstream' || response.code == 101"
BROKEN_RESPONSE = f"!({COMPLETE_RESPONSE}) && !response.code_details.startsWith('downstream_')"
_AT_THE_END = {"log_type_filter": {"types": ["DownstreamEnd"]}}  # not also when an upgraded connection begins

NO_TRAFFIC = Traffic(0, 0, 0)

_PROXY = {"name": "proxy", "value_format": "%UPSTREAM_CLUSTER%"}
_SERVER = {"name": "server", "value_format": f"%METADATA(UPSTREAM_HOST:{PREFIX}:server)%"}


def _expression_filter(expression: str) -> dict[str, Any]:
    kind = f"{TYPE}envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
    return {"extension_filter": {"name": "cel", "typed_config": {"@type": kind, "expression": expression}}}


def _status(operator: str, bound: int) -> dict[str, Any]:
    value = {"default_value": bound, "runtime_key": "tidegate.never_set"}
    return {"status_code_filter": {"comparison": {"op": operator, "value": value}}}


def _counter(name: str, *tags: Mapping[str, str]) -> dict[str, Any]:
    return {"stat": {"name": name, "tags": list(tags)}, "value_fixed": 1}


def _log(code: str, *only: Mapping[str, Any], timed: bool) -> dict[str, Any]:
    """An access logger that counts matching requests by server, and in sums that outlive the servers.

    `timed`: also record the seconds to the first byte of the response in a histogram.
    """
    how = {"name": "code", "value_format": code}
    counts: dict[str, Any] = {
        "@type": f"{TYPE}{CONFIG}",
        "stats_scope": SCOPE,
        "counters": [_counter("responses_total", _PROXY, _SERVER, how), _counter("requests_total", _PROXY, how)],
    }
    if timed:
        took = "%COMMON_DURATION(DS_RX_BEG:US_RX_BEG:us)%"
        stat = {"name": "response_microseconds", "tags": [_PROXY, _SERVER]}
        counts["histograms"] = [{"stat": stat, "unit": "Microseconds", "value_format": took}]
    return {"name": LOGGER, "filter": {"and_filter": {"filters": [_AT_THE_END, *only]}}, "typed_config": counts}


def _response_log(hundreds: int) -> dict[str, Any]:
    bounds = _status("GE", 100 * hundreds), _status("LE", 100 * hundreds + 99)
    return _log(f"{hundreds}xx", *bounds, _expression_filter(COMPLETE_RESPONSE), timed=True)


def _upgraded_connection_log() -> dict[str, Any]:
    """An access logger with a gauge of currently open upgraded connections."""
    during = {"add_log_type": "DownstreamTunnelSuccessfullyEstablished", "sub_log_type": "DownstreamEnd"}
    gauge = {"stat": {"name": "tunnels", "tags": [_PROXY, _SERVER]}, "value_fixed": 1, "add_subtract": during}
    return {"name": LOGGER, "typed_config": {"@type": f"{TYPE}{CONFIG}", "stats_scope": SCOPE, "gauges": [gauge]}}


ACCESS_LOGS = [
    *(_response_log(hundreds) for hundreds in range(1, 6)),
    _log(LOST, _expression_filter(BROKEN_RESPONSE), timed=False),
    _upgraded_connection_log(),
]
LOG_OPTIONS = {"flush_log_on_tunnel_successfully_established": True}


@dataclass
class BackendStats:
    """Outcomes of a backend's requests, in total and by release, and its open upgraded connections by server name."""

    total: Traffic = NO_TRAFFIC
    by_release: dict[str, Traffic] = field(default_factory=dict)
    tunnels: dict[str, int] = field(default_factory=dict)


def parse_stats(exported: str, backend: str) -> BackendStats:
    """The statistics of a backend from Envoy's metrics in Prometheus' text format."""
    stats = BackendStats()
    for family in text_string_to_metric_families(exported):
        for sample in family.samples:
            if sample.labels.get("proxy") == backend:
                _add_count(stats, sample.name.removeprefix(f"envoy_{PREFIX}_"), sample.labels, int(sample.value))
    return stats


def _add_count(stats: BackendStats, name: str, labels: Mapping[str, str], number: int) -> None:
    code, server = labels.get("code", ""), labels.get("server", "")
    one = Traffic(number, number * (code == LOST), number * (code == ERRORS))
    release = server.partition(".")[0]
    if name == "tunnels":
        stats.tunnels[server] = number
    elif name == "requests_total":
        stats.total = _add_traffic(stats.total, one)
    elif release:  # empty for a request without any member
        stats.by_release[release] = _add_traffic(stats.by_release.get(release, NO_TRAFFIC), one)


def _add_traffic(one: Traffic, other: Traffic) -> Traffic:
    return Traffic(one.requests + other.requests, one.lost + other.lost, one.errors + other.errors)
