"""A grid by name or file, run with the product's judge and, if wanted, its rivals; and what is told of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tidegate.simulation import product, tables
from tidegate.simulation.rivals import RIVALS, SWITCH_RIVALS
from tidegate.simulation.running import Cell, Only, run, run_switches
from tidegate.simulation.scenarios import BgNoise, Grid, Noise

PRODUCT = "Tidegate"
AnyGrid = Grid[Noise] | Grid[BgNoise]


@dataclass(frozen=True)
class Wanted:
    """What of a grid is run; None and empty: all of it, as the grid says, on all processors."""

    replicates: int | None = None
    jobs: int | None = None
    only: Only | None = None
    sizes: frozenset[str] = frozenset()
    scenarios: frozenset[str] = frozenset()
    rivals: bool = False


@dataclass(frozen=True)
class Found:
    """The cells of a run."""

    cells: list[Cell]

    def rows(self) -> list[dict[str, Any]]:
        """For JSON."""
        return tables.rows(self.cells)

    def text(self) -> str:
        """Markdown: false aborts, then detections, then a line for each decider."""
        parts = []
        if any(cell.good for cell in self.cells):
            parts += ["## good releases that were turned back, %", tables.false_aborts(self.cells)]
        if any(not cell.good for cell in self.cells):
            title = "## bad releases that were turned back, %, and the median seconds until then"
            parts += [title, tables.detections(self.cells)]
        return "\n\n".join([*parts, *tables.summary(self.cells)])


def compared(grid: AnyGrid, wanted: Wanted, said: Callable[[str], None]) -> Found:
    """Run it; `said` is told how far it is."""

    def progress(done: int, of: int, cells: object) -> None:
        said(f"{done} of {of} cells")

    jobs = wanted.jobs or os.cpu_count() or 1
    chosen = (wanted.replicates, jobs, wanted.only, wanted.sizes, wanted.scenarios, progress)
    if isinstance(grid.base, BgNoise):
        switches = {PRODUCT: product.decide_switch, **(SWITCH_RIVALS if wanted.rivals else {})}
        return Found(run_switches(grid, switches, *chosen))
    deciders = {PRODUCT: product.decide, **(RIVALS if wanted.rivals else {})}
    return Found(run(grid, deciders, *chosen))
