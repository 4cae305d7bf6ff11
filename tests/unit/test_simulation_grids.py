"""Grids from TOML files: the published ones, a stranger's own, and every mistake at once."""

from __future__ import annotations

import math
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from tidegate.errors import TidegateError
from tidegate.simulation.grids import PUBLISHED, InvalidGrid, load_file, load_published, parse_grid
from tidegate.simulation.scenarios import Fault, RolloutNoise, ServiceSize, SwitchNoise

SIZE = 'name = "A", n = 4, rps = 10, p0 = 0.01, scrape = 15, window = 300'
SMALL = f"""\
seed = 7
sizes = [{{{SIZE}}}]
noises = [{{name = "calm"}}, {{name = "mod+warm", phi = 2, warm_lat = 1.0986}}]
faults = [{{name = "err x2", err_mult = 2}}]
"""


def problems_of(text: str) -> dict[str, str]:
    with pytest.raises(InvalidGrid) as refused:
        parse_grid(tomllib.loads(text))
    return {problem.path: problem.message for problem in refused.value.problems}


@pytest.mark.parametrize(
    ("name", "sizes", "noises", "faults", "base", "seed"),
    [
        ("public", ["XS", "S", "M", "H", "L"], 11, 13, "mod+warm", 20240611),
        ("validation", ["XS2", "S2", "M2", "H2", "L2"], 11, 13, "mod+warm", 977),
        ("bluegreen", ["S", "M", "H"], 5, 6, "mod", 11),
    ],
)
def test_the_published_grids(name: str, sizes: list[str], noises: int, faults: int, base: str, seed: int) -> None:
    grid = load_published(name)
    assert [size.name for size in grid.sizes] == sizes
    assert (len(grid.noises), len(grid.faults)) == (noises, faults)
    assert (grid.base.name, grid.seed, grid.replicates) == (base, seed, 400)


def test_every_published_grid_is_named() -> None:
    folder = Path(__file__).parents[2] / "service" / "tidegate" / "simulation" / "grids"
    assert {file.stem for file in folder.glob("*.toml")} == set(PUBLISHED)


def test_values_are_those_of_the_file() -> None:
    grid = load_published("public")
    assert grid.sizes[1] == ServiceSize("S", 5, 20, 0.005, 15, 300)
    assert grid.base == RolloutNoise(
        "mod+warm",
        sd_e=0.15,
        sd_u=0.03,
        ar_e=0.10,
        ar_u=0.02,
        phi=2,
        load_cv=0.08,
        warm_lat=math.log(3),
        warm_err=math.log(2),
    )
    assert grid.faults[9] == Fault("1 of k +20pp", err_pp=0.2, one_of_k=True)
    assert load_published("bluegreen").base == SwitchNoise("mod", warm_lat=math.log(2), warm_err=math.log(1.5))


def test_what_may_be_left_out() -> None:
    grid = parse_grid(tomllib.loads(SMALL))
    assert (grid.base.name, grid.replicates) == ("mod+warm", 400)
    without = parse_grid(tomllib.loads(SMALL.replace("mod+warm", "x").replace("faults", "#")))
    assert (without.base.name, without.faults) == ("calm", ())


def test_the_base_by_name_and_as_a_table() -> None:
    assert parse_grid(tomllib.loads(f'base = "calm"\n{SMALL}')).base.name == "calm"
    assert parse_grid(tomllib.loads(f'{SMALL}[base]\nname = "own"\nphi = 3\n')).base == RolloutNoise("own", phi=3)


