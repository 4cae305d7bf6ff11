"""What differs between two definitions is named; values that may be secrets are not shown."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from support.fake_drivers import a_release, a_service
from tidegate.core.changes import Change, ChangeKind, find_changes
from tidegate.core.container import Container, File, Health, Log, Mount, MountKind
from tidegate.core.hooks import Hook
from tidegate.core.model import Check, CheckKind, Order, Policy
from tidegate.core.plan_preview import StepChange, step_changes
from tidegate.core.planner import make_plan
from tidegate.core.routing import Preview

SERVICE = a_service()


def test_equal_definitions_have_no_changes() -> None:
    assert find_changes(SERVICE, a_service()) == ()


def test_warnings_are_no_change() -> None:
    assert find_changes(SERVICE, replace(SERVICE, warnings=("two write",))) == ()


def test_numbers_names_and_images_are_shown() -> None:
    new = replace(
        SERVICE, image="shop:2", replicas=5, order=Order.STOP_FIRST, policy=replace(SERVICE.policy, interval_seconds=2.5)
    )
    assert [str(change) for change in find_changes(SERVICE, new)] == [
        "image: shop:1 → shop:2",
        "replicas: 2 → 5",
        "order: start-first → stop-first",
        "policy.interval_seconds: 1 → 2.5",
    ]


SECRET = "hunter2-is-a-secret"
WITH_SECRETS = [
    replace(SERVICE, container=replace(SERVICE.container, environment={"DB_URL": SECRET})),
    replace(SERVICE, container=replace(SERVICE.container, labels={"key": SECRET})),
    replace(SERVICE, container=replace(SERVICE.container, command=("run", SECRET))),
    replace(SERVICE, container=replace(SERVICE.container, entrypoint=(SECRET,))),
    replace(SERVICE, container=replace(SERVICE.container, files=(File("/run/secrets/key", SECRET),))),
    replace(SERVICE, container=replace(SERVICE.container, health=Health("/health", headers=(("Authorization", SECRET),)))),
    replace(SERVICE, container=replace(SERVICE.container, log=Log("splunk", {"splunk-token": SECRET}))),
    replace(SERVICE, hooks={"pre_deploy": Hook(("migrate", SECRET), environment={"PASSWORD": SECRET})}),
    replace(SERVICE, checks=(Check("slow", CheckKind.QUERY, f"slow{{token='{SECRET}'}}"),)),
]


@pytest.mark.parametrize("new", WITH_SECRETS, ids=lambda service: str(find_changes(SERVICE, service)[0].path))
def test_secrets_are_never_shown(new: object) -> None:
    """Added, removed and changed."""
    for changes in (find_changes(SERVICE, new), find_changes(new, SERVICE)):
        assert changes
        assert SECRET not in repr(changes)


def test_a_changed_secret_is_named_but_not_shown() -> None:
    one, other = (replace(SERVICE, container=Container(80, environment={"DB_URL": value})) for value in ("one", "two"))
    assert find_changes(one, other) == (Change("environment.DB_URL", ChangeKind.CHANGED),)


def test_variables_are_named_one_by_one() -> None:
    one = replace(SERVICE, container=Container(80, environment={"A": "1", "B": "1"}))
    other = replace(SERVICE, container=Container(80, environment={"B": "1", "C": "1"}))
    assert [str(change) for change in find_changes(one, other)] == ["environment.A removed", "environment.C added"]


def test_items_of_lists_are_matched_by_name() -> None:
    slow, fast = Check("slow", CheckKind.QUERY, "slow", maximum=1.0), Check("fast", CheckKind.QUERY, "fast")
    one, other = replace(SERVICE, checks=(slow, fast)), replace(SERVICE, checks=(fast, replace(slow, maximum=2.0)))
    assert [str(change) for change in find_changes(one, other)] == ["checks.slow.maximum: 1 → 2"]


def test_a_preview_that_is_added_is_one_change() -> None:
    new = replace(SERVICE, backend=replace(SERVICE.backend, preview=Preview("8002")))
    assert [str(change) for change in find_changes(SERVICE, new)] == ["backend.preview added"]


def test_no_field_of_a_definition_is_overlooked() -> None:
    """What deploys otherwise is always a change: a plan must never pass for another one."""
    for field in fields(Policy):
        value = getattr(SERVICE.policy, field.name)
        if isinstance(value, float | int) and not isinstance(value, bool):
            new = replace(SERVICE, policy=replace(SERVICE.policy, **{field.name: value + 1}))
            assert [change.path for change in find_changes(SERVICE, new)] == [f"policy.{field.name}"]
    mounted = replace(SERVICE, container=replace(SERVICE.container, mounts=(Mount(MountKind.BIND, "/data", "/srv"),)))
    assert [change.path for change in find_changes(SERVICE, mounted)] == ["mounts./data"]


def test_the_steps_of_a_plan_start_and_stop_instances() -> None:
    old, new = a_release(SERVICE, 1), a_release(SERVICE, 2)
    plan = make_plan(SERVICE, old, new)
    changes = list(step_changes(plan, {old.id: 2}))
    assert changes == [
        StepChange({new.id: 1}, {}),
        StepChange({new.id: 1}, {old.id: 1}),
        StepChange({}, {old.id: 1}),
    ]


def test_a_first_deployment_starts_all() -> None:
    new = a_release(SERVICE, 1)
    assert list(step_changes(make_plan(SERVICE, None, new), {})) == [StepChange({new.id: 2}, {})]
