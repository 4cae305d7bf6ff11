"""Reads a grid from a TOML file (docs/simulation.md), and tells every mistake in it at once.

The fields and their ranges are those of the dataclasses in `simulation.scenarios`. Pydantic checks them; this module words
what it finds (which field, what was found, what is allowed) and checks what concerns several fields.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from tidegate.errors import Problem, Refused
from tidegate.simulation.scenarios import NO_FAULT, AnyNoise, BgNoise, Count, Fault, Grid, Noise, Replicates, Size

#: The grids that come with Tidegate.
PUBLISHED = ("public", "validation", "bluegreen")
USUAL_BASE = "mod+warm"  # the noise that faults run under, where there is one of that name
LONGEST_SHOWN = 60
HOW_WRITTEN = {
    "sizes": "at least one table [[sizes]]",
    "noises": "at least one table [[noises]]",
    "faults": "tables [[faults]]",
    "base": "a table [base], or the name of a noise",
}


class InvalidGrid(Refused):
    """The grid of a simulation has mistakes; lists all of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class _File(BaseModel):
    """What a file has at the top. A `base` that is a name is taken out before."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["rolling", "bluegreen"] = Field("rolling", description='"rolling" or "bluegreen"')
    seed: Count
    replicates: Replicates = 400
    sizes: Annotated[list[Size], Field(min_length=1)]
    faults: list[Fault] = []


class _Rolling(_File):
    noises: Annotated[list[Noise], Field(min_length=1)]
    base: Noise | None = None


class _BlueGreen(_File):
    noises: Annotated[list[BgNoise], Field(min_length=1)]
    base: BgNoise | None = None


F = TypeVar("F", bound=_File)


def named(text: str) -> Grid[Noise] | Grid[BgNoise]:
    """The published grid of that name, else that of the file at that path. Raises `InvalidGrid` with every mistake."""
    if text in PUBLISHED:
        return published(text)
    if not Path(text).is_file():
        known = ", ".join(PUBLISHED)
        raise InvalidGrid([Problem("grid", f'found "{text}"; allowed: the path of a TOML file, or one of {known}')])
    return read(Path(text))


def published(name: str) -> Grid[Noise] | Grid[BgNoise]:
    """One of `PUBLISHED`."""
    return _read(resources.files("tidegate.simulation") / "grids" / f"{name}.toml")


def read(path: Path) -> Grid[Noise] | Grid[BgNoise]:
    """The grid of a file. Raises `InvalidGrid` with every mistake."""
    return _read(path)


def _read(file: Path | Traversable) -> Grid[Noise] | Grid[BgNoise]:
    try:
        return of(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise InvalidGrid([Problem(str(file), f"cannot be read: {error.strerror}")]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidGrid([Problem(str(file), f"is not TOML: {error}")]) from error


def of(found: Mapping[str, Any]) -> Grid[Noise] | Grid[BgNoise]:
    """The grid of a file's content. Raises `InvalidGrid` with every mistake."""
    if found.get("mode") == "bluegreen":
        switch = _checked(found, _BlueGreen, BgNoise)
        return _grid(switch, switch.noises, switch.base, found.get("base"))
    rolling = _checked(found, _Rolling, Noise)
    return _grid(rolling, rolling.noises, rolling.base, found.get("base"))


def _checked(found: Mapping[str, Any], model: type[F], kind: type) -> F:
    """`kind`: the dataclass of the noises."""
    problems = [*_of_several_fields(found), *_repeated(found)]
    given = {name: value for name, value in found.items() if name != "base" or not isinstance(value, str)}
    try:
        file = model.model_validate(given)
    except ValidationError as error:
        raise InvalidGrid([*(_worded(each, given, kind) for each in error.errors()), *problems]) from error
    if problems:
        raise InvalidGrid(problems)
    return file


def _grid(file: _File, noises: Sequence[AnyNoise], table: AnyNoise | None, base: object) -> Grid[AnyNoise]:
    """The base is a table, or named, or the usual one, or the first."""
    name = base if isinstance(base, str) else USUAL_BASE
    chosen = table or next((noise for noise in noises if noise.name == name), noises[0])
    return Grid(tuple(file.sizes), tuple(noises), tuple(file.faults), chosen, file.seed, file.replicates)


# -- what concerns several fields ----------------------------------------------------------------------------------------


