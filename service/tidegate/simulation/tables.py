"""The cells of a run as Markdown tables, and as rows for JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from tidegate.simulation.runner import GridCell

MAX_FALSE_ABORTS = 0.01  # of the good releases of a cell: the budget


def false_aborts(cells: Sequence[GridCell]) -> str:
    """Good releases rolled back, with counts: a row for each size and noise, a column for each method."""
    return _table([cell for cell in cells if cell.is_fault_free], "noise", _share)


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
    return (
        f"{method}: rolled back {100 * aborted / total:.3g} % ({aborted:,} of {total:,}) of good releases;"
        f" worst cell {_share(worst)}{name}; {over} of {len(cells)} cells above {100 * MAX_FALSE_ABORTS:.0f} %"
    )


def rows(cells: Sequence[GridCell]) -> list[dict[str, Any]]:
    """The fields of each `GridCell`, for JSON. Seconds are null if no rollout was rolled back."""
    return [asdict(cell) for cell in cells]
