"""The outbox of an engine, which tells a Jenkins, fake or real, of the rollouts that its builds asked for."""

from __future__ import annotations

import time
from pathlib import Path

from support.api import RunningApi
from support.controller import Controller
from support.fake_jenkins import FakeJenkins, subject
from tidegate.engine.outbox import Outbox

ADDRESS = "http://tidegate.example"


def outbox(api: RunningApi, jenkins: FakeJenkins | Controller, folder: Path) -> Outbox:
    """Not entered yet; the user's token is put into the folder."""
    (folder / "token").write_text(jenkins.token)
    return Outbox(api.wiring.store, {"demo": subject(jenkins, folder / "token")}, time.time, ADDRESS)
