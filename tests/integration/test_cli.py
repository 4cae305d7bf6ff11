"""The command line as a user or a script runs it: a real process, a real server, real exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from support.api import RunningApi, compose, running
from support.haproxy import short_folder
from support.wait import eventually
from tidegate import wiring as wires
from tidegate.cli.exit_codes import ExitCode
from tidegate.cli.server import check_engines, check_host_access
from tidegate.settings import load

TIDEGATE = Path(sys.executable).with_name("tidegate")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with running(tmp_path) as api, api.engine():
        yield api


@pytest.fixture
def tidegate(api: RunningApi, tmp_path: Path) -> Run:
    """Run the command with the server and a token set; keyword arguments change the environment."""
    (tmp_path / "compose.yaml").write_text(compose())
    (tmp_path / "approval.yaml").write_text(compose("drain_timeout: 1s, approval: {after: [1]}"))

    def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        own = {"TIDEGATE_SERVER": api.url, "TIDEGATE_TOKEN": api.token, "COLUMNS": "200"}
        environment = {**os.environ, **own, **environ}
        command = [str(TIDEGATE), *words]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )

    return run


def deploy(tidegate: Run, version: str, file: str = "compose.yaml", *more: str) -> subprocess.CompletedProcess[str]:
    return tidegate("deploy", "demo/shop", "-f", file, "--set", f"VERSION={version}", *more)


def test_deploy_prints_one_line_per_event(tidegate: Run) -> None:
    done = deploy(tidegate, "v1")
    assert done.returncode == ExitCode.DONE, done.stderr
    lines = done.stdout.splitlines()
    assert "created" in lines[0]
    assert "succeeded" in lines[-1]
    assert "v1-1 is live" in lines[-1]


def test_deploy_prints_one_json_document(tidegate: Run) -> None:
    done = deploy(tidegate, "v1", "compose.yaml", "-o", "json")
    assert json.loads(done.stdout)["phase"] == "succeeded"


def test_watch_prints_one_json_document_per_event(tidegate: Run) -> None:
    deploy(tidegate, "v1")
    done = tidegate("watch", "demo/shop", "-o", "json")
    assert [json.loads(line)["number"] for line in done.stdout.splitlines()][:3] == [1, 2, 3]


def test_approval_promote_and_rollback(tidegate: Run) -> None:
    deploy(tidegate, "v1")
    waiting = deploy(tidegate, "v2", "approval.yaml")
    assert waiting.returncode == ExitCode.DONE
    assert json.loads(tidegate("status", "demo/shop", "-o", "json").stdout)["rollout"]["waiting_for"]["kind"] == "approval"
    promoted = tidegate("promote", "demo/shop", "-m", "looks good")
    assert (promoted.returncode, "succeeded" in promoted.stdout) == (ExitCode.DONE, True), promoted.stderr
    back = tidegate("rollback", "demo/shop", "-m", "no")
    assert (back.returncode, "v1-1 is live" in back.stdout) == (ExitCode.DONE, True), back.stderr


def test_status_shows_what_a_rollout_waits_for(tidegate: Run, api: RunningApi, tmp_path: Path) -> None:
    (tmp_path / "drain.yaml").write_text(compose("drain_timeout: 1h"))
    deploy(tidegate, "v1")
    api.world.in_flight["v1-1"] = 1
    rollout = json.loads(deploy(tidegate, "v2", "drain.yaml", "--no-wait", "-o", "json").stdout)["id"]
    path = f"/v1/rollouts/{rollout}"

    def drain() -> dict[str, Any] | None:
        waiting: dict[str, Any] | None = api.call("GET", path).json()["waiting_for"]
        return waiting if waiting and waiting["kind"] == "drain" else None

    waiting = eventually("the rollout waits for a drain", drain)
    assert waiting["until"] > waiting["since"]
    shown = tidegate("status", rollout).stdout
    assert f"waiting  {waiting['reason']} (since " in shown
    assert re.search(rf"deadline in 59 min( \d+ s)?\); then {re.escape(waiting['then'])}", shown), shown


def test_rollback_of_a_live_rollout(tidegate: Run) -> None:
    deploy(tidegate, "v1")
    deploy(tidegate, "v2", "approval.yaml")
    back = tidegate("rollback", "demo/shop", "-m", "no")
    assert (back.returncode, "rolled_back" in back.stdout) == (ExitCode.DONE, True), back.stderr
    assert tidegate("watch", "demo/shop").returncode == ExitCode.ROLLED_BACK


def test_deploy_of_a_release_that_never_becomes_ready(tidegate: Run, api: RunningApi) -> None:
    deploy(tidegate, "v1")
    api.world.crashing.add("v2-2")
    done = deploy(tidegate, "v2")
    assert done.returncode == ExitCode.ROLLED_BACK
    assert "1 new instance failed (v2-2/0): exited with 1" in done.stdout
    at = done.stdout.index("instance_log         v2-2/0: exited with 1")
    assert re.match(r".*\n +\| \S+", done.stdout[at:]), done.stdout


def test_a_second_live_rollout_is_refused(tidegate: Run) -> None:
    deploy(tidegate, "v1")
    deploy(tidegate, "v2", "approval.yaml")
    done = deploy(tidegate, "v3")
    assert done.returncode == ExitCode.REFUSED
    assert "demo/shop has an unfinished rollout" in done.stderr


def test_a_freeze_force_and_the_audit_log(tidegate: Run) -> None:
    deploy(tidegate, "v1")
    frozen = tidegate("freeze", "demo", "--reason", "audit week")
    assert (frozen.returncode, "audit week" in frozen.stdout) == (ExitCode.DONE, True), frozen.stderr
    assert "audit week" in tidegate("freezes").stdout
    refused = deploy(tidegate, "v2")
    assert (refused.returncode, "demo is frozen by admin: audit week" in refused.stderr) == (ExitCode.REFUSED, True)
    silent = deploy(tidegate, "v2", "approval.yaml", "--force")
    assert (silent.returncode, "reason" in silent.stderr) == (ExitCode.REFUSED, True)
    forced = deploy(tidegate, "v2", "approval.yaml", "--force", "--reason", "the shop is down")
    assert forced.returncode == ExitCode.DONE, forced.stderr
    promoted = tidegate("promote", "demo/shop", "--force", "-m", "no time")
    assert (promoted.returncode, "succeeded" in promoted.stdout) == (ExitCode.DONE, True), promoted.stderr
    assert tidegate("thaw", "demo").returncode == ExitCode.DONE
    entries = json.loads(tidegate("audit", "-o", "json").stdout)
    assert [entry["action"] for entry in entries] == ["thaw", "force", "deploy by force", "freeze", "deploy"]
    assert entries[1]["reason"] == "no time"


def test_a_quarantine_is_listed_and_lifted(api: RunningApi, tidegate: Run) -> None:
    deploy(tidegate, "v1")
    deploy(tidegate, "v2", "approval.yaml")
    bad = api.call("GET", "/v1/rollouts?limit=1").json()["rollouts"][0]
    api.world.crashing.add(bad["new"])
    bad = api.until(bad["id"], "rolled_back")
    refused = deploy(tidegate, "v2")
    command = f"tidegate quarantine lift demo/shop {bad['new']} --reason WHY"
    assert (refused.returncode, command in refused.stderr) == (ExitCode.REFUSED, True), refused.stderr
    (listed,) = json.loads(tidegate("quarantine", "list", "demo/shop", "-o", "json").stdout)
    assert (listed["release"], listed["finding"]) == (bad["new"], bad["reason"])
    assert bad["id"] in tidegate("quarantine", "list").stdout
    lifted = tidegate("quarantine", "lift", "demo/shop", bad["new"], "--reason", "a full disk")
    assert (lifted.returncode, lifted.stdout) == (ExitCode.DONE, "shop:v2 of demo/shop is no longer in quarantine.\n")
    assert json.loads(tidegate("quarantine", "list", "-o", "json").stdout) == []
    assert deploy(tidegate, "v2").returncode == ExitCode.DONE


def test_all_mistakes_of_a_compose_file_are_reported_at_once(tidegate: Run, tmp_path: Path) -> None:
    text = compose("drian_timeout: 1s, approval: {after: [9]}")
    (tmp_path / "bad.yaml").write_text(text.replace("replicas: 3", "replicas: -3"))
    done = deploy(tidegate, "v1", "bad.yaml")
    assert done.returncode == ExitCode.REFUSED
    for message in ("services.shop.deploy.replicas: found -3", "drian_timeout: unknown key; did you mean drain_timeout?"):
        assert message in done.stderr
    again = deploy(tidegate, "v1", "bad.yaml", "-o", "json")
    assert json.loads(again.stdout)["status"] == 422


def test_two_services_on_one_route_are_refused(tidegate: Run, tmp_path: Path) -> None:
    deploy(tidegate, "v1")
    (tmp_path / "two.yaml").write_text(compose("drain_timeout: 1s, route: shop").replace("  shop:", "  cart:"))
    done = tidegate("deploy", "demo/cart", "-f", "two.yaml", "--set", "VERSION=v1")
    assert done.returncode == ExitCode.REFUSED
    assert "demo/shop" in done.stderr


def test_apply_status_events_report_and_lists(tidegate: Run, tmp_path: Path) -> None:
    assert "version 1" in tidegate("apply", "demo/shop", "-f", "compose.yaml", "--set", "VERSION=v1").stdout
    assert tidegate("deploy", "demo/shop").returncode == ExitCode.DONE
    assert "v1-1" in tidegate("services").stdout
    assert "succeeded" in tidegate("rollouts", "--service", "demo/shop").stdout
    assert "succeeded" in tidegate("events", "demo/shop").stdout
    assert "ready" in tidegate("status", "demo/shop").stdout
    assert "nothing → v1-1" in tidegate("report", "demo/shop").stdout
    tidegate("report", "demo/shop", "--file", "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["phase"] == "succeeded"


def test_tokens(tidegate: Run) -> None:
    made = tidegate("token", "create", "reader", "--scope", "read")
    secret = made.stdout.strip()
    assert secret.startswith("tg_")
    assert tidegate("services", TIDEGATE_TOKEN=secret).returncode == ExitCode.DONE
    refused = deploy(lambda *words: tidegate(*words, TIDEGATE_TOKEN=secret), "v1")
    assert (refused.returncode, "deploy" in refused.stderr) == (ExitCode.NOT_ALLOWED, True)
    listed = json.loads(tidegate("token", "list", "-o", "json").stdout)
    token = next(token for token in listed if token["name"] == "reader")
    assert tidegate("token", "drop", token["id"]).returncode == ExitCode.DONE
    assert tidegate("services", TIDEGATE_TOKEN=secret).returncode == ExitCode.NOT_ALLOWED


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("deploy", "shop"), ExitCode.USAGE, "ENVIRONMENT/shop"),
        (("deploy", "demo/shop", "-f", "none.yaml"), ExitCode.USAGE, "none.yaml"),
        (("deploy", "demo/shop", "--set", "VERSION"), ExitCode.USAGE, "NAME=VALUE"),
        (("deploy", "nowhere/shop", "-f", "compose.yaml", "--set", "VERSION=1"), ExitCode.REFUSED, "demo"),
        (("deploy", "demo/shop"), ExitCode.REFUSED, "demo/shop"),
        (("status", "demo/shop"), ExitCode.REFUSED, "No rollout of demo/shop exists yet"),
        (("fly",), ExitCode.USAGE, "fly"),
    ],
)
def test_errors_of_wrong_commands(tidegate: Run, words: tuple[str, ...], code: ExitCode, message: str) -> None:
    done = tidegate(*words)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory for a router; the path of HAProxy's socket in it has at most 97 characters."""
    with short_folder() as folder:
        yield folder


