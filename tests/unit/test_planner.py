"""Plans as tables: fleet and route of each step, and what its gate asks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.plans import NEW, OLD, SERVICE, format_plan
from support.store_fixtures import with_approval
from tidegate.core import planner
from tidegate.core.model import Check, CheckKind, Order, Strategy


def test_rolling() -> None:
    assert format_plan(planner.make_plan(SERVICE, OLD, NEW)) == [
        "F a5 b2 R a3 b2 bake judge",
        "F a3 b4 R a1 b4 bake judge",
        "F a1 b5 R b5 bake judge",
        "F b5 R b5 cleared",
    ]


def test_a_control_stays_in_the_route_until_the_last_bake_is_over() -> None:
    assert format_plan(planner.make_plan(replace(SERVICE, control=1), OLD, NEW)) == [
        "F a5 b2 R a3 b2 bake judge",
        "F a3 b4 R a1 b4 bake judge",
        "F a1 b5 R a1 b5 bake judge",
        "F b5 R b5 cleared",
    ]
    all_at_once = planner.make_plan(replace(SERVICE, batch=5, control=1), OLD, NEW)
    assert format_plan(all_at_once) == ["F a5 b5 R a1 b5 bake judge", "F b5 R b5 cleared"]
    direct = planner.direct_rollback(replace(SERVICE, batch=5, control=1), OLD, NEW)
    assert format_plan(direct) == ["F a5 b5 R b5", "F b5 R b5 cleared"]


def test_rolling_with_holds() -> None:
    plan = format_plan(planner.make_plan(with_approval(SERVICE, 1, 3), OLD, NEW))
    assert [line.endswith("hold") for line in plan] == [True, False, True, False]
    controlled = format_plan(planner.make_plan(replace(with_approval(SERVICE, 1, 3), control=1), OLD, NEW))
    assert [line.endswith("hold") for line in controlled] == [True, False, True, False], "numbered by batches"


def test_blue_green() -> None:
    service = replace(SERVICE, strategy=Strategy.BLUE_GREEN)
    assert format_plan(planner.make_plan(service, OLD, NEW)) == [
        "F a5 b5 R a5 P b5 hold",
        "F a5 b5 R b5 bake judge",
        "F b5 R b5 cleared",
    ]


def test_stop_first_makes_room_before_each_batch() -> None:
    service = replace(SERVICE, order=Order.STOP_FIRST)
    assert format_plan(planner.make_plan(service, OLD, NEW)) == [
        "F a3 R a3 cleared",
        "F a3 b2 R a3 b2 bake judge",
        "F a1 b2 R a1 b2 cleared",
        "F a1 b4 R a1 b4 bake judge",
        "F b4 R b4 cleared",
        "F b5 R b5 bake judge",
        "F b5 R b5 cleared",
    ]


@pytest.mark.parametrize("before", [1, 3])
def test_stop_first_with_one_replica_never_runs_two(before: int) -> None:
    service = replace(SERVICE, replicas=1, batch=1, order=Order.STOP_FIRST)
    one = replace(NEW, replicas=1)
    plan = planner.make_plan(service, replace(OLD, replicas=before), one)
    assert format_plan(plan) == ["F R cleared", "F b1 R b1 bake judge", "F b1 R b1 cleared"]
    looked_at = planner.make_plan(replace(service, in_group=True), replace(OLD, replicas=before), one)
    assert format_plan(looked_at)[:2] == ["F R cleared", "F b1 R P b1 point 1"]
    back = planner.rollback_in_place("a", "b", standing=0, replicas=1, present=1, batch=1)
    assert format_plan(back) == ["F R cleared", "F a1 R a1 cleared"]


def test_the_first_deploy_is_all_at_once_and_judged_only_against_limits() -> None:
    assert format_plan(planner.make_plan(SERVICE, None, NEW)) == ["F b5 R b5 bake cleared"]
    limit = replace(SERVICE, checks=(Check("queue", CheckKind.QUERY, "q", maximum=1.0),))
    assert format_plan(planner.make_plan(limit, None, NEW)) == ["F b5 R b5 bake judge cleared"]


def test_direct_has_neither_bake_nor_checks_nor_holds() -> None:
    plan = planner.direct_rollback(with_approval(SERVICE, 1), OLD, NEW)
    assert format_plan(plan) == ["F a5 b2 R a3 b2", "F a3 b4 R a1 b4", "F a1 b5 R b5", "F b5 R b5 cleared"]


def test_back() -> None:
    assert format_plan(planner.rollback_plan("a", 5)) == ["F a5 R a5 cleared"]
    assert format_plan(planner.rollback_plan(None, 0)) == ["F R cleared"]


@pytest.mark.parametrize(("order", "control"), [(Order.START_FIRST, 0), (Order.START_FIRST, 1), (Order.STOP_FIRST, 0)])
@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("before", [1, 4, 5, 9])
@pytest.mark.parametrize("after", [1, 4, 5, 9])
def test_every_rolling_plan_keeps_its_promises(order: Order, control: int, batch: int, before: int, after: int) -> None:
    if order is Order.STOP_FIRST and batch >= after:
        return  # refused by the spec
    old, new = replace(OLD, replicas=before), replace(NEW, replicas=after)
    plan = planner.rolling(replace(SERVICE, order=order, batch=batch, control=control), old, new)
    assert all("a" in step.route for step in plan if control and step.gate.analyzed), "each bake has a baseline"
    assert dict(plan[-1].route) == {"b": after}
    assert plan[-1].gate.surplus_gone
    room = batch if order is Order.STOP_FIRST else 0
    for step in plan:
        assert all(step.fleet.get(release, 0) >= count for release, count in step.route.items())
        assert sum(step.route.values()) >= max(1, min(before, after) - room)
        assert sum(step.fleet.values()) <= max(before, after) + (0 if room and batch < before else batch)


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("standing", range(5))
@pytest.mark.parametrize("present", range(6))
def test_the_way_back_in_place_ends_whole_and_is_never_empty(standing: int, present: int, batch: int) -> None:
    plan = planner.rollback_in_place("a", "b", standing=standing, replicas=5, present=present, batch=batch)
    assert dict(plan[-1].fleet) == {"a": 5}
    assert dict(plan[-1].route) == {"a": 5}
    assert all(step.route for step in plan)
    assert all(step.gate.surplus_gone for step in plan)


def test_the_way_back_in_place_fills_a_free_place_before_anything_leaves() -> None:
    plan = planner.rollback_in_place("a", "b", standing=1, replicas=3, present=1, batch=1)
    assert [dict(step.route) for step in plan] == [{"a": 2, "b": 1}, {"a": 2}, {"a": 3}]
