"""The outbox of an engine, which tells a Jenkins, fake or real, of the rollouts that its builds asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.api import RunningApi
from support.controller import Controller
from support.fake_jenkins import FakeJenkins, subject
from tidegate.core.model import Rollout, Signal
from tidegate.engine.outbox import Outbox
from tidegate.store_port import Store

ADDRESS = "http://tidegate.example"


def outbox(
    api: RunningApi,
    jenkins: FakeJenkins | Controller,
    folder: Path,
    between: Callable[[], None] = lambda: None,
    live: str = "",
) -> Outbox:
    """An outbox that has not been started; writes the user's token into the folder. `live`: the URL of another Jenkins, for
    the environment of this name.

    `between` is called once, directly after the outbox has read a rollout for the first time.
    """
    (folder / "token").write_text(jenkins.token)
    cis = {"demo": subject(jenkins, folder / "token")}
    if live:
        cis["live"] = subject(jenkins, folder / "token", url=live)
    return Outbox(_Interrupted(api.wiring.store, between), cis, time.time, ADDRESS)


class _Interrupted:
    """The store, with a callback after the first read of a rollout."""

    def __init__(self, store: Store, between: Callable[[], None]) -> None:
        self._store, self._between = store, [between]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def load(self, rollout: str) -> tuple[Rollout, tuple[Signal, ...]]:
        loaded = self._store.load(rollout)
        if self._between:
            self._between.pop()()
        return loaded