def unreachable(folder: Path, router: str) -> Path:
    """Settings of a server whose Docker socket does not exist, with this router."""
    settings = folder / "tidegate.toml"
    settings.write_text(
        f'database = "sqlite:///{folder}/other.db"\n'
        '[environments.demo.platform]\ndriver = "docker"\n'
        f'hosts = [{{ name = "local", url = "unix://{folder}/none.sock" }}]\n'
        f"[environments.demo.router]\n{router}"
    )
    return settings


def test_check_reports_what_is_wrong_and_how_to_fix_it(tidegate: Run, tmp_path: Path, home: Path) -> None:
    metrics = '[environments.demo.metrics]\ndriver = "prometheus"\nurl = "http://127.0.0.1:9"\n'
    settings = unreachable(tmp_path, f'driver = "haproxy"\ndirectory = "{home}"\n{metrics}')
    done = tidegate("check", "--settings", str(settings), "-o", "json")
    assert done.returncode == ExitCode.UNHEALTHY, done.stderr
    rows = {row["part"]: row for row in json.loads(done.stdout)}
    assert [rows[part]["status"] for part in ("database", "docker local", "prometheus")] == ["warning", "wrong", "wrong"]
    assert all(row["fix"] for row in rows.values() if row["status"] != "ok")
    assert "tidegate db migrate" in rows["database"]["fix"]


