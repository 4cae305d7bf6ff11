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
from tidegate.simulation.deciding import Decide, Decided, DecideSwitch
from tidegate.simulation.generating import Generated, generate
from tidegate.simulation.grids import InvalidGrid
from tidegate.simulation.scenarios import NO_FAULT, AnyNoise, BgNoise, Fault, Grid, Noise, Size
from tidegate.simulation.switching import GeneratedSwitch, generate_switch

Only = Literal["null", "fault"]

FEWEST_FAULTY = 100  # replicates of a cell with a fault: half of the others', but at least so many
PLACES_OF_A_SIZE, FIRST_FAULT = 1000, 50  # where the cells of a size and those with a fault begin, in the numbers of seeds
COUNTS_AT_ONCE = 1_750_000  # rollouts are made in steps: about so many intervals of instances fit into memory
FEWEST_AT_ONCE = 25
SWITCHES_AT_ONCE = 50
SLOW = 0.9  # the quantile of the time to abort that is told beside the median


@dataclass(frozen=True)
class Cell:
    """What one decider did in one cell. The times are counted from the fault's onset; below 0 is before it."""

    size: str
    noise: str
    fault: str  # "none" where nothing is wrong
    decider: str
    replicates: int
    aborted: float  # share of the rollouts that were turned back
    median_seconds: float | None  # of those that were; None without any
    slow_seconds: float | None  # 90 % of those were turned back by then

    @property
    def good(self) -> bool:
        """Nothing is wrong with the release: each abort is a false one."""
        return self.fault == NO_FAULT.name


Progress = Callable[[int, int, Sequence[Cell]], None]  # cells that are done, of how many, and what the last one gave
Made = TypeVar("Made", Generated, GeneratedSwitch)


@dataclass(frozen=True)
class _Task(Generic[AnyNoise]):
    """A cell to be run; `number` and the grid's seed are the seed of its rollouts."""

    size: Size
    noise: AnyNoise
    fault: Fault
    replicates: int
    seed: int
    number: int


def run(
    grid: Grid[Noise],
    deciders: Mapping[str, Decide],
    replicates: int | None = None,
    jobs: int = 1,
    only: Only | None = None,
    sizes: Collection[str] = (),
    scenarios: Collection[str] = (),
    progress: Progress | None = None,
) -> list[Cell]:
    """Rolling updates, in the order of the grid: sizes, then noises and faults, then deciders.

    `replicates`: instead of the grid's own. `only`: cells without a fault ("null") or with one. `sizes` and `scenarios`
    (noises and faults): those of these names, all when empty. With several `jobs` the deciders are sent to other processes,
    so they are functions of modules, or `functools.partial` of them.
    """
    tasks = _tasks(grid, replicates, only, sizes, scenarios)
    return _run(tasks, _rolling, deciders, jobs, progress)


def run_switches(
    grid: Grid[BgNoise],
    deciders: Mapping[str, DecideSwitch],
    replicates: int | None = None,
    jobs: int = 1,
    only: Only | None = None,
    sizes: Collection[str] = (),
    scenarios: Collection[str] = (),
    progress: Progress | None = None,
) -> list[Cell]:
    """Switches of all traffic at once; the rest is as in `run`."""
    tasks = _tasks(grid, replicates, only, sizes, scenarios)
    return _run(tasks, _switches, deciders, jobs, progress)


# -- which cells --------------------------------------------------------------------------------------------------------


