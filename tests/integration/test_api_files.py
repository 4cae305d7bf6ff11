"""Files that come with a Compose file, and services that depend on each other, through the API and the command line."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.api import RunningApi, running
from tidegate.cli.exit_codes import ExitCode
from tidegate.compose.files import MAX_FILE_BYTES, MAX_FILES
from tidegate.core.compose import ComposeContainer
from tidegate.core.phases import Phase

TIDEGATE = Path(sys.executable).with_name("tidegate")
SHOP = "/v1/services/demo/shop"
SECRETS = ("hunter2-from-env", "hunter2-from-file", "hunter2-from-variable")
COMPOSE = """\
services:
  shop:
    image: shop:${VERSION}
    expose: ["8080"]
    env_file: [app.env]
    secrets: [db, token]
    configs: [{source: keys, target: /etc/shop/keys.p12}]
    x-tidegate: {listen: 8001, health: {path: /health}, drain_timeout: 1s}
secrets: {db: {file: secrets/db.txt}, token: {environment: TOKEN}}
configs: {keys: {file: keys.p12}}
"""
BINARY = b"\x00\xff\xfe binary"
FILES = {
    "app.env": f"PASSWORD={SECRETS[0]}\n",
    "secrets/db.txt": SECRETS[1],
    "keys.p12": {"base64": base64.b64encode(BINARY).decode()},
}
BODY = {"compose": COMPOSE, "variables": {"VERSION": "v1", "TOKEN": SECRETS[2]}, "files": FILES}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with running(tmp_path) as made:
        yield made


def test_what_came_with_it_is_in_the_release(api: RunningApi) -> None:
    rollout = api.post(f"{SHOP}/rollouts", BODY)
    assert rollout.status_code == 202, rollout.text
    release = api.wiring.store.get_release("demo/shop", rollout.json()["new"]).release
    assert release.container.environment == {"PASSWORD": SECRETS[0]}
    assert {each.target: each.data for each in release.container.files} == {
        "/run/secrets/db": SECRETS[1].encode(),
        "/run/secrets/token": SECRETS[2].encode(),
        "/etc/shop/keys.p12": BINARY,
    }


def test_secrets_are_in_no_answer_and_in_no_log(api: RunningApi, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every page that there is, the events, the report, the record, the audit log, the errors and what is logged."""
    put = api.call("PUT", SHOP, BODY)
    with api.engine():
        first = api.post(f"{SHOP}/rollouts", BODY).json()
        api.until(first["id"], "succeeded")
        second = api.post(f"{SHOP}/rollouts", {**BODY, "variables": {"VERSION": "v2", "TOKEN": SECRETS[2]}}).json()
        api.until(second["id"], "succeeded")
        back = api.post(f"{SHOP}/rollback").json()
        api.until(back["id"], "succeeded")
    document = api.call("GET", "/openapi.json").json()
    texts = [put.text, json.dumps([first, second, back])]
    for path, methods in document["paths"].items():
        if "get" in methods:
            at = path.replace("{environment}", "demo").replace("{service}", "shop").replace("{rollout}", second["id"])
            texts.append(api.call("GET", at).text)
    assert len(texts) > 10
    broken = {**BODY, "variables": {}, "compose": COMPOSE.replace("8080", "nothing").replace("app.env", "keys.p12")}
    texts.append(api.post(f"{SHOP}/rollouts", broken).text)
    texts.append(api.post(f"{SHOP}/rollouts", {**BODY, "files": {**FILES, "app.env": f"{SECRETS[0]} x"}}).text)
    texts.append(api.post(f"{SHOP}/rollouts", {**BODY, "files": {"../x": SECRETS[0], "y": [SECRETS[1]]}}).text)
    texts.append(api.post(f"{SHOP}/rollouts", {**BODY, "files": [SECRETS[0]]}).text)
    texts += capfd.readouterr()
    told = [
        text for text in texts for secret in SECRETS if secret in text or base64.b64encode(secret.encode()).decode() in text
    ]
    assert told == []
    with sqlite3.connect(tmp_path / "tidegate.db") as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        holding = {
            name for name in tables if any(SECRETS[0] in str(row) for row in database.execute(f"SELECT * FROM {name}"))
        }
    assert holding == {"services", "releases"}


