"""Plans with previews, shares, hooks, comparisons, a colour that is kept, and groups."""

from __future__ import annotations

from dataclasses import replace

from support.plans import NEW, OLD, SERVICE, format_plan
from support.store_fixtures import with_approval
from tidegate.core import planner
from tidegate.core.hooks import HOOKS, Hook
from tidegate.core.model import Check, CheckKind, Order, Service, Strategy
from tidegate.core.routing import Preview
from tidegate.openapi_diff.result import CompareOptions

HOOKED = {name: Hook(("true",)) for name in HOOKS}
BLUE_GREEN = replace(SERVICE, strategy=Strategy.BLUE_GREEN)
UNSEEN = "F a5 b2 R a5 P b2"


def previewed(service: Service) -> Service:
    return replace(service, backend=replace(service.backend, preview=Preview("8002")))


def test_the_old_colour_is_kept_after_the_switch_and_goes_on_being_judged() -> None:
    assert format_plan(planner.make_plan(replace(BLUE_GREEN, keep_old_seconds=600.0), OLD, NEW)) == [
        "F a5 b5 R a5 P b5 hold",
        "F a5 b5 R b5 bake judge",
        "F a5 b5 R b5 keep bake judge",
        "F b5 R b5 cleared",
    ]


def test_a_colour_that_comes_by_shares() -> None:
    service = with_approval(replace(BLUE_GREEN, traffic_shares=(0.05, 0.5)), 1, 3)
    assert format_plan(planner.make_plan(service, OLD, NEW)) == [
        "F a5 b5 R a5 P b5 hold",
        "F a5 b5 R a5 b5 share 0.05 bake judge hold",
        "F a5 b5 R a5 b5 share 0.5 bake judge",
        "F a5 b5 R b5 bake judge hold",
        "F b5 R b5 cleared",
    ]


def test_a_canary_with_less_than_its_share_of_the_instances() -> None:
    assert format_plan(planner.make_plan(replace(SERVICE, traffic_shares=(0.01,)), OLD, NEW))[:2] == [
        "F a5 b2 R a3 b2 share 0.01 bake judge",
        "F a3 b4 R a1 b4 bake judge",
    ]


def test_a_rolling_update_with_a_preview_stands_without_traffic_first() -> None:
    plain = format_plan(planner.make_plan(SERVICE, OLD, NEW))
    assert format_plan(planner.make_plan(previewed(SERVICE), OLD, NEW)) == [UNSEEN, *plain]


def test_the_new_release_is_watched_before_it_takes_traffic_where_a_limit_can_say_anything() -> None:
    watched = replace(previewed(SERVICE), preview_bake_seconds=30.0)
    assert format_plan(planner.make_plan(watched, OLD, NEW))[0] == f"{UNSEEN} bake"
    limit = Check("slow", CheckKind.QUERY, "q", maximum=1.0)
    assert format_plan(planner.make_plan(replace(watched, checks=(limit,)), OLD, NEW))[0] == f"{UNSEEN} bake judge"


def test_every_hook_has_its_place() -> None:
    service = replace(SERVICE, hooks=HOOKED, compare=CompareOptions("/openapi.json"))
    assert format_plan(planner.make_plan(service, OLD, NEW)) == [
        "F a5 b2 R a5 P b2 before pre_deploy compare pre_promote",
        "F a5 b2 R a3 b2 bake judge",
        "F a3 b4 R a1 b4 bake judge",
        "F a1 b5 R b5 bake judge",
        "F b5 R b5 cleared post_promote",
    ]


def test_hooks_of_a_first_deploy() -> None:
    assert format_plan(planner.make_plan(replace(SERVICE, hooks=HOOKED, checks=()), None, NEW)) == [
        "F b5 R P b5 before pre_deploy pre_promote",
        "F b5 R b5 bake cleared post_promote",
    ]


def test_without_room_for_a_surge_it_stands_unseen_where_room_was_made() -> None:
    service = replace(previewed(SERVICE), order=Order.STOP_FIRST)
    assert format_plan(planner.make_plan(service, OLD, NEW))[:3] == [
        "F a3 R a3 cleared",
        "F a3 b2 R a3 P b2",
        "F a3 b2 R a3 b2 bake judge",
    ]


def test_a_group_waits_before_traffic_moves_and_before_anything_is_given_up() -> None:
    assert format_plan(planner.make_plan(replace(SERVICE, in_group=True), OLD, NEW)) == [
        f"{UNSEEN} point 1",
        "F a5 b2 R a3 b2 bake judge",
        "F a3 b4 R a1 b4 bake judge",
        "F a1 b5 R b5 bake judge point 2",
        "F b5 R b5 cleared",
    ]
    kept = replace(BLUE_GREEN, in_group=True, keep_old_seconds=60.0)
    assert [line.partition("point ")[2] for line in format_plan(planner.make_plan(kept, OLD, NEW))] == ["1", "", "2", ""]
    first = format_plan(planner.make_plan(replace(SERVICE, in_group=True, checks=()), None, NEW))
    assert first == ["F b5 R P b5 point 1", "F b5 R b5 bake cleared point 2"]


def test_the_direct_way_has_none_of_it() -> None:
    service = replace(
        previewed(SERVICE), hooks=HOOKED, compare=CompareOptions("/openapi.json"), traffic_shares=(0.01,), in_group=True
    )
    assert planner.direct_rollback(service, OLD, NEW) == planner.direct_rollback(SERVICE, OLD, NEW)


def test_the_way_back_runs_its_hook_at_its_end() -> None:
    way = planner.with_rollback_hook(planner.rollback_in_place("a", "b", standing=3, replicas=5, present=2, batch=2))
    assert [step.gate.tasks for step in way] == [()] * (len(way) - 1) + [("on_rollback",)]
