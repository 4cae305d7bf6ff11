"""What Envoy is told, as its own resources in JSON: bootstrap, listeners, routes, clusters, endpoints.

A cluster is a whole backend, so that one rename of one file moves its traffic, new members in and old ones out: nobody ever
sees a half of it. Who an endpoint is stands in its `hostname`, which Envoy shows in its `/clusters`, and in its metadata,
from which the counters by server are named.
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
IDLE_TIMEOUT_SECONDS = 3600  # a request on which nothing moves for so long has no end
SERIES_RETENTION_SECONDS = 5400  # Envoy looks so often, and forgets a series when nothing was counted since the look before
UNLIMITED = 1_000_000  # in place of Envoy's own 1,024 requests at a time, beyond which it answers 503


class EnvoyFiles:
    """Where the resources are: a file is read by Envoy as soon as another is put in its place."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bootstrap = directory / "bootstrap.json"
        self.admin, self.barrier = directory / "admin.sock", directory / "barrier.sock"
        self.clusters, self.listeners = directory / "clusters.json", directory / "listeners.json"

    def endpoints(self, backend: str) -> Path:
        """The members of a backend."""
        return self.directory / f"endpoints-{backend}.json"

    def routes(self, backend: str) -> Path:
        """Where the requests at a backend's address go."""
        return self.directory / f"routes-{backend}.json"


def render_document(resources: Sequence[Resource]) -> tuple[str, str]:
    """(version, text) of a file. The version is made from the content, and Envoy tells which one it took."""
    version = hashlib.sha256(json.dumps(resources, sort_keys=True).encode()).hexdigest()[:16]
    return version, json.dumps({"version_info": version, "resources": resources}, indent=1) + "\n"


def _watched_path(path: Path) -> Resource:
    return {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}


def bootstrap_config(files: EnvoyFiles) -> str:
    """What Envoy is started with; all else follows from the files that it names."""
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
        "stats_flush_interval": "1s",  # histograms are as old as this when they are read
        "stats_eviction_interval": f"{SERIES_RETENTION_SECONDS}s",
        "stats_config": stats.STATS_CONFIG,
    }
    return json.dumps(whole, indent=1) + "\n"


def _barrier(path: Path) -> Resource:
    """Where each worker thread can be asked whether it has done what it was told before (`envoy_admin.Admin.barrier`)."""
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    listener = _listener(BARRIER, {"pipe": {"path": str(path), "mode": 0o600}}, _plain_manager(BARRIER, answer))
    return {**listener, "stat_prefix": BARRIER, "connection_balance_config": {"exact_balance": {}}}


def exporter_listener(listen: str) -> Resource:
    """Tidegate's counters, and nothing else of the admin interface, for Prometheus."""
    to_admin = {"cluster": ADMIN, "prefix_rewrite": stats.EXPORTER_PATH, "timeout": "10s"}
    manager = _plain_manager(EXPORTER, {"match": {"path": "/metrics"}, "route": to_admin})
    return {"@type": LISTENER, **_listener(EXPORTER, parse_listen(listen), manager)}


def listener_name(backend: Backend) -> str:
    """It has the address in it: another `listen` is another listener."""
    return f"{backend.name}@{bind_address(backend.listen)}"


def listener_config(backend: Backend, files: EnvoyFiles) -> Resource:
    """Where Envoy listens for a backend."""
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
    """Clients could tell Envoy by such headers when to give up, and to send a request twice."""
    name = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    removed = {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}}
    return {"name": "without-orders", "typed_config": {"@type": TYPE + name, "mutations": [removed]}}


def _listener(name: str, where: Resource, manager: Resource) -> Resource:
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return {"name": name, "address": where, "filter_chains": [chain]}


def _manager(more: Mapping[str, Any]) -> Resource:
    """Envoy's part for HTTP, made to pass on what it is given."""
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
    """`8001` and `*:8001` are every address of version 4."""
    host, _, port = bind_address(listen).rpartition(":")
    return socket_address("0.0.0.0" if host == "*" else host, int(port))


def socket_address(host: str, port: int) -> Resource:
    """An address in Envoy's words."""
    return {"socket_address": {"address": host, "port_value": port}}


def routes_resource(backend: Backend) -> Resource:
    """All requests go to the backend; those with the header of its preview to that."""
    to_all = [{"match": {"prefix": "/"}, "route": _route(backend.name)}]
    if backend.preview is not None and (inner := header_preview(backend)) is not None:
        name, _, value = backend.preview.header.partition(":")
        match = {"prefix": "/", "headers": [{"name": name, "string_match": {"exact": value.strip()}}]}
        to_all.insert(0, {"match": match, "route": _route(inner.name)})
    kind = f"{TYPE}envoy.config.route.v3.RouteConfiguration"
    return {"@type": kind, "name": backend.name, "virtual_hosts": [_virtual_host(backend.name, to_all)]}


def header_preview(backend: Backend) -> Backend | None:
    """The preview that is reached at the backend's own address, by a header; None without one."""
    return backend.previewed if backend.preview is not None and backend.preview.header else None


def _route(cluster: str) -> Resource:
    """No limit for an answer. Tried again, on another member, is only what was not sent yet."""
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
    """A backend. No change waits for another, and without a member that takes requests there is none that gets them."""
    protocol = {
        "@type": TYPE + UPSTREAM,
        "explicit_http_config": {"http_protocol_options": {}},
        "common_http_protocol_options": {"idle_timeout": "1.5s"},  # shorter than the applications' own
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
