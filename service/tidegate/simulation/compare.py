"""Runs a grid with the shipped analysis, optionally with other methods, and reports the cells as Markdown and JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from tidegate.simulation import shipped_analysis
from tidegate.simulation.result import Decide, DecideSwitch
from tidegate.simulation.runner import GridCell, Only, run, run_switches
from tidegate.simulation.scenarios import RolloutNoise, ScenarioGrid, SwitchNoise

SHIPPED = "Tidegate"
MAX_FALSE_ABORTS = 0.01  # of the good releases of a cell: the budget
AnyGrid = ScenarioGrid[RolloutNoise] | ScenarioGrid[SwitchNoise]


@dataclass(frozen=True)
class RunOptions:
    """Which part of a grid to run. None or empty: all of it, with the grid's replicates, on all processors."""

    replicates: int | None = None
    jobs: int | None = None
    only: Only | None = None
    sizes: frozenset[str] = frozenset()
    scenarios: frozenset[str] = frozenset()


@dataclass(frozen=True)
class SimulationResult:
    """The cells of a run, and their reports."""

    cells: list[GridCell]

    def rows(self) -> list[dict[str, Any]]:
        """For JSON."""
        return rows(self.cells)

    def text(self) -> str:
        """Markdown: false aborts, detections, and a summary line for each method."""
        parts = []
        if any(cell.is_fault_free for cell in self.cells):
            parts += ["## Good releases rolled back", false_aborts(self.cells)]
        if any(not cell.is_fault_free for cell in self.cells):
            title = "## Bad releases rolled back, with the median time"
            parts += [title, detections(self.cells)]
        return "\n\n".join([*parts, *summary(self.cells)])


def compare(
    grid: AnyGrid,
    options: RunOptions,
    report: Callable[[str], None],
    methods: Mapping[str, Decide] = MappingProxyType({}),
    switch_methods: Mapping[str, DecideSwitch] = MappingProxyType({}),
) -> SimulationResult:
    """Run a grid with the shipped analysis and the other `methods`, of a blue-green grid `switch_methods`.

    `report` is called with the progress after each cell.
    """

    def progress(done: int, total: int, cells: object) -> None:
        report(f"{done} of {total} cells done")

    jobs = options.jobs or os.cpu_count() or 1
    arguments = (options.replicates, jobs, options.only, options.sizes, options.scenarios, progress)
    if isinstance(grid.base, SwitchNoise):
        switches = {SHIPPED: shipped_analysis.analyze_switch, **switch_methods}
        return SimulationResult(run_switches(grid, switches, *arguments))
    return SimulationResult(run(grid, {SHIPPED: shipped_analysis.analyze, **methods}, *arguments))


# -- tables ---------------------------------------------------------------------------------------------------------------


def false_aborts(cells: Sequence[GridCell]) -> str:
    """Good releases rolled back, with counts, and the share of bakes that would be extended: a row for each size and noise,
    a column for each method."""
    return _table([cell for cell in cells if cell.is_fault_free], "noise", _false_abort)


def _false_abort(cell: GridCell) -> str:
    return _share(cell) if cell.extended is None else f"{_share(cell)}, {100 * cell.extended:.3g} % extended"


def detections(cells: Sequence[GridCell]) -> str:
    """Bad releases rolled back, with counts and the median time since the onset of the fault: a row for each size and
    fault, a column for each method."""
    return _table([cell for cell in cells if not cell.is_fault_free], "fault", _detection)


def _detection(cell: GridCell) -> str:
    return _share(cell) if cell.median_seconds is None else f"{_share(cell)}, {cell.median_seconds:.0f} s"


def _share(cell: GridCell) -> str:
    return f"{100 * cell.aborted:.3g} % ({round(cell.aborted * cell.replicates)} of {cell.replicates})"


def _table(cells: Sequence[GridCell], scenario: str, format_cell: Callable[[GridCell], str]) -> str:
    methods = list(dict.fromkeys(cell.method for cell in cells))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for cell in cells:
        rows.setdefault((cell.size, getattr(cell, scenario)), {})[cell.method] = format_cell(cell)
    lines = [["size", scenario, *methods], ["---"] * (2 + len(methods))]
    lines += [[*key, *(texts.get(method, "") for method in methods)] for key, texts in rows.items()]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def summary(cells: Sequence[GridCell]) -> list[str]:
    """A line for each method: its false rollbacks over all cells, its worst cell, and the number of cells above 1 %."""
    good = [cell for cell in cells if cell.is_fault_free]
    methods = dict.fromkeys(cell.method for cell in good)
    return [_summary_line(method, [cell for cell in good if cell.method == method]) for method in methods]


def _summary_line(method: str, cells: Sequence[GridCell]) -> str:
    worst = max(cells, key=lambda cell: cell.aborted)
    aborted, total = round(sum(cell.aborted * cell.replicates for cell in cells)), sum(cell.replicates for cell in cells)
    name = f" in {worst.size}, {worst.noise}" if worst.aborted else ""
    over = sum(cell.aborted > MAX_FALSE_ABORTS for cell in cells)
    known = [cell.extended for cell in cells if cell.extended is not None]
    extended = f"; {100 * sum(known) / len(known):.3g} % of bakes extended" if known else ""
    return (
        f"{method}: rolled back {100 * aborted / total:.3g} % ({aborted:,} of {total:,}) of good releases;"
        f" worst cell {_share(worst)}{name}; {over} of {len(cells)} cells above {100 * MAX_FALSE_ABORTS:.0f} %{extended}"
    )


def rows(cells: Sequence[GridCell]) -> list[dict[str, Any]]:
    """The fields of each `GridCell`, for JSON. Seconds are null if no rollout was rolled back."""
    return [asdict(cell) for cell in cells]
