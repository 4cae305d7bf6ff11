"""`tidegate lint` and `tidegate init` as a person runs them: on files, without a server."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from support.command import TIDEGATE
from tidegate.cli.exit_codes import ExitCode

WEB = """\
# the shop
services:
  web:
    image: shop:${VERSION}
    ports: ["8001:8080"]  # public
  db:
    image: postgres:17
"""


def tidegate(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TIDEGATE_SERVER": "http://127.0.0.1:1"}
    command = [str(TIDEGATE), *words]
    return subprocess.run(
        command, cwd=folder, env=environment, input="", capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "compose.yaml"
    path.write_text(WEB)
    return path


def test_a_file_gets_a_section_that_lint_accepts(tmp_path: Path, file: Path) -> None:
    without = tidegate(tmp_path, "lint", "compose.yaml")
    assert (without.returncode, "tidegate init compose.yaml" in without.stdout) == (ExitCode.REFUSED, True)
    done = tidegate(tmp_path, "init", "compose.yaml", "--yes", "--health", "/health", "--replicas", "2")
    assert done.returncode == ExitCode.DONE, done.stderr
    added = [line for line in file.read_text().splitlines() if line not in WEB.splitlines()]
    assert added == [
        "    deploy: {replicas: 2}",
        "    x-tidegate:",
        "      listen: 8001",
        "      health: {path: /health}",
    ]
    checked = tidegate(tmp_path, "lint", "compose.yaml", "--set", "VERSION=v1")
    assert (checked.returncode, checked.stdout.splitlines()[-1]) == (ExitCode.DONE, "compose.yaml: web: ok")
    again = tidegate(tmp_path, "init", "compose.yaml", "web", "--yes")
    assert (again.returncode, "web has x-tidegate already" in again.stderr) == (ExitCode.REFUSED, True)


def test_init_does_not_guess_without_a_terminal(tmp_path: Path, file: Path) -> None:
    refused = tidegate(tmp_path, "init", "compose.yaml")
    assert (refused.returncode, "--yes" in refused.stderr) == (ExitCode.USAGE, True)
    refused = tidegate(tmp_path, "init", "compose.yaml", "--yes")
    assert (refused.returncode, "--health PATH" in refused.stderr) == (ExitCode.REFUSED, True)
    assert file.read_text() == WEB


def test_lint_checks_the_rest_of_what_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("services: {web: {image: x, env_file: [none.env, no.env], x-tidegate: {}}}")
    (tmp_path / "b.yaml").write_text(
        "services: {web: {image: x, x-tidegate: {worker: true}}, mail: {image: x, x-tidegate: 7}}"
    )
    checked = tidegate(tmp_path, "lint", "a.yaml", "b.yaml")
    assert (checked.returncode, "b.yaml: web: ok" in checked.stdout) == (ExitCode.REFUSED, True)
    unread = "Cannot read files that the Compose file refers to: none.env: No such file or directory; no.env: No such"
    assert f"a.yaml: web: {unread}" in checked.stdout
    assert "b.yaml: mail: services.mail.x-tidegate: " in checked.stdout


def test_a_file_whose_image_is_built_is_checked_with_build(tmp_path: Path, file: Path) -> None:
    file.write_text("services:\n  web:\n    build: {context: ., target: run}\n    expose: ['80']\n")
    done = tidegate(tmp_path, "init", "compose.yaml", "--yes", "--health", "/health")
    assert "tidegate lint compose.yaml --build" in done.stdout, done.stderr
    assert "image: is required" in tidegate(tmp_path, "lint", "compose.yaml").stdout
    checked = tidegate(tmp_path, "lint", "compose.yaml", "--build")
    assert (checked.returncode, checked.stdout.splitlines()[-1]) == (ExitCode.DONE, "compose.yaml: web: ok"), checked.stdout
    file.write_text(file.read_text().replace("target: run", "target: [], ssh: [default]").replace("'80'", "eighty"))
    wrong = tidegate(tmp_path, "lint", "compose.yaml", "--build").stdout
    for place in ("build.target", "build.ssh", "expose"):
        assert f"services.web.{place}: " in wrong
    assert "web.image" not in wrong


def test_init_asks_about_what_it_found(tmp_path: Path, file: Path) -> None:
    ours, theirs = pty.openpty()
    command = [str(TIDEGATE), "init", "compose.yaml"]
    try:
        with subprocess.Popen(
            command, cwd=tmp_path, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as asking:
            os.write(ours, b"\n127.0.0.1:9000\n/ready\n3\n")
            _, asked = asking.communicate(timeout=60)
            assert asking.returncode == ExitCode.DONE, asked
    finally:
        os.close(ours)
        os.close(theirs)
    assert "Port of the container that takes requests [8080]" in asked
    assert "Address for the proxy to listen on [8001]" in asked
    text = file.read_text()
    assert 'listen: "127.0.0.1:9000"' in text
    assert ("health: {path: /ready}" in text, "deploy: {replicas: 3}" in text) == (True, True)


def test_lint_names_every_mistake_in_every_file(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(WEB.replace("  db:", "    x-tidegate: {bake: soon, interval: never}\n  db:"))
    (tmp_path / "two.yaml").write_text("services: [")
    found = tidegate(tmp_path, "lint", "one.yaml", "two.yaml", "--set", "VERSION=v1", "-o", "json")
    assert found.returncode == ExitCode.REFUSED
    one, two = json.loads(found.stdout)
    assert {problem["path"] for problem in one["problems"]} >= {
        "services.web.x-tidegate.bake",
        "services.web.x-tidegate.interval",
    }
    assert (two["file"], two["service"], len(two["problems"])) == ("two.yaml", "", 1)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for command in ("lint", "init"):
        missing = tidegate(tmp_path, command, "none.yaml", *(["--yes"] if command == "init" else []))
        assert (missing.returncode, "none.yaml" in missing.stderr) == (ExitCode.USAGE, True)
