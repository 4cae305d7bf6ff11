"""Compose files in the shapes that teams have, with only `x-tidegate` added: each is read and planned as a deployment.

Docker Compose is the reference: `stored/compose-files.json` has what `docker compose config` made of the web service of
each file; `scripts/compose_reference.py` writes it where `docker compose` is installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.compose_corpus import FILES, FRAMEWORKS, NOTED, PROJECT, REFUSED
from tidegate.cli.compose_files import collect
from tidegate.cli.context import ComposeOptions
from tidegate.compose.document import Location
from tidegate.compose.loader import ComposeInput, read_service
from tidegate.core.container import MountKind
from tidegate.core.model import Release, Service
from tidegate.core.planner import make_plan
from tidegate.errors import InvalidSpec

REFERENCE: dict[str, dict[str, Any]] = json.loads((Path(__file__).with_name("stored") / "compose-files.json").read_text())
DEPLOYED = [name for name in FILES if not name.startswith("refused, ")]
SHAPES = {shape.__name__: notes for shape, notes in NOTED.items()}
DATABASES = {framework.name: framework.database for framework in FRAMEWORKS}


def put(folder: Path, files: Mapping[str, str]) -> Path:
    """The files in a folder; returns it."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def service_name(name: str) -> str:
    return "web_app" if "behind_traefik" in name else "web"


def read(folder: Path, name: str) -> Service:
    """Through what the command line sends, as the server on the same machine reads it."""
    files = tuple(folder / file for file in FILES[name] if "/" not in file and file.endswith(".yaml"))
    body = collect(ComposeOptions(files), service_name(name))
    given = ComposeInput(
        body["compose"],
        body["variables"],
        {file: text.encode() for file, text in body["files"].items()},
        tuple(body["overrides"]),
        Location("", body["source"]["folder"], body["source"]["home"], is_local=True),
    )
    return read_service(given, service_name(name), "prod")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / PROJECT
    made.mkdir()
    return made


def test_the_corpus_is_large_and_nine_of_ten_files_can_be_deployed() -> None:
    assert len(FILES) >= 60
    assert len(DEPLOYED) / len(FILES) >= 0.9
    assert set(REFERENCE) == set(DEPLOYED), "run scripts/compose_reference.py"


@pytest.mark.parametrize("name", DEPLOYED)
def test_a_file_with_only_the_extension_added(name: str, folder: Path) -> None:
    service = read(put(folder, FILES[name]), name)
    framework, _, shape = name.partition(", ")
    prefix = f"services.{service.name}."
    notes = {note.field.removeprefix(prefix) for note in service.source.notes if not note.field.startswith("volumes.")}
    notes = {field for field in notes if not field.startswith("services.")}  # of its jobs
    assert notes == {field.replace("DATABASE", DATABASES[framework]) for field in SHAPES[shape]}
    new = Release("v1-1", service.key, service.image, service.replicas, service.container)
    assert make_plan(service, None, new)[-1].fleet == {"v1-1": service.replicas}
    assert service.source.project == PROJECT


@pytest.mark.parametrize("name", DEPLOYED)
def test_it_is_run_as_docker_compose_would_run_it(name: str, folder: Path) -> None:
    service = read(put(folder, FILES[name]), name)
    assert summary_of(service, str(folder)) == REFERENCE[name]


def summary_of(service: Service, folder: str) -> dict[str, Any]:
    """The same as `scripts/compose_reference.py` takes from Docker Compose."""
    container = service.container
    binds = [volume.split(":") for volume in container.volumes]
    mounts = [[source.replace(folder, "."), target, "ro" in options] for source, target, *options in binds]
    mounts += [[mount.source, mount.target, mount.read_only] for mount in container.mounts if mount.kind is MountKind.BIND]
    listen = service.backend.listen if service.backend else ""
    return {
        "image": service.image,
        "command": None if container.command is None else list(container.command),
        "environment": dict(container.environment),
        "labels": dict(container.labels),
        "mounts": sorted(mounts),
        "networks": sorted(network.name for network in container.naming.networks),
        "replicas": service.replicas,
        "memory": container.memory_bytes,
        "cpus": container.cpus,
        "user": container.user,
        "grace": container.stop_grace_seconds,
        "files": sorted(file.target for file in container.files),
        "healthcheck": list(container.healthcheck.test) if container.healthcheck else None,
        "published": listen,
    }


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(name: str, folder: Path) -> None:
    put(folder, FILES[f"refused, {name}"])
    with pytest.raises(InvalidSpec) as refused:
        read(folder, f"refused, {name}")
    assert [problem.path.removeprefix("services.web.") for problem in refused.value.problems] == [REFUSED[name][1]]