def _of_several_fields(found: Mapping[str, Any]) -> Iterator[Problem]:
    for index, size in _tables(found, "sizes"):
        window, scrape = size.get("window"), size.get("scrape")
        if isinstance(window, int | float) and isinstance(scrape, int | float) and 0 < window < scrape:
            yield Problem(f"sizes[{index}].window", f"found {window:g}; allowed: at least {scrape:g}, as scrape is")
    for index, fault in _tables(found, "faults"):
        if fault.get("name") == NO_FAULT.name:
            yield Problem(f"faults[{index}].name", f'found "{NO_FAULT.name}", which stands for no fault; choose another')
    base = found.get("base")
    names = _names(found, "noises")
    if isinstance(base, str) and base not in names:
        known = ", ".join(f'"{name}"' for name in names)
        yield Problem("base", f'found "{base}"; allowed: a table [base], or the name of one of the noises: {known}')
    if found.get("mode") == "bluegreen":
        yield from _shocks(found)


def _shocks(found: Mapping[str, Any]) -> Iterator[Problem]:
    """A shock lies within what is watched after the switch."""
    windows = [size.get("window") for _, size in _tables(found, "sizes")]
    shortest = min((each for each in windows if isinstance(each, int | float)), default=float("inf"))
    base = [("base", found["base"])] if isinstance(found.get("base"), Mapping) else []
    for path, noise in [*((f"noises[{index}]", each) for index, each in _tables(found, "noises")), *base]:
        lasts = noise.get("shock_len", BgNoise.shock_len)
        if (noise.get("shock_pp") or noise.get("shock_lat")) and isinstance(lasts, int | float) and lasts > shortest:
            yield Problem(f"{path}.shock_len", f"found {lasts:g}; allowed: at most {shortest:g}, the shortest window")


def _repeated(found: Mapping[str, Any]) -> Iterator[Problem]:
    for table in ("sizes", "noises", "faults"):
        names = _names(found, table)
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield Problem(table, f'{names.count(name)} are named "{name}"; each needs a name of its own')


def _names(found: Mapping[str, Any], table: str) -> list[str]:
    return [each["name"] for _, each in _tables(found, table) if isinstance(each.get("name"), str)]


def _tables(found: Mapping[str, Any], table: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The tables of an array of them with their places, as far as they are tables."""
    entries = found.get(table)
    for index, each in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(each, Mapping):
            yield index, each


# -- pydantic's mistakes in our words ------------------------------------------------------------------------------------


def _worded(error: ErrorDetails, found: Mapping[str, Any], kind: type) -> Problem:
    place = error["loc"]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
    names = (each.get("name") for index, each in _tables(found, str(place[0])) if len(place) == 3 and index == place[1])
    name = next(names, None)
    within = f' (in "{name}")' if isinstance(name, str) and place[-1] != "name" else ""
    return Problem(path, f"{_said(error, kind)}{within}")


def _said(error: ErrorDetails, kind: type) -> str:
    place = error["loc"]
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return _unknown(place, kind)
    if error["type"] == "missing":
        return f"is needed: {_allowed(place, kind)}"
    return f"found {_shown(error['input'])}; allowed: {_allowed(place, kind)}"


def _unknown(place: tuple[int | str, ...], kind: type) -> str:
    field, owner = str(place[-1]), _owner(place, kind)
    other, mode = (Noise, "rolling") if kind is BgNoise else (BgNoise, "bluegreen")
    if owner is kind and field in get_type_hints(other):
        return f'unknown name in this mode; noises have it where mode = "{mode}"'
    known = list(_Rolling.model_fields) if owner is None else list(get_type_hints(owner))
    near = difflib.get_close_matches(field, known, n=1)
    return "unknown name; " + (f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}")


def _allowed(place: tuple[int | str, ...], kind: type) -> str:
    """What may stand there, from the description of the field's type."""
    owner = _owner(place, kind)
    if owner is None:
        return HOW_WRITTEN.get(str(place[0])) or _Rolling.model_fields[str(place[0])].description or ""
    if isinstance(place[-1], int):
        return f"a table [[{place[0]}]]"
    hint = get_type_hints(owner, include_extras=True)[str(place[-1])]
    described = (each.description for each in hint.__metadata__ if isinstance(each, FieldInfo))
    return next(filter(None, described), "")


def _owner(place: tuple[int | str, ...], kind: type) -> type | None:
    """The dataclass of the table in which the mistake is; None at the top of the file."""
    owners = {"sizes": Size, "noises": kind, "base": kind, "faults": Fault}
    return owners[str(place[0])] if len(place) > 1 else None


def _shown(value: object) -> str:
    """What was found, as it stands in TOML, and not too long."""
    if isinstance(value, bool):
        return str(value).lower()
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"
