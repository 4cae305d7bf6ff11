"""Text that is a command to whoever shows it: a terminal, a log, a reader.

Refused where it comes in by the API; shown as what it is where it comes from elsewhere, such as a container's log.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from support.api import SHOP, RunningApi, compose, running
from tidegate.cli.main import app
from tidegate.compose.loader import load_service
from tidegate.core.model import Event
from tidegate.core.phases import Phase
from tidegate.errors import InvalidSpec
from tidegate.text import CONTROL_CHARS, escape

OBEYED_ONES = {
    "a line break": "a\nb",
    "a carriage return": "good\rbad",
    "NUL": "a\0b",
    "an escape sequence": "\x1b[2J\x1b[1;1Hall is well",
    "a window's title": "\x1b]0;title\x07",
    "one character for an escape sequence": "\x9b2J",
    "backspaces": "bad\b\b\bgood",
    "a line separator": "a\u2028b",
    "turned writing": "\u202eemoh\u202c",
    "isolated writing": "\u2066a\u2069",
    "a blank of no width": "al\u200bice",
    "a byte order mark": "\ufeffalice",
}
HARMLESS = "Größe 🚢 مرحبا שלום 'quoted' \"twice\" <b>&amp;</b> %s {x} ${y} ../../etc; DROP TABLE rollouts; --"
TWINS = {
    "a joiner": "al\u200dice",
    "a soft hyphen": "al\xadice",
    "a mark of direction": "alice\u200f",
    "an empty Braille pattern": "alice\u2800",
    "a private character": "alice\ue000",
    "no character": "alice\u0378",
}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with capture_logs(), running(tmp_path) as made:  # or the log would stand among what the commands print
        yield made


# -- what people and Jenkins send -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", OBEYED_ONES.values(), ids=OBEYED_ONES)
def test_no_text_of_a_request_may_have_it(api: RunningApi, text: str) -> None:
    build = {"job": "team/shop", "number": 1, "url": "http://ci/"}
    deploy = {"compose": compose(), "variables": {"VERSION": "v1"}}
    wrong: dict[str, tuple[str, str, dict[str, Any]]] = {
        "reason": ("POST", f"{SHOP}/rollouts", {**deploy, "reason": text}),
        "on_behalf_of": ("POST", f"{SHOP}/rollouts", {**deploy, "on_behalf_of": text}),
        "job": ("POST", f"{SHOP}/rollouts", {**deploy, "build": {**build, "job": text}}),
        "url": ("POST", f"{SHOP}/rollouts", {**deploy, "build": {**build, "url": f"http://ci/{text}"}}),
        "image": ("POST", f"{SHOP}/rollouts", {**deploy, "image": text}),
        "VERSION": ("POST", f"{SHOP}/rollouts", {**deploy, "variables": {"VERSION": text}}),
        "freeze": ("PUT", "/v1/environments/demo/freeze", {"reason": text}),
        "name": ("POST", "/v1/tokens", {"name": text, "scopes": ["read"]}),
        "services": ("POST", "/v1/tokens", {"name": "x", "scopes": ["read"], "services": [text]}),
    }
    for name, (method, path, body) in wrong.items():
        answer = api.call(method, path, body, headers={"Idempotency-Key": name})
        assert answer.status_code == 422, f"{name}: {answer.text}"
        assert CONTROL_CHARS.sub("", answer.json()["detail"]) == answer.json()["detail"].replace("\n", ""), (
            "nor has the answer"
        )
    assert api.call("GET", "/v1/rollouts").json()["rollouts"] == []


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "//ci/7", "ftp://ci/7", "http://", "https:///7"]
)
def test_a_build_is_only_linked_by_http(api: RunningApi, url: str) -> None:
    build = {"job": "team/shop", "number": 1, "url": url}
    answer = api.post(f"{SHOP}/rollouts", {"compose": compose(), "variables": {"VERSION": "v1"}, "build": build})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/build/url")


@pytest.mark.parametrize("text", TWINS.values(), ids=TWINS)
def test_no_name_may_look_like_another(api: RunningApi, text: str) -> None:
    assert api.post("/v1/tokens", {"name": text, "scopes": ["read"]}).status_code == 422
    assert api.deploy()["id"]
    assert api.post(f"{SHOP}/rollback", {"on_behalf_of": text}).status_code == 422


def test_all_other_text_is_carried_as_it_is(api: RunningApi) -> None:
    """Quotes, markup, other scripts: JSON and SQL take them for what they are."""
    made = api.post(
        f"{SHOP}/rollouts",
        {
            "compose": compose(),
            "variables": {"VERSION": "v1"},
            "reason": HARMLESS,
            "on_behalf_of": HARMLESS,
            "build": {"job": HARMLESS, "number": 7},
        },
    )
    assert made.status_code == 202, made.text
    (entry,) = [each for each in api.call("GET", "/v1/audit").json()["entries"] if each["action"] == "deploy"]
    assert (entry["reason"], entry["by"], entry["build"]) == (HARMLESS, HARMLESS, f"{HARMLESS} #7")
    (event,) = api.call("GET", f"/v1/rollouts/{made.json()['id']}/events").json()["events"]
    assert HARMLESS in event["message"]
    junit = api.call("GET", f"/v1/rollouts/{made.json()['id']}/junit").text
    assert "<b>" not in junit


# -- what a Compose file has ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image", '"shop:v1\\n\\e[2J"'),
        ("image", '"shop v1"'),
        ("image", '"--privileged"'),
        ("image", '"shop:${V}"'),
        ("hostname", '"a\\nb"'),
        ("cpus", "1" + "0" * 400),
        ("mem_limit", "1" + "0" * 400),
        ("stop_grace_period", "1" + "0" * 400),
        ("x-tidegate", "{listen: '8001\\n    bind *:9999'}"),
        ("x-tidegate", "{listen: '٨٠٨٠'}"),
        ("x-tidegate", "{listen: '8001 ssl crt /etc/passwd'}"),
        ("x-tidegate", '{route: "a\\n    server x 1.2.3.4:80"}'),
        ("x-tidegate", "{listen: 8001, preview: {header: 'X-A: b } || { always_true'}}"),
        ("x-tidegate", '{listen: 8001, preview: {header: "X-A: b\\n    use_backend x"}}'),
        ("x-tidegate", "{health: {path: \"/a\\r\\nHost: b\"}}"),
        ("x-tidegate", "{probe: {url: \"http://a/\\r\\nX: b\"}}"),
        ("x-tidegate", "{probe: {url: 'file:///etc/passwd'}}"),
        ("x-tidegate", "{bake: 60s, checks: [{name: a, query: up, max: .nan}]}"),
        ("x-tidegate", "{bake: 60s, checks: [{name: a, query: up, max: 1" + "0" * 400 + "}]}"),
        ("x-tidegate", "{bake: 60s, checks: [{name: \"a\\nb\", query: up, max: 1}]}"),
        ("x-tidegate", "{bake: 60s, checks: [{memory: {limit: 1M, query: 'a{x=\"1\"} or up'}}]}"),
        ("x-tidegate", "{hooks: {before_traffic: {command: x, image: \"a\\nb\"}}}"),
        ("x-tidegate", "{weights: [1" + "0" * 400 + "]}"),
    ],
)  # fmt: skip
def test_what_would_end_in_a_file_or_a_command_is_refused(key: str, value: str) -> None:
    base = {"image": "shop:v1", "expose": '["8080"]', key: value}
    text = "services:\n  shop:\n" + "".join(f"    {name}: {each}\n" for name, each in base.items())
    with pytest.raises(InvalidSpec) as refused:
        load_service(text, "shop", "demo", {"V": "1\n\x1b[2J"})
    assert any(key in problem.path for problem in refused.value.problems)
    assert CONTROL_CHARS.sub("", refused.value.message) == refused.value.message.replace("\n", "")


TABLES = ("rollouts", "audit")


# -- what others say ------------------------------------------------------------------------------------------------------


def test_the_command_line_shows_no_command_to_a_terminal(api: RunningApi) -> None:
    """A failed container's last words stand in an event and in the rollout's reason."""
    said = "".join(OBEYED_ONES.values())
    rollout = api.deploy("v1")["id"]
    store = api.wiring.store
    api.save(rollout, Phase.RUNNING)
    claim = store.claim("test", 30.0)
    assert claim is not None
    event = Event("driver_error", f"the hook said: {said}", api.wiring.clock())
    driven, _ = store.load(rollout)
    store.save(driven, [event], claim.fence)
    shown = ""
    for words in (["events", rollout], ["status", rollout], ["report", rollout], ["rollouts"], ["audit"]):
        for more in ([], ["-o", "json"]):
            done = tidegate(api, *words, *more)
            assert done.exit_code == 0, done.output
            lines = done.stdout.removesuffix("\n").split("\n")
            if words[0] in TABLES and not more:  # its cells are separated by tabs where no person reads it
                assert len({line.count("\t") for line in lines}) == 1, f"{words}: a cell has a tab"
                lines = [line.replace("\t", "") for line in lines]
            assert CONTROL_CHARS.findall("".join(lines)) == [], f"{words} {more}"
            shown += done.stdout
    assert shown.count(escape(said)[:20]) >= 2
    events = json.loads(tidegate(api, "events", rollout, "-o", "json").stdout)
    assert events[-1]["message"] == event.message, "a program reads it as it was"
    assert sum(line[:2].isdigit() for line in tidegate(api, "events", rollout).stdout.splitlines()) == len(events)


def tidegate(api: RunningApi, *words: str) -> Result:
    """The command in this process: only what it prints is of interest."""
    environment = {"TIDEGATE_SERVER": api.url, "TIDEGATE_TOKEN": api.token, "COLUMNS": "2000"}
    return CliRunner().invoke(app, words, env=environment)


@pytest.mark.parametrize("form", ["json", "console"])
def test_one_event_is_one_line_of_the_log(form: str) -> None:
    """Of our own and of a library's log, and a traceback tells no variable's value."""
    program = f"""
import logging, structlog
from tidegate.web import log_setup
log_setup.configure("debug", {form!r})
said = {"".join(OBEYED_ONES.values())!r}
structlog.get_logger().info("told", said=said, more=[said])
logging.getLogger("library").warning("told %s", said)
def fail(password):
    raise ValueError(said)
try:
    fail("planted" + "-secret")
except ValueError:
    structlog.get_logger().exception("failed")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert CONTROL_CHARS.findall(done.stderr.replace("\n", "")) == []
    assert "planted-secret" not in done.stderr
    lines = done.stderr.splitlines()
    if form == "json":
        assert [json.loads(line)["level"] for line in lines] == ["info", "warning", "error"]
    else:
        assert sum("told" in line for line in lines) == 2
