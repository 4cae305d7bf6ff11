"""What clients lose when all instances behind a proxy are replaced, again and again: Tidegate's routers beside other ways.

    python tests/bench/bench_dataplane.py [--only haproxy swarm] [--switches 200] [--requests 100000] [--kills 200]

One switch starts 2 new containers, waits until they are ready, has the proxy send everything to them, waits for the drain,
and stops the 2 old ones, whose application dies at once on SIGTERM. Meanwhile some 600 requests a second: GETs and POSTs
with kept connections and without, 10 GETs of 2 s and 6 POSTs of 3 s always in flight. Nothing is retried, and each request
that is not answered with 200 is counted. The routers are all that are registered; beside them `swarm` (`docker service
update`) and `rollout` (start double, stop the old ones), both behind an HAProxy that knows its servers by DNS. Each way
goes on until it has as many switches and as many requests as asked for, or its time is over.

Then the kill stress, for the routers: 1,100 short requests a second, and the old instance is killed with SIGKILL the moment
that the router says it is drained.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples" / "demo"))
sys.path.insert(0, str(ROOT / "tests"))

from support.dataplane import ReplacementMethod, RoutedContainers, count_posts, kill_when_drained, router_of  # noqa: E402 - in the tests' folder
from support.dataplane_docker import Containers, build_images, rollout, swarm  # noqa: E402 - in the tests' folder
from tidegate.drivers import registry  # noqa: E402 - after the path
from traffic import Counts, Load  # noqa: E402 - stands in the demo's folder

MIX = {"get_ka": 300.0, "get": 150.0, "post_ka": 100.0, "post": 50.0, "slow_gets": 10.0, "slow_posts": 6.0}
REPLICAS = 2
ROUTERS = sorted(registry.known_drivers("router"))
OTHERS = {"swarm": "Swarm, dnsrr, start-first", "rollout": "start double, stop old"}


@dataclass(frozen=True)
class DataplaneRow:
    """What one way came to."""

    name: str
    updates: int
    seen: Counts
    posts: int
    in_flight: int  # when the applications were told to stop
    switches: list[float]  # seconds of the proxy's change
    seconds: list[float]  # of each update, start to the end of the old ones


@contextmanager
def way_of(name: str, home: Path, counters: Path) -> Iterator[ReplacementMethod]:
    """The way with its first instances serving; all of it is gone at the end."""
    if name == "swarm":
        with swarm(counters, REPLICAS) as found:
            yield found
    elif name == "rollout":
        with rollout(counters, REPLICAS) as started:
            yield started
    else:
        containers = Containers(counters)
        try:
            with router_of(name, home) as router:
                yield RoutedContainers(router, containers, REPLICAS)
        finally:
            containers.close()


def measure(name: str, chosen: argparse.Namespace) -> DataplaneRow:
    """Update again and again, under load."""
    with tempfile.TemporaryDirectory(prefix="tg") as folder:
        home, counters = Path(folder), Path(folder) / "counters"
        home.chmod(0o755)  # nginx's workers are another user
        counters.mkdir()
        switches, seconds = list[float](), list[float]()
        with way_of(name, home, counters) as way:
            load = Load(way.address, seconds=chosen.minutes * 60 + 120, client=chosen.client, **MIX)
            try:
                end = time.monotonic() + chosen.minutes * 60
                time.sleep(5)  # until the slow ones are on their way
                while time.monotonic() < end and not _enough(len(seconds), load.counts, chosen):
                    began = time.perf_counter()
                    took = way.update()
                    seconds.append(time.perf_counter() - began)
                    switches += [took] if took is not None else []
                    if len(seconds) % 20 == 0:
                        print(f"{name}: {len(seconds)} switches, {load.counts.by_outcome}", file=sys.stderr, flush=True)
            finally:
                seen = load.finish()
        posts, in_flight = count_posts(counters)
    return DataplaneRow(name, len(seconds), seen, posts, in_flight, switches, seconds)


def _enough(updates: int, seen: Counts, chosen: argparse.Namespace) -> bool:
    return updates >= chosen.switches and seen.requests >= chosen.requests


def failed(seen: Counts) -> str:
    """How many, and of which kind."""
    bad = {kind: count for kind, count in seen.by_outcome.items() if kind != "ok"}
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(bad.items()))
    return f"**{sum(bad.values())}** of {seen.requests:,}" + (f": {told}" if told else "")


def posts(seen: Counts, executed: int) -> str:
    """Whether each was executed once."""
    sign = "=" if seen.posts_sent == executed else "≠"
    return f"{seen.posts_sent:,} {sign} {executed:,}"


def show_switches(rows: list[DataplaneRow]) -> None:
    """The first table."""
    print(f"\n{REPLICAS} instances replaced at a time; the application dies on SIGTERM\n")
    print(
        "| Way | Switches | Failed requests | In flight at SIGTERM | POSTs sent = executed | Proxy, ms | Seconds of all |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        switch = f"{statistics.median(row.switches) * 1000:.1f}" if row.switches else "–"
        cells = [OTHERS.get(row.name, row.name), str(row.updates), failed(row.seen), str(row.in_flight)]
        cells += [posts(row.seen, row.posts), switch, f"{statistics.median(row.seconds):.1f}" if row.seconds else "–"]
        print("| " + " | ".join(cells) + " |")


def show_kills(names: list[str], chosen: argparse.Namespace) -> None:
    """The second table, measured as it is printed."""
    print("\nkilled with SIGKILL the moment that the router says it is drained\n")
    print("| Router | Kills | Failed requests | POSTs sent = executed | ms of a replacement |\n|---|---|---|---|---|")
    for name in names:
        with tempfile.TemporaryDirectory(prefix="tg") as folder:
            Path(folder).chmod(0o755)
            with router_of(name, Path(folder)) as router:
                seen, executed, took = kill_when_drained(router, Path(folder) / "apps", chosen.kills, chosen.kill_client)
        print(f"| {name} | {chosen.kills} | {failed(seen)} | {posts(seen, executed)} | {took * 1000:.0f} |", flush=True)


def main() -> int:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", choices=[*ROUTERS, *OTHERS], default=[*ROUTERS, *OTHERS])
    options.add_argument("--switches", type=int, default=200, help="at least so many of each way")
    options.add_argument("--requests", type=int, default=100_000, help="at least so many of each way")
    options.add_argument("--minutes", type=float, default=30.0, help="at most for each way")
    options.add_argument("--kills", type=int, default=200, help="0: no kill stress")
    options.add_argument("--client", choices=["naive", "checking"], default="naive", help="of the switches")
    options.add_argument("--kill-client", choices=["naive", "checking"], default="checking", help="of the kill stress")
    chosen = options.parse_args()
    engine = docker.from_env()
    build_images(engine)
    engine.close()
    show_switches([measure(name, chosen) for name in chosen.only])
    if routers := [name for name in chosen.only if name in ROUTERS and chosen.kills]:
        show_kills(routers, chosen)
    return 0


if __name__ == "__main__":
    sys.exit(main())
