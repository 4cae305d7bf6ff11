"""Envoy's configuration as resources in JSON: bootstrap, listeners, routes, clusters, endpoints. Pure.

A cluster is a whole backend, so that one rename of one file moves its traffic from old to new members atomically. An
endpoint's server name is in its `hostname`, which Envoy shows at `/clusters`, and in its metadata, from which the counters
by server are named.

A cluster's name has a checksum of its configuration. With other health checks or another protocol it is another cluster
with the same endpoints: Envoy would forget the requests in flight of a cluster that is changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tidegate.core.container import Health
from tidegate.core.routing import EVERY_ADDRESS, Backend, BackendProtocol, split_listen
from tidegate.drivers.routers.envoy import stats
from tidegate.drivers.routers.members import bind_address
from tidegate.drivers.routers.options import EXPORTER_CONNECTIONS, LimitedRouterOptions, RouterOptions

Resource = dict[str, Any]

TYPE = "type.googleapis.com/"
LISTENER = f"{TYPE}envoy.config.listener.v3.Listener"
MANAGER = f"{TYPE}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
CONNECTION_LIMIT = f"{TYPE}envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit"
UPSTREAM = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
EXPORTER, ADMIN, BARRIER = "tidegate_exporter", "tidegate_admin", "tidegate_barrier"
HTTP2 = "HTTP2"
TUNNEL_TIMEOUT_SECONDS = 3600  # an upgraded connection without any data for this long is ended
IDLE_SECONDS = 1.5  # of connections to instances: shorter than the keep-alive timeouts of applications
MAX_REQUEST_CHECK_SECONDS = 1.25  # Envoy ends a check by a request, too, after `IDLE_SECONDS`
BYTES_PER_HEADER = 64  # so many headers are accepted that they have this size on average
MIN_HEADERS = 100
SERIES_RETENTION_SECONDS = 5400  # Envoy drops a series that was not counted in between two checks, this far apart
UNLIMITED = 1_000_000  # instead of Envoy's default of 1,024 concurrent requests, above which it answers 503


class EnvoyFiles:
    """The paths of the resource files. Envoy reads a file as soon as it is replaced."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bootstrap = directory / "bootstrap.json"
        self.admin, self.barrier = directory / "admin.sock", directory / "barrier.sock"
        self.clusters, self.listeners = directory / "clusters.json", directory / "listeners.json"

    def endpoints(self, backend: str) -> Path:
        """The file with the members of a backend."""
        return self.directory / f"endpoints-{backend}.json"

    def routes(self, backend: str) -> Path:
        """The file with the routes of a backend's listener."""
        return self.directory / f"routes-{backend}.json"


def render_document(resources: Sequence[Resource]) -> tuple[str, str]:
    """(version, text) of a file. The version is a hash of the content; Envoy reports the version that it applied."""
    version = hashlib.sha256(json.dumps(resources, sort_keys=True).encode()).hexdigest()[:16]
    return version, json.dumps({"version_info": version, "resources": resources}, indent=1) + "\n"


def _watched_path(path: Path) -> Resource:
    return {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}


