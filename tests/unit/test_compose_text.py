"""The text of Compose files and env files: read as Compose reads them, and never without bounds."""

from __future__ import annotations

import contextlib
import json
import tracemalloc

import pytest

from support.wait import at_most
from tidegate.compose.files import ComposeFiles, parse_raw_env, read_environment, relative_name
from tidegate.compose.interpolation import Variables
from tidegate.compose.loader import load_service, parse_env_file
from tidegate.compose.reader import Findings, Reader
from tidegate.compose.yaml import load
from tidegate.errors import InvalidSpec, Problem

# -- YAML ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("22:22", "22:22"),
        ("2026-01-01", "2026-01-01"),
        ("0444", 0o444),
        ("0o444", 0o444),
        ("0x1F", 31),
        ("09", "09"),
        ("1_000", 1000),
        ("1.10", 1.1),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("~", None),
        ("", None),
        ("=", "="),
        ("'1'", "1"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    assert load(f"a: {text}") == {"a": value}


def test_keys_are_text() -> None:
    assert load("8080: a\ntrue: b\n1.0: c\nnull: d") == {"8080": "a", "true": "b", "1.0": "c", "null": "d"}


def test_merges_override_and_may_be_merged_themselves() -> None:
    text = "x: &b {a: 1, b: 2}\ny: &m {<<: *b, a: 2}\nz: {<<: *m, c: 3}\nw: {<<: [*b, *m], d: 1}"
    assert load(text) == {
        "x": {"a": 1, "b": 2},
        "y": {"a": 2, "b": 2},
        "z": {"a": 2, "b": 2, "c": 3},
        "w": {"a": 1, "b": 2, "d": 1},
    }


GROWING = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
MERGING = [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 9)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2", "line 2, column 1: not a Compose file: duplicate key a"),
        ("a: {b: 1, 'b': 2}", "duplicate key b"),
        ("<<: {a: 1}\n<<: {b: 1}", "duplicate key <<"),
        ("a: &a [*a]", "contains itself"),
        ("a: &a {<<: *a}", "contains itself"),
        ("a: *nowhere", "undefined alias"),
        ("\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x, x]", *GROWING]), "more than 20000 values with its aliases"),
        ("\n".join(["a0: &a0 {x: 1, y: 2}", *MERGING]), "more than 20000 values with its aliases"),
        ("a: [" + "1," * 30_000 + "]", "more than 20000 values"),
        ("a: [" + "1," * 2_000 + "]", "2000 entries in one list or mapping; allowed: at most 1000"),
        ("[" * 3_000, "nested too deeply"),
        ("!reset a: x", "the tag !reset"),
        ("a: !vault x", "the tag !vault is not supported"),
        ("a: !!python/object/apply:os.system [x]", "is not supported; use plain YAML"),
        ("a: !!binary aGk=", "is not supported"),
        ("a: !!int x", "not a Compose file"),
        ("a: !!bool x", "not a Compose file"),
        ("? [a]\n: b", "a key must be plain text"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: \x00", "not a Compose file"),
        ('a: "\\ud800"', "invalid character"),
        ("a: " + "9" * 5_000, "not a Compose file"),
        ("a: [", "line 1"),
    ],
)
def test_what_is_refused_is_refused_soon(text: str, said: str) -> None:
    with at_most(30, "refusing it"), pytest.raises(InvalidSpec) as refused:
        load(text)
    assert said in str(refused.value)


NUMBERS = range(1000)
LARGE = {
    "unknown keys": {f"imag{number}": "x" for number in NUMBERS},
    "objects in a list": {"volumes": [{"type": "bind", "source": "/a", "target": f"/{number}"} for number in NUMBERS]},
    "the same objects": {"secrets": [{"source": "a", "x-a": number} for number in NUMBERS]},
    "checks": {"x-tidegate": {"checks": [{f"k{each}": 1 for each in range(15)} for _ in NUMBERS]}},
    "defaults in defaults": {"user": "${A:-" * 5_000},
    "dollars": {"user": "$" * 50_001},
    "opened braces": {"user": "${" * 25_000},
}


