"""The language of the project as a test: plain terms in what people read, nouns for modules, one meaning for a class name.

What people read is every comment, docstring and string of the code, every page of the documentation and every example.
To check one folder: `python -m pytest tests/unit/test_language.py -k service/tidegate/engine`.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCANNED = (
    "service",
    "shared-library",
    "docs",
    "examples",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "RELEASING.md",
    "SECURITY.md",
)
#: Written by others, or without prose.
SKIPPED_NAMES = {"compose-spec.json", "compose-spec.LICENSE", "package-lock.json", "py.typed"}
SKIPPED_SUFFIXES = {".png", ".npz", ".gz", ".jar", ".ico"}

#: Words and phrases that nobody reads in this project (regular expression), and what to write instead.
BANNED = {
    r"anew": "again",
    r"beside": "next to, as well as",
    r"mend(s|ed|ing)?": "fix, repair",
    r"shall": "must, should",
    r"told": "reported, passed, configured",
    r"tell(s|ing)? of": "report, refer to",
    r"turn(s|ed|ing)? back": "roll back",
    r"wish(es|ed|ing)?": "signal, request, want",
    r"heard": "received, reported; for an engine: sent a heartbeat",
    r"(stands|stood)": "is",
    r"(go|goes|going|went) on": "continue",
    r"gives? up on its own": "stop after …",
    r"what serves": "the live release, the running service",
    r"the world": "the observed state, the environment",
    r"all (that|the time that) there is": "everything, the full …",
    r"(a|an|the|one|two|three|each|every|per|next|last|first|this|another|no|its|\d+) looks?": "measurement, poll",
    r"looks of": "measurements of",
    r"stor(y|ies)": "event log, scenario",
    r"troubles?": "error, problem",
    r"sentences?": "message",
    r"said": "reported, response",
    r"(rungs?|ladders?)": "step, scale",
    r"leap(s|ed|ing)?": "clock jump",
    r"tend(ed|ing)": "drift detection and repair",
    r"judg(e|es|ed|ing)": "analysis, analyse",
    r"(a|the|no|every|each|this|per) hold": "approval",
}
#: Old keys and states: nobody may use these as the whole of a string.
BANNED_KEYS = {
    "look", "hold", "hold_expires", "keep", "together", "least", "held", "routed", "shifted", "trouble", "wish", "told",
    "said", "why",
}  # fmt: skip
#: No public function, class, parameter, field or constant has one of these names.
BANNED_NAMES = BANNED_KEYS | {
    "each", "found", "seen", "wished", "looks", "story", "world", "rung", "ladder", "leap", "heard", "anew", "mend",
}  # fmt: skip
BANNED_NAME_PREFIXES = ("MOST_", "LEAST_", "LONGEST_")
#: Module names that end like a participle and are nouns of the field.
NOUNS = {
    "mapping",
    "pruning",
    "routing",
    "wiring",
    "logging",
    "testing",
    "blue_green",
    "unsupported",
    "upgraded",
    "shipped",
}
PARTICIPLE = re.compile(r"\w{2,}(ing|ed)|held|kept|shown|told|seen|found|said|given|done")
NOT_PARTICIPLES = {"string", "seed", "speed", "feed", "need", "shed", "thing", "ping", "ring", "timing"}

#: Between two words of a phrase: white space, the mark of a comment, the quotes of two strings that Python joins.
GAP = r"""[\s#*"']+"""
PATTERNS = {
    re.compile(rf"(?<![\w/.-]){pattern.replace(' ', GAP)}(?![\w-])", re.IGNORECASE): instead
    for pattern, instead in BANNED.items()
}
#: Files and things of other products that contain a banned word.
ALLOWED = ("leap second", "leap year")


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "--", *SCANNED],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    files = (ROOT / name for name in listed)
    return sorted(
        path for path in files if path.is_file() and path.name not in SKIPPED_NAMES and path.suffix not in SKIPPED_SUFFIXES
    )


def folder_of(path: Path) -> str:
    """The part of the project that a file belongs to: a package of the service, a folder, or the file itself."""
    parts = path.relative_to(ROOT).parts
    if parts[:2] == ("service", "tidegate"):
        return "/".join(parts[:3])
    return "/".join(parts[:2]) if parts[0] in {"examples", "shared-library"} or parts[:2] == ("docs", "adr") else parts[0]


FILES = tracked_files()
PYTHON = [path for path in FILES if path.suffix == ".py"]
SERVICE = [path for path in PYTHON if path.relative_to(ROOT).parts[0] == "service"]
FOLDERS: dict[str, list[Path]] = defaultdict(list)
for _path in FILES:
    FOLDERS[folder_of(_path)].append(_path)


# -- what is read ----------------------------------------------------------------------------------------------------------


def prose_of(path: Path) -> str:
    """What people read of a file, each character on the line and column where the file has it."""
    text = path.read_text()
    if path.suffix == ".py":
        return prose_of_python(text)
    if path.name == "CHANGELOG.md":
        before, mark, after = text.partition("## Unreleased")
        assert mark, "CHANGELOG.md has no section Unreleased"
        return re.sub(r"[^\n]", " ", before) + mark + after.partition("\n## ")[0]
    return text


