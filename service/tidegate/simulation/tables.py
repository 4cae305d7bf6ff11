"""The cells of a run as tables for people (Markdown) and as rows for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from tidegate.simulation.runner import GridCell

MAX_FALSE_ABORTS = 0.01  # of the good rollouts of a cell: what is looked for


def false_aborts(cells: Sequence[GridCell]) -> str:
    """Good rollouts that were turned back, in %: a row for each size and noise, a column for each decider."""
    return _table([cell for cell in cells if cell.is_fault_free], "noise", lambda cell: f"{100 * cell.aborted:.1f}")


def detections(cells: Sequence[GridCell]) -> str:
    """Bad rollouts that were turned back, in %, and the median seconds until then, from the fault's onset: a row for each
    size and fault, a column for each decider."""
    return _table([cell for cell in cells if not cell.is_fault_free], "fault", _detection)


def _detection(cell: GridCell) -> str:
    seconds = "" if cell.median_seconds is None else f" {cell.median_seconds:.0f}"
    return f"{100 * cell.aborted:.0f} %{seconds}"


def _table(cells: Sequence[GridCell], scenario: str, shown: Callable[[GridCell], str]) -> str:
    deciders = list(dict.fromkeys(cell.method for cell in cells))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for cell in cells:
        rows.setdefault((cell.size, getattr(cell, scenario)), {})[cell.method] = shown(cell)
    lines = [["size", scenario, *deciders], ["---"] * (2 + len(deciders))]
    lines += [[*row, *(told.get(decider, "") for decider in deciders)] for row, told in rows.items()]
    return "\n".join("| " + " | ".join(each.replace("|", "\\|") for each in line) + " |" for line in lines)


def summary(cells: Sequence[GridCell]) -> list[str]:
    """A line for each decider: the mean of its false aborts over the cells, its worst cell, how many cells are over 1 %."""
    deciders = dict.fromkeys(cell.method for cell in cells if cell.is_fault_free)
    return [
        _summed(decider, [cell for cell in cells if cell.is_fault_free and cell.method == decider]) for decider in deciders
    ]


def _summed(decider: str, cells: Sequence[GridCell]) -> str:
    worst = max(cells, key=lambda cell: cell.aborted)
    mean = sum(cell.aborted for cell in cells) / len(cells)
    where = f" ({worst.size}, {worst.noise})" if worst.aborted else ""
    over = sum(cell.aborted > MAX_FALSE_ABORTS for cell in cells)
    return (
        f"{decider}: false aborts {100 * mean:.2f} % in the mean, at most {100 * worst.aborted:.1f} %{where},"
        f" over {100 * MAX_FALSE_ABORTS:.0f} % in {over} of {len(cells)} cells"
    )


def rows(cells: Sequence[GridCell]) -> list[dict[str, Any]]:
    """For JSON: the fields of each `GridCell`, seconds null where nothing was turned back."""
    return [asdict(cell) for cell in cells]
