"""What judging costs: CPU of a look, and memory of a rollout that is looked at for long.

    python tests/bench/bench_analysis_cost.py [--instances 50] [--minutes 10] [--look 10]

Ten checks (errors, latency, memory, four compared queries, three limits) on a release of which half of the instances are
new. Samples are made up before the clock runs; the cost is that of `CanaryAnalysis.take` alone: no Prometheus, no database.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import tracemalloc
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.measurements import NEW, OLD, ORIGIN, FakeMetricsSource, rollout_of, server_of, with_policy
from tidegate.analysis.analysis import CanaryAnalysis
from tidegate.analysis.measurement import Measurement
from tidegate.analysis.queries import RESPONSE_SECONDS, Query, QueryPurpose, QueryResult, Series
from tidegate.core.model import Check, CheckKind

BOUNDS = ("0.005", "0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1", "+Inf")
SHARES = (0.1, 0.3, 0.6, 0.9, 0.97, 0.99, 0.999, 1.0, 1.0)
CHECKS = (
    Check("errors", CheckKind.ERRORS),
    Check("latency", CheckKind.LATENCY),
    Check("memory", CheckKind.MEMORY, query="memory_bytes", maximum=100.0, min_samples=1),
    *(Check(f"compared-{n}", CheckKind.QUERY, query='q{release="$release"}', margin=0.1, min_samples=3) for n in range(4)),
    *(Check(f"limit-{n}", CheckKind.QUERY, query="q", maximum=1e9, min_samples=3) for n in range(3)),
)


class Made(FakeMetricsSource):
    """HAProxy's counters, a histogram and a gauge of every instance; one value for each query."""

    def fill(self, servers: list[str], at: float, seconds: float) -> None:
        """One scrape."""
        for server in servers:
            total = 100.0 * (seconds + 3600)
            self.scrape(at, {server: (total, total * 0.002)})
            release, ordinal, _ = server.split(".")
            labels = {"__name__": RESPONSE_SECONDS, "proxy": "shop", "server": server, "job": "tidegate"}
            for bound, share in zip(BOUNDS, SHARES, strict=True):
                self.add(at, {**labels, "le": bound}, total * share)
            self.add(at, {"__name__": "memory_bytes", "release": release, "ordinal": ordinal}, 50.0)

    def answer(self, question: Query) -> QueryResult:
        if question.check.startswith(("compared", "limit")):
            times = [question.window.end] if question.purpose is not QueryPurpose.HISTORY else range(0)
            return (Series({}, tuple((at, 5.0) for at in times)),)
        wanted = {"errors": "haproxy_server_http", "latency": RESPONSE_SECONDS, "memory": "memory_bytes"}[question.check]
        result = super().answer(question)
        assert isinstance(result, tuple)
        return tuple(each for each in result if each.labels["__name__"].startswith(wanted))


def main() -> int:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--instances", type=int, default=50)
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--look", type=float, default=10.0)
    chosen = options.parse_args()
    print(
        "| minutes | looks | CPU of a look, median (ms) | longest (ms) | all (ms) | kept (KiB) |\n|---|---|---|---|---|---|"
    )
    for minutes in (chosen.minutes, 4 * chosen.minutes):
        print(row(chosen.instances, minutes, chosen.look), flush=True)
    return 0


def row(instances: int, minutes: float, look: float) -> str:
    """One rollout of so many minutes; once for the time, once more for the memory, since tracing takes time."""
    spent, _ = run(instances, minutes, look)
    tracemalloc.start()
    _, kept = run(instances, minutes, look)
    tracemalloc.stop()
    times = f"{statistics.median(spent):.1f} | {max(spent):.1f} | {sum(spent):.0f}"
    return f"| {minutes:g} | {len(spent)} | {times} | {kept / 2**10:.0f} |"


def run(instances: int, minutes: float, look: float) -> tuple[list[float], int]:
    """Milliseconds of each look, and the bytes that the judge keeps at the end (0 when not traced)."""
    half = instances // 2
    policy = with_policy(interval_seconds=look, warmup_seconds=60.0)
    servers = [server_of(release, n) for release in (OLD, NEW) for n in range(half)]
    spent: list[float] = []
    before = tracemalloc.get_traced_memory()[0]
    analysis = CanaryAnalysis(rollout_of(*CHECKS, olds=half, policy=policy), ORIGIN)
    for number in range(1, int(minutes * 60 / look) + 1):
        seen = look_of(analysis, servers, half, number, look)
        begun = time.process_time()
        analysis.add(seen)
        spent.append(1000 * (time.process_time() - begun))
        del seen
    return spent, tracemalloc.get_traced_memory()[0] - before


def look_of(analysis: CanaryAnalysis, servers: list[str], half: int, number: int, look: float) -> Measurement:
    """The n-th look, with the scrapes since a little before the one before it."""
    source, at = Made(), ORIGIN + number * look
    for back in (2, 1, 0):
        source.fill(servers if number > back else servers[:half], at - back * look, (number - back) * look)
    answers = tuple((question, source.answer(question)) for question in analysis.queries(at))
    return Measurement(at, 0, ORIGIN, ORIGIN, True, half, False, (), answers)


if __name__ == "__main__":
    sys.exit(main())
