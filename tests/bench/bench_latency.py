"""What counting a request log costs: CPU of the engine's thread, and whether each line is counted.

    python tests/bench/bench_latency.py [--seconds 20]

Another process writes the lines of 20 servers with response times around 20 ms (log-normal, sigma 1), in portions of 10 ms.
Prometheus' part is a scrape per 5 s. The CPU time is that of this process, which does nothing else.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from tidegate.core.response_counts import RequestLog, ResponseCounts
from tidegate.drivers.routers.haproxy.request_log import PIPE_BYTES, HAProxyRequestLog, PipeSource, ensure_pipe
from tidegate.drivers.routers.nginx.process import NginxProcess
from tidegate.drivers.routers.nginx.request_log import NginxRequestLog
from tidegate.engine.request_logs import RequestLogs

RATES = (500, 5_000, 20_000)
SERVERS = [f"v{release}-{release}.{number}.{number:012x}" for release in (1, 2) for number in range(10)]
PORTION_SECONDS = 0.01


def main() -> int:
    """Print the table; as a writer, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--write", nargs=3)
    options = parser.parse_args()
    if options.write:
        proxy, rate, path = options.write
        write(proxy, float(rate), Path(path), options.seconds)
        return 0
    print("| Log | Lines per second | CPU of one core: user | and system | Lines not counted |\n|---|---|---|---|---|")
    for proxy in ("haproxy", "nginx"):
        for rate in RATES:
            with tempfile.TemporaryDirectory() as folder:
                user, system, missing = measure(proxy, rate, Path(folder), options.seconds)
            print(f"| {proxy} | {rate:,} | {100 * user:.1f} % | {100 * system:.1f} % | {missing} |", flush=True)
    return 0


def measure(proxy: str, rate: int, folder: Path, seconds: float) -> tuple[float, float, int]:
    """The shares of a core that counting takes, and the number of lines that are not counted."""
    path, registry, log = folder / "requests", CollectorRegistry(), make_log(proxy, folder)
    with RequestLogs({"bench": log}, registry, time.time):
        while not log.poll(time.time()):
            pass
        command = [sys.executable, __file__, "--seconds", str(seconds), "--write", proxy, str(rate), str(path)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        before, begun, scrapes = os.times(), time.monotonic(), 0
        while writer.poll() is None:
            time.sleep(0.1)
            if time.monotonic() - begun > 5 * (scrapes + 1):
                generate_latest(registry)
                scrapes += 1
        after, lasted = os.times(), time.monotonic() - begun
        assert writer.stdout is not None
        written = int(writer.stdout.read())
        log.poll(time.time())
        counts: ResponseCounts = log.counts()
    return (after.user - before.user) / lasted, (after.system - before.system) / lasted, written - counts.counted


def make_log(proxy: str, folder: Path) -> RequestLog:
    """The log that a driver would make."""
    if proxy == "haproxy":
        ensure_pipe(folder / "requests")
        return HAProxyRequestLog(PipeSource(folder / "requests"))
    return NginxRequestLog(folder / "requests", NginxProcess("nginx", folder / "pid"), None, folder / "lock")


def write(proxy: str, rate: float, path: Path, seconds: float) -> None:
    """Write the lines and print their number."""
    chance = random.Random(1)
    file = os.open(path, (os.O_RDWR if proxy == "haproxy" else os.O_WRONLY | os.O_CREAT | os.O_APPEND) | os.O_NONBLOCK)
    if proxy == "haproxy":
        fcntl.fcntl(file, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    lines = [line(proxy, chance) for _ in range(100_000)]
    begun, written = time.monotonic(), 0
    while (elapsed := time.monotonic() - begun) < seconds:
        while written < rate * elapsed:
            os.write(file, lines[written % len(lines)])
            written += 1
        time.sleep(PORTION_SECONDS)
    print(written)


def line(proxy: str, chance: random.Random) -> bytes:
    """A line as the proxy writes it."""
    milliseconds, server = int(chance.lognormvariate(3.0, 1.0)), chance.choice(SERVERS)
    if proxy == "haproxy":
        return f"shop {server} 200 {milliseconds}\n".encode()
    return f"shop {server} 2xx {milliseconds / 1000:.3f} -\n".encode()


if __name__ == "__main__":
    sys.exit(main())
