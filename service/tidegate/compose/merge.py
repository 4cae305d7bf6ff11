"""Merging Compose documents as the Compose specification says. Pure.

A later document wins: mappings are merged, lists are appended, and lists whose entries have an identity (a mount's target,
a variable's name) are merged by it. `!reset` removes a value, `!override` replaces it.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

ANY = "*"
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reset:
    """`!reset`: the value is removed."""


@dataclass(frozen=True, slots=True)
class Override:
    """`!override`: the value replaces the one before instead of being merged with it."""

    value: object


def merge(base: object, other: object, path: Path = ()) -> object:
    """`base` with `other` merged over it; `path` is where they are in the document."""
    if isinstance(other, Reset | Override):
        return other
    if isinstance(base, Reset | Override):
        base = base.value if isinstance(base, Override) else None
    if base is None or other is None:
        return base if other is None else other
    rule = next((rule for pattern, rule in RULES.items() if _matches(pattern, path)), None)
    if rule is not None:
        return rule(base, other, path)
    if isinstance(base, Mapping) and isinstance(other, Mapping):
        return _merge_mappings(base, other, path)
    if isinstance(base, list) and isinstance(other, list):
        return _unique([*base, *other], lambda entry: json.dumps(entry, sort_keys=True, default=str))
    return other


def strip(value: object) -> object:
    """The document without tags: what is reset is left out."""
    if isinstance(value, Override):
        return strip(value.value)
    if isinstance(value, Mapping):
        return {key: strip(item) for key, item in value.items() if not isinstance(item, Reset)}
    if isinstance(value, list):
        return [strip(item) for item in value if not isinstance(item, Reset)]
    return None if isinstance(value, Reset) else value


def _merge_mappings(base: Mapping[str, object], other: Mapping[str, object], path: Path) -> dict[str, object]:
    merged = dict(base)
    for key, value in other.items():
        merged[key] = merge(merged.get(key), value, (*path, key)) if key in merged else value
    return merged


def _matches(pattern: Path, path: Path) -> bool:
    return len(pattern) == len(path) and all(want in (ANY, part) for want, part in zip(pattern, path, strict=True))


# -- rules of single keys ------------------------------------------------------------------------------------------------


def _replace(base: object, other: object, path: Path) -> object:
    return other


def _pairs(base: object, other: object, path: Path) -> object:
    """Mappings, or lists of NAME=VALUE."""
    return {**_named(base), **_named(other)}


def _named(value: object) -> Mapping[str, object]:
    if isinstance(value, list):
        split = [str(entry).partition("=") for entry in value]
        return {name: text if equals else None for name, equals, text in split}
    return value if isinstance(value, Mapping) else {}


def _by_name(base: object, other: object, path: Path) -> object:
    """Lists of names, or mappings of options by name."""
    either = [dict.fromkeys(map(str, one)) if isinstance(one, list) else one for one in (base, other)]
    mappings = [one for one in either if isinstance(one, Mapping)]
    return _merge_mappings(mappings[0], mappings[1], path) if len(mappings) == 2 else other


def _texts(base: object, other: object, path: Path) -> object:
    """One text, or a list of texts."""
    return _unique([*_listed(base), *_listed(other)], lambda entry: json.dumps(entry, sort_keys=True, default=str))


def _hosts(base: object, other: object, path: Path) -> object:
    """`extra_hosts`: addresses by name, which a later document adds to."""
    return _unique([*_host_lines(base), *_host_lines(other)], str)


def _host_lines(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return [f"{name}={item}" for name, items in value.items() for item in _listed(items)]
    return [re.sub(r"^([^:=]+):", r"\1=", str(entry)) for entry in _listed(value)]


def _logging(base: object, other: object, path: Path) -> object:
    """Options belong to a driver: those of another one are dropped."""
    if isinstance(base, Mapping) and isinstance(other, Mapping):
        drivers = {one.get("driver") for one in (base, other)} - {None}
        return _merge_mappings(base, other, path) if len(drivers) < 2 else other
    return other


def _build(base: object, other: object, path: Path) -> object:
    """A context alone is short for a mapping."""
    either = [{"context": one} if isinstance(one, str) else one for one in (base, other)]
    mappings = [one for one in either if isinstance(one, Mapping)]
    return _merge_mappings(mappings[0], mappings[1], path) if len(mappings) == 2 else other


def _by_identity(identity: Callable[[object], Hashable]) -> Callable[[object, object, Path], object]:
    """Lists whose later entries replace earlier ones with the same identity."""

    def rule(base: object, other: object, path: Path) -> object:
        return _unique([*_listed(base), *_listed(other)], identity)

    return rule


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else [value]


def _unique(entries: list[object], identity: Callable[[object], Hashable]) -> list[object]:
    """The entries; of those with the same identity the last one, at the place of the first."""
    found: dict[Hashable, object] = {}
    for entry in entries:
        found[identity(entry)] = entry
    return list(found.values())


def split_short(text: str) -> list[str]:
    """The parts of a short form between its colons, except colons in `${…}`."""
    return re.findall(r"(?:\$\{(?:[^{}]|\$\{[^{}]*\})*\}|[^:])+", text)


def _mount(entry: object) -> Hashable:
    """A mount is known by its target."""
    if isinstance(entry, Mapping):
        return str(entry.get("target"))
    parts = split_short(str(entry))
    return parts[1] if len(parts) > 1 else parts[0] if parts else ""


def _granted(folder: str) -> Callable[[object], Hashable]:
    """A secret or config is known by its target: by default its source, in this folder."""

    def identity(entry: object) -> Hashable:
        own = entry if isinstance(entry, Mapping) else {"source": entry}
        return posixpath.join(folder, str(own.get("target") or own.get("source")))

    return identity


def _device(entry: object) -> Hashable:
    parts = split_short(str(entry))
    return str(entry.get("target")) if isinstance(entry, Mapping) else parts[1] if len(parts) > 1 else parts[0]


def _env_file(entry: object) -> Hashable:
    return str(entry.get("path")) if isinstance(entry, Mapping) else str(entry)


def _port(entry: object) -> Hashable:
    return json.dumps(entry, sort_keys=True, default=str) if isinstance(entry, Mapping) else str(entry)


RULES: Mapping[Path, Callable[[object, object, Path], object]] = {
    **{
        ("services", ANY, *keys): rule
        for rule, names in (
            (_replace, ("command", "entrypoint", "healthcheck.test")),
            (_pairs, ("environment", "labels", "annotations", "sysctls", "deploy.labels")),
            (_by_name, ("networks", "depends_on")),
            (_texts, ("dns", "dns_opt", "dns_search", "tmpfs")),
            (_hosts, ("extra_hosts",)),
            (_logging, ("logging",)),
            (_build, ("build",)),
            (_by_identity(_mount), ("volumes",)),
            (_by_identity(_granted("/run/secrets")), ("secrets",)),
            (_by_identity(_granted("/")), ("configs",)),
            (_by_identity(_device), ("devices",)),
            (_by_identity(_env_file), ("env_file",)),
            (_by_identity(_port), ("ports", "expose")),
        )
        for keys in (name.split(".") for name in names)
    },
    ("services", ANY, "build", "args"): _pairs,
    ("services", ANY, "x-tidegate", "approval", "after"): _replace,
    ("services", ANY, "x-tidegate", "weights"): _replace,
    ("services", ANY, "x-tidegate", "checks"): _replace,
    **{(kind, ANY, "labels"): _pairs for kind in ("networks", "volumes")},
}
