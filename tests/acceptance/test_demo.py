"""The demo is what a new user sees first, so it is run as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import docker
import pytest

from support.prerequisites import program

DEMO = Path(__file__).parents[2] / "examples" / "demo" / "demo.py"


@pytest.mark.timeout(1500)
def test_a_good_release_goes_through_and_bad_ones_turn_back() -> None:
    for name in ("haproxy", "prometheus", "gcc"):
        program(name)
    done = subprocess.run([sys.executable, str(DEMO)], capture_output=True, text=True, check=False, timeout=1400)
    print(done.stdout[-3000:])
    assert done.returncode == 0, done.stderr[-2000:]
    assert "no request was lost by a switch" in done.stdout
    engine = docker.from_env()
    left = engine.containers.list(all=True, filters={"label": "tidegate.environment=demo"})
    engine.close()
    assert left == []
