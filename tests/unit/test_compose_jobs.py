"""Services that run to completion before another one starts, as Compose's depends_on demands."""

from __future__ import annotations

from typing import Any

import pytest
from docker.api.client import APIClient

from support.plans import NEW, format_plan
from tidegate.compose.host_access import HostAccess, find_denied
from tidegate.compose.service import parse_service
from tidegate.compose.yaml import load
from tidegate.core import planner
from tidegate.core.compose import ComposeDependency, Condition
from tidegate.core.container import Container
from tidegate.core.hooks import Hook, Job, TaskRun, TaskState, is_blocking
from tidegate.core.model import Release, Service
from tidegate.drivers.platforms.docker.jobs import job_config
from tidegate.drivers.platforms.docker.options import DockerHostOptions, DockerOptions
from tidegate.errors import InvalidSpec

FILE = """\
name: books
services:
  shop:
    image: shop:${VERSION}
    expose: ["8080"]
    environment: {ROLE: web}
    depends_on:
      migrate: {condition: service_completed_successfully}
      cache: {condition: service_started}
    x-tidegate: {listen: 8001, health: {path: /}, hooks: {pre_deploy: warm up}}
  migrate:
    image: shop:${VERSION}
    command: [migrate, --all]
    environment: {ROLE: admin}
    restart: "no"
    depends_on:
      db: {condition: service_healthy}
      seed: {condition: service_completed_successfully}
  seed:
    image: seed:1
    volumes: ["/srv/seed:/seed:ro"]
    depends_on: [db]
  db: {image: "postgres:16"}
  cache: {image: "redis:7"}
"""


def read(text: str = FILE) -> Service:
    return parse_service(load(text), "shop", "demo", {"VERSION": "v2"})


def problems(text: str) -> dict[str, str]:
    with pytest.raises(InvalidSpec) as refused:
        read(text)
    return {problem.path: problem.message for problem in refused.value.problems}


def test_jobs_run_after_their_own_jobs_and_before_all_else() -> None:
    service = read()
    assert list(service.hooks) == ["job-seed", "job-migrate", "pre_deploy"]
    migrate = service.hooks["job-migrate"]
    assert (migrate.image, migrate.timeout_seconds) == ("", 3600.0), "that of the release, by digest"
    assert service.hooks["job-seed"].image == "seed:1"
    assert migrate.container is not None
    assert (migrate.container.command, migrate.container.environment) == (("migrate", "--all"), {"ROLE": "admin"})
    assert format_plan(planner.make_plan(service, None, NEW))[0].endswith(
        "before job-seed before job-migrate before pre_deploy cleared"
    )
    assert all(map(is_blocking, ("job-seed", "pre_deploy")))
    assert planner.direct_rollback(service, NEW, NEW)[0].gate.tasks_before == (), "a rollback runs no job"


def test_what_jobs_need_of_docker_compose_is_needed_by_the_service() -> None:
    assert set(read().source.depends_on) == {
        ComposeDependency("books", "cache", Condition.STARTED),
        ComposeDependency("books", "db", Condition.HEALTHY),
        ComposeDependency("books", "db", Condition.STARTED),
    }


def test_a_job_with_the_build_of_the_service_runs_its_image() -> None:
    text = FILE.replace("    image: shop:${VERSION}\n    command", "    build: {context: .}\n    command")
    assert problems(text)["services.migrate.image"].startswith("is required")
    same = text.replace("    expose:", "    build: {context: .}\n    expose:").replace(
        "    image: shop:${VERSION}\n    build", "    build"
    )
    assert not any(path.startswith("services.migrate") for path in problems(same)), "the service alone lacks its image"


@pytest.mark.parametrize(
    ("old", "new", "path", "message"),
    [
        ("image: seed:1", "image: Seed:1", "services.seed.image", "found 'Seed:1'"),
        ("image: seed:1", "image: seed:1\n    privileged: true", "services.seed.privileged", "access to the host"),
        ("image: seed:1", "image: seed:1\n    comand: x", "services.seed.comand", "did you mean command?"),
        ('db: {image: "postgres:16"}', "db: {x-tidegate: {}}", "services.migrate.depends_on", "db has x-tidegate"),
        ("depends_on: [db]", "depends_on: [ghost]", "services.seed.depends_on.ghost", "no service ghost"),
    ],
)
def test_mistakes_of_a_job_are_named(old: str, new: str, path: str, message: str) -> None:
    assert message in problems(FILE.replace(old, new))[path]


def test_jobs_that_depend_on_each_other_are_a_cycle() -> None:
    text = FILE.replace("depends_on: [db]", "depends_on: {migrate: {condition: service_completed_successfully}}")
    assert any("has a cycle" in message for message in problems(text).values())


def test_what_a_service_may_not_have_its_jobs_may_not_have_either() -> None:
    (problem,) = find_denied(read(), HostAccess(listen=("8001",), hook_images=("*",), networks=("*",)))
    assert problem.path == "services.seed.volumes"
    assert "/srv/seed" in problem.message


def test_its_container_has_its_own_configuration() -> None:
    own = Hook((), image="seed:1", container=Container(0, command=("seed",), environment={"ROLE": "admin"}, user="7"))
    web = Release("v1-1", "demo/shop", "shop:1", 1, Container(8080, command=("serve",), environment={"DB": "x"}))
    host = DockerHostOptions(name="a")
    api = APIClient(version="1.41")
    job = Job("r1", "demo/shop", "job-seed", web, own, {"TIDEGATE_HOOK": "job-seed"})
    wanted: dict[str, Any] = job_config(api, job, DockerOptions(hosts=(host,)), host)
    api.close()
    assert (wanted["image"], wanted["command"], wanted["user"]) == ("seed:1", ["seed"], "7")
    assert wanted["environment"] == {"ROLE": "admin", "TIDEGATE_HOOK": "job-seed"}
    assert wanted["name"] == "tidegate-r1-job-seed"
    assert TaskRun("job-seed", TaskState.RUNNING, 0.0).title == "Job seed"
