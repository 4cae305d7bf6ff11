"""What those who watch the server are told: readiness, metrics, and lines of the log with what they are about."""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from io import StringIO
from pathlib import Path

import pytest
import requests
import structlog
from prometheus_client.parser import text_string_to_metric_families
from structlog.contextvars import bound_contextvars

from processes import free_port
from support.api import SHOP, RunningApi, compose, running
from support.fake_jenkins import FakeJenkins
from support.outbox import outbox
from support.wait import eventually
from tidegate import wiring as wires
from tidegate.cli.server import MetricsServer, check_engines, serve_metrics
from tidegate.core.model import Instance, InstanceState
from tidegate.core.phases import Phase
from tidegate.drivers.platforms.docker.driver import DockerPlatform
from tidegate.engine.worker import Worker
from tidegate.errors import PlatformError, Refused
from tidegate.settings import EngineSettings, Settings, WebSettings
from tidegate.web import log_setup
from tidegate.web.app import create_app

JOB = "team/shop"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with running(tmp_path) as made:
        yield made


def engine(api: RunningApi) -> AbstractContextManager[Worker]:
    """As the wiring makes it, with what it counts."""
    return api.engine(wires.make_engine(api.wiring, "anna"))


def numbers(text: str) -> dict[str, float]:
    """Samples by name and labels, as Prometheus's own parser reads them."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def metrics(api: RunningApi) -> dict[str, float]:
    return numbers(api.call("GET", "/metrics", token="").text)


# -- ready --------------------------------------------------------------------------------------------------------------


def test_ready_only_while_an_expected_engine_is_heard(api: RunningApi) -> None:
    app = create_app(api.wiring, engine_within_seconds=30.0).test_client()
    answer = app.get("/readyz")
    assert (answer.status_code, answer.get_json()["code"]) == (503, "not-ready")
    assert answer.get_json()["detail"] == "engine: no engine is running: start `tidegate engine` or check its log"
    with engine(api):
        eventually("it is ready", lambda: app.get("/readyz").status_code == 200)
        assert [each.owner for each in api.wiring.store.engines()] == ["anna"]
    assert app.get("/readyz").status_code == 503, "it ended, and said so"
    assert api.call("GET", "/readyz", token="").status_code == 200, "a server that expects none is ready"
    assert app.get("/healthz").status_code == 200


def test_an_engine_that_is_silent_is_told(api: RunningApi) -> None:
    api.wiring.store.heartbeat("anna", "1.0")
    app = create_app(api.wiring, engine_within_seconds=0.001).test_client()
    eventually("it is not ready", lambda: app.get("/readyz").status_code == 503)
    assert "last heartbeat, from anna" in app.get("/readyz").get_json()["detail"]


def test_an_engine_that_drives_nothing_is_not_ready(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.core.records.MAX_LATE_SECONDS", 0.0)
    app = create_app(api.wiring, engine_within_seconds=30.0).test_client()
    api.wiring.store.heartbeat("anna", "1.0")
    assert app.get("/readyz").status_code == 200, "nothing is due"
    api.deploy()
    eventually("it is not ready", lambda: app.get("/readyz").status_code == 503)
    assert "and no engine drives it: all are busy, or do not run" in app.get("/readyz").get_json()["detail"]
    diagnosis = check_engines(api.wiring)
    assert (diagnosis.status, "a rollout has been due for" in diagnosis.result) == ("wrong", True)
    with engine(api):
        eventually("it is ready again", lambda: app.get("/readyz").status_code == 200)


# -- metrics ------------------------------------------------------------------------------------------------------------


def test_all_that_may_be_alerted_on_is_there_before_it_happens(tmp_path: Path) -> None:
    """Prometheus does not see the first step of a series that comes with it."""
    with running(tmp_path) as api:
        found = numbers(create_app(_wired(api)).test_client().get("/metrics").text)
    for name in (
        "tidegate_rollouts_total{environment=demo,outcome=failed}",
        "tidegate_rollouts_total{environment=live,outcome=rolled_back}",
        "tidegate_driver_errors_total{environment=demo,part=router,retryable=false}",
        "tidegate_driver_errors_total{environment=,part=database,retryable=true}",
        "tidegate_verdicts_total{environment=demo,outcome=FAIL}",
        "tidegate_approval_wait_seconds{environment=demo}",
        "tidegate_live_rollouts{environment=live,phase=running}",
        "tidegate_leases_lost_total",
        "tidegate_failed_authentications_total",
        "tidegate_outbox_lag_seconds",
        "tidegate_rollouts_overdue_seconds",
        "tidegate_internal_errors_total",
    ):
        assert found[name] == 0.0, name
    assert found["tidegate_engine_heartbeat_age_seconds"] == float("inf"), "none was ever heard"
    assert found["tidegate_database_up"] == 1.0
    assert found["tidegate_database_free_bytes"] > 0


def _wired(api: RunningApi) -> wires.Wiring:
    """With a meter that knows the environments, as `wiring.build` makes it."""
    return wires.Wiring(
        api.wiring.settings,
        api.wiring.store,
        api.wiring.environments,
        time.time,
        {},
        wires.EngineMetrics(api.wiring.environments),
    )


def test_a_rollout_that_waits_is_driven_and_named_for_alerts(api: RunningApi) -> None:
    with engine(api):
        api.until(api.deploy("v1")["id"], "succeeded")
        held = api.deploy("v2", "drain_timeout: 1s, approval: {after: [1]}")["id"]
        eventually("it waits", lambda: api.call("GET", f"/v1/rollouts/{held}").json()["approval"])
        eventually("the engine drives it, though it holds no lease", lambda: _driven_without_lease(api))
        named = f"tidegate_rollout_attention_seconds{{environment=demo,reason=,rollout={held},service=shop,state=approval}}"
        assert metrics(api)[named] >= 0.0
        api.post(f"/v1/rollouts/{held}/rollback", {"reason": "enough"})
        api.until(held, "rolled_back")
    (ended,) = [name for name in metrics(api) if name.startswith("tidegate_rollout_attention_seconds")]
    assert f"rollout={held},service=shop,state=rolled_back" in ended


def _driven_without_lease(api: RunningApi) -> bool:
    found = metrics(api)
    return (found["tidegate_driven_rollouts"], found["tidegate_leases"]) == (1.0, 0.0)


def test_the_engine_counts_what_it_does(api: RunningApi) -> None:
    with engine(api):
        api.world.faults["instances"] = [PlatformError("busy")] * 2
        good = api.deploy("v1", "drain_timeout: 1s, hooks: {pre_deploy: {command: [migrate]}}")
        api.until(good["id"], "succeeded")
        api.world.always["start"] = PlatformError("no room", retryable=False)
        bad = api.deploy("v2")
        api.until(bad["id"], "rolled_back", "failed")
        eventually("the engine drives none any more", lambda: metrics(api)["tidegate_driven_rollouts"] == 0.0)
        found = metrics(api)
        assert found["tidegate_engine_heartbeat_age_seconds"] < 120
    assert found["tidegate_rollouts_total{environment=demo,outcome=succeeded}"] == 1.0
    assert found["tidegate_rollout_seconds_count{environment=demo,outcome=succeeded}"] == 1.0
    assert found["tidegate_rollout_seconds_sum{environment=demo,outcome=succeeded}"] > 0.0
    assert found["tidegate_driver_errors_total{environment=demo,part=platform,retryable=true}"] == 2.0
    assert found["tidegate_driver_errors_total{environment=demo,part=platform,retryable=false}"] >= 1.0
    assert found["tidegate_hooks_total{environment=demo,state=passed}"] == 1.0
    assert found["tidegate_ticks_total{result=ok}"] > 5.0
    assert found["tidegate_ticks_total{result=error}"] >= 2.0
    assert found["tidegate_claim_lateness_seconds_count"] >= 2.0
    text = api.call("GET", "/metrics", token="").text
    assert good["id"] not in text, "labels are bounded: only rollouts that need attention are named"


def test_holds_and_the_outbox_are_told_in_seconds(api: RunningApi) -> None:
    rollout = api.post(f"{SHOP}/rollouts", asked_by_a_build()).json()["id"]
    api.save(rollout, Phase.RUNNING, approval_since=time.time() - 100.0)
    found = metrics(api)
    assert 99.0 < found["tidegate_approval_wait_seconds{environment=demo}"] < 400.0
    assert found["tidegate_live_rollouts{environment=demo,phase=running}"] == 1.0
    assert found["tidegate_outbox_rollouts"] == 1.0
    for lag in ("tidegate_outbox_lag_seconds", "tidegate_rollouts_overdue_seconds"):  # no engine takes it
        eventually(f"{lag} grows", lambda name=lag: metrics(api)[name] > 0.04)


def test_metrics_may_be_put_behind_a_token(tmp_path: Path) -> None:
    with running(tmp_path, settings=Settings(web=WebSettings(metrics_need_token=True))) as api:
        assert api.call("GET", "/metrics", token="").status_code == 401
        assert "tidegate_build_info" in api.call("GET", "/metrics", token=api.token_for("read")).text
        assert api.call("GET", "/healthz", token="").status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_an_engine_of_its_own_serves_its_metrics(api: RunningApi, host: str) -> None:
    address = f"{host}:{free_port()}"
    settings = Settings(engine=EngineSettings(metrics_listen=address))
    wiring = wires.Wiring(settings, api.wiring.store, api.wiring.environments, time.time)
    with serve_metrics(wiring):
        found = numbers(requests.get(f"http://{address}/metrics", timeout=60).text)
        assert found["tidegate_ticks_total{result=ok}"] == 0.0
        with pytest.raises(Refused, match=r"Cannot serve metrics on .*engine\.metrics_listen"), serve_metrics(wiring):
            pass
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://{address}/metrics", timeout=60)


def test_silent_clients_of_an_engine_take_neither_its_threads_nor_its_metrics(api: RunningApi) -> None:
    address = ("127.0.0.1", free_port())
    settings = Settings(engine=EngineSettings(metrics_listen=f"{address[0]}:{address[1]}"))
    wiring = wires.Wiring(settings, api.wiring.store, api.wiring.environments, time.time)
    before = threading.active_count()
    with serve_metrics(wiring), ExitStack() as held:
        clients = [held.enter_context(socket.create_connection(address, timeout=60)) for _ in range(200)]
        url = f"http://{address[0]}:{address[1]}/metrics"
        assert [requests.get(url, timeout=60).status_code for _ in range(5)] == [200] * 5
        assert clients[0].recv(1) == b"", "it has waited longest"
        eventually("few threads are left", lambda: threading.active_count() <= before + MetricsServer.max_connections + 2)


# -- the log ------------------------------------------------------------------------------------------------------------


BY_REQUEST = {"created", "paused"}  # events that the API records, which logs the request


def asked_by_a_build() -> dict[str, object]:
    build = {"job": JOB, "number": 7, "url": "http://ci/7/"}
    return {"compose": compose("approval: {after: [1]}"), "variables": {"VERSION": "v1"}, "build": build}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[StringIO]:
    """What a process whose log is configured writes to standard error."""
    handlers, level, made = list(logging.root.handlers), logging.root.level, StringIO()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", made)
        log_setup.configure("debug")
        yield made
    structlog.reset_defaults()
    logging.basicConfig(handlers=handlers, level=level, force=True)


def test_every_line_says_what_it_is_about(api: RunningApi, tmp_path: Path, written: StringIO) -> None:
    """Of the web, the engine and the outbox; and no secret is in any of them."""
    jenkins = FakeJenkins()  # does not run, so that there is something to tell
    with engine(api), outbox(api, jenkins, tmp_path):
        api.world.faults["start"] = [PlatformError("no room")]
        rollout = api.post(f"{SHOP}/rollouts", asked_by_a_build()).json()["id"]
        api.until(rollout, "succeeded")
        api.post(f"/v1/rollouts/{rollout}/pause", {"reason": "look"})
        eventually("the outbox logs it", lambda: "cannot deliver an event to the CI; will retry" in written.getvalue())
    told = written.getvalue()
    lines = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    about = {"rollout": rollout, "environment": "demo", "service": "shop", "build": f"{JOB} #7"}
    trouble = [line for line in lines if line.get("kind") == "driver_error"]
    assert trouble, "the engine told nothing"
    for line in trouble:
        assert about.items() <= line.items()
        assert line["fence"] >= 1
    logged = [(line["kind"], line["event"]) for line in lines if line.get("kind")]
    recorded = [(each.kind, each.message) for each in api.wiring.store.events(rollout) if each.kind not in BY_REQUEST]
    assert logged == recorded, "each event of the engine is one line"
    undelivered = [line for line in lines if line["event"] == "cannot deliver an event to the CI; will retry"]
    assert undelivered, "the outbox told nothing"
    assert all(about.items() <= line.items() for line in undelivered)
    asked = [line for line in lines if line["event"] == "request" and line["method"] == "POST"]
    assert [about.items() <= line.items() for line in asked] == [True, True]
    assert {line["source"] for line in asked} == {"127.0.0.1"}
    read = [line for line in lines if line["event"] == "request" and line["path"] == f"/v1/rollouts/{rollout}"]
    assert read
    assert all(about.items() <= line.items() for line in read)
    assert api.token not in told
    assert "secret-value" not in told


def test_what_goes_on_behind_a_rollout_says_so_too(tmp_path: Path, written: StringIO) -> None:
    """Stopping takes its time in a thread of its own."""
    options = DockerPlatform.Options.model_validate({"hosts": [{"name": "gone", "url": f"unix://{tmp_path}/none.sock"}]})
    platform = DockerPlatform(options, "demo")
    with bound_contextvars(rollout="r1", build="team/shop #7"):
        platform.stop([Instance("0123456789ab", "v1-1", 0, "10.0.0.1:80", InstanceState.READY, host="gone")], 1.0)
    platform.close()
    (line,) = [json.loads(each) for each in written.getvalue().splitlines() if "Cannot stop the container" in each]
    assert (line["rollout"], line["build"], line["instance"]) == ("r1", "team/shop #7", "0123456789ab")
