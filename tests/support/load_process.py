"""The processes that a load measurement looks at: the product's own commands, on drivers that are never slow.

    load_process.py engine SETTINGS NOTES
    load_process.py serve SETTINGS

run a real engine or a real server until SIGTERM. `NOTES` gets a line for each claim: when what it was for was decided, in
seconds since the epoch, and how many seconds after the rollout was due.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, TextIO

from support.load_drivers import register
from tidegate import wiring as wires
from tidegate.cli import admin
from tidegate.clock import Time
from tidegate.core.records import Claim
from tidegate.settings import Settings

#: The first of these after a claim records the decision; with the last of them, when it was to wait.
RECORDING = {"save", "note", "release"}


class RecordingStore:
    """A store that notes when each claimed rollout was decided upon."""

    def __init__(self, store: Any, notes: TextIO) -> None:
        self._store, self._notes = store, notes
        self._lock = threading.Lock()  # a file's own writes get mixed up
        self._due: dict[str, Time] = {}  # of rollouts that are claimed and not decided upon

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._store, name)
        return self._noting(verb) if name in RECORDING else verb

    def claim(self, owner: str, ttl_seconds: float, without: Collection[str] = ()) -> Claim | None:
        """As the store's; since when it was due is remembered."""
        found: Claim | None = self._store.claim(owner, ttl_seconds, without)
        if found is not None and found.due is not None:
            self._due[found.rollout] = found.due
        return found

    def _noting(self, verb: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(verb)
        def call(subject: Any, *values: Any, **named: Any) -> Any:
            answer = verb(subject, *values, **named)
            due = self._due.pop(_rollout(subject), None)
            if due is not None:
                now = time.time()
                with self._lock:
                    self._notes.write(f"{now:.4f} {now - due:.4f}\n")
            return answer

        return call


def _rollout(subject: Any) -> str:
    """The id that a call of the store is about: it is given a rollout, a claim, or the id itself."""
    return str(getattr(subject, "rollout", None) or getattr(subject, "id", subject))


def engine(settings: Path, notes: Path) -> None:
    """`tidegate engine`, with its store noted."""
    build = wires.build
    with notes.open("w") as lines:

        def noted(found: Settings) -> wires.Wiring:
            wiring = build(found)
            return replace(wiring, store=RecordingStore(wiring.store, lines))  # type: ignore[arg-type]

        wires.build = noted  # type: ignore[assignment]
        admin.engine(settings)


def main(role: str, settings: str, *notes: str) -> None:
    """Run the command of this role."""
    register()
    if role == "engine":
        engine(Path(settings), Path(notes[0]))
    else:
        admin.serve(Path(settings), with_engine=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
