"""Logs of instances through the API and the command line, and `tidegate exec`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.api import SHOP, RunningApi, running
from support.command import TIDEGATE, Run, command
from support.wait import eventually
from tidegate.cli.exit_codes import ExitCode
from tidegate.core.logs import LogLine

START = 1_790_000_000_000_000_000


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with running(tmp_path, long_polls=8) as made, made.engine():
        made.until(made.deploy("v1")["id"], "succeeded")
        for number, instance in enumerate(made.world.present()):
            made.world.logs[instance.id] = [LogLine(START + number, f"hello from {instance.ordinal}")]
        yield made


@pytest.fixture
def tidegate(api: RunningApi, tmp_path: Path) -> Run:
    return command(api, tmp_path)


def read(api: RunningApi, query: str = "", **more: Any) -> dict[str, Any]:
    answer = api.call("GET", f"{SHOP}/logs?{query}", **more)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


def write(api: RunningApi, text: str, ordinal: int = 0) -> None:
    (instance,) = (one for one in api.world.present() if one.ordinal == ordinal)
    lines = api.world.logs[instance.id]
    lines.append(LogLine(lines[-1].at_ns + 1_000_000_000, text))


def test_lines_of_all_instances_are_merged_by_time(api: RunningApi) -> None:
    page = read(api)
    assert [(line["release"], line["ordinal"], line["text"]) for line in page["lines"]] == [
        ("v1-1", ordinal, f"hello from {ordinal}") for ordinal in (0, 1, 2)
    ]
    assert page["missing"] == []


def test_no_line_is_read_twice(api: RunningApi) -> None:
    page = read(api)
    assert read(api, f"after={page['next']}")["lines"] == []
    write(api, "one more", ordinal=1)
    page = read(api, f"after={page['next']}")
    assert [line["text"] for line in page["lines"]] == ["one more"]
    assert read(api, f"after={page['next']}")["lines"] == []


def test_a_waiting_request_is_answered_by_the_next_line(api: RunningApi) -> None:
    after, asked = read(api)["next"], api.world.calls.count("logs")
    pages: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: pages.append(read(api, f"after={after}&wait=20")))
    waiting.start()
    eventually("the request has looked once", lambda: api.world.calls.count("logs") > asked)
    write(api, "at last")
    waiting.join()
    assert [line["text"] for line in pages[0]["lines"]] == ["at last"]


def test_one_token_follows_only_some_logs_at_a_time(api: RunningApi) -> None:
    after, asked = read(api)["next"], api.world.calls.count("logs")
    waiting = [threading.Thread(target=read, args=(api, f"after={after}&wait=20")) for _ in range(4)]
    for thread in waiting:
        thread.start()
    eventually("all wait", lambda: len(api.wiring.store.engines()) and api.world.calls.count("logs") >= asked + 4)
    refused = api.call("GET", f"{SHOP}/logs?after={after}&wait=20")
    assert (refused.status_code, refused.json()["code"]) == (503, "too-many-waiting")
    assert read(api, f"after={after}&wait=0", token=api.token_for("logs"))["lines"] == []
    write(api, "the end")
    for thread in waiting:
        thread.join()


def test_one_release_or_instance(api: RunningApi) -> None:
    assert read(api, "release=v2-2")["lines"] == []
    wanted = api.world.present()[1].id
    assert {line["instance"] for line in read(api, f"instance={wanted}")["lines"]} == {wanted}


def test_what_is_missing_is_named(api: RunningApi) -> None:
    first, second, _ = api.world.present()
    api.world.unreadable[first.id] = "the log driver does not support reading"
    after = read(api)["next"]
    for number in range(2001):
        write(api, f"line {number}", ordinal=second.ordinal)
    page = read(api, f"after={after}")
    assert {note["message"] for note in page["missing"]} == {
        "the log driver does not support reading",
        "lines were left out: too many since the last request",
    }
    assert 0 < len(page["lines"]) <= 2000


def test_logs_need_a_scope_of_their_own(api: RunningApi) -> None:
    for scope in ("read", "deploy"):
        assert api.call("GET", f"{SHOP}/logs", token=api.token_for(scope)).status_code == 403
    assert read(api, token=api.token_for("logs", services=("demo/shop",)))["lines"]


@pytest.mark.parametrize("after", ["x", "eJw", "bm8", "é"])
def test_a_position_that_no_response_had_is_refused(api: RunningApi, after: str) -> None:
    refused = api.call("GET", f"{SHOP}/logs", params={"after": after})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid-request")


def test_control_characters_are_escaped(api: RunningApi) -> None:
    write(api, "\x1b[2Jcleared")
    assert "\x1b" not in read(api)["lines"][-1]["text"]


@contextmanager
def following_logs(api: RunningApi) -> Iterator[subprocess.Popen[str]]:
    """`tidegate logs --follow`, which Ctrl-C interrupts also where the tests themselves run in the background of a shell,
    which ignores it."""
    environment = {**os.environ, "TIDEGATE_SERVER": api.url, "TIDEGATE_TOKEN": api.token}
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # a signal that has a handler is not ignored after exec
    try:
        command = [str(TIDEGATE), "logs", "demo/shop", "--follow", "-o", "json"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, ours)
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_the_command_prints_and_follows(api: RunningApi, tidegate: Run) -> None:
    shown = tidegate("logs", "demo/shop")
    assert shown.returncode == ExitCode.DONE, shown.stderr
    assert [line.split("  ", 1)[1] for line in shown.stdout.splitlines()] == [
        f"v1-1/{ordinal}  hello from {ordinal}" for ordinal in (0, 1, 2)
    ]
    with following_logs(api) as following:
        assert following.stdout is not None
        texts = [json.loads(following.stdout.readline())["text"] for _ in range(3)]
        write(api, "a new line")
        texts.append(json.loads(following.stdout.readline())["text"])
        following.send_signal(signal.SIGINT)
        write(api, "ends the wait")
        assert following.wait(timeout=60) == ExitCode.INTERRUPTED
    assert texts[-1] == "a new line"


FAKE_DOCKER = """#!/bin/sh
[ "$1" = inspect ] && exit {here}
echo "docker $*"
exit 7
"""


@pytest.fixture
def with_docker(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def install(folder: Path, *, here: bool) -> dict[str, str]:
    program = folder / "docker"
    program.write_text(FAKE_DOCKER.format(here=0 if here else 1))
    program.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_exec_runs_docker_exec_where_the_instance_is(api: RunningApi, tidegate: Run, with_docker: Path) -> None:
    done = tidegate("exec", "demo/shop", "--", "sh", "-c", "env | sort", **install(with_docker, here=True))
    first = api.world.present()[0].id
    assert (done.returncode, done.stdout) == (7, f"docker exec -i {first} sh -c env | sort\n"), done.stderr


def test_exec_prints_the_command_for_another_host(api: RunningApi, tidegate: Run, with_docker: Path) -> None:
    second = api.world.present()[1].id
    environment = install(with_docker, here=False)
    done = tidegate("exec", "demo/shop", "--instance", second, "--", "sh", "-c", "env | sort", **environment)
    assert done.returncode == ExitCode.REFUSED
    assert f"docker exec -i {second} sh -c 'env | sort'" in done.stderr


def test_exec_needs_a_ready_instance(tidegate: Run, with_docker: Path) -> None:
    done = tidegate("exec", "demo/shop", "--release", "v9-9", "--", "sh", **install(with_docker, here=True))
    assert (done.returncode, "has no ready instance of release v9-9" in done.stderr) == (ExitCode.REFUSED, True)
