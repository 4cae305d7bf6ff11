"""Building a service's image: what is read of `build`, when it is refused, and how `docker build` is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tidegate.cli import image_build
from tidegate.cli.context import ComposeOptions, Context, Format
from tidegate.cli.exit_codes import CommandError
from tidegate.compose.build import read_build
from tidegate.compose.document import Location
from tidegate.compose.loader import load_service
from tidegate.errors import InvalidSpec

MACHINE = "a" * 64
HERE = {"name": "local", "machine": MACHINE}


def built(build: object, **more: object) -> Any:
    return read_build({"services": {"Web": {"build": build, **more}}}, "Web", {"A": "1"}, Location("books"))


def test_the_forms_of_build() -> None:
    short = built("./app")
    assert (short.context, short.image, short.project_image) == ("./app", "", "books-web")
    assert built(".", image="shop:1").image == "shop:1"
    assert (
        built(".", image="shop:1", **{"x-tidegate": {"image": "registry.example/shop:1"}}).image
        == "registry.example/shop:1"
    )
    whole = built(
        {
            "context": "app",
            "dockerfile": "Dockerfile.prod",
            "target": "run",
            "args": ["A=${A}", "B"],
            "labels": {"l": "1"},
            "no_cache": True,
            "pull": True,
            "network": "host",
            "shm_size": "64m",
            "cache_from": ["shop:cache"],
            "platforms": ["linux/amd64"],
            "extra_hosts": ["h=1.2.3.4"],
            "additional_contexts": {"base": "../base"},
        }
    )
    assert (whole.dockerfile, whole.target, whole.labels) == ("Dockerfile.prod", "run", {"l": "1"})
    assert whole.arguments == {"A": "1", "B": None}
    assert whole.options == (
        "--no-cache",
        "--pull",
        "--network=host",
        "--shm-size=64m",
        "--cache-from=shop:cache",
        "--platform=linux/amd64",
        "--add-host=h:1.2.3.4",
        "--build-context=base=../base",
    )


@pytest.mark.parametrize(
    ("build", "path", "message"),
    [
        (None, "build", "is required by --build"),
        ({"contxt": "."}, "build.contxt", "did you mean context?"),
        ({"context": ".", "secrets": ["token"]}, "build.secrets", "pass --image"),
        ({"context": ".", "args": ["A=${NONE}"]}, "build.args[0]", "NONE is not set"),
    ],
)
def test_a_build_that_cannot_be_done(build: object, path: str, message: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        built(build)
    found = {problem.path.removeprefix("services.Web."): problem.message for problem in refused.value.problems}
    assert message in found[path]


def test_variables_of_a_build_are_not_needed_to_deploy() -> None:
    text = "{services: {web: {image: x, expose: [80], build: {context: ., args: ['A=${NOT_SET}']}, x-tidegate: {}}}}"
    assert load_service(text, "web", "demo", {}).image == "x"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What `docker` is called with; a build makes an image with an ID of ones."""
    made: list[list[str]] = []

    def run(words: list[str], seconds: float, action: str, environment: dict[str, str] | None = None) -> None:
        made.append([*words, *(f"{name}={value}" for name, value in (environment or {}).items())])
        for word in words:
            if word.startswith("--iidfile="):
                Path(word.partition("=")[2]).write_text("sha256:" + "1" * 64)

    monkeypatch.setattr(image_build, "_run", run)
    monkeypatch.setattr(image_build, "machine_fingerprint", lambda: MACHINE)
    return made


def build(folder: Path, image: str, *hosts: dict[str, str]) -> str:
    line = f"image: {image}, " if image else ""
    text = f"name: books\nservices: {{web: {{{line}build: {{context: app, args: {{TOKEN: secret}}}}, x-tidegate: {{}}}}}}\n"
    (folder / "compose.yaml").write_text(text)
    context = Context("", None, "", None, Format.TEXT)
    environment = {"name": "live", "hosts": list(hosts)}
    return image_build.build_image(context, ComposeOptions((folder / "compose.yaml",)), "live/web", environment)


def test_an_image_without_a_registry_is_tagged_by_its_id(calls: list[list[str]], tmp_path: Path) -> None:
    assert build(tmp_path, "", HERE) == "books-web:111111111111"
    (first, second) = calls
    assert first[0] == "build"
    assert first[-2:] == [str(tmp_path / "app"), "TOKEN=secret"], "the value is in the environment of the command"
    assert "--build-arg=TOKEN" in first
    assert second == ["tag", "sha256:" + "1" * 64, "books-web:111111111111"]


def test_an_image_with_a_registry_is_pushed(calls: list[list[str]], tmp_path: Path) -> None:
    image = "registry.example/shop:7"
    assert build(tmp_path, image, HERE, {"name": "far", "machine": ""}) == image
    assert [call[0] for call in calls] == ["build", "tag", "push"]
    assert calls[-1] == ["push", image]


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        ([HERE, {"name": "b", "machine": ""}], "live has 2 Docker hosts (local, b)"),
        ([{"name": "far", "machine": ""}], "the Docker host far is not this machine"),
        ([{"name": "other", "machine": "b" * 64}], "the Docker host other is not this machine"),
    ],
)
def test_what_would_not_reach_the_hosts_is_refused_before_it_is_built(
    calls: list[list[str]], tmp_path: Path, hosts: list[dict[str, str]], message: str
) -> None:
    with pytest.raises(CommandError, match="without a registry") as refused:
        build(tmp_path, "shop:1", *hosts)
    assert message in str(refused.value)
    assert calls == []
