"""Workers on a queue in PostgreSQL, rolled out again and again under load: no job is lost, and none is done twice."""

from __future__ import annotations

import json
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest

import images
from parts import DemoStack
from support.postgres import PostgresServer
from support.wait import eventually

ROLLOUTS = int(os.environ.get("QUEUE_ROLLOUTS", "3"))
JOBS_PER_SECOND = 8.0
LONGEST_MILLISECONDS = 1500  # of a job: the grace period is longer
VERSIONS: dict[str, dict[str, str]] = {"v0": {}, "v1": {}, "v2": {}, "bad": {"CRASH": "job"}}
COMPOSE = """\
services:
  shop:
    image: tidegate-queue:${VERSION}
    volumes: ["HOME:/queue"]
    environment: {SOCKET: /queue/.s.PGSQL.5432, DATABASE: NAME}
    stop_grace_period: 30s
    deploy:
      replicas: 2
      update_config: {parallelism: 1, order: ORDER, monitor: 1s}
    x-tidegate: {worker: true, max_restarts: 0, healthy_deadline: 60s}
"""
TABLES = """\
CREATE TABLE jobs (id serial, milliseconds int);
CREATE TABLE attempts (job int, by text, container text);
CREATE TABLE done (job int, by text, container text);
"""


class Queue:
    """A queue in a database of its own, and its service on a stage."""

    def __init__(self, server: PostgresServer, stage: DemoStack) -> None:
        self.server, self.stage, self.database = server, stage, server.empty()
        server.run(TABLES, self.database)

    def deploy(self, version: str, order: str) -> str:
        file = self.stage.home / "compose.yaml"
        text = COMPOSE.replace("HOME", str(self.server.home)).replace("NAME", self.database)
        file.write_text(text.replace("ORDER", order))
        self.stage.tidegate("deploy", self.stage.service, "-f", str(file), "--no-wait", "--set", f"VERSION={version}")
        return self.stage.await_end()

    def counts(self, table: str) -> Counter[int]:
        """How often each job is in the table."""
        return Counter(int(str(job)) for (job,) in self.server.run(f"SELECT job FROM {table}", self.database))

    def crashed(self) -> set[int]:
        """The jobs in whose middle a bad release ended."""
        return {int(str(job)) for (job,) in self.server.run("SELECT job FROM attempts WHERE by = 'bad'", self.database)}

    @contextmanager
    def filled(self) -> Iterator[list[int]]:
        """Jobs of random lengths come in, at a steady rate; their ids."""
        ending, jobs, chance = threading.Event(), list[int](), random.Random(7)

        def fill() -> None:
            with self.server.connected(self.database) as line:
                while not ending.wait(1.0 / JOBS_PER_SECOND):
                    length = LONGEST_MILLISECONDS if chance.random() < 0.05 else chance.randrange(20, 200)
                    added = line.execute("INSERT INTO jobs (milliseconds) VALUES (%s) RETURNING id", (length,))
                    jobs.extend(job for (job,) in added)

        thread = threading.Thread(target=fill)
        thread.start()
        try:
            yield jobs
        finally:
            ending.set()
            thread.join()


@pytest.fixture
def queue(postgres: PostgresServer, stage: DemoStack) -> Queue:
    source = Path(__file__).parents[1] / "support" / "queue_worker.c"
    engine = docker.from_env()
    for version, variables in VERSIONS.items():
        images.demo_image(engine, f"tidegate-queue:{version}", {"NAME": version, **variables}, source=source)
    engine.close()
    stage.start({})
    return Queue(postgres, stage)


def test_no_job_is_lost_and_none_is_done_twice(queue: Queue) -> None:
    stage = queue.stage
    with queue.filled() as jobs:
        assert queue.deploy("v0", "start-first") == "succeeded"
        for number in range(ROLLOUTS):
            bad = number % 3 == 1
            order = "stop-first" if number % 3 == 2 else "start-first"
            ended = queue.deploy("bad" if bad else f"v{1 + number % 2}", order)
            assert ended == ("rolled_back" if bad else "succeeded"), stage.report()["summary"]
    eventually("the queue is empty", lambda: not queue.server.run("SELECT 1 FROM jobs", queue.database))
    done, attempts, crashed = queue.counts("done"), queue.counts("attempts"), queue.crashed()
    assert done == Counter(jobs), "each job is done exactly once"
    again = {job for job, count in attempts.items() if count > 1}
    assert again <= crashed, "only the jobs of a release that crashed are begun again"
    print(f"{len(jobs)} jobs, {ROLLOUTS} rollouts, {len(crashed)} begun by a release that crashed")

    newest = stage.api(f"/v1/rollouts?service={stage.service}&limit=1")["rollouts"][0]
    assert {json.dumps(step["route"]) for step in newest["steps"]} == {"null"}
    assert "traffic" not in stage.tidegate("events", stage.service)
    assert "traffic" not in stage.tidegate("status", stage.service)