@pytest.mark.parametrize(
    ("files", "pointer", "said"),
    [
        ({"../app.env": "x"}, "/files/..~1app.env/[key]", "relative path"),
        ({"/app.env": "x"}, "/files/~1app.env/[key]", "relative path"),
        ({"./app.env": "x"}, "/files/.~1app.env/[key]", "write it as app.env"),
        ({"a": {"base64": "?"}}, "/files/a/FileBytes/base64", "must be base64"),
        ({"a": 5}, "/files/a/str", "valid string"),
        ({f"f{number}": "x" for number in range(MAX_FILES + 1)}, "/files", "at most 50 items"),
    ],
)
def test_files_of_a_wrong_shape(api: RunningApi, files: dict[str, Any], pointer: str, said: str) -> None:
    answer = api.call("PUT", SHOP, {**BODY, "files": files})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")
    told = {each["pointer"]: each["detail"] for each in answer.json()["errors"]}
    assert said in told[pointer], told


def test_files_that_are_too_large_or_missing(api: RunningApi) -> None:
    sent = {**BODY, "files": {"app.env": "A=1", "secrets/db.txt": "x" * (MAX_FILE_BYTES + 1)}}
    told = {each["path"]: each["detail"] for each in api.call("PUT", SHOP, sent).json()["errors"]}
    assert "allowed: at most 524288" in told["secrets.db.file"]
    assert "the file keys.p12 is required" in told["configs.keys.file"]


def test_notes_are_in_the_service_and_in_the_rollout(api: RunningApi) -> None:
    body = BODY | {"compose": COMPOSE.replace("    image:", "    container_name: shop-web\n    image:")}
    note = {
        "field": "services.shop.container_name",
        "message": "ignored: a name belongs to one container; Tidegate names each instance",
    }
    assert api.call("PUT", SHOP, body).json()["notes"] == [note]
    assert api.post(f"{SHOP}/rollouts", body).json()["notes"] == [note]


def test_files_without_a_compose_file(api: RunningApi) -> None:
    api.call("PUT", SHOP, BODY)
    said = api.post(f"{SHOP}/rollouts", {"files": FILES}).json()
    assert (said["code"], said["errors"][0]["pointer"]) == ("invalid-spec", "/files")


# -- services that depend on each other -----------------------------------------------------------------------------------


PORTS = {"shop": 8002, "db": 8003}


def depending(*names: str, service: str = "shop") -> dict[str, Any]:
    """A file with a service that depends on these."""
    others = "".join(f"  {name}: {{image: x, x-tidegate: {{}}}}\n" for name in names)
    text = f"services:\n{others}  {service}:\n    image: {service}:v1\n    expose: ['80']\n    depends_on: {list(names)}\n"
    return {"compose": text + f"    x-tidegate: {{listen: {PORTS[service]}, route: {service}, health: {{path: /}}}}\n"}


def test_what_a_service_depends_on_must_serve_before(api: RunningApi) -> None:
    refused = api.post(f"{SHOP}/rollouts", depending("db", "cache"))
    said = refused.json()
    assert (refused.status_code, said["code"]) == (409, "dependency-missing")
    assert said["detail"] == (
        "demo/shop depends on demo/db and demo/cache, which has no good live release: deploy db and cache first"
    )
    started = api.post("/v1/services/demo/db/rollouts", depending(service="db")).json()
    assert api.post(f"{SHOP}/rollouts", depending("db")).json()["code"] == "dependency-missing", "it has not ended well yet"
    api.save(started["id"], Phase.RUNNING, Phase.SUCCEEDED)
    assert api.post(f"{SHOP}/rollouts", depending("db")).status_code == 202


@pytest.mark.parametrize(
    ("condition", "containers", "reason"),
    [
        (
            "service_started",
            [],
            "has no container; run docker compose -p books up -d --wait db, with the same Compose files (-f)",
        ),
        ("service_started", [ComposeContainer("local", "exited", exit_status=1)], "is exited; run docker"),
        ("service_started", [ComposeContainer("local", "running", "starting")], ""),
        ("service_healthy", [ComposeContainer("local", "running", "starting")], "is starting; run docker"),
        ("service_healthy", [ComposeContainer("local", "running")], "has no HEALTHCHECK, which service_healthy needs"),
        ("service_healthy", [ComposeContainer("local", "running", "healthy")], ""),
    ],
)
def test_what_docker_compose_runs_must_be_as_demanded(
    api: RunningApi, condition: str, containers: list[ComposeContainer], reason: str
) -> None:
    api.world.compose["books", "db"] = containers
    text = COMPOSE.replace("    image:", f"    depends_on: {{db: {{condition: {condition}}}}}\n    image:")
    body = BODY | {"compose": f"name: books\n{text}".replace("services:\n", "services:\n  db: {build: .}\n")}
    answer = api.post(f"{SHOP}/rollouts", body)
    assert answer.status_code == (409 if reason else 202), answer.text
    if reason:
        said = answer.json()
        assert said["code"] == "dependency-missing"
        assert f"db of the Compose project books {reason}" in said["detail"]


