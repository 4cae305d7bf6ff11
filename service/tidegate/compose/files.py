"""Reading `env_file`, `secrets` and `configs`, which refer to files next to the Compose file. Pure: the contents are given.

No message contains a value of an env file or the contents of a secret.
"""

from __future__ import annotations

import base64
import posixpath
import re
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tidegate.compose.document import ServiceDocument, extract_service
from tidegate.compose.interpolation import TooMuchText, Variables, interpolate_text
from tidegate.compose.reader import Findings, Reader, boolean, format_value, integer, list_of, named_values
from tidegate.core.container import File
from tidegate.errors import InvalidSpec

MAX_FILES = 50  # of one service
MAX_FILE_BYTES = 512 * 1024
ENTRIES = list_of("a list of names, or of objects with a source")
SECRETS = "/run/secrets"
HIDDEN_FOLDERS = ("/proc", "/sys", "/dev")  # mounted by Docker
ENGINE_FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
VARIABLE = re.compile(r"[A-Za-z_][\w.\-\[\]]*", re.ASCII)
EXTERNAL = "Tidegate has no secret store; set file: or environment: instead"


@dataclass(frozen=True, slots=True)
class EnvVariable:
    """One variable of an env file. `value` is None for a name alone; a `literal` value is not interpolated."""

    number: int
    name: str
    value: str | None
    literal: bool = False


EnvReader = Callable[[str], Iterable[EnvVariable]]  # raises `ValueError` with a message that contains no value


def parse_raw_env(text: str) -> Iterable[EnvVariable]:
    """The variables of an env file with `format: raw`: everything after the first `=` is the value."""
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            name, equals, value = line.lstrip().partition("=")
            yield EnvVariable(number, name if equals else name.rstrip(), value if equals else None, literal=True)


@dataclass(frozen=True, slots=True)
class ComposeFiles:
    """The files sent with the document, and the parser of env files."""

    contents: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    dotenv: EnvReader = parse_raw_env


@dataclass(frozen=True, slots=True)
class ReferencedFile:
    """A file that the document refers to."""

    name: str
    required: bool = True


def relative_name(value: object) -> str:
    """A normalised name inside the Compose file's folder: `./a/../b` becomes `b`. Raises `ValueError`."""
    if isinstance(value, str) and re.fullmatch(r"[^\x00-\x1f\x7f\\]{1,255}", value) and value[0] not in "/~":
        normalised = posixpath.normpath(value)
        if normalised not in (".", "..") and not normalised.startswith("../"):
            return normalised
    raise ValueError("the relative path of a file in the Compose file's folder or below")


def referenced_files(raw: object, service: str, variables: Mapping[str, str]) -> tuple[ReferencedFile, ...]:
    """The files that the client must send with the document. Mistakes are reported by `parse_service`."""
    findings = Findings()
    try:
        document = extract_service(raw, service, Variables.of(variables), findings)
    except InvalidSpec:
        return ()
    root = Reader(document.body, "", findings)
    referenced = {definition.name: definition for _, definition, _ in _env_files(root)}
    for kind in ("secrets", "configs"):
        for definition in document.shared.get(kind, {}).values():
            if isinstance(definition, Mapping) and isinstance(definition.get("file"), str):
                name = Reader(definition, "", findings).take("file", relative_name, "")
                referenced.update({name: ReferencedFile(name)} if name else {})
    return tuple(referenced.values())


# -- variables ------------------------------------------------------------------------------------------------------------


def read_environment(root: Reader, variables: Variables, files: ComposeFiles) -> dict[str, str]:
    """The variables of `environment` and `env_file`. The former override the latter; later files override earlier ones. A
    name without a value takes the variable of that name."""
    values: dict[str, str] = {}
    own = root.take("environment", named_values, dict[str, str | None](), secret=True)
    own_values = {name: variables.get(name) if value is None else value for name, value in own.items()}
    _count(root, "environment", [variables.get(name, "") for name, value in own.items() if value is None], variables)
    for index, file, raw in _env_files(root):
        text = _text(root, f"env_file[{index}]", file, files)
        if text is None:
            continue
        first = variables.over({**{name: value for name, value in own_values.items() if value is not None}, **variables})
        try:
            problem = _read_env(text, parse_raw_env if raw else files.dotenv, first, values)
        except TooMuchText as error:
            root.complain("env_file", str(error))
            break
        if problem:
            root.complain(f"env_file[{index}]", f"{file.name}: {problem}")
    values.update({name: value for name, value in own_values.items() if value is not None})
    for name in own:
        if own_values[name] is None:
            values.pop(name, None)
    if any("\0" in name + value for name, value in values.items()):
        root.complain("environment", "names and values must not contain NUL characters")
    return values


