"""A thousand rollouts at once: how many decisions engines make, how late, how the API answers meanwhile, in what memory.

    python tests/bench/bench_load.py [--only sqlite postgres memory] [--rollouts 125 250 500 1000 2000] [--seconds 60]

The engines and the server are the real ones, in processes of their own, with the settings' defaults but for the server's
threads; the database is real too, and writes to the disk. Platform, router and metrics are files in memory. A service has
one live rollout at most, so there are as many services as rollouts, a fifth of them in each of five environments. Nine of
ten rollouts wait, four at a hold and five in a bake of an hour with one check; the tenth ends after 8 to 16 seconds and is
followed by the next.

`memory` lets an engine work through 24 hours, of which only the moments are lived through at which there is something to
do: rollouts begin and end all the while, and what has ended is pruned each hour.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "demo"))

from support import postgres
from support.load_clients import LoadClients
from support.load_day import HourOfLoad, live_a_day
from support.load_setup import LoadProcess, LoadSetup

ENGINES = {"sqlite": 1, "postgres": 3}
LONG_POLLS = 200
DAY_SERVICES = 10
DAY_HOURS = (1, 6, 12, 24)
WARM_SECONDS = 10.0  # from when the clients come until it is measured
MEMORY = Path("/dev/shm")  # a file system that is held in memory
#: What a server on a machine of its own would have; the tests' own writes nothing to the disk.
DURABLE = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "autovacuum": "on",
    "shared_buffers": "128MB",
}


@dataclass(frozen=True)
class LoadRow:
    """What one scene came to; times in seconds, memory in MiB."""

    database: str
    rollouts: int
    stood: float  # from the engines' start until all rollouts stood where they wait
    decisions: float  # a second
    late: list[float]
    answers: list[float]
    refused: int
    engines: list[float]
    server: float


@contextmanager
def database(name: str, home: Path) -> Iterator[str]:
    """The URL of a new database."""
    if name == "sqlite":
        yield f"sqlite:///{home}/tidegate.db"
        return
    with postgres.running(**DURABLE) as server:
        yield server.url(server.empty())


@contextmanager
def folders() -> Iterator[tuple[Path, Path]]:
    """One on the disk, and one in memory where there is such a place."""
    with tempfile.TemporaryDirectory(prefix="tidegate-load-") as home:
        memory = Path(tempfile.mkdtemp(prefix="tidegate-load-", dir=MEMORY if MEMORY.is_dir() else home))
        try:
            yield Path(home), memory
        finally:
            shutil.rmtree(memory, ignore_errors=True)


def measure(name: str, rollouts: int, seconds: float) -> LoadRow:
    """Let it come to rest, let the clients come, and look for so many seconds."""
    with folders() as (home, memory), database(name, home) as url:
        with LoadSetup(url, home, memory, rollouts, ENGINES[name]) as scene:
            server = scene.serve()
            with LoadClients(server.address, scene.token, scene.waiting(), LONG_POLLS) as clients:
                time.sleep(WARM_SECONDS)
                begin, before = time.time(), _ticks(scene.engines)
                time.sleep(seconds)
                end, after = time.time(), _ticks(scene.engines)
                sizes, size = [engine.resident_mib() for engine in scene.engines], server.resident_mib()
        answers = [taken for at, taken in clients.times if begin <= at < end]
        late = scene.lateness(begin, end)
        speed = (after - before) / (end - begin)
        return LoadRow(name, rollouts, scene.settle_seconds, speed, late, answers, clients.refused, sizes, size)


def _ticks(engines: Sequence[LoadProcess]) -> float:
    return sum(engine.ticks() for engine in engines)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed; NaN where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def line(row: LoadRow) -> str:
    """Of the table."""
    late, answers = ([f"{1000 * quantile(each, share):.0f}" for share in (0.5, 0.99)] for each in (row.late, row.answers))
    engines = " + ".join(f"{engine:.0f}" for engine in row.engines)
    cells = [row.database, str(len(row.engines)), f"{row.rollouts:,}", f"{row.decisions:.0f}", *late, *answers]
    cells += [str(row.refused), engines, f"{row.server:.0f}", f"{row.stood:.0f}"]
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| Database | Engines | Live rollouts | Decisions a second | Late p50, ms | Late p99, ms | GET p50, ms | GET p99, ms "
    "| Not answered 200 | Engines, MiB | Server, MiB | All stand after, s |"
)


def day(services: int, hours: Sequence[int]) -> list[HourOfLoad]:
    """Of an engine in a process of its own."""
    with folders() as (_, memory), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(live_a_day, memory, services, hours).result()


def hour_line(hour: HourOfLoad) -> str:
    """Of the same table: what has no meaning there is left out."""
    what = f"a day, after {hour.number} h: {hour.ended:,} rollouts ended, {hour.kept:,} kept"
    return f"| {what} | 1 | {DAY_SERVICES} |{' – |' * 6} {hour.resident_mib:.0f} | – | – |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=[*ENGINES, "memory"], default=[*ENGINES, "memory"])
    parser.add_argument("--rollouts", nargs="+", type=int, default=[125, 250, 500, 1000, 2000], help="live at a time")
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long each row is measured")
    chosen = parser.parse_args()
    print(HEAD, "|---" * HEAD.count(" |") + "|", sep="\n", flush=True)
    for name in ENGINES:
        for rollouts in chosen.rollouts if name in chosen.only else ():
            print(line(measure(name, rollouts, chosen.seconds)), flush=True)
    if "memory" in chosen.only:
        print(*map(hour_line, day(DAY_SERVICES, DAY_HOURS)), sep="\n", flush=True)


if __name__ == "__main__":
    main()
