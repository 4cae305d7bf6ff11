"""Envoy's configuration as resources in JSON: bootstrap, listeners, routes, clusters, endpoints. Pure.

A cluster is a whole backend, so that one rename of one file moves its traffic from old to new members atomically. An
endpoint's server name is in its `hostname`, which Envoy shows at `/clusters`, and in its metadata, from which the counters
by server are named.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tidegate.core.routing import Backend
from tidegate.drivers.routers.envoy import stats
from tidegate.drivers.routers.members import bind_address

Resource = dict[str, Any]

TYPE = "type.googleapis.com/"
LISTENER = f"{TYPE}envoy.config.listener.v3.Listener"
MANAGER = f"{TYPE}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
UPSTREAM = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
EXPORTER, ADMIN, BARRIER = "tidegate_exporter", "tidegate_admin", "tidegate_barrier"
IDLE_TIMEOUT_SECONDS = 3600  # a request without any data for this long is ended
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
    return {"@type": LISTENER, **_listener(EXPORTER, parse_listen(listen), manager)}


def listener_name(backend: Backend) -> str:
    """The listener's name with its address, so that another `listen` is another listener."""
    return f"{backend.name}@{bind_address(backend.listen)}"


def listener_config(backend: Backend, files: EnvoyFiles) -> Resource:
    """The listener of a backend."""
    manager = {
        "stat_prefix": backend.name,
        "rds": {"route_config_name": backend.name, "config_source": _watched_path(files.routes(backend.name))},
        "access_log": stats.ACCESS_LOGS,
        "access_log_options": stats.LOG_OPTIONS,
        "stream_idle_timeout": f"{IDLE_TIMEOUT_SECONDS}s",
        "request_headers_timeout": "60s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "early_header_mutation_extensions": [_ignored_headers()],
    }
    return {"@type": LISTENER, **_listener(listener_name(backend), parse_listen(backend.listen), _manager(manager))}


def _ignored_headers() -> Resource:
    """Remove `x-envoy-…` headers of clients, which could set timeouts and retries."""
    name = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    removed = {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}}
    return {"name": "without-orders", "typed_config": {"@type": TYPE + name, "mutations": [removed]}}


def _listener(name: str, where: Resource, manager: Resource) -> Resource:
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return {"name": name, "address": where, "filter_chains": [chain]}


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
    """The address of a `listen` value. `8001` and `*:8001` mean all IPv4 addresses."""
    host, _, port = bind_address(listen).rpartition(":")
    return socket_address("0.0.0.0" if host == "*" else host, int(port))


def socket_address(host: str, port: int) -> Resource:
    """A socket address as an Envoy resource."""
    return {"socket_address": {"address": host, "port_value": port}}


def routes_resource(backend: Backend) -> Resource:
    """The routes of a backend: requests with its preview's header go to the preview, all others to the backend."""
    to_all = [{"match": {"prefix": "/"}, "route": _route(backend.name)}]
    if backend.preview is not None and (inner := header_preview(backend)) is not None:
        name, _, value = backend.preview.header.partition(":")
        match = {"prefix": "/", "headers": [{"name": name, "string_match": {"exact": value.strip()}}]}
        to_all.insert(0, {"match": match, "route": _route(inner.name)})
    kind = f"{TYPE}envoy.config.route.v3.RouteConfiguration"
    return {"@type": kind, "name": backend.name, "virtual_hosts": [_virtual_host(backend.name, to_all)]}


def header_preview(backend: Backend) -> Backend | None:
    """The preview that shares the backend's address by a header; None if there is none."""
    return backend.preview_backend if backend.preview is not None and backend.preview.header else None


def _route(cluster: str) -> Resource:
    """A route without a response timeout. Only a request that was not sent yet is retried, on another member."""
    others = f"{TYPE}envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    again = {
        "retry_on": "connect-failure,refused-stream,reset-before-request",
        "num_retries": 3,
        "retry_back_off": {"base_interval": "0.01s", "max_interval": "0.1s"},
        "retry_host_predicate": [{"name": "others", "typed_config": {"@type": others}}],
        "host_selection_retry_max_attempts": 3,
    }
    return {"cluster": cluster, "timeout": "0s", "retry_policy": again}


def cluster_config(name: str, files: EnvoyFiles) -> Resource:
    """The cluster of a backend: changes apply at once, and without a healthy member no member receives requests."""
    protocol = {
        "@type": TYPE + UPSTREAM,
        "explicit_http_config": {"http_protocol_options": {}},
        "common_http_protocol_options": {"idle_timeout": "1.5s"},  # shorter than the keep-alive timeouts of applications
    }
    limits = {
        "max_connections": UNLIMITED,
        "max_pending_requests": UNLIMITED,
        "max_requests": UNLIMITED,
        "max_retries": UNLIMITED,
    }
    return {
        "@type": f"{TYPE}envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _watched_path(files.endpoints(name))},
        "connect_timeout": "2s",
        "lb_policy": "ROUND_ROBIN",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
        "circuit_breakers": {"thresholds": [limits]},
        "typed_extension_protocol_options": {UPSTREAM: protocol},
    }