def _count(root: Reader, key: str, texts: Iterable[str], variables: Variables) -> None:
    """Count values that are used as they are; complain if they are too many."""
    try:
        for text in texts:
            variables.count(text)
    except TooMuchText as error:
        root.complain(key, str(error))


def _read_env(text: str, read: EnvReader, first: Variables, values: dict[str, str]) -> str:
    """Add the variables of one file to `values`. Returns an error message that contains no value, or an empty string.

    A variable in a value is looked up in `first`, then in `values`. Raises `TooMuchText`.
    """
    wrong: list[str] = []
    try:
        for line in read(text):
            if not VARIABLE.fullmatch(line.name):
                return f"line {line.number}: expected NAME=VALUE, with a name of letters, digits and _"
            value = first.get(line.name) if line.value is None else line.value
            if line.value is not None and not line.literal:
                known = first.over(ChainMap(first, values))  # type: ignore[arg-type]  # only ever read
                value = interpolate_text(line.value, known, wrong.append, lambda *_: UNSET_HINT)
            else:
                first.count(value or "")
            if wrong:
                return f"line {line.number}, {line.name}: {wrong[0]}"
            if value is not None:
                values[line.name] = value
    except TooMuchText:
        raise
    except ValueError as error:
        return str(error)
    return ""


UNSET_HINT = "a variable in its value is not set; write $$ for a literal dollar sign, or put the value in single quotes"


def _env_files(root: Reader) -> Iterator[tuple[int, ReferencedFile, bool]]:
    """Each env file with its index and whether it is raw; mistakes are reported and skipped."""
    for index, entry in enumerate(root.take("env_file", _one_or_more, list[object]())):
        try:
            yield index, *_env_file(entry)
        except ValueError as error:
            root.complain(f"env_file[{index}]", f"found {format_value(entry)}; allowed: {error}")


