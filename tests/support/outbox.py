"""The outbox of an engine, which tells a Jenkins, fake or real, of the rollouts that its builds asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.api import RunningApi
from support.controller import Controller
from support.fake_jenkins import FakeJenkins, subject
from tidegate.core.build_watch import BuildEndRules
from tidegate.core.model import Rollout, Signal
from tidegate.engine.build_watcher import BuildWatcher
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


def build_watcher(
    api: RunningApi, jenkins: FakeJenkins | Controller, folder: Path, rules: BuildEndRules | None = None
) -> BuildWatcher:
    """A watcher that asks often, and lets a build be over for a moment only; writes the user's token into the folder."""
    (folder / "token").write_text(jenkins.token)
    rules = rules or BuildEndRules(after_seconds=0.2)
    cis = {"demo": subject(jenkins, folder / "token")}
    return BuildWatcher(api.wiring.store, cis, {"demo": rules}, rules, time.time, poll_seconds=0.1)


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