def test_check_reports_which_router_was_chosen_and_why(tidegate: Run, tmp_path: Path, home: Path) -> None:
    (home / "haproxy.cfg").touch()
    settings = unreachable(tmp_path, f'directory = "{home}"\n')
    done = tidegate("check", "--settings", str(settings), "-o", "json")
    assert done.returncode == ExitCode.UNHEALTHY, done.stderr
    rows = {row["part"]: row for row in json.loads(done.stdout)}
    said = f"haproxy, because its files are in {home}; set `driver` to choose another"
    assert (rows["router"]["status"], rows["router"]["result"]) == ("ok", said)
    assert "haproxy" in rows


def command(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command without a server."""
    environment = {**os.environ, **environ}
    return subprocess.run([str(TIDEGATE), *words], env=environment, capture_output=True, text=True, check=False, timeout=60)


NOBODY = "http://127.0.0.1:9"


def test_an_unreachable_server_is_reported_once_and_json_output_stays_json() -> None:
    done = command("-o", "json", "services", TIDEGATE_SERVER=NOBODY, TIDEGATE_PATIENCE_SECONDS="1")
    assert done.returncode == ExitCode.UNREACHABLE
    assert done.stderr.splitlines() == [
        f"Cannot reach {NOBODY}: Connection refused; retrying for 1 s, Ctrl-C to stop",
        f"Error: Cannot reach {NOBODY}: Connection refused. Is the server running? Check --server.",
    ]
    assert json.loads(done.stdout)["exit_code"] == ExitCode.UNREACHABLE


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("check", "-o", "json"), ExitCode.REFUSED),  # the settings are wrong
        (("-o", "json", "fly"), ExitCode.USAGE),
        (("deploy", "shop", "-o", "json"), ExitCode.USAGE),
        (("deploy", "demo/shop", "-f", "none.yaml", "--output=json"), ExitCode.USAGE),
    ],
)
def test_json_output_of_errors_is_json(words: tuple[str, ...], code: ExitCode) -> None:
    done = command(*words, TIDEGATE_ENGINE__THREADS="none", TIDEGATE_SERVER=NOBODY)
    assert (done.returncode, json.loads(done.stdout)["exit_code"]) == (code, code), done.stderr


def test_commands_on_the_database_print_no_log(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/new.db"
    done = command("db", "migrate", TIDEGATE_DATABASE=database)
    assert (done.stdout, done.stderr) == ("Migrated the database schema from an empty database to 0001.\n", "")
    done = command("token", "create", "me", "--local", "--scope", "read", TIDEGATE_DATABASE=database)
    assert (done.stdout[:3], done.stderr) == ("tg_", "")
    done = command("check", TIDEGATE_DATABASE=database)
    assert (done.returncode, done.stdout.count("\t"), done.stderr) == (ExitCode.DONE, 12, "")


def on_terminal(words: list[str], columns: int, environ: dict[str, str]) -> str:
    """What the command writes to a terminal of this width."""
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), **environ}
    reading, writing = pty.openpty()
    with subprocess.Popen([str(TIDEGATE), *words], stdout=writing, stderr=writing, env=environment) as process:
        os.close(writing)
        parts = []
        with suppress(OSError):  # the terminal's end
            while part := os.read(reading, 65536):
                parts.append(part)
        process.wait(60)
    os.close(reading)
    return b"".join(parts).decode()


def test_output_on_a_terminal(tidegate: Run, api: RunningApi) -> None:
    deploy(tidegate, "v1")
    held = deploy(tidegate, "v2", "approval.yaml")
    rollout = json.loads(tidegate("status", "demo/shop", "-o", "json").stdout)["rollout"]["id"]
    assert held.stdout.splitlines()[-2:] == [
        f"  Approve:    tidegate promote {rollout}",
        f"  Roll back:  tidegate rollback {rollout}",
    ]
    server = {"TIDEGATE_SERVER": api.url, "TIDEGATE_TOKEN": api.token}
    listed = on_terminal(["rollouts"], 80, server)
    assert rollout in listed
    plain = re.sub(r"\x1b\[[0-9;]*m", "", listed)
    assert "\x1b[" in listed
    assert max(map(len, plain.splitlines())) <= 80
    assert not re.search(r"\x1b\[[0-9;]*3\d", on_terminal(["status", rollout], 80, server | {"NO_COLOR": "1"}))
    assert "\x1b" not in tidegate("status", rollout).stdout + tidegate("--help").stdout + tidegate("fly").stderr
    live = on_terminal(["rollback", rollout], 80, server)
    assert re.search(r"proxy  requests \d+, lost 0", live), live
    assert "rolled_back" in live.splitlines()[-1]


def test_check_reports_engines_and_host_access(tmp_path: Path, home: Path) -> None:
    settings = unreachable(tmp_path, f'driver = "haproxy"\ndirectory = "{home}"\n')
    with closing(wires.build(load(settings, {}))) as wiring:
        wiring.store.migrate()
        assert (check_engines(wiring).status, check_host_access(wiring, "demo").status) == ("warning", "warning")
        wiring.store.heartbeat("anna", "1.0")
        assert check_engines(wiring).result.startswith("anna, Tidegate 1.0, last heartbeat ")
    settings.write_text(settings.read_text() + "[environments.demo.allow]\n")
    with closing(wires.build(load(settings, {}), lambda: time.time() + 100)) as wiring:
        silent = check_engines(wiring)
        assert (silent.status, "last heartbeat from anna was 10" in silent.result) == ("wrong", True)
        assert check_host_access(wiring, "demo").status == "ok"
