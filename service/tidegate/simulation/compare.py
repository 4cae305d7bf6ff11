"""Runs a grid with the shipped analysis, optionally with other methods, and reports the result."""

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
    """Which part of a grid to run. None or empty: all of it, with the grid's replicates, on all processors."""

    replicates: int | None = None
    jobs: int | None = None
    only: Only | None = None
    sizes: frozenset[str] = frozenset()
    scenarios: frozenset[str] = frozenset()
    other_methods: bool = False


@dataclass(frozen=True)
class SimulationResult:
    """The cells of a run, and their reports."""

    cells: list[GridCell]

    def rows(self) -> list[dict[str, Any]]:
        """For JSON."""
        return tables.rows(self.cells)

    def text(self) -> str:
        """Markdown: false aborts, detections, and a summary line for each method."""
        parts = []
        if any(cell.is_fault_free for cell in self.cells):
            parts += ["## Good releases rolled back", tables.false_aborts(self.cells)]
        if any(not cell.is_fault_free for cell in self.cells):
            title = "## Bad releases rolled back, with the median time"
            parts += [title, tables.detections(self.cells)]
        return "\n\n".join([*parts, *tables.summary(self.cells)])


def compare(grid: AnyGrid, options: RunOptions, report: Callable[[str], None]) -> SimulationResult:
    """Run a grid; `report` is called with the progress after each cell."""

    def progress(done: int, total: int, cells: object) -> None:
        report(f"{done} of {total} cells done")

    jobs = options.jobs or os.cpu_count() or 1
    arguments = (options.replicates, jobs, options.only, options.sizes, options.scenarios, progress)
    if isinstance(grid.base, SwitchNoise):
        switches = {SHIPPED: shipped_analysis.analyze_switch, **(OTHER_SWITCH_METHODS if options.other_methods else {})}
        return SimulationResult(run_switches(grid, switches, *arguments))
    methods = {SHIPPED: shipped_analysis.analyze, **(OTHER_METHODS if options.other_methods else {})}
    return SimulationResult(run(grid, methods, *arguments))


__all__ = ["OTHER_METHODS", "OTHER_SWITCH_METHODS", "AbortResult", "Decide", "DecideSwitch"]
OTHER_METHODS: Mapping[str, Decide] = {
    "fixed limits": fixed_limits.decide,
    "Mann-Whitney, effect 1.25": mann_whitney.decide,
    "repeated z and t tests": repeated_tests.decide,
    "independent e-process": independent_requests.decide,
    "betting": betting_test.decide,
}
#: Methods that need no concurrent baseline.
OTHER_SWITCH_METHODS: Mapping[str, DecideSwitch] = {"fixed limits": fixed_limits.decide_switch}