def bootstrap_config(files: EnvoyFiles) -> str:
    """The bootstrap configuration; everything else is in the files that it names."""
    admin = {"pipe": {"path": str(files.admin), "mode": 0o600}}
    to_admin = {"cluster_name": ADMIN, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": admin}}]}]}
    whole = {
        "node": {"id": "tidegate", "cluster": "tidegate"},
        "admin": {"address": admin},
        "dynamic_resources": {"lds_config": _watched_path(files.listeners), "cds_config": _watched_path(files.clusters)},
        "static_resources": {
            "clusters": [{"name": ADMIN, "type": "STATIC", "connect_timeout": "2s", "load_assignment": to_admin}],
            "listeners": [_barrier(files.barrier)],
        },
        "stats_flush_interval": "1s",  # the maximum age of histograms when they are read
        "stats_eviction_interval": f"{SERIES_RETENTION_SECONDS}s",
        "stats_config": stats.STATS_CONFIG,
    }
    return json.dumps(whole, indent=1) + "\n"


def _barrier(path: Path) -> Resource:
    """The listener of `admin.EnvoyAdmin.barrier`, on which every worker thread answers by itself."""
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    listener = _listener(BARRIER, {"pipe": {"path": str(path), "mode": 0o600}}, _plain_manager(BARRIER, answer))
    return {**listener, "stat_prefix": BARRIER, "connection_balance_config": {"exact_balance": {}}}


def exporter_listener(listen: str) -> Resource:
    """The listener for Prometheus: Tidegate's counters, and nothing else of the admin API."""
    to_admin = {"cluster": ADMIN, "prefix_rewrite": stats.EXPORTER_PATH, "timeout": "10s"}
    manager = _plain_manager(EXPORTER, {"match": {"path": "/metrics"}, "route": to_admin})
    manager["request_headers_timeout"] = "5s"
    chain = _filter_chain(EXPORTER, manager, _connection_limit(EXPORTER, EXPORTER_CONNECTIONS))
    return {"@type": LISTENER, "name": EXPORTER, "address": parse_listen(listen), "filter_chains": [chain]}


def listener_name(backend: Backend) -> str:
    """The listener's name with its address, so that another `listen` is another listener."""
    return f"{backend.name}@{bind_address(backend.listen)}"


def listener_config(backend: Backend, files: EnvoyFiles, clients: RouterOptions) -> Resource:
    """The listener of a backend. Connections of trusted proxies have a filter chain of their own, which keeps what they say
    about their clients."""
    timeouts = backend.options.timeouts
    manager = {
        "stat_prefix": backend.name,
        "codec_type": "AUTO" if backend.options.protocol is BackendProtocol.H2C else "HTTP1",
        "rds": {"route_config_name": backend.name, "config_source": _watched_path(files.routes(backend.name))},
        "access_log": stats.ACCESS_LOGS,
        "access_log_options": stats.LOG_OPTIONS,
        "stream_idle_timeout": _duration(timeouts.response_seconds),
        "request_headers_timeout": _duration(timeouts.headers_seconds),
        "max_request_headers_kb": -(-clients.max_header_bytes // 1024),
        "common_http_protocol_options": {
            "idle_timeout": _duration(timeouts.idle_seconds),
            "max_headers_count": max(MIN_HEADERS, clients.max_header_bytes // BYTES_PER_HEADER),
        },
        "upgrade_configs": [{"upgrade_type": "websocket"}],
    }

    def chain(name: str, *mutations: Resource) -> Resource:
        kind = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
        headers = {"name": "headers", "typed_config": {"@type": TYPE + kind, "mutations": [*mutations, *_FORWARDED]}}
        return _filter_chain(name, _manager({**manager, "early_header_mutation_extensions": [headers]}))

    chains = [chain("untrusted", *({"remove": name} for name, _, _ in _FORWARDED_HEADERS))]
    if clients.trusted_proxies:
        ranges = [
            {"address_prefix": str(network.network_address), "prefix_len": network.prefixlen}
            for network in clients.trusted_proxies
        ]
        chains.insert(0, {**chain("trusted"), "filter_chain_match": {"source_prefix_ranges": ranges}})
    listener = {"name": listener_name(backend), "address": parse_listen(backend.listen), "filter_chains": chains}
    if clients.accept_proxy_protocol:
        kind = f"{TYPE}envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"
        listener["listener_filters"] = [{"name": "proxy_protocol", "typed_config": {"@type": kind}}]
    return {"@type": LISTENER, **listener}


_CLIENT = "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"
_FORWARDED_HEADERS = (
    ("x-forwarded-for", "ADD_IF_ABSENT", _CLIENT),
    ("x-forwarded-proto", "ADD_IF_ABSENT", "http"),
    ("x-forwarded-host", "ADD_IF_ABSENT", "%REQ(:AUTHORITY)%"),
    ("x-forwarded-port", "ADD_IF_ABSENT", "%DOWNSTREAM_LOCAL_PORT%"),
)


def _added_header(name: str, action: str, value: str) -> Resource:
    return {"header": {"key": name, "value": value}, "append_action": action}


#: Done to the headers of every request. Clients could set timeouts and retries with `x-envoy-…`.
_FORWARDED = (
    {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}},
    {"append": _added_header("x-forwarded-for", "OVERWRITE_IF_EXISTS", f"%REQ(X-FORWARDED-FOR)%, {_CLIENT}")},
    *({"append": _added_header(*header)} for header in _FORWARDED_HEADERS),
)


def _duration(seconds: float) -> str:
    """At least a millisecond: Envoy takes 0 for no limit."""
    return f"{max(seconds, 0.001):.3f}s"


def _listener(name: str, where: Resource, manager: Resource) -> Resource:
    return {"name": name, "address": where, "filter_chains": [_filter_chain(name, manager)]}


def _filter_chain(name: str, manager: Resource, *before: Resource) -> Resource:
    return {"name": name, "filters": [*before, {"name": "http", "typed_config": manager}]}


def limit_connections(listeners: Sequence[Resource], clients: LimitedRouterOptions, open_files: int) -> list[Resource]:
    """The listeners, each with room for its own connections: Envoy ends, with all services, when it has no file left."""
    each = clients.connections_per_address(sum(listener["name"] != EXPORTER for listener in listeners), open_files)

    def limited(listener: Resource) -> Resource:
        first = _connection_limit(listener["name"].partition("@")[0], each)
        chains = [{**chain, "filters": [first, chain["filters"][-1]]} for chain in listener["filter_chains"]]
        return listener if listener["name"] == EXPORTER else {**listener, "filter_chains": chains}

    return [limited(listener) for listener in listeners]


def _connection_limit(name: str, connections: int) -> Resource:
    """The filter that closes further connections at once."""
    return {
        "name": "connections",
        "typed_config": {"@type": CONNECTION_LIMIT, "stat_prefix": name, "max_connections": connections},
    }


def _manager(more: Mapping[str, Any]) -> Resource:
    """The HTTP connection manager, configured to pass requests and responses on unchanged."""
    router = {"@type": f"{TYPE}envoy.extensions.filters.http.router.v3.Router", "suppress_envoy_headers": True}
    return {
        "@type": MANAGER,
        "codec_type": "HTTP1",
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "localhost"},
        "server_header_transformation": "PASS_THROUGH",
        "generate_request_id": False,
        **more,
    }


def _plain_manager(name: str, route: Resource) -> Resource:
    return _manager({"stat_prefix": name, "route_config": {"name": name, "virtual_hosts": [_virtual_host(name, [route])]}})


def _virtual_host(name: str, routes: Sequence[Resource]) -> Resource:
    return {"name": name, "domains": ["*"], "routes": list(routes)}


def parse_listen(listen: str) -> Resource:
    """The address of a `listen` value. `8001` and `*:8001` mean all IPv4 addresses, `[::]:8001` all of IPv6 and IPv4."""
    host, port = split_listen(listen)
    address = socket_address(host, port)
    if host == EVERY_ADDRESS:
        address["socket_address"]["ipv4_compat"] = True
    return address


def socket_address(host: str, port: int) -> Resource:
    """A socket address as an Envoy resource."""
    return {"socket_address": {"address": host, "port_value": port}}


def routes_resource(backend: Backend) -> Resource:
    """The routes of a backend: requests with its preview's header go to the preview, all others to the backend."""
    to_all = _routes(backend)
    if backend.preview is not None and (inner := header_preview(backend)) is not None:
        name, _, value = backend.preview.header.partition(":")
        to_all[:0] = _routes(inner, {"name": name, "string_match": {"exact": value.strip()}})
    kind = f"{TYPE}envoy.config.route.v3.RouteConfiguration"
    return {"@type": kind, "name": backend.name, "virtual_hosts": [_virtual_host(backend.name, to_all)]}


def header_preview(backend: Backend) -> Backend | None:
    """The preview that shares the backend's address by a header; None if there is none."""
    return backend.preview_backend if backend.preview is not None and backend.preview.header else None


def _routes(backend: Backend, *headers: Resource) -> list[Resource]:
    """The routes of requests with these headers to a backend; upgraded connections may be silent for longer."""
    upgrade = {"name": "upgrade", "string_match": {"exact": "websocket", "ignore_case": True}}
    to_backend = _route(cluster_name(backend))
    tunnel = {**to_backend, "idle_timeout": f"{TUNNEL_TIMEOUT_SECONDS}s"}
    return [
        {"match": {"prefix": "/", "headers": [*headers, upgrade]}, "route": tunnel},
        {"match": {"prefix": "/", "headers": list(headers)}, "route": to_backend},
    ]


def _route(cluster: str) -> Resource:
    """A route without a limit of a whole request. Only a request that was not sent yet is retried, on another member."""
    others = f"{TYPE}envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    again = {
        "retry_on": "connect-failure,refused-stream,reset-before-request",
        "num_retries": 3,
        "retry_back_off": {"base_interval": "0.01s", "max_interval": "0.1s"},
        "retry_host_predicate": [{"name": "others", "typed_config": {"@type": others}}],
        "host_selection_retry_max_attempts": 3,
    }
    return {"cluster": cluster, "timeout": "0s", "retry_policy": again}


