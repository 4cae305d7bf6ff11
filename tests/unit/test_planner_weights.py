"""From a share of the requests to whole weights."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.planner import MAX_WEIGHT, member_weights


def share_of(route: dict[str, int], new: str, found: dict[str, int]) -> float:
    """What the new release gets with these weights."""
    total = sum(route[each] * found[each] for each in route)
    return route[new] * found[new] / total


def test_without_a_share_all_weigh_the_same() -> None:
    assert member_weights({"a": 4, "b": 1}, "b", None) == {"a": 1, "b": 1}


def test_one_release_alone_has_no_share() -> None:
    assert member_weights({"b": 3}, "b", 0.1) == {"b": 1}
    assert member_weights({"a": 3}, "b", 0.1) == {"a": 1}


def test_a_share_equal_to_that_of_the_instances_changes_nothing() -> None:
    assert member_weights({"a": 4, "b": 1}, "b", 0.2) == {"a": 1, "b": 1}


@pytest.mark.parametrize(("share", "found"), [(0.05, {"a": 19, "b": 4}), (0.5, {"a": 1, "b": 4}), (0.9, {"a": 1, "b": 36})])
def test_a_canary_of_one_beside_four(share: float, found: dict[str, int]) -> None:
    assert member_weights({"a": 4, "b": 1}, "b", share) == found


@given(st.integers(1, 50), st.integers(1, 50), st.floats(0.01, 0.99))
def test_weights_are_whole_and_the_share_is_near(old: int, new: int, share: float) -> None:
    route = {"a": old, "b": new}
    result = dict(member_weights(route, "b", share))
    assert all(1 <= each <= MAX_WEIGHT for each in result.values())
    ratio = share / new * old / (1 - share)
    if 1 / MAX_WEIGHT <= ratio <= MAX_WEIGHT:
        assert share_of(route, "b", result) == pytest.approx(share, rel=0.02, abs=0.02)
