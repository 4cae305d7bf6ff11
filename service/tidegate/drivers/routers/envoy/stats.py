"""What Envoy counts for us: each request once, when it is over, by backend, server and how it ended.

Envoy has no such counters of its own: those by cluster know no server, those by endpoint neither status nor histogram, and
both count the answers that Envoy made up as the application's. So its access log is one that counts.

How a request ended: `1xx` to `5xx` is what the application answered; `lost` is a request without a whole answer of the
application: refused, reset, broken off, nobody there. A client that went away before is nobody's fault, and not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tidegate.core.routing import Traffic

TYPE = "type.googleapis.com/"
PREFIX = "tidegate"
LOST, ERRORS = "lost", "5xx"
LOGGER, CONFIG = "envoy.access_loggers.stats", "envoy.extensions.access_loggers.stats.v3.Config"
SCOPE = {"prefix": PREFIX, "enable_eviction": True}
EXPORTER_PATH = f"/stats/prometheus?usedonly&filter=^({PREFIX}%5C.response|server%5C.live$)"
STATS_PATH = f"/stats/prometheus?usedonly&filter=^{PREFIX}%5C.(responses_total|requests_total|tunnels)"
#: Microseconds; the same bounds as those of the histogram that is made from HAProxy's log.
BUCKET_BOUNDS = [1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000, 10000]
STATS_CONFIG = {
    "histogram_bucket_settings": [
        {"match": {"prefix": f"{PREFIX}.response_"}, "buckets": [1000 * bound for bound in BUCKET_BOUNDS]},
    ]
}
#: A tunnel ends when either side closes it, whatever that is called.
COMPLETE_RESPONSE = "response.code_details == 'via_upstream' || response.code == 101"
BROKEN_RESPONSE = f"!({COMPLETE_RESPONSE}) && !response.code_details.startsWith('downstream_')"
_AT_THE_END = {"log_type_filter": {"types": ["DownstreamEnd"]}}  # and not when a tunnel begins, too

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
    """One that counts requests which ended like this; by server, and in sums that outlive the servers."""
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
    """One that knows how many connections are upgraded ones now."""
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
    """How requests ended: all that the backend was sent, and by release; and the tunnels that are open now, by server."""

    total: Traffic = NO_TRAFFIC
    by_release: dict[str, Traffic] = field(default_factory=dict)
    tunnels: dict[str, int] = field(default_factory=dict)


def parse_stats(exported: str, backend: str) -> BackendStats:
    """From Envoy's counters."""
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
    elif release:  # empty where nobody was there to be sent it
        stats.by_release[release] = _add_traffic(stats.by_release.get(release, NO_TRAFFIC), one)


def _add_traffic(one: Traffic, other: Traffic) -> Traffic:
    return Traffic(one.requests + other.requests, one.lost + other.lost, one.errors + other.errors)