def cluster_name(backend: Backend) -> str:
    """The name of the cluster with the options of a backend."""
    checksum = hashlib.sha256(json.dumps(_cluster_options(backend), sort_keys=True).encode()).hexdigest()
    return f"{backend.name}~{checksum[:8]}"


def backend_of(cluster: str) -> str:
    """The name of the backend of a cluster."""
    return cluster.rpartition("~")[0]


def cluster_config(backend: Backend, files: EnvoyFiles) -> Resource:
    """The cluster of a backend. Requests go to endpoints that take new ones, also if none of these is healthy; never to
    draining ones. Changes apply at once."""
    source = {"eds_config": _watched_path(files.endpoints(backend.name)), "service_name": backend.name}
    return {
        "@type": f"{TYPE}envoy.config.cluster.v3.Cluster",
        "name": cluster_name(backend),
        "alt_stat_name": backend.name,
        "eds_cluster_config": source,
        **_cluster_options(backend),
    }


def _cluster_options(backend: Backend) -> Resource:
    is_h2c = backend.options.protocol is BackendProtocol.H2C
    protocol = {
        "@type": TYPE + UPSTREAM,
        "explicit_http_config": {"http2_protocol_options" if is_h2c else "http_protocol_options": {}},
        "common_http_protocol_options": {"idle_timeout": _duration(IDLE_SECONDS)},
    }
    limits = {
        "max_connections": UNLIMITED,
        "max_pending_requests": UNLIMITED,
        "max_requests": UNLIMITED,
        "max_retries": UNLIMITED,
    }
    return {
        "type": "EDS",
        "connect_timeout": "2s",
        "lb_policy": "ROUND_ROBIN",
        "lb_subset_config": {
            "fallback_policy": "DEFAULT_SUBSET",
            "default_subset": TAKES_NEW_SUBSET,
            "subset_selectors": [{"keys": list(TAKES_NEW_SUBSET)}],  # required; no route selects by it
        },
        "common_lb_config": {
            "healthy_panic_threshold": {"value": 1},  # while no endpoint of the subset is healthy, all of it is used
            "update_merge_window": "0s",
            "ignore_new_hosts_until_first_hc": True,  # Envoy then shows which endpoints have not been checked yet
        },
        "ignore_health_on_host_removal": True,  # else a removed endpoint is used until a check fails
        "circuit_breakers": {"thresholds": [limits]},
        "typed_extension_protocol_options": {UPSTREAM: protocol},
        **_health_checks(backend.options.health, is_h2c=is_h2c),
    }