def test_a_definition_may_be_stored_before_what_it_depends_on(api: RunningApi) -> None:
    assert api.call("PUT", SHOP, depending("db")).status_code == 201
    assert api.post(f"{SHOP}/rollouts", {}).json()["code"] == "dependency-missing"


# -- the command line -----------------------------------------------------------------------------------------------------

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Compose file with its files, in a folder of its own."""
    made = tmp_path / "project"
    (made / "secrets").mkdir(parents=True)
    (made / "compose.yaml").write_text(COMPOSE)
    (made / "app.env").write_text(str(FILES["app.env"]))
    (made / "secrets" / "db.txt").write_text(SECRETS[1])
    (made / "keys.p12").write_bytes(BINARY)
    return made


@pytest.fixture
def apply(api: RunningApi, tmp_path: Path) -> Run:
    """`tidegate apply`, from another folder than the Compose file's; `more` are further words, `process` further variables
    of the process."""

    def run(file: Path, *more: str, **process: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "TIDEGATE_SERVER": api.url, "TIDEGATE_TOKEN": api.token, "COLUMNS": "300", **process}
        words = [str(TIDEGATE), "apply", "demo/shop", "-f", str(file)]
        words += more or ("--set", "VERSION=v1", "--set", f"TOKEN={SECRETS[2]}")
        return subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)

    return run


def variables_of(api: RunningApi) -> Mapping[str, str]:
    return api.wiring.store.get_service("demo/shop").service.container.environment


SOURCES = """\
services:
  shop:
    image: shop:${VERSION}
    expose: ["8080"]
    environment: {A: "${A}", B: "${B}", C: "${C}", D: "${D}"}
    x-tidegate: {listen: 8001, health: {path: /health}}
