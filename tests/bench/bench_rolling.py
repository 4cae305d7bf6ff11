"""How long a rolling update takes: Tidegate beside the bare floor and beside Swarm, in one run.

    python tests/bench/bench_rolling.py [--rounds 3] [--replicas 6]

Each round does the three in turn, with the same image, replicas one by one, new before old, no bake, and 100 fast requests
a second through HAProxy (not for Swarm, which has its own way in). The floor is a plain script that knows what to do and
records nothing: start, probe, add to HAProxy, drain, delete, and stop in the background. Prints medians and ratios.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import docker

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples" / "demo"))
sys.path.insert(0, str(ROOT / "tests"))

from images import demo_image  # noqa: E402 - stands in the demo's folder
from parts import DemoStack  # noqa: E402 - stands in the demo's folder
from processes import free_port  # noqa: E402 - stands in the demo's folder
from support.bare_update import BareUpdate  # noqa: E402 - stands in the tests' folder

COMPOSE = """\
services:
  shop:
    image: tidegate-bench:${{VERSION}}
    expose: ["8080"]
    stop_grace_period: 5s
    deploy: {{replicas: {replicas}, update_config: {{parallelism: 1, order: start-first}}}}
    x-tidegate: {{listen: "{listen}", health: {{path: /health}}, drain_timeout: 10s}}
"""
VERSIONS = ("a", "b")


def timed(deploy: Callable[[str], None], version: str) -> float:
    """Seconds that it took."""
    start = time.perf_counter()
    deploy(version)
    return time.perf_counter() - start


class TidegateUpdate:
    """The whole of it as it runs on one node: API with its engine, HAProxy, SQLite."""

    def __init__(self, home: Path, replicas: int) -> None:
        self._stage = DemoStack(home, f"bench{uuid.uuid4().hex[:6]}")
        self._replicas, self._file = replicas, home / "compose.yaml"

    def begin(self) -> None:
        """Start it, and bring the first release up."""
        self._stage.start({f"tidegate-bench:{version}": {"VERSION": version} for version in VERSIONS})
        self._file.write_text(COMPOSE.format(replicas=self._replicas, listen=self._stage.listen))
        self.deploy(VERSIONS[0])
        self._stage.start_traffic()

    def deploy(self, version: str) -> None:
        """One rollout through the command line, whose start-up is measured apart and taken off."""
        self._stage.tidegate(
            "deploy",
            f"{self._stage.environment}/shop",
            "-f",
            str(self._file),
            "--until",
            "end",
            "--set",
            f"VERSION={version}",
        )

    def seconds(self) -> float:
        """From the rollout's creation to its end, as the service recorded it."""
        return self._stage.report()["seconds"]

    def lost(self) -> int:
        """Requests that the load generator saw fail."""
        return self._stage.finish_traffic().lost

    def stop(self) -> None:
        """End all of it."""
        self._stage.stop()


class SwarmUpdate:
    """`docker service update` on a one-node Swarm, endpoint mode dnsrr (the routing mesh needs IPVS)."""

    def __init__(self, replicas: int) -> None:
        self._name = f"tidegate-bench-{uuid.uuid4().hex[:6]}"
        engine = docker.from_env()
        for version in VERSIONS:  # with a HEALTHCHECK of their own: there is no shell in them for --health-cmd
            demo_image(engine, f"tidegate-bench:swarm-{version}", {"VERSION": version}, healthcheck="1s")
        engine.close()
        self._run("swarm", "init", "--advertise-addr", "127.0.0.1")
        try:
            self._create(replicas)
        except BaseException:
            self.stop()
            raise

    def _create(self, replicas: int) -> None:
        self._run("network", "create", "-d", "overlay", self._name)
        self._run(
            "service",
            "create",
            "-q",
            "--detach=false",
            "--name",
            self._name,
            "--network",
            self._name,
            "--endpoint-mode",
            "dnsrr",
            "--replicas",
            str(replicas),
            "--update-parallelism",
            "1",
            "--update-order",
            "start-first",
            "--update-monitor",
            "0s",
            "--update-delay",
            "0s",
            "--no-resolve-image",
            f"tidegate-bench:swarm-{VERSIONS[0]}",
        )

    def _run(self, *words: str) -> None:
        done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            raise SystemExit(f"docker {' '.join(words)}: {done.stderr.strip()}")

    def deploy(self, version: str) -> None:
        """One update, waited for."""
        self._run(
            "service",
            "update",
            "-q",
            "--detach=false",
            "--no-resolve-image",
            "--image",
            f"tidegate-bench:swarm-{version}",
            self._name,
        )

    def stop(self) -> None:
        """Leave nothing behind; leaving the swarm removes the service and its network."""
        subprocess.run(["docker", "service", "rm", self._name], capture_output=True, check=False)
        self._run("swarm", "leave", "--force")


def main() -> int:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--replicas", type=int, default=6)
    options.add_argument("--no-swarm", action="store_true")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as started:
        tidegate = TidegateUpdate(Path(folder) / "tidegate", chosen.replicas)
        started.callback(tidegate.stop)
        tidegate.begin()
        floor = BareUpdate(Path(folder) / "floor", free_port(0), chosen.replicas, "tidegate-bench")
        started.callback(floor.stop)
        swarm = None if chosen.no_swarm else SwarmUpdate(chosen.replicas)
        if swarm is not None:
            started.callback(swarm.stop)
        took = measure(tidegate, floor, swarm, chosen.rounds)
        lost = tidegate.lost()
    show(took, lost, chosen.replicas)
    return 0


def measure(tidegate: TidegateUpdate, floor: BareUpdate, swarm: SwarmUpdate | None, rounds: int) -> dict[str, list[float]]:
    """The same update by each, in turn."""
    took: dict[str, list[float]] = {"floor": [], "Tidegate": [], "Swarm": []}
    floor.deploy(VERSIONS[0])
    for number in range(rounds):
        version = VERSIONS[(number + 1) % 2]
        took["floor"].append(timed(floor.deploy, version))
        tidegate.deploy(version)
        took["Tidegate"].append(tidegate.seconds())
        if swarm is not None:
            took["Swarm"].append(timed(swarm.deploy, version))
        print(
            f"round {number + 1}: " + ", ".join(f"{name} {times[-1]:.2f} s" for name, times in took.items() if times),
            flush=True,
        )
    return took


def show(took: dict[str, list[float]], lost: int, replicas: int) -> None:
    """The table."""
    floor = statistics.median(took["floor"])
    print(f"\nrolling update, n = {replicas}, batch 1, no bake; lost requests with Tidegate: {lost}\n")
    print("| way | seconds, median (min–max) | ratio to the floor |\n|---|---|---|")
    for name, times in took.items():
        if times:
            median = statistics.median(times)
            print(f"| {name} | {median:.2f} ({min(times):.2f}–{max(times):.2f}) | {median / floor:.2f} |")


if __name__ == "__main__":
    sys.exit(main())
