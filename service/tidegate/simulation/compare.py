"""Runs a grid with the shipped analysis and, if wanted, with other methods; and reports the result."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tidegate.simulation import (
    betting_test,
    fixed_limits,
    independent_requests,
    mann_whitney,
    repeated_tests,
    shipped_analysis,
    tables,
)
from tidegate.simulation.result import AbortResult, Decide, DecideSwitch
from tidegate.simulation.runner import GridCell, Only, run, run_switches
from tidegate.simulation.scenarios import RolloutNoise, ScenarioGrid, SwitchNoise

SHIPPED = "Tidegate"
AnyGrid = ScenarioGrid[RolloutNoise] | ScenarioGrid[SwitchNoise]


@dataclass(frozen=True)
class RunOptions:
    """What of a grid is run; None and empty: all of it, as the grid says, on all processors."""

    replicates: int | None = None
    jobs: int | None = None
    only: Only | None = None
    sizes: frozenset[str] = frozenset()
    scenarios: frozenset[str] = frozenset()
    other_methods: bool = False


@dataclass(frozen=True)
class SimulationResult:
    """The cells of a run."""

    cells: list[GridCell]

    def rows(self) -> list[dict[str, Any]]:
        """For JSON."""
        return tables.rows(self.cells)

    def text(self) -> str:
        """Markdown: false aborts, then detections, then a line for each decider."""
        parts = []
        if any(cell.is_fault_free for cell in self.cells):
            parts += ["## good releases that were turned back, %", tables.false_aborts(self.cells)]
        if any(not cell.is_fault_free for cell in self.cells):
            title = "## bad releases that were turned back, %, and the median seconds until then"
            parts += [title, tables.detections(self.cells)]
        return "\n\n".join([*parts, *tables.summary(self.cells)])


def compare(grid: AnyGrid, wanted: RunOptions, said: Callable[[str], None]) -> SimulationResult:
    """Run it; `said` is told how far it is."""

    def progress(done: int, of: int, cells: object) -> None:
        said(f"{done} of {of} cells")

    jobs = wanted.jobs or os.cpu_count() or 1
    chosen = (wanted.replicates, jobs, wanted.only, wanted.sizes, wanted.scenarios, progress)
    if isinstance(grid.base, SwitchNoise):
        switches = {SHIPPED: shipped_analysis.analyze_switch, **(OTHER_SWITCH_METHODS if wanted.other_methods else {})}
        return SimulationResult(run_switches(grid, switches, *chosen))
    deciders = {SHIPPED: shipped_analysis.analyze, **(OTHER_METHODS if wanted.other_methods else {})}
    return SimulationResult(run(grid, deciders, *chosen))


__all__ = ["OTHER_METHODS", "OTHER_SWITCH_METHODS", "AbortResult", "Decide", "DecideSwitch"]
OTHER_METHODS: Mapping[str, Decide] = {
    "fixed limits": fixed_limits.decide,
    "Mann-Whitney, effect 1.25": mann_whitney.decide,
    "peeked z and t": repeated_tests.decide,
    "independent e-process": independent_requests.decide,
    "betting": betting_test.decide,
}
#: Those that need no old instances beside the new ones.
OTHER_SWITCH_METHODS: Mapping[str, DecideSwitch] = {"fixed limits": fixed_limits.decide_switch}
