"""Pruning as it is run: by the engine's thread, by hand, and by one program at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.store_pruning_contract import EVERYTHING, measured_rollout
from support.wait import eventually
from tidegate.core.records import Pruned
from tidegate.engine.pruner import Pruner
from tidegate.errors import InvalidSettings
from tidegate.settings import load
from tidegate.store import pruning
from tidegate.store.store import SqlStore

TIDEGATE = Path(sys.executable).with_name("tidegate")
DAY = 86_400.0


@pytest.fixture
def store(postgres_url: str) -> Iterator[SqlStore]:
    with closing(SqlStore(postgres_url)) as made:
        yield made


def test_the_engine_prunes_by_itself(store: SqlStore) -> None:
    rollout = measured_rollout(store, 1)
    with Pruner(store, time.time, 30 * DAY, 90 * DAY):
        eventually("its samples are gone", lambda: not store.measurements(rollout))
    assert len(store.rollouts()) == 1


def test_only_one_program_prunes(store: SqlStore) -> None:
    measured_rollout(store, 1)
    with store._write("testing") as connection:
        assert store._database.alone(connection, pruning.LOCK_NUMBER)
        assert store.prune(EVERYTHING) == Pruned(0, 0, 0, more=False)
    assert store.prune(EVERYTHING).samples == 1


def test_by_hand(store: SqlStore, postgres_url: str) -> None:
    def prune(*options: str) -> dict[str, object]:
        environ = os.environ | {"TIDEGATE_DATABASE": postgres_url, "TIDEGATE_RETENTION__SAMPLES": "30d"}
        done = subprocess.run([TIDEGATE, "prune", "-o", "json", *options], env=environ, capture_output=True, check=True)
        return dict(json.loads(done.stdout))

    measured_rollout(store, 1)
    assert prune("--dry-run") == {"dry_run": True, "samples": 1, "rollouts": 0, "releases": 0}
    assert prune() == {"dry_run": False, "samples": 1, "rollouts": 0, "releases": 0}
    assert store.measurements("shop-1") == ()


def test_ages_are_durations_of_a_day_at_least() -> None:
    assert load(None, {}).retention.ages() == (None, None)
    found = load(None, {"TIDEGATE_RETENTION__SAMPLES": "30d", "TIDEGATE_RETENTION__ROLLOUTS": "90d"})
    assert found.retention.ages() == (30 * DAY, 90 * DAY)
    with pytest.raises(InvalidSettings, match=r"(?s)retention.samples.*duration.*retention.rollouts.*at least 1d"):
        load(None, {"TIDEGATE_RETENTION__SAMPLES": "soon", "TIDEGATE_RETENTION__ROLLOUTS": "5m"})
