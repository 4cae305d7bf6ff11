"""Reads a grid from a TOML file (docs/simulation.md), and reports all of its problems at once.

The dataclasses in `simulation.scenarios` define the fields and their ranges. Pydantic checks them; this module turns its
errors into messages (field, found value, allowed values), and checks rules across fields.
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
from tidegate.simulation.scenarios import (
    NO_FAULT,
    AnyNoise,
    Count,
    Fault,
    Replicates,
    RolloutNoise,
    ScenarioGrid,
    ServiceSize,
    SwitchNoise,
)

#: The built-in grids.
PUBLISHED = ("public", "validation", "bluegreen")
DEFAULT_BASE = "mod+warm"  # the noise of cells with a fault, if the grid has one of this name
MAX_VALUE_CHARS = 60
FORMATS = {
    "sizes": "at least one table [[sizes]]",
    "noises": "at least one table [[noises]]",
    "faults": "tables [[faults]]",
    "base": "a table [base], or the name of a noise",
}


class InvalidGrid(Refused):
    """A grid is invalid; lists all problems."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class _GridFile(BaseModel):
    """The top level of a grid file. A `base` that is a name is removed first."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["rolling", "bluegreen"] = Field("rolling", description='"rolling" or "bluegreen"')
    seed: Count
    replicates: Replicates = 400
    sizes: Annotated[list[ServiceSize], Field(min_length=1)]
    faults: list[Fault] = []


class _RollingGridFile(_GridFile):
    noises: Annotated[list[RolloutNoise], Field(min_length=1)]
    base: RolloutNoise | None = None


class _BlueGreenGridFile(_GridFile):
    noises: Annotated[list[SwitchNoise], Field(min_length=1)]
    base: SwitchNoise | None = None


F = TypeVar("F", bound=_GridFile)


def load_grid(text: str) -> ScenarioGrid[RolloutNoise] | ScenarioGrid[SwitchNoise]:
    """The built-in grid of that name, else the grid in the file at that path. Raises `InvalidGrid` with all problems."""
    if text in PUBLISHED:
        return load_published(text)
    if not Path(text).is_file():
        known = ", ".join(PUBLISHED)
        raise InvalidGrid([Problem("grid", f'found "{text}"; allowed: the path of a TOML file, or one of {known}')])
    return load_file(Path(text))


def load_published(name: str) -> ScenarioGrid[RolloutNoise] | ScenarioGrid[SwitchNoise]:
    """A built-in grid, one of `PUBLISHED`."""
    return _load_file(resources.files("tidegate.simulation") / "grids" / f"{name}.toml")


def load_file(path: Path) -> ScenarioGrid[RolloutNoise] | ScenarioGrid[SwitchNoise]:
    """The grid of a file. Raises `InvalidGrid` with all problems."""
    return _load_file(path)


def _load_file(file: Path | Traversable) -> ScenarioGrid[RolloutNoise] | ScenarioGrid[SwitchNoise]:
    try:
        return parse_grid(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise InvalidGrid([Problem(str(file), f"cannot be read: {error.strerror}")]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidGrid([Problem(str(file), f"is not TOML: {error}")]) from error


def parse_grid(content: Mapping[str, Any]) -> ScenarioGrid[RolloutNoise] | ScenarioGrid[SwitchNoise]:
    """The grid from the content of a file. Raises `InvalidGrid` with all problems."""
    if content.get("mode") == "bluegreen":
        switch = _validate(content, _BlueGreenGridFile, SwitchNoise)
        return _build_grid(switch, switch.noises, switch.base, content.get("base"))
    rolling = _validate(content, _RollingGridFile, RolloutNoise)
    return _build_grid(rolling, rolling.noises, rolling.base, content.get("base"))


def _validate(content: Mapping[str, Any], model: type[F], kind: type) -> F:
    """`kind`: the dataclass of the noises."""
    problems = [*_cross_field_problems(content), *_duplicate_names(content)]
    given = {name: value for name, value in content.items() if name != "base" or not isinstance(value, str)}
    try:
        file = model.model_validate(given)
    except ValidationError as error:
        raise InvalidGrid([*(_problem_of(detail, given, kind) for detail in error.errors()), *problems]) from error
    if problems:
        raise InvalidGrid(problems)
    return file


def _build_grid(
    file: _GridFile, noises: Sequence[AnyNoise], table: AnyNoise | None, base: object
) -> ScenarioGrid[AnyNoise]:
    """The base is the table `base`, else the noise that `base` names, else `DEFAULT_BASE`, else the first noise."""
    name = base if isinstance(base, str) else DEFAULT_BASE
    chosen = table or next((noise for noise in noises if noise.name == name), noises[0])
    return ScenarioGrid(tuple(file.sizes), tuple(noises), tuple(file.faults), chosen, file.seed, file.replicates)


# -- rules across fields -------------------------------------------------------------------------------------------------


def _cross_field_problems(content: Mapping[str, Any]) -> Iterator[Problem]:
    for index, size in _tables(content, "sizes"):
        window, scrape = size.get("window"), size.get("scrape")
        if isinstance(window, int | float) and isinstance(scrape, int | float) and 0 < window < scrape:
            yield Problem(f"sizes[{index}].window", f"found {window:g}; allowed: at least {scrape:g}, the value of scrape")
    for index, fault in _tables(content, "faults"):
        if fault.get("name") == NO_FAULT.name:
            yield Problem(
                f"faults[{index}].name", f'found "{NO_FAULT.name}", which is reserved for no fault; choose another name'
            )
    base = content.get("base")
    names = _names(content, "noises")
    if isinstance(base, str) and base not in names:
        known = ", ".join(f'"{name}"' for name in names)
        yield Problem("base", f'found "{base}"; allowed: a table [base], or the name of one of the noises: {known}')
    if content.get("mode") == "bluegreen":
        yield from _shock_problems(content)


def _shock_problems(content: Mapping[str, Any]) -> Iterator[Problem]:
    """A shock has to end within the window after the switch."""
    windows = [size.get("window") for _, size in _tables(content, "sizes")]
    shortest = min((window for window in windows if isinstance(window, int | float)), default=float("inf"))
    base = [("base", content["base"])] if isinstance(content.get("base"), Mapping) else []
    for path, noise in [*((f"noises[{index}]", table) for index, table in _tables(content, "noises")), *base]:
        lasts = noise.get("shock_len", SwitchNoise.shock_len)
        if (noise.get("shock_pp") or noise.get("shock_lat")) and isinstance(lasts, int | float) and lasts > shortest:
            yield Problem(f"{path}.shock_len", f"found {lasts:g}; allowed: at most {shortest:g}, the shortest window")


def _duplicate_names(content: Mapping[str, Any]) -> Iterator[Problem]:
    for table in ("sizes", "noises", "faults"):
        names = _names(content, table)
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield Problem(table, f'{names.count(name)} entries are named "{name}"; names must be unique')


def _names(content: Mapping[str, Any], key: str) -> list[str]:
    return [table["name"] for _, table in _tables(content, key) if isinstance(table.get("name"), str)]


def _tables(content: Mapping[str, Any], key: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The entries of an array that are tables, with their indexes."""
    entries = content.get(key)
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(entry, Mapping):
            yield index, entry


