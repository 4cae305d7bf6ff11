"""Runs a grid. Each cell is a size with a scenario; all methods get the same rollouts; cells run in parallel processes.

The rollouts of a cell depend only on the seed and on the position in the grid, not on the number of processes or on other
cells.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np

from tidegate.errors import Problem
from tidegate.simulation.blue_green import GeneratedSwitch, generate_switch
from tidegate.simulation.generator import GeneratedRollout, generate_rollout
from tidegate.simulation.grids import InvalidGrid
from tidegate.simulation.result import AbortResult, Decide, DecideSwitch
from tidegate.simulation.scenarios import NO_FAULT, AnyNoise, Fault, RolloutNoise, ScenarioGrid, ServiceSize, SwitchNoise

Only = Literal["null", "fault"]

MIN_FAULTY = 100  # minimum replicates of a cell with a fault, which has half of those of the others
SEEDS_PER_SIZE, FIRST_FAULT_SEED = 1000, 50  # the seed numbers of each size, and the first one of its cells with a fault
MAX_COUNTS_IN_MEMORY = 1_750_000  # instance intervals generated at once
MIN_CHUNK = 25
SWITCH_CHUNK = 50
SLOW_QUANTILE = 0.9  # quantile of the time to roll back that is reported with the median


@dataclass(frozen=True)
class GridCell:
    """The result of one method in one cell. Times count from the onset of the fault; below 0 is before it."""

    size: str
    noise: str
    fault: str  # "none" for a good release
    method: str
    replicates: int
    aborted: float  # share of the rollouts that were rolled back, in [0, 1]
    median_seconds: float | None  # of those; None without any
    slow_seconds: float | None  # 90 % of those were rolled back by then
    extended: float | None = None  # share of the bakes that ended inconclusive and would be extended, in [0, 1]

    @property
    def is_fault_free(self) -> bool:
        """Whether the release is good, so that each rollback is a false one."""
        return self.fault == NO_FAULT.name


Progress = Callable[[int, int, Sequence[GridCell]], None]  # cells done, total cells, results of the last one
Made = TypeVar("Made", GeneratedRollout, GeneratedSwitch)


@dataclass(frozen=True)
class _CellTask(Generic[AnyNoise]):
    """A cell to run. `seed` and `number` seed its rollouts."""

    size: ServiceSize
    noise: AnyNoise
    fault: Fault
    replicates: int
    seed: int
    number: int


def run(
    grid: ScenarioGrid[RolloutNoise],
    methods: Mapping[str, Decide],
    replicates: int | None = None,
    jobs: int = 1,
    only: Only | None = None,
    sizes: Collection[str] = (),
    scenarios: Collection[str] = (),
    progress: Progress | None = None,
) -> list[GridCell]:
    """Run rolling updates. The cells are in the order of the grid: sizes, then noises and faults, then methods.

    `replicates` replaces the grid's. `only`: the cells without a fault ("null") or with one. `sizes` and `scenarios`
    (noises and faults) select by name; empty selects all. With several `jobs` the methods are pickled for other processes,
    so they must be module-level functions, or `functools.partial` of them. Raises `InvalidGrid` for unknown names.
    """
    tasks = _tasks(grid, replicates, only, sizes, scenarios)
    return _run_tasks(tasks, _rolling, methods, jobs, progress)


def run_switches(
    grid: ScenarioGrid[SwitchNoise],
    methods: Mapping[str, DecideSwitch],
    replicates: int | None = None,
    jobs: int = 1,
    only: Only | None = None,
    sizes: Collection[str] = (),
    scenarios: Collection[str] = (),
    progress: Progress | None = None,
) -> list[GridCell]:
    """Run blue-green switches; otherwise as `run`."""
    tasks = _tasks(grid, replicates, only, sizes, scenarios)
    return _run_tasks(tasks, _switches, methods, jobs, progress)


# -- selection of cells -------------------------------------------------------------------------------------------------


def _tasks(
    grid: ScenarioGrid[AnyNoise],
    replicates: int | None,
    only: Only | None,
    sizes: Collection[str],
    scenarios: Collection[str],
) -> list[_CellTask[AnyNoise]]:
    count = grid.replicates if replicates is None else replicates
    names = [noise.name for noise in grid.noises] + [fault.name for fault in grid.faults]
    _require_known(sizes, [size.name for size in grid.sizes], "sizes")
    _require_known(scenarios, names, "scenarios")
    tasks = []
    for place, size in enumerate(grid.sizes):
        if sizes and size.name not in sizes:
            continue
        first = place * SEEDS_PER_SIZE
        if only != "fault":
            for number, noise in enumerate(grid.noises):
                if not scenarios or noise.name in scenarios:
                    tasks.append(_CellTask(size, noise, NO_FAULT, count, grid.seed, first + number))
        if only != "null":
            for number, fault in enumerate(grid.faults, FIRST_FAULT_SEED):
                if not scenarios or fault.name in scenarios:
                    fewer = max(MIN_FAULTY, count // 2)
                    tasks.append(_CellTask(size, grid.base, fault, fewer, grid.seed, first + number))
    return tasks


def _require_known(selected: Collection[str], known: Sequence[str], option: str) -> None:
    unknown = [name for name in selected if name not in known]
    if unknown:
        raise InvalidGrid([Problem(option, f'found "{name}"; allowed: {", ".join(known)}') for name in unknown])


# -- generation of the rollouts of a cell, in chunks --------------------------------------------------------------------


def _rolling(task: _CellTask[RolloutNoise]) -> Iterator[GeneratedRollout]:
    intervals = max(1.0, 4 * task.size.window / task.size.scrape)
    at_once = max(MIN_CHUNK, int(MAX_COUNTS_IN_MEMORY / (task.size.n * intervals)))
    rng = np.random.default_rng((task.seed, task.number))
    for replicates in _chunks(task.replicates, at_once):
        yield generate_rollout(task.size, task.noise, task.fault, replicates, rng)


def _switches(task: _CellTask[SwitchNoise]) -> Iterator[GeneratedSwitch]:
    rng = np.random.default_rng((task.seed, task.number))
    for replicates in _chunks(task.replicates, SWITCH_CHUNK):
        yield generate_switch(task.size, task.noise, task.fault, replicates, rng)


def _chunks(replicates: int, at_once: int) -> list[int]:
    return [min(at_once, replicates - done) for done in range(0, replicates, at_once)]


# -- execution ----------------------------------------------------------------------------------------------------------


def _run_tasks(
    tasks: Sequence[_CellTask[AnyNoise]],
    rollouts: Callable[[_CellTask[AnyNoise]], Iterator[Made]],
    methods: Mapping[str, Callable[[Made], AbortResult]],
    jobs: int,
    progress: Progress | None,
) -> list[GridCell]:
    """Start the largest services first, so that no process is left with one at the end."""
    grid_cells: dict[int, list[GridCell]] = {}
    order = sorted(range(len(tasks)), key=lambda place: -tasks[place].size.n)
    for place, cells in _run_each(order, tasks, rollouts, methods, jobs):
        grid_cells[place] = cells
        if progress is not None:
            progress(len(grid_cells), len(tasks), cells)
    return [cell for place in range(len(tasks)) for cell in grid_cells[place]]


def _run_each(
    order: Sequence[int],
    tasks: Sequence[_CellTask[AnyNoise]],
    rollouts: Callable[[_CellTask[AnyNoise]], Iterator[Made]],
    methods: Mapping[str, Callable[[Made], AbortResult]],
    jobs: int,
) -> Iterator[tuple[int, list[GridCell]]]:
    """The cells of each task with its index, in the order of completion."""
    if jobs <= 1:
        for place in order:
            yield place, _run_cells(tasks[place], rollouts, methods)
        return
    with ProcessPoolExecutor(jobs) as pool:
        places: dict[Future[list[GridCell]], int] = {
            pool.submit(_run_cells, tasks[place], rollouts, dict(methods)): place for place in order
        }
        try:
            for future in as_completed(places):
                yield places[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _run_cells(
    task: _CellTask[AnyNoise],
    rollouts: Callable[[_CellTask[AnyNoise]], Iterator[Made]],
    methods: Mapping[str, Callable[[Made], AbortResult]],
) -> list[GridCell]:
    """Run all methods on the same rollouts."""
    results: dict[str, list[AbortResult]] = {name: [] for name in methods}
    for chunk in rollouts(task):
        for name, decide in methods.items():
            results[name].append(decide(chunk))
    return [_summarize_cell(task, name, chunks) for name, chunks in results.items()]


def _summarize_cell(task: _CellTask[AnyNoise], method: str, results: Sequence[AbortResult]) -> GridCell:
    aborted = np.concatenate([result.aborted for result in results])
    seconds = np.concatenate([result.seconds for result in results])[aborted] - task.fault.onset
    bakes = sum(float(result.bakes.sum()) for result in results if result.bakes is not None)
    unclear = sum(float(result.unclear.sum()) for result in results if result.unclear is not None)
    return GridCell(
        size=task.size.name,
        noise=task.noise.name,
        fault=task.fault.name,
        method=method,
        replicates=task.replicates,
        aborted=float(aborted.mean()),
        median_seconds=float(np.median(seconds)) if len(seconds) else None,
        slow_seconds=float(np.quantile(seconds, SLOW_QUANTILE)) if len(seconds) else None,
        extended=unclear / bakes if bakes else None,
    )