@pytest.mark.parametrize("body", LARGE.values(), ids=LARGE.keys())
def test_a_large_file_takes_bounded_time(body: dict[str, object]) -> None:
    text = json.dumps({"services": {"shop": {"image": "x", "expose": ["80"], **body}}})
    with at_most(60, "reading it"), contextlib.suppress(InvalidSpec):
        load_service(text, "shop", "demo", {})


HUGE = "x" * 400_000
DOUBLING = "A=xxxxxxxx\n" + "A=${A}${A}\n" * 60
GROWING: dict[str, tuple[dict[str, object], dict[str, str], dict[str, bytes], str]] = {
    "an env file that doubles": ({"env_file": "a.env"}, {}, {"a.env": DOUBLING.encode()}, "env_file"),
    "a raw env file again and again": (
        {"env_file": [{"path": "a.env", "format": "raw"}] * 1000},
        {},
        {"a.env": b"A=" + HUGE.encode()},
        "env_file",
    ),
    "a large variable": ({"command": ["${A}"] * 1000}, {"A": HUGE}, {}, "command[2]"),
    "a large variable without a dollar sign": (
        {"environment": ["A", "B", "C"]},
        dict.fromkeys("ABC", HUGE),
        {},
        "environment",
    ),
    "large variables in defaults": ({"labels": {"a": "${Z:-" * 8 + "${A}${A}${A}" + "}" * 8}}, {"A": HUGE}, {}, "labels.a"),
}


@pytest.mark.parametrize(("body", "values", "files", "place"), GROWING.values(), ids=GROWING.keys())
def test_a_small_file_takes_bounded_memory(
    body: dict[str, object], values: dict[str, str], files: dict[str, bytes], place: str
) -> None:
    text = json.dumps({"services": {"shop": {"image": "x", "expose": ["80"], **body}}})
    tracemalloc.start()
    try:
        with pytest.raises(InvalidSpec) as refused:
            load_service(text, "shop", "demo", values, files)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert f"services.shop.{place}" in str(refused.value)
    assert "more than 1,048,576 characters" in str(refused.value)
    assert peak < 40_000_000, "of 1.2 MB at most, and its nodes"


@pytest.mark.parametrize("uses", ["command: [*a, *a, *a]", "x-tidegate: {checks: [{query: *a}, {query: *a}, {query: *a}]}"])
def test_aliases_of_a_large_text_count_each_time(uses: str) -> None:
    text = f"x-a: &a {HUGE}\nservices: {{shop: {{image: x, expose: ['80'], {uses}}}}}"
    with pytest.raises(InvalidSpec, match="more than 1,048,576 characters"):
        load_service(text, "shop", "demo", {})


def test_the_services_of_one_request_share_the_limit() -> None:
    values = Variables({"A": HUGE})
    text = json.dumps({"services": {"shop": {"image": "x", "expose": ["80"], "x-tidegate": {}, "user": "${A}"}}})
    for _ in range(2):
        load_service(text, "shop", "demo", values)
    with pytest.raises(InvalidSpec, match="send the services of a group one by one"):
        load_service(text, "shop", "demo", values)


def test_one_large_file_is_not_mounted_often() -> None:
    configs = [{"source": "a", "target": f"/etc/{number}"} for number in range(50)]
    service = {"image": "x", "expose": ["80"], "configs": configs}
    text = json.dumps({"services": {"shop": service}, "configs": {"a": {"file": "a"}}})
    with pytest.raises(InvalidSpec, match=r"shop.configs: .*more than 16,777,216 bytes"):
        load_service(text, "shop", "demo", {}, {"a": b"x" * 400_000})


# -- env files -------------------------------------------------------------------------------------------------------------


