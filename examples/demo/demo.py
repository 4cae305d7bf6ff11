"""The demo: real containers, HAProxy, Prometheus and Tidegate, with steady traffic through four rollouts.

    python examples/demo/demo.py [--keep]     run it; --keep leaves everything running

`make demo` sets up what this needs, and `make demo-stop` stops what was kept. It ends with status 0 only if every
rollout ended as it should and no request was lost by a switch.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import parts  # noqa: E402 - in the same folder
from traffic import Counts  # noqa: E402

SERVICE = "demo/shop"
HOME = Path(tempfile.gettempdir()) / "tidegate-demo"
FAULTS = {"v3": {"ERROR_RATIO": "0.2"}, "v4": {"READY": "never"}}


@dataclass(frozen=True)
class DemoRollout:
    """One rollout of the demo: the version, its expected final phase, and the text printed before it."""

    version: str
    ends: str
    text: str


ROLLOUTS = (
    DemoRollout("v1", "succeeded", "first deploy: 5 replicas of v1"),
    DemoRollout("v2", "succeeded", "v2 is good: rolling update in batches of 2, analysed after each batch"),
    DemoRollout("v3", "rolled_back", "v3 answers 20 % of requests with errors: rolled back after its first batch"),
    DemoRollout("v4", "rolled_back", "v4 never becomes ready: rolled back before it receives a request"),
)


def say(text: str) -> None:
    """One line for the person who watches."""
    print(f"\n==> {text}", flush=True)


def main() -> int:
    """Run the demo."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--keep", action="store_true", help="leave everything running")
    chosen = options.parse_args()
    stage = parts.DemoStack(HOME, "demo")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    keep = False
    try:
        results = run_rollouts(stage)
        keep = chosen.keep
        return summarise(results)
    finally:
        if keep:
            print(stage.addresses())
        else:
            say("stopping what was started")
            stage.stop()


def run_rollouts(stage: parts.DemoStack) -> list[DemoResult]:
    """Start the parts and go through the acts with traffic flowing."""
    say("building the demo's images and starting HAProxy, Prometheus and Tidegate")
    stage.start(
        {f"tidegate-demo:{act.version}": {"VERSION": act.version, **FAULTS.get(act.version, {})} for act in ROLLOUTS}
    )
    print(stage.addresses(), flush=True)
    first, *rest = ROLLOUTS
    results = [run_rollout(stage, first)]
    stage.start_traffic()
    stage.await_baseline()
    results += [run_rollout(stage, act) for act in rest]
    return results


@dataclass(frozen=True)
class DemoResult:
    """An act and what came of it; `traffic` is what the load generator saw meanwhile."""

    act: DemoRollout
    report: dict[str, object]
    traffic: Counts | None
    seconds: float


def run_rollout(stage: parts.DemoStack, act: DemoRollout) -> DemoResult:
    """One rollout, shown as it happens."""
    say(act.text)
    before, start = stage.traffic(), time.monotonic()
    stage.tidegate(
        "deploy",
        SERVICE,
        "--file",
        str(HERE / "compose.yaml"),
        "--until",
        "end",
        "--set",
        f"VERSION={act.version}",
        "--set",
        f"LISTEN={stage.listen}",
        show=True,
    )
    seconds = time.monotonic() - start
    after = stage.traffic()
    return DemoResult(act, stage.report(), after - before if after and before else None, seconds)


def summarise(results: Sequence[DemoResult]) -> int:
    """The table, and whether all of it is as it should be."""
    say("what happened")
    head = (
        "release",
        "ended",
        "requests seen",
        "lost by the switch",
        "failed by the application",
        "decided after",
        "total",
    )
    rows = [head, *(_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    wrong = [result.act.version for result in results if result.report["phase"] != result.act.ends]
    lost = sum(result.traffic.lost for result in results if result.traffic)
    print(f"\n{'no request was' if not lost else f'{lost} requests were'} lost by a switch")
    if wrong:
        print(f"not as it should be: {', '.join(wrong)}")
    return 1 if wrong or lost else 0


def _row(result: DemoResult) -> tuple[str, ...]:
    traffic, decided = result.traffic, result.report.get("decision_seconds")
    counts = ("–",) * 3 if traffic is None else (str(traffic.requests), str(traffic.lost), str(traffic.errors))
    after = f"{decided:.1f} s" if isinstance(decided, float | int) else "–"
    return (result.act.version, str(result.report["phase"]), *counts, after, f"{result.seconds:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