# -- messages for pydantic's errors --------------------------------------------------------------------------------------


def _problem_of(error: ErrorDetails, content: Mapping[str, Any], kind: type) -> Problem:
    place = error["loc"]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
    names = (table.get("name") for index, table in _tables(content, str(place[0])) if len(place) == 3 and index == place[1])
    name = next(names, None)
    within = f' (in "{name}")' if isinstance(name, str) and place[-1] != "name" else ""
    return Problem(path, f"{_error_message(error, kind)}{within}")


def _error_message(error: ErrorDetails, kind: type) -> str:
    place = error["loc"]
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return _unknown_field_message(place, kind)
    if error["type"] == "missing":
        return f"is required: {_allowed_values(place, kind)}"
    return f"found {_format_value(error['input'])}; allowed: {_allowed_values(place, kind)}"


def _unknown_field_message(place: tuple[int | str, ...], kind: type) -> str:
    field, owner = str(place[-1]), _owner_class(place, kind)
    other, mode = (RolloutNoise, "rolling") if kind is SwitchNoise else (SwitchNoise, "bluegreen")
    if owner is kind and field in get_type_hints(other):
        return f'unknown name in this mode; only noises with mode = "{mode}" have it'
    known = list(_RollingGridFile.model_fields) if owner is None else list(get_type_hints(owner))
    near = difflib.get_close_matches(field, known, n=1)
    return "unknown name; " + (f"did you mean {near[0]}?" if near else f"allowed: {', '.join(known)}")


def _allowed_values(place: tuple[int | str, ...], kind: type) -> str:
    """The allowed values, from the description of the field's type."""
    owner = _owner_class(place, kind)
    if owner is None:
        return FORMATS.get(str(place[0])) or _RollingGridFile.model_fields[str(place[0])].description or ""
    if isinstance(place[-1], int):
        return f"a table [[{place[0]}]]"
    hint = get_type_hints(owner, include_extras=True)[str(place[-1])]
    descriptions = (item.description for item in hint.__metadata__ if isinstance(item, FieldInfo))
    return next(filter(None, descriptions), "")


def _owner_class(place: tuple[int | str, ...], kind: type) -> type | None:
    """The dataclass of the table with the problem; None at the top level of the file."""
    owners = {"sizes": ServiceSize, "noises": kind, "base": kind, "faults": Fault}
    return owners[str(place[0])] if len(place) > 1 else None


def _format_value(value: object) -> str:
    """A value as TOML writes it, shortened to `MAX_VALUE_CHARS`."""
    if isinstance(value, bool):
        return str(value).lower()
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[: MAX_VALUE_CHARS - 1]}…"
