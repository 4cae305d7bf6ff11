"""Running the cells of a grid, and the tables of the results."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.other_methods import fixed_limits, independent_requests
from tidegate.simulation import runner
from tidegate.simulation.compare import detections, false_aborts, rows, summary
from tidegate.simulation.generator import GeneratedRollout
from tidegate.simulation.grids import InvalidGrid, load_grid, load_published, parse_grid
from tidegate.simulation.result import AbortResult
from tidegate.simulation.runner import GridCell, run, run_switches

GRID: Any = parse_grid(
    tomllib.loads("""\
seed = 7
replicates = 220
sizes = [
  {name = "A", n = 4, rps = 20, p0 = 0.01, scrape = 15, window = 120, batches = 2},
  {name = "B", n = 6, rps = 20, p0 = 0.01, scrape = 15, window = 120, batches = 2},
]
noises = [{name = "calm"}, {name = "mod", phi = 2}]
faults = [{name = "broken", err_pp = 0.5}, {name = "late", err_pp = 0.5, onset = 60}]
""")
)
SWITCHES: Any = parse_grid(
    tomllib.loads("""\
mode = "bluegreen"
seed = 7
replicates = 60
sizes = [{name = "A", n = 4, rps = 20, p0 = 0.001, scrape = 15, window = 600, sig = 0.5}]
noises = [{name = "calm", phi = 1}]
faults = [{name = "broken", err_pp = 0.5}]
""")
)
DECIDERS = {"fixed": fixed_limits.decide, "evidence": independent_requests.decide}


def at_once(made: GeneratedRollout) -> AbortResult:
    """Rolls back every other rollout, the n-th of them after n seconds."""
    number = np.arange(len(made.N))
    return AbortResult(number % 2 == 1, np.where(number % 2 == 1, number / 2 + 0.5, np.inf))


def test_the_cells_and_their_order() -> None:
    cells = run(GRID, DECIDERS, 5)
    expected = [("calm", "none"), ("mod", "none"), ("calm", "broken"), ("calm", "late")]
    assert [(cell.size, cell.noise, cell.fault, cell.method) for cell in cells] == [
        (size, noise, fault, decider) for size in "AB" for noise, fault in expected for decider in DECIDERS
    ]
    assert [cell.is_fault_free for cell in cells[:8:2]] == [True, True, False, False]


def test_replicates() -> None:
    assert [cell.replicates for cell in run(GRID, {"x": at_once}, sizes=["A"])] == [220, 220, 110, 110]
    assert [cell.replicates for cell in run(GRID, {"x": at_once}, 30, sizes=["A"])] == [30, 30, 100, 100]


def test_times_are_counted_from_the_onset() -> None:
    cells = run(GRID, {"x": at_once}, sizes=["A"], only="fault")
    assert [cell.aborted for cell in cells] == [0.5, 0.5]
    assert [(cell.median_seconds, round(cell.slow_seconds or 0, 6)) for cell in cells] == [(28.0, 49.6), (-32.0, -10.4)]


def test_a_selection_has_the_same_rollouts() -> None:
    whole = run(GRID, DECIDERS, 20)
    some = run(GRID, DECIDERS, 20, sizes=["B"], scenarios=["mod", "late"])
    assert some == [cell for cell in whole if cell.size == "B" and (cell.noise == "mod" or cell.fault == "late")]
    assert run(GRID, DECIDERS, 20, only="null") == [cell for cell in whole if cell.is_fault_free]
    assert run(GRID, DECIDERS, 20, only="fault") == [cell for cell in whole if not cell.is_fault_free]


def test_processes_change_nothing() -> None:
    grid_cells: list[tuple[int, int, Sequence[GridCell]]] = []
    parallel = run(GRID, DECIDERS, 20, jobs=2, progress=lambda *cells: grid_cells.append(cells))
    assert parallel == run(GRID, DECIDERS, 20)
    assert [(done, of_all) for done, of_all, _ in grid_cells] == [(number, 8) for number in range(1, 9)]
    assert sorted(map(repr, (cell for _, _, cells in grid_cells for cell in cells))) == sorted(map(repr, parallel))


def test_a_published_cell_stays_what_it_is() -> None:
    grid: Any = load_published("public")
    cells = run(grid, DECIDERS, 60, sizes=["S"], scenarios=["neighbour", "err x2"])
    assert [(cell.fault, cell.method, round(cell.aborted, 4), cell.median_seconds) for cell in cells] == [
        ("none", "fixed", 0.8833, 660.0),
        ("none", "evidence", 0.3167, 435.0),
        ("err x2", "fixed", 1.0, 480.0),
        ("err x2", "evidence", 0.78, 705.0),
    ]


def test_large_services_are_made_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MAX_COUNTS_IN_MEMORY", runner.MAX_COUNTS_IN_MEMORY // 10)
    grid = replace(GRID, sizes=(replace(GRID.sizes[0], n=40, scrape=1.0, window=120.0),), noises=GRID.noises[:1], faults=())
    steps: list[int] = []

    def record(made: GeneratedRollout) -> AbortResult:
        steps.append(len(made.N))
        return at_once(made)

    run(grid, {"x": record}, 40)
    assert steps == [25, 15]


def test_switches() -> None:
    cells = run_switches(SWITCHES, {"fixed": fixed_limits.decide_switch})
    assert [(cell.fault, cell.replicates, cell.aborted, cell.median_seconds) for cell in cells] == [
        ("none", 60, 0.0, None),
        ("broken", 100, 1.0, 300.0),
    ]
    assert run_switches(SWITCHES, {"fixed": fixed_limits.decide_switch}, jobs=2) == cells


@pytest.mark.parametrize(("option", "known"), [("sizes", "A, B"), ("scenarios", "calm, mod, broken, late")])
def test_unknown_names_are_refused(option: str, known: str) -> None:
    with pytest.raises(InvalidGrid, match=f'{option}: found "Z"; allowed: {known}'):
        run(GRID, DECIDERS, 5, **{option: ["Z"]})


def test_grids_by_name_and_by_path(tmp_path: Path) -> None:
    assert load_grid("public") == load_published("public")
    file = tmp_path / "own.toml"
    file.write_text(
        'seed = 1\nsizes = [{name = "A", n = 2, rps = 1, p0 = 0, scrape = 5, window = 60}]\nnoises = [{name = "n"}]\n'
    )
    assert load_grid(str(file)).seed == 1
    with pytest.raises(InvalidGrid, match="allowed: the path of a TOML file, or one of public, validation, bluegreen"):
        load_grid("publik")


def cell(size: str, noise: str, fault: str, decider: str, aborted: float, median: float | None = None) -> GridCell:
    return GridCell(size, noise, fault, decider, 400, aborted, median, median)


CELLS = [
    cell("S", "calm", "none", "ours", 0.0),
    cell("S", "calm", "none", "a | b", 0.025, 60.0),
    cell("S", "mod", "none", "ours", 0.005, 30.0),
    cell("S", "mod", "none", "a | b", 0.5, 60.0),
    cell("S", "base", "err x2", "ours", 0.98, 119.6),
    cell("S", "base", "err x2", "a | b", 0.0),
]


def test_tables() -> None:
    assert false_aborts(CELLS).splitlines() == [
        "| size | noise | ours | a \\| b |",
        "| --- | --- | --- | --- |",
        "| S | calm | 0 % (0 of 400) | 2.5 % (10 of 400) |",
        "| S | mod | 0.5 % (2 of 400) | 50 % (200 of 400) |",
    ]
    assert detections(CELLS).splitlines()[2:] == ["| S | err x2 | 98 % (392 of 400), 120 s | 0 % (0 of 400) |"]


def test_summary() -> None:
    assert summary(CELLS) == [
        "ours: rolled back 0.25 % (2 of 800) of good releases;"
        " worst cell 0.5 % (2 of 400) in S, mod; 0 of 2 cells above 1 %",
        "a | b: rolled back 26.2 % (210 of 800) of good releases;"
        " worst cell 50 % (200 of 400) in S, mod; 2 of 2 cells above 1 %",
    ]
    baked = [replace(CELLS[0], extended=0.02), replace(CELLS[2], extended=0.04)]
    assert summary(baked)[0].endswith("; 0 of 2 cells above 1 %; 3 % of bakes extended")
    assert "| S | calm | 0 % (0 of 400), 2 % extended |" in false_aborts(baked)
    assert summary(CELLS[:1]) == [
        "ours: rolled back 0 % (0 of 400) of good releases; worst cell 0 % (0 of 400); 0 of 1 cells above 1 %"
    ]


def test_rows_are_json() -> None:
    document = json.loads(json.dumps(rows(CELLS), allow_nan=False))
    assert document[0] == {
        "size": "S",
        "noise": "calm",
        "fault": "none",
        "method": "ours",
        "replicates": 400,
        "aborted": 0.0,
        "median_seconds": None,
        "slow_seconds": None,
        "extended": None,
    }
