"""The units for systemd: it understands them, and counts them as well protected."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from support.prerequisites import program

UNITS = sorted((Path(__file__).parents[2] / "examples" / "systemd").glob("*.service"))
MAX_EXPOSURE = 25  # tenths of systemd's own measure, where 96 is a unit that says nothing


def analyzed(*words: str) -> str:
    """What systemd says; fails when it is not content."""
    command = [program("systemd-analyze"), *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """As it is, but for the program, which need not be installed here."""
    for each in UNITS:
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", each.read_text(), flags=re.M)
        (tmp_path / each.name).write_text(text.replace("Requires=docker.service\n", ""))
    return tmp_path / request.param


@pytest.mark.parametrize("unit", [each.name for each in UNITS], indirect=True)
def test_systemd_understands_it(unit: Path) -> None:
    assert str(unit) not in analyzed("verify", str(unit)), "it warns of a line"


@pytest.mark.parametrize("unit", [each.name for each in UNITS], indirect=True)
def test_it_is_well_protected(unit: Path) -> None:
    analyzed("security", "--offline=yes", f"--threshold={MAX_EXPOSURE}", str(unit))


def test_a_restart_leaves_an_owned_proxy_alone() -> None:
    (text,) = [unit.read_text() for unit in UNITS if unit.name == "tidegate.service"]
    assert "\nKillMode=process\n" in text


@pytest.mark.parametrize("limit", ["MemoryMax", "TasksMax"])
def test_each_unit_has_bounds(limit: str) -> None:
    assert [unit.name for unit in UNITS if f"\n{limit}=" not in unit.read_text()] == []
