"""One document from several Compose files: those of the request, and those that `extends` and `include` name. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tidegate.compose import yaml
from tidegate.compose.document import EXTENSION, referenced_names
from tidegate.compose.files import ReferencedFile, relative_name
from tidegate.compose.interpolation import Variables, interpolate_text
from tidegate.compose.merge import Reset, merge, split_short, strip
from tidegate.errors import InvalidSpec, Problem

MAX_DEPTH = 20  # of files that extend or include others
SECTIONS = ("services", "volumes", "networks", "secrets", "configs", "models", "jobs")
#: Compose does not inherit the former. Which services are Tidegate's, each says for itself.
NOT_INHERITED = ("depends_on", EXTENSION)
FILE_KEYS = ("path", "project_directory", "env_file")


@dataclass(frozen=True, slots=True)
class Assembly:
    """What assembling needs, and what it finds.

    `contents`: the files sent with the request, by their path in the first file's folder. `missing` gets those that are
    named but were not sent.
    """

    service: str  # only its `extends` is followed, and that of the services that it depends on
    contents: Mapping[str, bytes]
    variables: Variables
    missing: dict[str, ReferencedFile] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def assemble(texts: Sequence[str], assembly: Assembly) -> object:
    """The document that the texts make, each merged over those before. Raises `InvalidSpec` for a text that is no YAML."""
    merged: object = None
    for text in texts:
        merged = merge(merged, _read(yaml.load(text), "", merged, assembly, 0))
    return strip(merged)


def _read(document: object, folder: str, before: object, assembly: Assembly, depth: int) -> object:
    """A document with its `extends` and `include` followed. `before`: what it will be merged over."""
    if not isinstance(document, Mapping):
        return document
    document = dict(document)
    services = document.get("services")
    if isinstance(services, Mapping):
        names = [name for name in _needed(assembly.service, services, before) if isinstance(services.get(name), Mapping)]
        whole = {name: _extend(name, services, _services(before), folder, assembly, depth) for name in names}
        document["services"] = {**services, **whole}
    included = document.pop("include", None)
    entries = included if isinstance(included, list) else [] if included is None else [included]
    for index, entry in enumerate(entries):
        document = _include(document, entry, f"include[{index}]", folder, assembly, depth)
    return document


def _needed(service: str, services: Mapping[str, object], before: object) -> list[str]:
    """The service and those that it depends on, some of which may be its jobs."""
    both = merge({"services": _services(before)}, {"services": services})
    after = {
        name: tuple(referenced_names(body.get("depends_on")))
        for name, body in _services(both).items()
        if isinstance(body, Mapping)
    }
    needed, waiting = dict.fromkeys([service]), [service]
    while waiting:
        new = [name for name in after.get(waiting.pop(), ()) if name not in needed]
        needed |= dict.fromkeys(new)
        waiting += new
    return list(needed)


def _services(document: object) -> Mapping[str, object]:
    services = document.get("services") if isinstance(document, Mapping) else None
    return services if isinstance(services, Mapping) else {}


# -- extends -------------------------------------------------------------------------------------------------------------


def _extend(
    name: str, services: Mapping[str, object], before: Mapping[str, object], folder: str, assembly: Assembly, depth: int
) -> object:
    """The service merged over the one that it extends. What the other one has in `x-tidegate` is its own."""
    body = services[name]
    if not isinstance(body, Mapping) or body.get("extends") is None or isinstance(body["extends"], Reset):
        return body
    own, place = {key: value for key, value in body.items() if key != "extends"}, f"services.{name}"
    base_name, file = _extended(body["extends"])
    if not base_name or depth >= MAX_DEPTH:
        text = "allowed: a service's name, or service and file" if depth < MAX_DEPTH else "extends itself"
        assembly.problems.append(Problem(f"{place}.extends", text))
        return own
    others = {**before, **services}
    if file:
        path, document = _load(file, f"{place}.extends.file", folder, assembly)
        if document is None:
            return own
        others, inner = dict(_services(document)), posixpath.dirname(path)
    else:
        inner = folder
    if base_name not in others:
        where = f" in {file}" if file else ""
        assembly.problems.append(Problem(f"{place}.extends", f"there is no service {base_name}{where}"))
        return own
    base = _extend(base_name, others, {}, inner, assembly, depth + 1)
    if isinstance(base, Mapping):
        base = {key: value for key, value in base.items() if key not in NOT_INHERITED}
        base = _rebase_service(base, posixpath.relpath(inner or ".", folder or ".")) if inner != folder else base
    merged = merge({"services": {name: base}}, {"services": {name: own}})
    return _services(merged)[name]


def _extended(value: object) -> tuple[str, str]:
    """The service's name, and the file that has it (empty: the same)."""
    if isinstance(value, str):
        return value, ""
    if isinstance(value, Mapping) and isinstance(value.get("service"), str) and set(value) <= {"service", "file"}:
        return str(value["service"]), str(value.get("file") or "")
    return "", ""


# -- include -------------------------------------------------------------------------------------------------------------