def variables(*texts: str, environment: object = None, raw: bool = False, **given: str) -> dict[str, str]:
    """What stands in the container; every mistake is raised."""
    problems: list[Problem] = []
    names = [f"{number}.env" for number in range(len(texts))]
    entries = [{"path": name, "format": "raw"} if raw else name for name in names]
    root = Reader({"env_file": entries, "environment": environment}, "shop", Findings(problems))
    contents = {name: text.encode() for name, text in zip(names, texts, strict=True)}
    found = read_environment(root, Variables(given), ComposeFiles(contents, parse_env_file))
    if problems:
        raise InvalidSpec(problems)
    return found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=b", "b"),
        ("export A=b", "b"),
        ("A = b", "b"),
        ("A=b # comment", "b"),
        ("A=b#no-comment", "b#no-comment"),
        ("A=#no-comment", "#no-comment"),
        ("A= b c ", "b c"),
        ("A=", ""),
        ("A=''", ""),
        ("A='b # $c'", "b # $c"),
        ("A='it\\'s'", "it's"),
        ('A="b # c" # comment', "b # c"),
        ('A="b\\nc\\td"', "b\nc\td"),
        ("A='b\\nc'", "b\\nc"),
        ('A="b\nc"', "b\nc"),
        ("A=b=c", "b=c"),
        ("A=$X", "x"),
        ('A="${X}y"', "xy"),
        ("A=${NONE:-d}", "d"),
        ("A=pa$$word", "pa$word"),
        ("B=1\nA=${B}2", "12"),
        ("A=1\nA=2", "2"),
        ("\ufeffA=b\r\n# c\r\n\r\n", "b"),
    ],
)
def test_an_env_file_is_read_as_compose_reads_it(text: str, value: str) -> None:
    assert variables(text, X="x")["A"] == value


@pytest.mark.parametrize(
    ("text", "value"), [("A='b' # c", "'b' # c"), ("A=$X", "$X"), ("# c\n\nA= b ", " b "), ("A", "given"), ("A=b=c", "b=c")]
)
def test_a_raw_env_file_is_taken_as_it_stands(text: str, value: str) -> None:
    assert variables(text, raw=True, A="given")["A"] == value
    assert [each.literal for each in parse_raw_env(text)] == [True]


def test_which_value_counts() -> None:
    """`environment` over env files, the later file over the earlier, a name alone from outside or not at all."""
    found = variables("A=1\nB=1\nC=1\nD=1\nOUT\nNONE", "B=2\nE=${C}", environment={"C": "3", "D": None}, OUT="o")
    assert found == {"A": "1", "B": "2", "C": "3", "OUT": "o", "E": "3"}


def test_a_variable_of_the_request_goes_before_the_files_own() -> None:
    assert variables("X=file\nA=${X}", X="given") == {"X": "file", "A": "given"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A=1\nhunter2 hunter3\n", "line 2: expected NAME=VALUE"),
        ("A=1\n\nB: hunter2\n", "line 3: expected NAME=VALUE"),
        ("A='hunter2", "line 1: expected NAME=VALUE"),
        ("A=hunter2$hunter3", "line 1, A: a variable in its value is not set"),
        ("A=hunter2${hunter3", "line 1, A: invalid $"),
        ("A=hunter2${X?hunter3}", "line 1, A: a variable in its value is not set"),
        ("1A=hunter2", "line 1: expected NAME=VALUE"),
    ],
)
def test_what_is_wrong_is_told_without_a_value(text: str, said: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        variables(text)
    assert f"0.env: {said}" in str(refused.value)
    assert "hunter" not in str(refused.value)


def test_a_nul_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="NUL"):
        variables("A=b\x00c")


# -- names of files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "name"), [("a.env", "a.env"), ("./a.env", "a.env"), ("a/./b//c", "a/b/c"), ("a/../b", "b"), (".env", ".env")]
)
def test_names_inside_the_folder(value: str, name: str) -> None:
    assert relative_name(value) == name


@pytest.mark.parametrize(
    "value", ["", ".", "..", "../a", "a/../../b", "/a", "~/a", "a\\b", "a\nb", "a\x00", "x" * 256, 5, None]
)
def test_names_outside_of_it(value: object) -> None:
    with pytest.raises(ValueError, match="relative path"):
        relative_name(value)
