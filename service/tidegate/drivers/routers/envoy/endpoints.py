"""The members of a backend in the file that Envoy reads."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tidegate.core.routing import Backend, Member
from tidegate.drivers.routers.atomic_files import read
from tidegate.drivers.routers.envoy import config, stats
from tidegate.drivers.routers.envoy.admin import DRAINING, TAKES_NEW, UpstreamHost
from tidegate.drivers.routers.members import header_problems, member_problems, parse_endpoint, server_name
from tidegate.errors import RouterError


@dataclass(frozen=True)
class Endpoint:
    """One member in the file."""

    name: str
    address: str
    state: str
    weight: int

    def resource(self, health_host: str) -> config.Resource:
        """The endpoint as an Envoy resource. `health_host`: sent with health checks; empty: the address."""
        host, port = parse_endpoint(self.address) or ("", 0)
        takes_new = {"envoy.lb": config.TAKES_NEW_SUBSET} if self.state == TAKES_NEW else {}
        return {
            "health_status": self.state,
            "load_balancing_weight": self.weight,
            "endpoint": {
                "hostname": self.name,
                "address": config.socket_address(host, port),
                "health_check_config": {"hostname": health_host or self.address},
            },
            "metadata": {"filter_metadata": {stats.PREFIX: {"server": self.name}, **takes_new}},
        }


def endpoint_of_host(host: UpstreamHost, state: str) -> Endpoint:
    """An endpoint that Envoy has, in another health state."""
    return Endpoint(host.name, host.address, state, host.weight)


def endpoint_of_member(member: Member) -> Endpoint:
    """The endpoint of a member that takes new requests."""
    host, port = parse_endpoint(member.address) or ("", 0)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Endpoint(server_name(member), address, TAKES_NEW, member.weight)


def endpoint_resource(backend: Backend, endpoints: Iterable[Endpoint]) -> config.Resource:
    """The resource with all endpoints of a backend."""
    ordered = sorted(endpoints, key=lambda endpoint: endpoint.name)
    kind = f"{config.TYPE}envoy.config.endpoint.v3.ClusterLoadAssignment"
    groups = [{"lb_endpoints": [endpoint.resource(backend.options.health.host) for endpoint in ordered]}]
    return {"@type": kind, "cluster_name": backend.name, "endpoints": groups}


def read_endpoints(path: Path) -> dict[str, Endpoint]:
    """The endpoints in the file, by name; empty if there is no file."""
    endpoints: dict[str, Endpoint] = {}
    for assignment in read_resources(path):
        for item in (one for group in assignment.get("endpoints", []) for one in group.get("lb_endpoints", [])):
            where, name = item["endpoint"]["address"]["socket_address"], item["endpoint"]["hostname"]
            host = f"[{where['address']}]" if ":" in where["address"] else where["address"]
            state, weight = item.get("health_status", TAKES_NEW), int(item.get("load_balancing_weight", 1))
            endpoints[name] = Endpoint(name, f"{host}:{where['port_value']}", state, weight)
    return endpoints


def read_resources(path: Path) -> list[config.Resource]:
    """The resources in a file. Raises `RouterError` if Tidegate cannot have written it."""
    text = read(path)
    try:
        resources: list[config.Resource] = json.loads(text)["resources"] if text else []
    except (ValueError, KeyError, TypeError) as error:
        raise RouterError(f"Cannot parse {path}: {error}. Remove it; Tidegate writes it again.", retryable=False) from error
    return resources


def routed_clusters(files: config.EnvoyFiles) -> set[str]:
    """The clusters that a route leads to."""
    hosts = (
        host
        for path in files.directory.glob("routes-*.json")
        for resource in read_resources(path)
        for host in resource["virtual_hosts"]
    )
    return {str(route["route"]["cluster"]) for host in hosts for route in host["routes"]}


def target_endpoints(members: Collection[Member], present: Mapping[str, Endpoint]) -> list[Endpoint]:
    """The members, and all other present endpoints as draining.

    An endpoint whose address now belongs to a member is dropped: its instance no longer exists.
    """
    taking = {endpoint.name: endpoint for endpoint in map(endpoint_of_member, members)}
    addresses = {endpoint.address for endpoint in taking.values()}
    leaving = [
        endpoint for endpoint in present.values() if endpoint.name not in taking and endpoint.address not in addresses
    ]
    return [
        *taking.values(),
        *(Endpoint(endpoint.name, endpoint.address, DRAINING, endpoint.weight) for endpoint in leaving),
    ]


def validate_members(backend: Backend, members: Collection[Member]) -> None:
    """Raise `RouterError` with every problem; retryable if the only problem is an address that is not known yet."""
    unknown = sum(not member.address for member in members)
    problems = [problem for member in members for problem in member_problems(member)]
    problems += header_problems(backend)
    if problems:
        raise RouterError("; ".join(problems), retryable=len(problems) == unknown)
    by_address: dict[str, list[str]] = {}
    for endpoint in map(endpoint_of_member, members):
        by_address.setdefault(endpoint.address, []).append(endpoint.name)
    if shared := [
        f"{' and '.join(names)} have the address {address}" for address, names in by_address.items() if names[1:]
    ]:
        raise RouterError("; ".join(shared))  # retryable: a reused address may belong to two instances for a moment
