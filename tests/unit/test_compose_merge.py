"""Several Compose files as one: what `docker compose config` makes of the same files is what Tidegate reads.

`compose/merged.json` has the cases, and what Docker Compose made of them: `scripts/compose_reference.py` writes it where
`docker compose` is installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tidegate.compose.assemble import Assembly, assemble
from tidegate.compose.interpolation import Variables
from tidegate.compose.loader import ComposeInput, find_referenced_files, read_service
from tidegate.core.container import NetworkOrigin
from tidegate.errors import InvalidSpec

CASES: dict[str, dict[str, Any]] = json.loads((Path(__file__).with_name("compose") / "merged.json").read_text())


def whole(texts: list[str], files: dict[str, str]) -> tuple[Any, list[str]]:
    assembly = Assembly("web", {name: text.encode() for name, text in files.items()}, Variables({}))
    return assemble(texts, assembly), [str(problem) for problem in assembly.problems]


@pytest.mark.parametrize("name", CASES)
def test_what_docker_compose_makes_of_it(name: str) -> None:
    """The reference has both what Compose made of the files, and what it made of the one document into which Tidegate had
    merged them: they are the same, and the document is still that one."""
    case = CASES[name]
    document, problems = whole(case["texts"], case["files"])
    assert problems == []
    assert document == case["document"], "changed since the reference was made: run scripts/compose_reference.py"
    assert case["compose_of_document"] == case["compose_of_files"]


def text_of(**service: object) -> str:
    return json.dumps({"name": "books", "services": {"web": {"image": "web:1", "expose": ["80"], **service}}})


def test_a_later_file_wins_in_what_is_deployed() -> None:
    base = text_of(environment={"A": "1", "B": "2"}, networks=["front"], **{"x-tidegate": {"listen": 8001}})
    over = json.dumps(
        {
            "services": {
                "web": {
                    "image": "web:2",
                    "environment": ["B=3"],
                    "deploy": {"replicas": 3},
                    "x-tidegate": {"health": {"path": "/health"}},
                }
            },
            "networks": {"front": {}},
        }
    )
    web = read_service(ComposeInput(base, overrides=(over,)), "web", "demo")
    assert (web.image, web.replicas, web.backend and web.backend.listen) == ("web:2", 3, "8001")
    assert web.container.environment == {"A": "1", "B": "3"}
    assert web.container.health.path == "/health", "x-tidegate is merged too"
    (front,) = web.container.naming.networks
    assert (front.name, front.origin) == ("books_front", NetworkOrigin.PROJECT)


def test_the_extension_is_not_inherited() -> None:
    text = json.dumps({"services": {"web": {"extends": "base"}, "base": {"image": "b", "x-tidegate": {}}}})
    with pytest.raises(InvalidSpec, match=r"web\.x-tidegate: is required"):
        read_service(ComposeInput(text), "web", "demo")


def test_a_job_may_extend_another_service() -> None:
    text = json.dumps(
        {
            "name": "books",
            "services": {
                "web": {
                    "image": "web:1",
                    "expose": ["80"],
                    "depends_on": {"migrate": {"condition": "service_completed_successfully"}},
                    "x-tidegate": {},
                },
                "migrate": {"extends": "base", "command": "migrate"},
                "base": {"image": "web:1", "environment": {"A": "1"}},
            },
        }
    )
    (job,) = read_service(ComposeInput(text), "web", "demo").hooks.values()
    assert job.container is not None
    assert (job.container.command, job.container.environment) == (("migrate",), {"A": "1"})


def test_files_that_other_files_name_are_found_one_after_the_other() -> None:
    text = json.dumps(
        {"include": ["a/compose.yaml"], "services": {"web": {"extends": {"file": "b/base.yaml", "service": "base"}}}}
    )
    files = {
        "a/compose.yaml": json.dumps({"include": ["deeper.yaml"]}).encode(),
        "b/base.yaml": json.dumps({"services": {"base": {"env_file": "own.env"}}}).encode(),
        "b/own.env": b"A=1",
        "a/deeper.yaml": b"services: {}",
    }
    known: dict[str, bytes] = {}
    rounds = []
    while new := {file.name for file in find_referenced_files(ComposeInput(text, files=known), "web")} - set(known):
        rounds.append(sorted(new))
        known |= {name: files[name] for name in new}
    assert rounds == [["a/compose.yaml", "b/base.yaml"], ["a/deeper.yaml", "b/own.env"]]


@pytest.mark.parametrize(
    ("texts", "files", "problem"),
    [
        (["services: {web: {extends: {service: no}}}"], {}, "services.web.extends: there is no service no"),
        (["services: {web: {extends: web}}"], {}, "services.web.extends: extends itself"),
        (["services: {web: {extends: {file: a.yaml}}}"], {}, "services.web.extends: allowed: a service's name"),
        (
            ["services: {web: {extends: {file: a.yaml, service: b}}}"],
            {},
            "services.web.extends.file: the file a.yaml is required; send it in `files` (tidegate deploy -f does so)",
        ),
        (
            ["services: {web: {extends: {file: a.yaml, service: b}}}"],
            {"a.yaml": "a: *b"},
            "services.web.extends.file: a.yaml: line 1, column 4",
        ),
        (["include: [../a.yaml]"], {}, "include[0]: found ../a.yaml; allowed: the relative path"),
        (["include: [{path: a.yaml, env_file: b}]"], {"a.yaml": "{}"}, "include[0].env_file: not supported"),
        (["include: [{paths: a.yaml}]"], {}, "include[0]: allowed: the path of a file, or path"),
        (["include: [a.yaml]"], {"a.yaml": "include: [a.yaml]"}, "include[0]: allowed: the path of a file"),
        (
            ["{include: [a.yaml], services: {web: {image: x}}}"],
            {"a.yaml": "services: {web: {image: y}}"},
            "include[0]: services.web is also in the file that includes it",
        ),
    ],
)
def test_what_cannot_be_assembled(texts: list[str], files: dict[str, str], problem: str) -> None:
    _, problems = whole(texts, files)
    assert len(problems) == 1
    assert problems[0].startswith(problem)