TAKES_NEW_SUBSET = {"takes_new": "yes"}  # of an endpoint's metadata
TLS_CHECK = {"tidegate": "tls"}


def _health_checks(health: Health, *, is_h2c: bool) -> Resource:
    """The health checks of a cluster: by a request, or by a connection without a path, or where a request may take longer
    than Envoy would wait for its response."""
    check: Resource = {
        "timeout": _duration(health.timeout_seconds),
        "interval": _duration(health.interval_seconds),
        "no_traffic_interval": _duration(health.interval_seconds),
        "unhealthy_edge_interval": _duration(health.interval_seconds / 2),  # after a failure that does not decide yet
        "unhealthy_threshold": health.unhealthy_threshold,
        "healthy_threshold": health.healthy_threshold,
        "reuse_connection": False,  # whether it accepts connections is part of the check
    }
    if not health.path or health.timeout_seconds > MAX_REQUEST_CHECK_SECONDS:
        return {"health_checks": [{**check, "tcp_health_check": {}}]}
    request = {
        "path": health.path,
        "host": health.host,
        "expected_statuses": [{"start": first, "end": last + 1} for first, last in health.expect],
        "retriable_statuses": [{"start": 100, "end": 600}],  # any other one is a failure like all others, not a final one
        "codec_client_type": HTTP2 if is_h2c else "HTTP1",
        "request_headers_to_add": [
            _added_header(name, "OVERWRITE_IF_EXISTS_OR_ADD", value.replace("%", "%%")) for name, value in health.headers
        ],
    }
    checks = {"health_checks": [{**check, "http_health_check": request}]}
    if health.scheme != "https":
        return checks
    tls = {"@type": f"{TYPE}envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"}
    socket = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    return {
        "health_checks": [{**checks["health_checks"][0], "transport_socket_match_criteria": TLS_CHECK}],
        "transport_socket_matches": [{"name": "tls check", "match": TLS_CHECK, "transport_socket": socket}],
    }
