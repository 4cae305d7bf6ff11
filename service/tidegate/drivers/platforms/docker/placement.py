"""On which Docker host a new instance starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from tidegate.core.model import Release
from tidegate.drivers.platforms.docker.containers import ListedContainer
from tidegate.drivers.platforms.docker.hosts import DockerHost


class ParallelMap(Protocol):
    """`map`, with the calls in parallel."""

    def __call__(self, function: Callable[[DockerHost], int], values: Sequence[DockerHost], /) -> Iterable[int]: ...


def choose_hosts(
    hosts: Mapping[str, DockerHost],
    remaining: Sequence[ListedContainer],
    release: Release,
    count: int,
    parallel_map: ParallelMap,
) -> list[DockerHost]:
    """A host for each of so many new instances: fewest instances of the service, then of the release, then settings order.
    A single instance stays on the host that has its data."""
    names = list(hosts)
    if count and len(names) > 1 and release.replicas == 1 and release.container.writable_sources:
        names = _hosts_with_data(hosts, remaining, release, parallel_map)
    load = {name: [0, 0] for name in names}
    for container in remaining:
        if container.host.name in load:
            load[container.host.name][0] += 1
            load[container.host.name][1] += container.release == release.id
    chosen = []
    for _ in range(count):
        name = min(load, key=lambda one: load[one])
        load[name] = [load[name][0] + 1, load[name][1] + 1]
        chosen.append(hosts[name])
    return chosen


def _hosts_with_data(
    hosts: Mapping[str, DockerHost], remaining: Sequence[ListedContainer], release: Release, parallel_map: ParallelMap
) -> list[str]:
    """The hosts where an instance runs; else those that have most of its volumes, in the order of the settings."""
    running = {container.host.name for container in remaining}
    if running:
        return [name for name in hosts if name in running]
    volumes = [source for source in release.container.writable_sources if not source.startswith("/")]

    def count(host: DockerHost) -> int:
        return sum(host.has("volume", volume) for volume in volumes)

    counts = dict(zip(hosts, parallel_map(count, list(hosts.values())), strict=True))
    return [name for name, number in counts.items() if number == max(counts.values())]