def _one_or_more(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _env_file(value: object) -> tuple[ReferencedFile, bool]:
    if not isinstance(value, Mapping):
        return ReferencedFile(relative_name(value)), False
    if not set(value) <= {"path", "required", "format"} or value.get("format") not in (None, "raw"):
        raise ValueError("path, required, and format: raw")
    return ReferencedFile(relative_name(value.get("path")), boolean(value.get("required", True))), value.get(
        "format"
    ) == "raw"


def _content(root: Reader, key: str, file: ReferencedFile, files: ComposeFiles) -> bytes | None:
    """The contents of a file; None when it was not sent, which is reported if the file is required."""
    content = files.contents.get(file.name)
    if content is None and file.required:
        root.complain(key, f"the file {file.name} is required; send it in `files` (tidegate deploy -f does so)")
    if content is not None and len(content) > MAX_FILE_BYTES:
        root.complain(key, f"the file {file.name} has {len(content)} bytes; allowed: at most {MAX_FILE_BYTES}")
        return None
    return content


def _text(root: Reader, key: str, file: ReferencedFile, files: ComposeFiles) -> str | None:
    content = _content(root, key, file, files)
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError:
        root.complain(key, f"the file {file.name} is not UTF-8 text")
        return None


# -- secrets and configs ---------------------------------------------------------------------------------------------------


def read_mounted_files(
    root: Reader, document: ServiceDocument, variables: Variables, files: ComposeFiles
) -> tuple[File, ...]:
    """The secrets and configs of the service, as files in the container."""
    mounted: list[File] = []
    for kind in ("secrets", "configs"):
        for index, entry in enumerate(root.take(kind, ENTRIES, list[object]())):
            file = _read_mounted_file(root, kind, f"{kind}[{index}]", entry, document, variables, files)
            if file is not None and any(file.target == other.target for other in mounted):
                root.complain(f"{kind}[{index}]", f"duplicate target {file.target}; change one of them")
            mounted += [file] if file is not None else []
    if len(mounted) > MAX_FILES:
        root.complain("secrets", f"{len(mounted)} secrets and configs; allowed: at most {MAX_FILES}")
    return tuple(mounted)


def _read_mounted_file(
    root: Reader,
    kind: str,
    key: str,
    entry: object,
    document: ServiceDocument,
    variables: Variables,
    files: ComposeFiles,
) -> File | None:
    values: object = {"source": entry} if isinstance(entry, str) else entry
    if isinstance(values, Mapping) and not values.get("target"):
        values = {**values, "target": values.get("source")}
    reader = Reader(values, root.at(key), root.findings, extensible=True)
    source = reader.take("source", _source, "")
    target = reader.take("target", lambda value: _target(value, kind), "")
    mode = reader.take("mode", _mode, 0o444)
    uid, gid = reader.take("uid", integer(0, 2**31 - 1), 0), reader.take("gid", integer(0, 2**31 - 1), 0)
    reader.finish()
    definition = document.shared.get(kind, {}).get(source)
    if source == "" or definition is None:
        if "source" not in reader or source:
            reader.complain("source" if not isinstance(entry, str) else "", _undeclared(kind, source))
        return None
    content = _defined(Reader(definition, f"{kind}.{source}", root.findings, extensible=True), kind, variables, files)
    if content is None or not target:
        return None
    try:
        variables.count_file(content)
    except TooMuchText as error:
        root.complain(kind, str(error))
        return None
    return File(target, base64.b64encode(content).decode(), mode, uid, gid)


def _undeclared(kind: str, name: str) -> str:
    return f"{name or 'it'} is not in the file's top-level {kind}; declare it there, with file: or environment:"


def _defined(reader: Reader, kind: str, variables: Variables, files: ComposeFiles) -> bytes | None:
    """The contents of a secret or config, from the source in its definition."""
    reader.refuse(
        {
            "external": EXTERNAL,
            "driver": EXTERNAL,
            "driver_opts": EXTERNAL,
            "template_driver": "contents are used unchanged",
        }
    )
    reader.tolerate("name", "labels")  # only meaningful for Swarm's store
    if reader.values.get("external") in (False, "false"):
        reader.tolerate("external")
    file = reader.take("file", relative_name, "")
    variable = reader.take("environment", _source, "")
    written = reader.take("content", _anything, None, secret=True) if kind == "configs" else None
    reader.finish()
    sources = ("file", "environment", "content")[: 3 if kind == "configs" else 2]
    if sum(source in reader for source in (*sources, "external")) != 1:
        reader.complain("", f"exactly one of {', '.join(sources)} is required")
    if sum((file != "", variable != "", written is not None)) != 1:
        return None
    if file:
        return _content(reader, "file", ReferencedFile(file), files)
    if written is not None:
        return written.encode()
    if variable not in variables:
        reader.complain("environment", f"the variable {variable} is not set; pass --set {variable}=…")
        return None
    return variables[variable].encode()


def _source(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9._-]+", value):
        return value
    raise ValueError("a name of letters, digits, ., - and _")


def _anything(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("text")


def _target(value: object, kind: str) -> str:
    """Its absolute path in the container."""
    if isinstance(value, str) and re.fullmatch(r"[^\x00-\x1f\x7f]{1,255}", value) and not value.endswith("/"):
        path = posixpath.normpath(posixpath.join(SECRETS if kind == "secrets" else "/", value))
        inside = any(path == folder or path.startswith(f"{folder}/") for folder in (*HIDDEN_FOLDERS, *ENGINE_FILES))
        if ".." not in value.split("/") and path.strip("/") and not inside:
            return "/" + path.lstrip("/")
    if not value:
        return ""
    raise ValueError(f"the path of a file, not below {', '.join(HIDDEN_FOLDERS)}, and not one that Docker writes")


def _mode(value: object) -> int:
    """A file mode such as `0440`: octal in YAML, and also in quotes."""
    if isinstance(value, str) and re.fullmatch(r"0?o?[0-7]{3,4}", value):
        value = int(value.removeprefix("0o"), 8)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o777:
        return value
    raise ValueError(f"an octal mode such as 0440, not {format_value(value)}")


def report_mount_conflicts(
    root: Reader, files: Sequence[File], mounts: Iterable[tuple[str, bool]], read_only: bool
) -> None:
    """Report files that the mounts would hide. `mounts` are pairs of a target and whether it is a tmpfs."""
    hidden: dict[str, list[str]] = {}
    for at, is_tmpfs in mounts:
        for file in files:
            below = f"{file.directory}/".startswith(f"{at}/") and not is_tmpfs
            if below or at in (file.directory, file.target):
                hidden.setdefault(at, []).append(file.target)
    if hidden:
        message = "; ".join(f"{', '.join(targets)} would be hidden by the mount at {at}" for at, targets in hidden.items())
        root.complain("volumes", f"{message}; change the targets")
    for file in files:
        if read_only and file.directory == "/":
            root.complain("read_only", f"{file.target} must be in a folder; set its target, such as /etc/app{file.target}")
