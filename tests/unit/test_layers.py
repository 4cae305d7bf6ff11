"""The architecture as a test: who may import whom, and how large a file and a function may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "service" / "tidegate"

#: For each layer, the layers of `tidegate` that it may import besides itself and `BASE`.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "clock": set(),
    "text": set(),
    "fair_threads": set(),
    "openapi_diff": set(),
    "core": set(),
    "analysis": {"core", "compose"},
    "compose": {"core", "openapi_diff"},
    "settings": {"compose", "core"},
    "ports": {"core", "analysis"},
    "store_port": {"core", "ports", "analysis"},
    "engine": {"core", "ports", "analysis", "openapi_diff", "app", "store_port"},
    "store": {"core", "ports", "analysis", "store_port"},
    "drivers": {"core", "ports", "analysis"},
    "testing": {"core", "ports", "analysis"},
    "simulation": {"core", "analysis"},
    "wiring": {"core", "ports", "engine", "store", "drivers", "settings", "store_port"},
    "app": {"core", "ports", "compose", "settings", "store_port"},
    "web": {"core", "ports", "compose", "analysis", "app", "wiring", "engine", "settings", "store_port"},
    "cli": {"core", "ports", "compose", "analysis", "web", "wiring", "settings", "simulation", "store_port"},
    "__init__": set(),
    "__main__": {"cli"},
}
#: Every layer may import these.
BASE = {"errors", "clock", "text", "fair_threads", "__version__"}
#: Values and functions of text that every layer may import; they import nothing but `BASE`.
VALUES = ("analysis.verdict", "analysis.promql", "openapi_diff.result", "compose.units")
#: The pure layers use only the standard library; the statistics, which are full of arrays, also these.
PURE = {"core", "analysis", "openapi_diff", "compose", "errors", "clock", "text", "ports", "store_port"}
ARRAYS = {"numpy", "scipy"}
USES_ARRAYS = "analysis/"
#: These read text with libraries; the rest of `compose` works on what they return.
READS_TEXT = {"compose/loader.py", "compose/schema.py", "compose/yaml.py"}
STANDARD_BUT_IMPURE = {"time", "random", "logging", "os", "pathlib", "socket", "subprocess", "threading", "io"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 49

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
        if name.startswith(tuple(f"tidegate.{each}" for each in VALUES)):
            continue
        assert parts[1] in ALLOWED[layer] | BASE | {layer}, f"{layer} imports {name}"


@pytest.mark.parametrize("module", VALUES)
def test_values_import_only_the_base(module: str) -> None:
    for name in imports_of(ROOT / f"{module.replace('.', '/')}.py"):
        parts = name.split(".")
        assert parts[0] != "tidegate" or parts[1] in BASE, f"{module} imports {name}"


@pytest.mark.parametrize("path", [p for p in FILES if layer_of(p) in PURE and name_of(p) not in READS_TEXT], ids=name_of)
def test_pure_layers_use_only_the_pure_standard_library(path: Path) -> None:
    for name in imports_of(path):
        top = name.split(".")[0]
        allowed = ARRAYS if name_of(path).startswith(USES_ARRAYS) else set()
        assert top in {"tidegate"} | allowed | sys.stdlib_module_names, f"{name} is not of the standard library"
        assert top not in STANDARD_BUT_IMPURE, f"{name} reaches outside"


def driver_folder(parts: list[str]) -> tuple[str, str]:
    """Kind and product of a module below `drivers`, such as ("routers", "haproxy"); empty for one that several share."""
    kind = parts[0] if parts and (ROOT / "drivers" / parts[0]).is_dir() else ""
    product = parts[1] if kind and len(parts) > 1 and (ROOT / "drivers" / kind / parts[1]).is_dir() else ""
    return kind, product


@pytest.mark.parametrize("path", [p for p in FILES if layer_of(p) == "drivers"], ids=name_of)
def test_no_driver_imports_another(path: Path) -> None:
    kind, product = driver_folder(list(path.relative_to(ROOT / "drivers").with_suffix("").parts))
    for name in imports_of(path):
        if name.startswith("tidegate.drivers."):
            imported_kind, imported_product = driver_folder(name.split(".")[2:])
            assert imported_kind in {"", kind}, f"{name_of(path)} imports {name}"
            assert imported_product in {"", product}, f"{name_of(path)} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_size_budget(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MAX_FILE_LINES, f"{text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name}: {length} lines"


@pytest.mark.parametrize(
    ("module", "slow"),
    [
        ("tidegate.cli.main", {"sqlalchemy", "flask", "numpy", "scipy", "docker", "tidegate.wiring"}),
        ("tidegate.cli.server", {"numpy", "scipy", "alembic"}),  # for a verdict, and for a schema that is not up to date
    ],
)
def test_a_process_loads_only_what_it_needs_to_start(module: str, slow: set[str]) -> None:
    """People wait for a command, and clients for a server that starts again."""
    printed = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", printed], capture_output=True, text=True, check=True)
    assert not slow & set(done.stdout.split())
