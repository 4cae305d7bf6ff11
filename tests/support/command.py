"""The command line as a process, with a server and a token set."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from support.api import RunningApi

TIDEGATE = Path(sys.executable).with_name("tidegate")
Run = Callable[..., subprocess.CompletedProcess[str]]


def command(api: RunningApi, folder: Path) -> Run:
    """Runs `tidegate` in the folder; keyword arguments change the environment, `input` is its standard input."""

    def run(*words: str, input: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        own = {"TIDEGATE_SERVER": api.url, "TIDEGATE_TOKEN": api.token, "COLUMNS": "200"}
        return subprocess.run(
            [str(TIDEGATE), *words],
            env={**os.environ, **own, **environ},
            cwd=folder,
            input=input,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run