"""


def test_variables_by_the_precedence_of_docker_compose(api: RunningApi, apply: Run, tmp_path: Path) -> None:
    folder = tmp_path / "My.Shop"
    folder.mkdir()
    (folder / "compose.yaml").write_text(SOURCES)
    (folder / ".env").write_text("A=dotenv\nB=dotenv\nC=dotenv\nD=${A}-$E\nVERSION=v1\nE='s3cret-$x'\nUNUSED=secret-4711\n")
    done = apply(
        folder / "compose.yaml", "--set", "A=set", "--env", "B", "--env", "A", A="process", B="process", C="process"
    )
    assert done.returncode == ExitCode.USAGE
    assert "line 4, D: a variable in its value is not set" in done.stderr, "E comes later"
    (folder / ".env").write_text((folder / ".env").read_text().replace("-$E", "-$$E"))
    done = apply(
        folder / "compose.yaml", "--set", "A=set", "--env", "B", "--env", "A", A="process", B="process", C="process"
    )
    assert done.returncode == ExitCode.DONE, done.stderr
    assert variables_of(api) == {"A": "set", "B": "process", "C": "dotenv", "D": "set-$E"}
    shown = api.call("GET", "/v1/services/demo/shop").json()
    assert (shown["interpolated"], shown["project"]) == (["A", "B", "C", "D", "VERSION"], "myshop")
    assert "secret-4711" not in json.dumps(shown) + done.stdout + done.stderr
    other = tmp_path / "other.env"
    other.write_text("A=1\nB=2\nC=3\nD=4\nVERSION=v2\n")
    done = apply(folder / "compose.yaml", "--env-file", str(other), "-p", "books")
    assert done.returncode == ExitCode.DONE, done.stderr
    assert variables_of(api) == {"A": "1", "B": "2", "C": "3", "D": "4"}
    assert api.call("GET", "/v1/services/demo/shop").json()["project"] == "books"


def test_all_variables_that_are_missing_are_named_at_once(apply: Run, folder: Path) -> None:
    (folder / "compose.yaml").write_text(SOURCES)
    done = apply(folder / "compose.yaml", "--set", "A=1")
    assert done.returncode == ExitCode.REFUSED
    assert [name for name in ("A", "B", "C", "D", "VERSION") if f"the variable {name} is not set" in done.stderr] == [
        "B",
        "C",
        "D",
        "VERSION",
    ]
    done = apply(folder / "compose.yaml", "--env", "NOT_THERE", "--env", "NOR_THIS")
    assert "--env: not set in the environment of this process: NOT_THERE, NOR_THIS" in done.stderr


def test_several_files_and_what_they_name_are_sent(api: RunningApi, apply: Run, folder: Path) -> None:
    (folder / "compose.yaml").write_text("services: {shop: {extends: {file: base/app.yaml, service: app}, expose: [80]}}")
    (folder / "base").mkdir()
    (folder / "base" / "app.yaml").write_text(
        "services: {app: {image: 'shop:1', env_file: own.env, volumes: ['./data:/d']}}"
    )
    (folder / "base" / "own.env").write_text("A=1\n")
    (folder / "prod.yaml").write_text("services: {shop: {image: 'shop:2', x-tidegate: {listen: 8001, health: {path: /}}}}")
    done = apply(folder / "compose.yaml", "-f", str(folder / "prod.yaml"))
    assert done.returncode == ExitCode.DONE, done.stderr
    service = api.wiring.store.get_service("demo/shop").service
    assert (service.image, dict(service.container.environment)) == ("shop:2", {"A": "1"})
    assert service.container.volumes == (f"{folder}/base/data:/d",), "the folder is on the machine of the Docker host"
    assert "Note: services.shop.profiles: is not set" in done.stderr


def test_a_folder_of_another_machine_is_not_mounted(api: RunningApi) -> None:
    text = (
        "services: {shop: {image: x, expose: [80], volumes: ['./data:/d'], x-tidegate: {listen: 8001, health: {path: /}}}}"
    )
    for machine in ("", "0" * 64):
        source = {"folder": "/srv/shop", "machine": machine}
        answer = api.call("PUT", SHOP, {"compose": text, "source": source})
        assert answer.status_code == 422
        assert "is not on the machine of all Docker hosts" in answer.json()["errors"][0]["detail"]


def test_the_command_collects_the_files_by_itself(api: RunningApi, apply: Run, folder: Path) -> None:
    done = apply(folder / "compose.yaml")
    assert done.returncode == ExitCode.DONE, done.stderr
    container = api.wiring.store.get_service("demo/shop").service.container
    assert sorted(each.data for each in container.files) == sorted([BINARY, *(each.encode() for each in SECRETS[1:])])
    assert container.environment == {"PASSWORD": SECRETS[0]}


def test_a_link_within_the_folder_is_followed(apply: Run, folder: Path) -> None:
    (folder / "app.env").rename(folder / "real.env")
    (folder / "app.env").symlink_to("real.env")
    assert apply(folder / "compose.yaml").returncode == ExitCode.DONE


def test_what_leads_out_of_the_folder_is_not_read(api: RunningApi, apply: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("hunter2-outside")
    (folder / "app.env").unlink()
    (folder / "app.env").symlink_to(tmp_path / "outside")
    (folder / "secrets" / "db.txt").unlink()
    (folder / "secrets").rmdir()
    (folder / "secrets").symlink_to(tmp_path)
    (tmp_path / "db.txt").write_text("hunter2-outside")
    (folder / "keys.p12").unlink()
    done = apply(folder / "compose.yaml")
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.count("is outside") == 2
    assert "keys.p12: No such file or directory" in done.stderr
    assert "hunter2" not in done.stderr + done.stdout


def test_names_that_lead_out_are_refused_by_the_server(apply: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "common.env").write_text("A=1")
    (folder / "compose.yaml").write_text(COMPOSE.replace("app.env", "../common.env"))
    done = apply(folder / "compose.yaml")
    assert done.returncode == ExitCode.REFUSED, done.stderr
    assert "services.shop.env_file[0]: found '../common.env'" in done.stderr


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: os.mkfifo(path)], ids=["a folder", "a pipe"])
def test_what_is_no_file_is_not_read(apply: Run, folder: Path, make: Callable[[Path], None]) -> None:
    (folder / "app.env").unlink()
    make(folder / "app.env")
    done = apply(folder / "compose.yaml")
    assert (done.returncode, "app.env: is not a regular file" in done.stderr) == (ExitCode.USAGE, True)


def test_a_large_file_is_not_sent(apply: Run, folder: Path) -> None:
    (folder / "keys.p12").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    done = apply(folder / "compose.yaml")
    assert (done.returncode, f"keys.p12: is larger than the limit of {MAX_FILE_BYTES} bytes" in done.stderr) == (
        ExitCode.USAGE,
        True,
    )