def _include(
    document: dict[str, object], entry: object, place: str, folder: str, assembly: Assembly, depth: int
) -> dict[str, object]:
    """The document with the resources of the included files."""
    options = entry if isinstance(entry, Mapping) else {"path": entry}
    paths = options.get("path")
    paths = paths if isinstance(paths, list) else [paths]
    if not set(options) <= set(FILE_KEYS) or not all(isinstance(path, str) for path in paths) or depth >= MAX_DEPTH:
        assembly.problems.append(Problem(place, f"allowed: the path of a file, or {', '.join(FILE_KEYS)}"))
        return document
    if options.get("env_file"):
        assembly.problems.append(Problem(f"{place}.env_file", "not supported: pass it with --env-file"))
    merged: object = None
    first = ""
    for path in paths:
        name, loaded = _load(str(path), place, folder, assembly)
        first = first or posixpath.dirname(name)
        merged = merge(merged, _read(loaded, posixpath.dirname(name), merged, assembly, depth + 1))
    directory = options.get("project_directory")
    inner = posixpath.normpath(posixpath.join(folder, str(directory))) if directory else first
    return _import(document, _rebase(merged, posixpath.relpath(inner or ".", folder or ".")), place, assembly)


def _import(document: dict[str, object], other: object, place: str, assembly: Assembly) -> dict[str, object]:
    """The document with the sections of another one. The same name in both is a mistake unless both mean the same."""
    for section in SECTIONS if isinstance(other, Mapping) else ():
        theirs, ours = other.get(section), document.get(section)  # type: ignore[attr-defined]
        if not isinstance(theirs, Mapping):
            continue
        mine = ours if isinstance(ours, Mapping) else {}
        for name in theirs:
            if name in mine and mine[name] != theirs[name]:
                assembly.problems.append(Problem(place, f"{section}.{name} is also in the file that includes it"))
        document[section] = {**theirs, **mine}
    return document


# -- files ---------------------------------------------------------------------------------------------------------------


def _load(file: str, place: str, folder: str, assembly: Assembly) -> tuple[str, object]:
    """The path of a file in the first file's folder, and its document; None if it was not sent."""
    text = interpolate_text(file, assembly.variables, lambda message: assembly.problems.append(Problem(place, message)))
    try:
        name = relative_name(posixpath.join(folder, text))
    except ValueError as error:
        assembly.problems.append(Problem(place, f"found {text}; allowed: {error}"))
        return "", None
    content = assembly.contents.get(name)
    if content is None:
        assembly.missing[name] = ReferencedFile(name)
        message = f"the file {name} is required; send it in `files` (tidegate deploy -f does so)"
        assembly.problems.append(Problem(place, message))
        return name, None
    try:
        return name, yaml.load(content.decode())
    except UnicodeDecodeError:
        assembly.problems.append(Problem(place, f"the file {name} is not UTF-8 text"))
    except InvalidSpec as error:
        assembly.problems.extend(Problem(place, f"{name}: {problem}") for problem in error.problems)
    return name, None


def _rebase(document: object, prefix: str) -> object:
    """A document of another folder, with its paths relative to this one's: `prefix` leads there."""
    if not isinstance(document, Mapping) or prefix == ".":
        return document
    changed = dict(document)
    changed["services"] = {
        name: _rebase_service(body, prefix) if isinstance(body, Mapping) else body
        for name, body in _services(document).items()
    }
    for section in ("secrets", "configs"):
        definitions = document.get(section)
        if isinstance(definitions, Mapping):
            changed[section] = {name: _moved_file(value, prefix) for name, value in definitions.items()}
    return changed


def _rebase_service(body: Mapping[str, object], prefix: str) -> dict[str, object]:
    changed = dict(body)
    if isinstance(body.get("volumes"), list):
        changed["volumes"] = [_moved_mount(entry, prefix) for entry in body["volumes"]]  # type: ignore[attr-defined]
    if (env_file := body.get("env_file")) is not None:
        entries = env_file if isinstance(env_file, list) else [env_file]
        changed["env_file"] = [
            {**entry, "path": _moved(entry.get("path"), prefix)} if isinstance(entry, Mapping) else _moved(entry, prefix)
            for entry in entries
        ]
    build = body.get("build")
    if isinstance(build, str):
        changed["build"] = _moved(build, prefix)
    elif isinstance(build, Mapping):
        changed["build"] = {**build, "context": _moved(build.get("context", "."), prefix)}
    return changed


def _moved_file(value: object, prefix: str) -> object:
    if isinstance(value, Mapping) and "file" in value:
        return {**value, "file": _moved(value["file"], prefix)}
    return value


def _moved_mount(entry: object, prefix: str) -> object:
    if isinstance(entry, Mapping):
        relative = entry.get("type") == "bind" and str(entry.get("source", "")).startswith(".")
        return {**entry, "source": _moved(entry["source"], prefix)} if relative else entry
    parts = split_short(str(entry))
    if isinstance(entry, str) and len(parts) > 1 and parts[0].startswith("."):
        return ":".join([str(_moved(parts[0], prefix)), *parts[1:]])
    return entry


def _moved(path: object, prefix: str) -> object:
    if not isinstance(path, str) or path.startswith(("/", "~")) or "://" in path:
        return path
    moved = posixpath.normpath(posixpath.join(prefix, path))
    return moved if moved.startswith((".", "/")) else f"./{moved}"
