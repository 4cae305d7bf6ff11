"""The rules for tests of CONTRIBUTING.md, as far as the source shows them: no slow or busy machine makes a test fail.

A rule is a function from a parsed file to the lines that break it, each with what to write instead.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MIN_BOUND_SECONDS = 10
CLOCKS = {"monotonic", "perf_counter", "process_time", "time"}
WAITING = "support/wait.py"
BENCH = "bench/"
Breaches = Iterator[tuple[int, str]]

FILES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if not (name := path.relative_to(ROOT).as_posix()).startswith(BENCH) and name != WAITING
]


# -- the rules -------------------------------------------------------------------------------------------------------------


def sleeps(tree: ast.AST) -> Breaches:
    """`time.sleep`, called or handed on."""
    instead = "wait with support.wait.eventually; where nothing can be waited for, pause(seconds, why)"
    for node in ast.walk(tree):
        is_attribute = isinstance(node, ast.Attribute) and node.attr == "sleep" and is_named(node.value, {"time"})
        is_import = isinstance(node, ast.ImportFrom) and node.module == "time" and "sleep" in names_of(node)
        if is_attribute or is_import:
            yield node.lineno, f"time.sleep: {instead}"


def short_bounds(tree: ast.AST) -> Breaches:
    """A bound in seconds, written as a number, that a busy machine may exceed."""
    instead = (
        "write 60 for a safety net, or use support.wait.exit_status or at_most; a time limit that is tested, "
        "or a pace, is a constant with a comment"
    )
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for what, value in bounds_of(node):
                if (seconds := number_of(value)) is not None and seconds < MIN_BOUND_SECONDS:
                    yield node.lineno, f"{what} of {seconds:g} s is under {MIN_BOUND_SECONDS} s: {instead}"


def upper_bounds_on_elapsed_time(tree: ast.AST) -> Breaches:
    """`time.monotonic() - begun < limit`, also by a name for the difference. Lower bounds are no matter."""
    instead = "put the block into `with support.wait.at_most(seconds, what)`, or count something instead"
    for scope in ast.walk(tree):
        if not isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
            continue
        names = {
            target.id
            for node in own_nodes(scope)
            if isinstance(node, ast.Assign) and is_elapsed(node.value, set())
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in own_nodes(scope):
            if isinstance(node, ast.Compare) and is_upper_bound(node, names):
                yield node.lineno, f"an upper bound on elapsed time: {instead}"


def polling_loops(tree: ast.AST) -> Breaches:
    """A `while` with a pause or a deadline in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.While) and any(is_pause_or_clock(inner) for inner in ast.walk(node)):
            yield node.lineno, "a polling loop: support.wait.eventually(what, condition) is the only one"


def chosen_ports(tree: ast.AST) -> Breaches:
    """A port that the test chooses, to listen at."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node) in ("bind", "create_server") and node.args:
            address = node.args[0]
            port = number_of(address.elts[-1]) if isinstance(address, ast.Tuple) and address.elts else None
            if port:
                yield node.lineno, f"port {port:g} may be taken: listen at port 0, or take processes.free_port()"


RULES: tuple[Callable[[ast.AST], Breaches], ...] = (
    sleeps,
    short_bounds,
    upper_bounds_on_elapsed_time,
    polling_loops,
    chosen_ports,
)


# -- what they look at -----------------------------------------------------------------------------------------------------


def called(node: ast.Call) -> str:
    """The last name of what is called."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def is_named(node: ast.AST, names: set[str]) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def names_of(node: ast.ImportFrom) -> set[str]:
    return {alias.name for alias in node.names}


def number_of(node: ast.AST) -> float | None:
    """The value of a number in the source."""
    is_number = isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)
    return float(node.value) if is_number else None