def _tasks(
    grid: Grid[AnyNoise],
    replicates: int | None,
    only: Only | None,
    sizes: Collection[str],
    scenarios: Collection[str],
) -> list[_Task[AnyNoise]]:
    each = grid.replicates if replicates is None else replicates
    names = [noise.name for noise in grid.noises] + [fault.name for fault in grid.faults]
    _refuse_unknown(sizes, [size.name for size in grid.sizes], "sizes")
    _refuse_unknown(scenarios, names, "scenarios")
    found = []
    for place, size in enumerate(grid.sizes):
        if sizes and size.name not in sizes:
            continue
        first = place * PLACES_OF_A_SIZE
        if only != "fault":
            for number, noise in enumerate(grid.noises):
                if not scenarios or noise.name in scenarios:
                    found.append(_Task(size, noise, NO_FAULT, each, grid.seed, first + number))
        if only != "null":
            for number, fault in enumerate(grid.faults, FIRST_FAULT):
                if not scenarios or fault.name in scenarios:
                    fewer = max(FEWEST_FAULTY, each // 2)
                    found.append(_Task(size, grid.base, fault, fewer, grid.seed, first + number))
    return found


def _refuse_unknown(wanted: Collection[str], known: Sequence[str], what: str) -> None:
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InvalidGrid([Problem(what, f'found "{name}"; known are {", ".join(known)}') for name in unknown])


# -- the rollouts of a cell, in steps -----------------------------------------------------------------------------------


def _rolling(task: _Task[Noise]) -> Iterator[Generated]:
    intervals = max(1.0, 4 * task.size.window / task.size.scrape)
    at_once = max(FEWEST_AT_ONCE, int(COUNTS_AT_ONCE / (task.size.n * intervals)))
    rng = np.random.default_rng((task.seed, task.number))
    for replicates in _steps(task.replicates, at_once):
        yield generate(task.size, task.noise, task.fault, replicates, rng)


def _switches(task: _Task[BgNoise]) -> Iterator[GeneratedSwitch]:
    rng = np.random.default_rng((task.seed, task.number))
    for replicates in _steps(task.replicates, SWITCHES_AT_ONCE):
        yield generate_switch(task.size, task.noise, task.fault, replicates, rng)


def _steps(replicates: int, at_once: int) -> list[int]:
    return [min(at_once, replicates - done) for done in range(0, replicates, at_once)]


# -- running them -------------------------------------------------------------------------------------------------------


def _run(
    tasks: Sequence[_Task[AnyNoise]],
    rollouts: Callable[[_Task[AnyNoise]], Iterator[Made]],
    deciders: Mapping[str, Callable[[Made], Decided]],
    jobs: int,
    progress: Progress | None,
) -> list[Cell]:
    """The largest services first, so that no process is left alone with one at the end."""
    found: dict[int, list[Cell]] = {}
    order = sorted(range(len(tasks)), key=lambda place: -tasks[place].size.n)
    for place, cells in _each(order, tasks, rollouts, deciders, jobs):
        found[place] = cells
        if progress is not None:
            progress(len(found), len(tasks), cells)
    return [cell for place in range(len(tasks)) for cell in found[place]]


def _each(
    order: Sequence[int],
    tasks: Sequence[_Task[AnyNoise]],
    rollouts: Callable[[_Task[AnyNoise]], Iterator[Made]],
    deciders: Mapping[str, Callable[[Made], Decided]],
    jobs: int,
) -> Iterator[tuple[int, list[Cell]]]:
    """The cells of each task, as they are done."""
    if jobs <= 1:
        for place in order:
            yield place, _cells(tasks[place], rollouts, deciders)
        return
    with ProcessPoolExecutor(jobs) as pool:
        places: dict[Future[list[Cell]], int] = {
            pool.submit(_cells, tasks[place], rollouts, dict(deciders)): place for place in order
        }
        try:
            for future in as_completed(places):
                yield places[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _cells(
    task: _Task[AnyNoise],
    rollouts: Callable[[_Task[AnyNoise]], Iterator[Made]],
    deciders: Mapping[str, Callable[[Made], Decided]],
) -> list[Cell]:
    """All deciders on the same rollouts."""
    decided: dict[str, list[Decided]] = {name: [] for name in deciders}
    for made in rollouts(task):
        for name, decide in deciders.items():
            decided[name].append(decide(made))
    return [_cell(task, name, each) for name, each in decided.items()]


def _cell(task: _Task[AnyNoise], decider: str, decided: Sequence[Decided]) -> Cell:
    aborted = np.concatenate([each.aborted for each in decided])
    seconds = np.concatenate([each.seconds for each in decided])[aborted] - task.fault.onset
    return Cell(
        size=task.size.name,
        noise=task.noise.name,
        fault=task.fault.name,
        decider=decider,
        replicates=task.replicates,
        aborted=float(aborted.mean()),
        median_seconds=float(np.median(seconds)) if len(seconds) else None,
        slow_seconds=float(np.quantile(seconds, SLOW)) if len(seconds) else None,
    )