def test_every_mistake_at_once() -> None:
    text = """\
replicates = 0
[[sizes]]
name = "A"
n = 1
rps = -1
p0 = 1.5
scrap = 15
window = "300"
[[noises]]
name = "x"
phi = 0.5
hist_quiet = 1
[[noises]]
name = "x"
sd_e = nan
[[faults]]
name = "f"
one_of_k = "yes"
"""
    assert problems_of(text) == {
        "seed": "is required: a whole number of at least 0",
        "replicates": "found 0; allowed: a whole number of at least 1",
        "sizes[0].n": 'found 1; allowed: a whole number of at least 2 (in "A")',
        "sizes[0].rps": 'found -1; allowed: a number above 0 (in "A")',
        "sizes[0].p0": 'found 1.5; allowed: a number from 0 to 1 (in "A")',
        "sizes[0].scrap": 'unknown name; did you mean scrape? (in "A")',
        "sizes[0].scrape": 'is required: a number above 0, at most 60 (in "A")',
        "sizes[0].window": 'found "300"; allowed: a number above 0 (in "A")',
        "noises[0].phi": 'found 0.5; allowed: a number of at least 1 (in "x")',
        "noises[0].hist_quiet": 'found 1; allowed: true or false (in "x")',
        "noises[1].sd_e": 'found nan; allowed: a number of at least 0 (in "x")',
        "noises": '2 entries are named "x"; names must be unique',
        "faults[0].one_of_k": 'found "yes"; allowed: true or false (in "f")',
    }


@pytest.mark.parametrize(
    ("before", "after", "path", "message"),
    [
        ("sizes", "size", "size", "unknown name; did you mean sizes?"),
        ("seed = 7", "seed = 7\ncolour = 3", "colour", "unknown name; allowed: mode, seed,"),
        ("seed = 7", "seed = true", "seed", "found true; allowed: a whole number"),
        ("seed = 7", 'seed = 7\nmode = "canary"', "mode", 'found "canary"; allowed: "rolling" or "bluegreen"'),
        ("seed = 7", 'seed = 7\nbase = "none such"', "base", 'found "none such"; allowed: a table [base], or the name'),
        ("seed = 7", "seed = 7\nbase = 3", "base", "found 3; allowed: a table [base], or the name of a noise"),
        ("noises = [", "noises = [3, ", "noises[0]", "found 3; allowed: a table [[noises]]"),
        ("window = 300", "window = 10", "sizes[0].window", "found 10; allowed: at least 15, the value of scrape"),
        ("err x2", "none", "faults[0].name", 'found "none", which is reserved'),
        (
            '"calm"',
            '"calm", tc = 900',
            "noises[0].tc",
            'unknown name in this mode; only noises with mode = "bluegreen" have it',
        ),
        (f"sizes = [{{{SIZE}}}]", "sizes = []", "sizes", "found []; allowed: at least one table [[sizes]]"),
    ],
)
def test_a_mistake(before: str, after: str, path: str, message: str) -> None:
    assert before in SMALL
    result = problems_of(SMALL.replace(before, after, 1))
    assert result[path].startswith(message)


def test_a_shock_ends_within_the_window() -> None:
    text = SMALL.replace("window = 300", "window = 100").replace(", phi = 2, warm_lat = 1.0986}", ", shock_pp = 0.1}")
    assert parse_grid(tomllib.loads(text)).noises[1].shock_pp == 0.1
    result = problems_of(f'mode = "bluegreen"\n{text}')
    assert result == {"noises[1].shock_len": "found 120; allowed: at most 100, the shortest window"}


@pytest.mark.parametrize(
    ("text", "message"), [(None, "cannot be read"), ("seed = ", "is not TOML"), ("\udcff", "is not TOML")]
)
def test_a_file_that_is_none(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "grid.toml"
    if text is not None:
        file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(TidegateError, match=message):
        load_file(file)


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text(SMALL)
    assert load_file(file) == parse_grid(tomllib.loads(SMALL))


@pytest.mark.parametrize("kind", [ServiceSize, RolloutNoise, Fault, SwitchNoise])
def test_every_field_is_told_in_the_documentation(kind: type) -> None:
    text = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text()
    assert [field.name for field in fields(kind) if f"| `{field.name}` |" not in text] == []


def test_the_example_of_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text()
    grid = parse_grid(tomllib.loads(text.split("```toml\n")[1].split("```")[0]))
    assert (grid.sizes[0].name, grid.base.name, grid.faults[0].err_pp) == ("shop", "ordinary", 0.02)
