"""Runs a grid: each cell is a size with a scenario, all deciders on the same rollouts, cells in parallel processes.

A cell's rollouts depend on the grid's seed and on its place in the grid alone: not on the number of processes, nor on what
else is run.
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

MIN_FAULTY = 100  # replicates of a cell with a fault: half of the others', but at least so many
SEEDS_PER_SIZE, FIRST_FAULT_SEED = (
    1000,
    50,
)  # where the cells of a size and those with a fault begin, in the numbers of seeds
MAX_COUNTS_IN_MEMORY = 1_750_000  # rollouts are made in steps: about so many intervals of instances fit into memory
MIN_CHUNK = 25
SWITCH_CHUNK = 50
SLOW_QUANTILE = 0.9  # the quantile of the time to abort that is told beside the median


@dataclass(frozen=True)
class GridCell:
    """What one decider did in one cell. The times are counted from the fault's onset; below 0 is before it."""

    size: str
    noise: str
    fault: str  # "none" where nothing is wrong
    method: str
    replicates: int
    aborted: float  # share of the rollouts that were turned back
    median_seconds: float | None  # of those that were; None without any
    slow_seconds: float | None  # 90 % of those were turned back by then

    @property
    def is_fault_free(self) -> bool:
        """Nothing is wrong with the release: each abort is a false one."""
        return self.fault == NO_FAULT.name


Progress = Callable[[int, int, Sequence[GridCell]], None]  # cells that are done, of how many, and what the last one gave
Made = TypeVar("Made", GeneratedRollout, GeneratedSwitch)


@dataclass(frozen=True)
class _CellTask(Generic[AnyNoise]):
    """A cell to be run; `number` and the grid's seed are the seed of its rollouts."""

    size: ServiceSize
    noise: AnyNoise
    fault: Fault
    replicates: int
    seed: int
    number: int


def run(
    grid: ScenarioGrid[RolloutNoise],
    deciders: Mapping[str, Decide],
    replicates: int | None = None,
    jobs: int = 1,
    only: Only | None = None,
    sizes: Collection[str] = (),
    scenarios: Collection[str] = (),
    progress: Progress | None = None,
) -> list[GridCell]:
    """Rolling updates, in the order of the grid: sizes, then noises and faults, then deciders.

    `replicates`: instead of the grid's own. `only`: cells without a fault ("null") or with one. `sizes` and `scenarios`
    (noises and faults): those of these names, all when empty. With several `jobs` the deciders are sent to other processes,
    so they are functions of modules, or `functools.partial` of them.
    """
    tasks = _tasks(grid, replicates, only, sizes, scenarios)
    return _run_tasks(tasks, _rolling, deciders, jobs, progress)


def run_switches(
    grid: ScenarioGrid[SwitchNoise],
    deciders: Mapping[str, DecideSwitch],
    replicates: int | None = None,
    jobs: int = 1,
    only: Only | None = None,
    sizes: Collection[str] = (),
    scenarios: Collection[str] = (),
    progress: Progress | None = None,
) -> list[GridCell]:
    """Switches of all traffic at once; the rest is as in `run`."""
    tasks = _tasks(grid, replicates, only, sizes, scenarios)
    return _run_tasks(tasks, _switches, deciders, jobs, progress)


# -- which cells --------------------------------------------------------------------------------------------------------


def _tasks(
    grid: ScenarioGrid[AnyNoise],
    replicates: int | None,
    only: Only | None,
    sizes: Collection[str],
    scenarios: Collection[str],
) -> list[_CellTask[AnyNoise]]:
    each = grid.replicates if replicates is None else replicates
    names = [noise.name for noise in grid.noises] + [fault.name for fault in grid.faults]
    _require_known(sizes, [size.name for size in grid.sizes], "sizes")
    _require_known(scenarios, names, "scenarios")
    result = []
    for place, size in enumerate(grid.sizes):
        if sizes and size.name not in sizes:
            continue
        first = place * SEEDS_PER_SIZE
        if only != "fault":
            for number, noise in enumerate(grid.noises):
                if not scenarios or noise.name in scenarios:
                    result.append(_CellTask(size, noise, NO_FAULT, each, grid.seed, first + number))
        if only != "null":
            for number, fault in enumerate(grid.faults, FIRST_FAULT_SEED):
                if not scenarios or fault.name in scenarios:
                    fewer = max(MIN_FAULTY, each // 2)
                    result.append(_CellTask(size, grid.base, fault, fewer, grid.seed, first + number))
    return result


def _require_known(wanted: Collection[str], known: Sequence[str], what: str) -> None:
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InvalidGrid([Problem(what, f'found "{name}"; known are {", ".join(known)}') for name in unknown])


# -- the rollouts of a cell, in steps -----------------------------------------------------------------------------------


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


# -- running them -------------------------------------------------------------------------------------------------------


def _run_tasks(
    tasks: Sequence[_CellTask[AnyNoise]],
    rollouts: Callable[[_CellTask[AnyNoise]], Iterator[Made]],
    deciders: Mapping[str, Callable[[Made], AbortResult]],
    jobs: int,
    progress: Progress | None,
) -> list[GridCell]:
    """The largest services first, so that no process is left alone with one at the end."""
    grid_cells: dict[int, list[GridCell]] = {}
    order = sorted(range(len(tasks)), key=lambda place: -tasks[place].size.n)
    for place, cells in _run_each(order, tasks, rollouts, deciders, jobs):
        grid_cells[place] = cells
        if progress is not None:
            progress(len(grid_cells), len(tasks), cells)
    return [cell for place in range(len(tasks)) for cell in grid_cells[place]]


def _run_each(
    order: Sequence[int],
    tasks: Sequence[_CellTask[AnyNoise]],
    rollouts: Callable[[_CellTask[AnyNoise]], Iterator[Made]],
    deciders: Mapping[str, Callable[[Made], AbortResult]],
    jobs: int,
) -> Iterator[tuple[int, list[GridCell]]]:
    """The cells of each task, as they are done."""
    if jobs <= 1:
        for place in order:
            yield place, _run_cells(tasks[place], rollouts, deciders)
        return
    with ProcessPoolExecutor(jobs) as pool:
        places: dict[Future[list[GridCell]], int] = {
            pool.submit(_run_cells, tasks[place], rollouts, dict(deciders)): place for place in order
        }
        try:
            for future in as_completed(places):
                yield places[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _run_cells(
    task: _CellTask[AnyNoise],
    rollouts: Callable[[_CellTask[AnyNoise]], Iterator[Made]],
    deciders: Mapping[str, Callable[[Made], AbortResult]],
) -> list[GridCell]:
    """All deciders on the same rollouts."""
    decided: dict[str, list[AbortResult]] = {name: [] for name in deciders}
    for made in rollouts(task):
        for name, decide in deciders.items():
            decided[name].append(decide(made))
    return [_summarize_cell(task, name, each) for name, each in decided.items()]


def _summarize_cell(task: _CellTask[AnyNoise], decider: str, decided: Sequence[AbortResult]) -> GridCell:
    aborted = np.concatenate([each.aborted for each in decided])
    seconds = np.concatenate([each.seconds for each in decided])[aborted] - task.fault.onset
    return GridCell(
        size=task.size.name,
        noise=task.noise.name,
        fault=task.fault.name,
        method=decider,
        replicates=task.replicates,
        aborted=float(aborted.mean()),
        median_seconds=float(np.median(seconds)) if len(seconds) else None,
        slow_seconds=float(np.quantile(seconds, SLOW_QUANTILE)) if len(seconds) else None,
    )