def prose_of_python(text: str) -> str:
    """The comments and strings of a module; the code between them is blank."""
    lines = [[" "] * len(line) for line in text.splitlines()]
    originals = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in {tokenize.COMMENT, tokenize.STRING}:
            continue
        (first, start), (last, end) = token.start, token.end
        for number in range(first, last + 1):
            begin = start if number == first else 0
            stop = end if number == last else len(originals[number - 1])
            lines[number - 1][begin:stop] = originals[number - 1][begin:stop]
    return "\n".join("".join(line) for line in lines)


def banned_in(prose: str) -> Iterator[tuple[int, str]]:
    """The line of each banned word or phrase, and what to write instead."""
    for pattern, instead in PATTERNS.items():
        for match in pattern.finditer(prose):
            if any(prose[match.start() :].lower().startswith(allowed) for allowed in ALLOWED):
                continue
            phrase = re.sub(GAP, " ", match.group())
            yield prose.count("\n", 0, match.start()) + 1, f"“{phrase}”: write {instead}"


# -- names -----------------------------------------------------------------------------------------------------------------


def old_names_in(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The line of each public name and each key that the project has replaced."""
    for line, name in [*public_names(tree), *keys_of(tree)]:
        yield line, f"the name {name} is an old one: name what it holds"


def public_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [(node.lineno, node.name)]
            if isinstance(node, ast.FunctionDef):
                names += [(arg.lineno, arg.arg) for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        elif isinstance(node, ast.Module):
            names = []
        else:
            continue
        if isinstance(node, ast.ClassDef | ast.Module):
            names += [(target.lineno, target.id) for target in assigned(node.body)]
        yield from ((line, name) for line, name in names if is_old(name))


def assigned(body: list[ast.stmt]) -> Iterator[ast.Name]:
    for statement in body:
        targets = (
            statement.targets
            if isinstance(statement, ast.Assign)
            else [statement.target]
            if isinstance(statement, ast.AnnAssign)
            else []
        )
        yield from (target for target in targets if isinstance(target, ast.Name))


def is_old(name: str) -> bool:
    return name in BANNED_NAMES or name.startswith(BANNED_NAME_PREFIXES)


def keys_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in BANNED_KEYS:
            yield node.lineno, repr(node.value)


def participles_in(module: str) -> list[str]:
    """The words of a module's name that say what is done instead of what it is about."""
    if module in NOUNS:
        return []
    return [word for word in module.split("_") if PARTICIPLE.fullmatch(word) and word not in NOT_PARTICIPLES | NOUNS]


# -- the tests -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_banned_word(folder: str) -> None:
    breaches = [
        f"{path.relative_to(ROOT)}:{line}: {message}"
        for path in FOLDERS[folder]
        for line, message in sorted(banned_in(prose_of(path)))
    ]
    assert not breaches, "\n" + "\n".join(breaches)


@pytest.mark.parametrize("folder", sorted({folder_of(path) for path in SERVICE}))
def test_no_old_name(folder: str) -> None:
    breaches = [
        f"{path.relative_to(ROOT)}:{line}: {message}"
        for path in FOLDERS[folder]
        if path.suffix == ".py"
        for line, message in sorted(old_names_in(ast.parse(path.read_text())))
    ]
    assert not breaches, "\n" + "\n".join(breaches)


def test_modules_are_nouns() -> None:
    breaches = {str(path.relative_to(ROOT)): words for path in SERVICE if (words := participles_in(path.stem))}
    assert not breaches, f"name a module after its subject: {breaches}"


def test_class_names_are_unique() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in SERVICE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path.relative_to(ROOT)))
    assert not (repeated := {name: where for name, where in places.items() if len(where) > 1}), repeated


# -- the rules themselves --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ('"""It was told."""\n', [1]),
        ("x = 1  # it goes\n# on then\n", [1]),
        ('x = ("it goes "\n     "on")\n', [1]),
        ('x = f"""\nall\nheard"""\n', [3]),
        ("told = 1\n", []),
        ('"""The shallow world, a standing foretold; outlook; lookup, look up; leap second."""\n', []),
        ('"""v1 turned\nback."""\n', [1]),
        ('"""Every look; Beside it."""\n', [1, 1]),
    ],
)
def test_banned_words_of_python(source: str, lines: list[int]) -> None:
    assert [line for line, _ in banned_in(prose_of_python(source))] == lines


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("def held(): ...\n", [1]),
        ("class A:\n    least: int = 1\n    other = 2\n", [2]),
        ("def f(a, *, why=None): ...\n", [1]),
        ("MOST_LINES = 3\nMAX_LINES = 3\n", [1]),
        ("def f():\n    found = 1\n    return found\n", []),
        ("x = {'keep': 1, 'keep_old': 2}\n", [1]),
    ],
)
def test_old_names_of_python(source: str, lines: list[int]) -> None:
    assert [line for line, _ in old_names_in(ast.parse(source))] == lines


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("holding", ["holding"]),
        ("held", ["held"]),
        ("pruning", []),
        ("router_choosing", ["choosing"]),
        ("bed", []),
        ("text", []),
    ],
)
def test_participles_of_module_names(module: str, words: list[str]) -> None:
    assert participles_in(module) == words
