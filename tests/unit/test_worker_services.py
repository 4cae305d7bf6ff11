"""Services without a proxy: how they are read, planned and shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from docker.api.client import APIClient

from support.decide_fixtures import A0, A1, B0, NOW, POLICY, at, instance
from support.decide_fixtures import world as observe
from support.plans import NEW, OLD, SERVICE, format_plan
from tidegate.cli import compose_init
from tidegate.compose.service import parse_service
from tidegate.core import drift, planner
from tidegate.core.container import Container, Health, InstanceHealth
from tidegate.core.decisions import Mark, MarkKind, Move, Start, Stop, Wait
from tidegate.core.model import Instance, InstanceState, ObservedState, Order, Release, Rollout, Service
from tidegate.core.phases import Phase
from tidegate.core.report.build import build_report
from tidegate.core.rollback_cause import RollbackCause
from tidegate.drivers.platforms.docker.containers import ListedContainer, format_probe_label, to_instance
from tidegate.drivers.platforms.docker.create import container_config
from tidegate.drivers.platforms.docker.images import require_readiness_check
from tidegate.drivers.platforms.docker.options import DockerHostOptions, DockerOptions
from tidegate.engine import events
from tidegate.errors import InvalidSpec

WORKER = replace(SERVICE, backend=None, checks=(), bake_seconds=0.0)
RUNNING = Container(0, health=Health(run_seconds=5.0))


def world(*instances: Instance) -> ObservedState:
    return observe(*instances, routed=())


def read(own: object, **body: object) -> Service:
    return parse_service({"services": {"work": {"image": "x:1", "x-tidegate": own, **body}}}, "work", "demo", {})


def problems(own: object, **body: object) -> dict[str, str]:
    with pytest.raises(InvalidSpec) as refused:
        read(own, **body)
    return {problem.path.removeprefix("services.work."): problem.message for problem in refused.value.problems}


# -- reading ----------------------------------------------------------------------------------------------------------


def test_a_service_without_a_port_is_a_worker_and_a_note_says_so() -> None:
    service = read({"group": True})
    assert service.backend is None
    assert (service.container.port, service.container.health) == (0, Health(run_seconds=5.0))
    assert [note.field for note in service.source.notes] == ["services.work.x-tidegate.worker"]


@pytest.mark.parametrize(
    ("own", "body"),
    [
        ({"listen": 8001}, {}),
        ({"health": {"path": "/health"}}, {}),
        ({}, {"expose": ["8080"]}),
        ({}, {"ports": ["80:8080"]}),
        ({"worker": False}, {}),
    ],
)
def test_whatever_names_or_needs_a_port_is_none(own: object, body: dict[str, Any]) -> None:
    assert read(own, **body).backend is not None


def test_a_declared_worker_may_have_ports_which_are_not_published() -> None:
    service = read({"worker": True, "port": 9100}, ports=["9100:9100"])
    assert service.backend is None
    assert service.container.port == 9100
    assert [note.field for note in service.source.notes] == ["services.work.ports"]


def test_monitor_is_how_long_it_runs_before_it_is_ready_unless_a_healthcheck_decides() -> None:
    update = {"update_config": {"monitor": "20s"}}
    service = read({"worker": True}, deploy=update)
    assert (service.container.health.run_seconds, service.bake_seconds) == (20.0, 0.0)
    checked = read({"worker": True}, deploy=update, healthcheck={"test": "true"})
    assert (checked.container.health.run_seconds, checked.bake_seconds) == (20.0, 20.0)


@pytest.mark.parametrize(
    ("own", "body", "path", "message"),
    [
        ({"worker": True, "listen": 1}, {}, "x-tidegate.listen", "takes no requests"),
        ({"worker": True, "health": {"path": "/"}}, {}, "x-tidegate.health", "takes no requests"),
        ({"worker": True, "preview": {"listen": 1}}, {}, "x-tidegate.preview", "takes no requests"),
        ({"worker": True, "weights": ["5%"]}, {}, "x-tidegate.weights", "takes no requests"),
        ({"worker": True, "strategy": "blue_green"}, {}, "x-tidegate.strategy", "works as soon as it runs"),
        ({"worker": True, "hooks": {"pre_promote": "a"}}, {}, "x-tidegate.hooks.pre_promote", "use pre_deploy"),
        ({"worker": True, "bake": "1m", "checks": [{"errors": {}}]}, {}, "x-tidegate.checks", "count requests"),
        ({"worker": True, "healthy_deadline": "5s"}, {}, "x-tidegate.healthy_deadline", "longer than the 5 s"),
        ({"worker": "maybe"}, {}, "x-tidegate.worker", "true or false"),
        (
            {"worker": True},
            {"deploy": {"update_config": {"monitor": "2h"}}},
            "deploy.update_config.monitor",
            "at most 3600 s",
        ),
        ({"singleton": True}, {"deploy": {"replicas": 2}}, "x-tidegate.singleton", "the service has 2 replicas"),
        ({"singleton": True, "strategy": "blue_green"}, {}, "x-tidegate.singleton", "runs both releases at once"),
        (
            {"singleton": True},
            {"deploy": {"update_config": {"order": "start-first"}}},
            "deploy.update_config.order",
            "use stop-first",
        ),
    ],
)
def test_what_cannot_be_is_refused(own: object, body: dict[str, Any], path: str, message: str) -> None:
    assert message in problems(own, **body)[path]


def test_a_singleton_stops_first_and_runs_alone() -> None:
    service = read({"singleton": True})
    assert (service.order, service.container.alone) == (Order.STOP_FIRST, True)
    assert "no work is done meanwhile" in service.warnings[0]
    assert not read({}).container.alone
    assert read({}, deploy={"replicas": 1, "update_config": {"order": "stop-first"}}).container.alone
    assert not read({}, deploy={"replicas": 2, "update_config": {"order": "stop-first"}}).container.alone


# -- plans ------------------------------------------------------------------------------------------------------------


def test_start_first_keeps_at_least_all_and_stop_first_at_most_all() -> None:
    assert format_plan(planner.make_plan(WORKER, OLD, NEW)) == [
        "F a5 b2",
        "F a3 b4",
        "F a1 b5",
        "F b5 cleared",
    ]
    assert format_plan(planner.make_plan(replace(WORKER, order=Order.STOP_FIRST), OLD, NEW)) == [
        "F a3 cleared",
        "F a3 b2",
        "F a1 b2 cleared",
        "F a1 b4",
        "F b4 cleared",
        "F b5",
        "F b5 cleared",
    ]
    assert all(step.route is None for step in planner.make_plan(WORKER, OLD, NEW))


def test_in_a_group_nothing_new_runs_before_the_first_point() -> None:
    assert format_plan(planner.make_plan(replace(WORKER, in_group=True, batch=5), OLD, NEW)) == [
        "F a5 point 1",
        "F a5 b5 point 2",
        "F b5 cleared",
    ]
    first = planner.make_plan(replace(WORKER, in_group=True), None, NEW)
    assert format_plan(first) == ["F point 1", "F b5 cleared point 2"]


# -- decisions --------------------------------------------------------------------------------------------------------

PLAN = planner.make_plan(replace(WORKER, batch=2), replace(OLD, replicas=2), replace(NEW, replicas=2))
ROLLOUT = Rollout(
    "r",
    WORKER.key,
    "a",
    "b",
    PLAN,
    None,
    NOW - 100.0,
    old_replicas=2,
    phase=Phase.RUNNING,
    step_started_at=NOW - 1.0,
    starting_at=NOW - 1.0,
    policy=POLICY,
)
B1 = instance("b", 1)
HEALTH = {each.id: InstanceHealth(0) for each in (A0, A1, B0, B1)}


def test_it_starts_waits_and_stops_without_a_proxy() -> None:
    assert at(ROLLOUT, world(A0, A1)) == Start("b", (0, 1), "Starting 2 instances of b")
    starting = at(ROLLOUT, world(A0, A1, B0, replace(B1, state=InstanceState.STARTING)))
    assert isinstance(starting, Wait)
    ready = at(ROLLOUT, world(A0, A1, B0, B1))
    assert ready == Mark(MarkKind.STEP_READY, "Desired state reached")
    last = replace(ROLLOUT, cursor=len(PLAN) - 1, health=HEALTH)
    assert at(last, world(A0, A1, B0, B1)) == Stop((A0, A1), "Stopping a/0, a/1")


def test_a_rollback_stops_what_works_only_when_others_do() -> None:
    back = replace(ROLLOUT, phase=Phase.ROLLING_BACK, plan=planner.rollback_plan("a", 2, has_proxy=False), health=HEALTH)
    gone = replace(back, starting_at=None)
    assert isinstance(at(gone, world(B0, B1)), Start)
    waiting = at(replace(back, health={}), world(B0, B1, A0, replace(A1, state=InstanceState.STARTING)))
    assert isinstance(waiting, Wait), "a/1 has not been ready, so nothing takes its place yet"
    assert at(back, world(A0, A1, B0, B1)) == Stop((B0, B1), "Stopping b/0, b/1")


def test_a_release_that_worked_and_fails_goes_into_quarantine() -> None:
    failed = replace(B0, state=InstanceState.FAILED, detail="exited with status 1")
    at_once = at(ROLLOUT, world(A0, A1, failed, B1))
    assert isinstance(at_once, Move)
    assert at_once.cause is RollbackCause.NEVER_SERVED, "it never worked: most likely its configuration is wrong"
    later = at(replace(ROLLOUT, step_ready_at=NOW - 0.5, health=HEALTH), world(A0, A1, failed, B1))
    assert isinstance(later, Move)
    assert later.cause is RollbackCause.HEALTH


def test_a_sick_worker_is_replaced_by_a_repair_after_its_deadline() -> None:
    service = replace(WORKER, replicas=1)
    repair = drift.make_repair(service, replace(OLD, replicas=1), "r", NOW - 100.0)
    repair = replace(repair, phase=Phase.RUNNING, policy=POLICY, step_started_at=NOW - 1.0, preexisting=("a0",))
    sick = replace(A0, state=InstanceState.STARTING, detail="HEALTHCHECK reports unhealthy")
    known = replace(repair, health={"a0": InstanceHealth(0, NOW - 1.0, 1)})
    waiting = at(known, world(sick))
    assert isinstance(waiting, Wait)
    assert waiting.waiting_for.then == "unready instances are replaced"


def test_a_grace_period_longer_than_the_deadline_is_waited_for() -> None:
    service = replace(WORKER, replicas=1, order=Order.STOP_FIRST)
    repair = drift.make_repair(service, replace(OLD, replicas=1), "r", NOW - 900.0)
    repair = replace(repair, phase=Phase.RUNNING, policy=POLICY, step_started_at=NOW - 800.0)
    waiting = at(repair, world(replace(A0, state=InstanceState.STOPPING)))
    assert isinstance(waiting, Wait)
    assert waiting.reason == "Waiting for a/0 to stop"
    assert isinstance(at(repair, world()), Start)


# -- messages ---------------------------------------------------------------------------------------------------------


def test_messages_speak_of_instances() -> None:
    (event,) = events.mark(Mark(MarkKind.STEP_STARTED, ""), ROLLOUT, world(A0).router, NOW)
    assert event.message == "Step 1 of 2: instances: 2 of a, 2 of b."
    assert "route" not in event.data
    report = build_report(replace(ROLLOUT, phase=Phase.SUCCEEDED, finished=NOW), [], [])
    assert not report.is_routed
    assert report.summary == "demo/shop from a to b succeeded after 100.0 s, 0 steps"


# -- Docker -----------------------------------------------------------------------------------------------------------


def listed(status: str, **labels: str) -> ListedContainer:
    own = {"release": "v1-1", "ordinal": "0", "port": "0", "probe": format_probe_label(RUNNING), **labels}
    entry: dict[str, Any] = {
        "Id": "0123456789abcdef",
        "State": "running",
        "Status": status,
        "Labels": {f"tidegate.{name}": value for name, value in own.items()},
        "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.5", "EndpointID": "e1"}}},
    }
    return ListedContainer(DockerHostOptions(name="a"), entry)


@pytest.mark.parametrize(
    ("status", "state", "detail"),
    [
        ("Up Less than a second", InstanceState.STARTING, "has run for 0 s, ready after 5 s"),
        ("Up 4 seconds", InstanceState.STARTING, "has run for 4 s, ready after 5 s"),
        ("Up 5 seconds", InstanceState.READY, ""),
        ("Up About a minute", InstanceState.READY, ""),
        ("Up 3 weeks", InstanceState.READY, ""),
        ("Up 1 second (health: starting)", InstanceState.STARTING, "HEALTHCHECK reports starting"),
        ("Up 1 second (healthy)", InstanceState.READY, ""),
        ("Up 3 hours (unhealthy)", InstanceState.STARTING, "HEALTHCHECK reports unhealthy"),
    ],
)
def test_it_is_ready_by_its_healthcheck_or_when_it_has_run(status: str, state: InstanceState, detail: str) -> None:
    found = to_instance(listed(status), 0, {}, None, 2)
    assert (found.state, found.detail, found.address) == (state, detail, "")


def test_its_address_is_that_of_its_metrics_and_nothing_is_checked_there() -> None:
    container = listed("Up 9 seconds", port="9100")
    assert container.address == "172.17.0.5:9100"
    assert container.probe() is None


def test_its_container_needs_no_port_and_no_check() -> None:
    release = Release("v1-1", "demo/work", "x:1", 1, replace(RUNNING, alone=True))
    require_readiness_check("a", release, {})
    api = APIClient(version="1.41")
    wanted = container_config(
        api, release, 0, DockerOptions(hosts=(DockerHostOptions(name="a"),)), DockerHostOptions(name="a")
    )
    assert wanted["ports"] == []
    assert wanted["name"] == "tidegate-demo-work-alone", "Docker refuses a second one"
    api.close()


# -- init -------------------------------------------------------------------------------------------------------------

NOTHING: dict[str, Any] = dict.fromkeys(("port", "listen", "health", "replicas", "worker"))


def test_init_takes_a_service_without_a_port_for_a_worker_only_if_told() -> None:
    text = "services:\n  work: {image: x}\n  mail:\n    image: x  # sends\n"
    found = compose_init.find(text, "mail", {})
    with pytest.raises(ValueError, match="mail names no port: add --port if it takes requests, or --worker"):
        compose_init.ask(found, NOTHING, ask=False)
    setup = compose_init.ask(found, {**NOTHING, "worker": True}, ask=False)
    added = compose_init.add(text, setup)
    assert added == "services:\n  work: {image: x}\n  mail:\n    image: x  # sends\n    x-tidegate: {worker: true}\n"
    with pytest.raises(ValueError, match="which port takes requests"):
        compose_init.ask(found, {**NOTHING, "health": "/ready"}, ask=False)
    with pytest.raises(ValueError, match="--worker says that mail takes no requests: remove it, or --port, --health"):
        compose_init.ask(found, {**NOTHING, "worker": True, "port": 80, "health": "/ready"}, ask=False)