def bounds_of(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    """The arguments of a call that are bounds in seconds. What else is called `join` or `wait` takes text first."""
    name = called(node)
    for keyword in node.keywords:
        if keyword.arg == "timeout" or (keyword.arg == "seconds" and name in ("eventually", "exit_status", "at_most")):
            yield f"{name}({keyword.arg}=)", keyword.value
    if isinstance(node.func, ast.Attribute) and name in ("wait", "join", "result", "settimeout"):
        yield from ((f".{name}()", value) for value in node.args[:1])
    place = {"eventually": 2, "exit_status": 1, "at_most": 0}.get(name)
    if place is not None and isinstance(node.func, ast.Name):
        yield from ((f"{name}()", value) for value in node.args[place : place + 1])


def own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """All that is in a function, but not in the functions inside it."""
    for node in ast.iter_child_nodes(scope):
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from own_nodes(node)


def is_clock(node: ast.AST) -> bool:
    """`time.monotonic()` and its like."""
    is_attribute = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args
    return is_attribute and node.func.attr in CLOCKS and is_named(node.func.value, {"time"})


def is_elapsed(node: ast.AST, names: set[str]) -> bool:
    """The time since a moment, or a name for it."""
    return is_named(node, names) or (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and is_clock(node.left))


def is_upper_bound(node: ast.Compare, names: set[str]) -> bool:
    sides = [node.left, *node.comparators]
    return any(
        (isinstance(operator, ast.Lt | ast.LtE) and is_elapsed(left, names))
        or (isinstance(operator, ast.Gt | ast.GtE) and is_elapsed(right, names))
        for left, operator, right in zip(sides, node.ops, sides[1:], strict=False)
    )


def is_pause_or_clock(node: ast.AST) -> bool:
    return is_clock(node) or (isinstance(node, ast.Call) and called(node) in ("sleep", "pause"))


# -- held to them ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_test_hopes_that_the_machine_is_quick(path: Path) -> None:
    tree = ast.parse(path.read_text())
    found = sorted(breach for rule in RULES for breach in rule(tree))
    lines = [f"tests/{path.relative_to(ROOT).as_posix()}:{line}: {message}" for line, message in found]
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize(
    ("rule", "bad"),
    [
        (sleeps, "time.sleep(0.1)"),
        (sleeps, "act(time.sleep)"),
        (sleeps, "from time import sleep"),
        (short_bounds, "process.wait(5)"),
        (short_bounds, "process.communicate(timeout=5)"),
        (short_bounds, "thread.join(2.5)"),
        (short_bounds, "future.result(1)"),
        (short_bounds, "requests.get(url, timeout=5)"),
        (short_bounds, "line.settimeout(2)"),
        (short_bounds, "eventually('it is there', lambda: there, 5.0)"),
        (short_bounds, "exit_status(process, seconds=5)"),
        (upper_bounds_on_elapsed_time, "assert time.monotonic() - begun < 5"),
        (upper_bounds_on_elapsed_time, "assert 0.1 < time.time() - begun <= 5"),
        (upper_bounds_on_elapsed_time, "assert 5 > time.perf_counter() - begun"),
        (upper_bounds_on_elapsed_time, "took = time.monotonic() - begun\nassert took < 5"),
        (polling_loops, "while not there():\n    pause(0.1, 'it comes')"),
        (polling_loops, "while time.monotonic() < end:\n    look()"),
        (polling_loops, "while not there():\n    assert time.monotonic() < end"),
        (chosen_ports, "socket.create_server(('127.0.0.1', 8080))"),
        (chosen_ports, "listener.bind(('127.0.0.1', 8080))"),
    ],
)
def test_a_breach_is_found(rule: Callable[[ast.AST], Breaches], bad: str) -> None:
    assert len(list(rule(ast.parse(bad)))) == 1


@pytest.mark.parametrize(
    "good",
    [
        "pause(0.3, 'there is no further visit')",
        "eventually('it is there', lambda: there)",
        "process.wait(60)",
        "over.wait(PACE_SECONDS)",
        "', '.join(words)",
        "promote(timeout='2s')",
        "subject(timeout_seconds=0.3)",
        "polls.wait('shop-1', 1, 0.05)",
        "assert time.monotonic() - begun >= 0.3",
        "assert 0.3 <= time.monotonic() - begun",
        "assert len(claims) < 25 * (time.monotonic() - begun)",
        "while True:\n    listener.accept()",
        "listener.bind(('127.0.0.1', 0))",
        "listener.bind(str(path))",
    ],
)
def test_what_any_machine_can_do_is_no_breach(good: str) -> None:
    tree = ast.parse(good)
    assert [breach for rule in RULES for breach in rule(tree)] == []
