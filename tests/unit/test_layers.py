"""The architecture as a test: who may import whom, and how large a file and a function may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "service" / "tidegate"

#: For each layer, the layers of `tidegate` that it may import besides itself and `errors`.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "core": set(),
    "settings": {"core"},
    "ports": {"core"},
    "engine": {"core", "ports"},
    "store": {"core", "ports"},
    "drivers": {"core", "ports", "causes"},
    "causes": set(),
    "testing": {"core", "ports"},
    "simulation": {"core"},
    "wiring": {"core", "ports", "engine", "store", "drivers", "settings"},
    "web": {"core", "ports", "wiring", "engine", "settings"},
    "cli": {"core", "ports", "web", "wiring", "settings", "simulation"},
    "__init__": set(),
    "__main__": {"cli"},
}
#: The pure layers use only the standard library; the judge, which is full of arrays, also these.
PURE = {"core", "errors", "ports"}
ARRAYS = {"numpy", "scipy"}
JUDGE = ("analysis/statistics", "analysis")
STANDARD_BUT_IMPURE = {"time", "random", "logging", "os", "pathlib", "socket", "subprocess", "threading", "io"}
LONGEST_FILE = 400
LONGEST_FUNCTION = 49

FILES = sorted(ROOT.rglob("*.py"))


def layer_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_respect_the_layers(path: Path) -> None:
    layer = layer_of(path)
    assert layer in ALLOWED, f"declare the new top-level module {layer} here"
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] != "tidegate" or len(parts) == 1:
            continue
        assert parts[1] in ALLOWED[layer] | {layer, "errors", "__version__"}, f"{layer} imports {name}"


@pytest.mark.parametrize("path", [p for p in FILES if layer_of(p) in PURE], ids=name_of)
def test_pure_layers_use_only_the_pure_standard_library(path: Path) -> None:
    import sys

    for name in imports_of(path):
        top = name.split(".")[0]
        allowed = ARRAYS if name_of(path).startswith(JUDGE) else set()
        assert top in {"tidegate"} | allowed | sys.stdlib_module_names, f"{name} is not of the standard library"
        assert top not in STANDARD_BUT_IMPURE, f"{name} reaches outside"


@pytest.mark.parametrize("path", [p for p in FILES if layer_of(p) == "drivers"], ids=name_of)
def test_no_driver_sees_another(path: Path) -> None:
    parts = path.relative_to(ROOT).parts
    if len(parts) < 3:
        return
    for name in imports_of(path):
        if name.startswith("tidegate.drivers."):
            kind = name.split(".")[2]
            assert kind == parts[1], f"{name_of(path)} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_size_budget(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= LONGEST_FILE, f"{text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name}: {length} lines"


def test_a_command_for_the_server_loads_nothing_of_the_server() -> None:
    """People wait for it: with the database, the web and the judge it would take four times as long to begin."""
    heavy = {"sqlalchemy", "flask", "numpy", "scipy", "docker", "tidegate.wiring"}
    told = "import sys, tidegate.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())
