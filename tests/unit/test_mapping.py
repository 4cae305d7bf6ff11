"""Every value that the store keeps comes back as it was, through JSON text as the database has it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from support.store_fixtures import a_release, a_rollout, a_service
from tidegate.analysis.verdict import Finding, Outcome, Reason, Verdict
from tidegate.clock import Window
from tidegate.core.model import (
    Event,
    Release,
    Rollout,
    Service,
    Signal,
)
from tidegate.core.plan import Step
from tidegate.core.records import Token
from tidegate.store import mapping, tables
from tidegate.store.mapping import Codec

T = TypeVar("T")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def every(hint: Any) -> st.SearchStrategy[Any]:
    """Every value of a type as the core writes them; unlike `from_type` it also fills what has a default."""
    if hint in (str, float, int, bool, object):
        plain = {str: TEXT, float: st.floats(allow_nan=False), int: st.integers(-(2**31), 2**31 - 1), bool: st.booleans()}
        return plain.get(hint, JSON)
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return st.deferred(lambda: st.builds(hint, **{each.name: every(hints[each.name]) for each in fields(hint)}))
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple and arguments[-1] is not ...:
        return st.tuples(*(every(each) for each in arguments))
    if origin is tuple:
        return st.lists(every(arguments[0]), max_size=2).map(tuple)
    if origin is not None and issubclass(origin, Mapping):
        return st.dictionaries(every(arguments[0]), every(arguments[1]), max_size=2)
    if origin is UnionType:
        return st.one_of(*(st.none() if each is type(None) else every(each) for each in arguments))
    return st.sampled_from(hint)  # an enum


def through(codec: Codec[T], value: T) -> T:
    """As the JSON column stores it: no NaN and no infinity, which PostgreSQL would refuse."""
    return codec.decode(json.loads(json.dumps(codec.encode(value), allow_nan=False)))


@settings(deadline=None)  # a loaded machine takes its time
@given(every(Rollout))
def test_a_rollout_survives(value: Rollout) -> None:
    assert through(mapping.ROLLOUT, value) == value


@settings(deadline=None)  # a loaded machine takes its time
@given(every(Service))
def test_a_service_survives(value: Service) -> None:
    assert through(mapping.SERVICE, value) == value


@settings(deadline=None)  # a loaded machine takes its time
@given(every(Release))
def test_a_release_survives(value: Release) -> None:
    assert through(mapping.RELEASE, value) == value


@settings(deadline=None)  # a loaded machine takes its time
@given(every(Verdict))
def test_a_verdict_survives(value: Verdict) -> None:
    assert through(mapping.VERDICT, value) == value


@settings(deadline=None)  # a loaded machine takes its time
@given(every(Event))
def test_an_event_survives(value: Event) -> None:
    assert through(mapping.EVENT, value) == value


@settings(deadline=None)  # a loaded machine takes its time
@given(every(Signal))
def test_a_signal_survives(value: Signal) -> None:
    assert through(mapping.SIGNAL, value) == value


@settings(deadline=None)  # a loaded machine takes its time
@given(every(Token))
def test_a_token_survives(value: Token) -> None:
    assert through(mapping.TOKEN, value) == value


def test_what_is_not_a_number_survives_too() -> None:
    finding = Finding("errors", Outcome.INCONCLUSIVE, Reason.NO_DATA, "0/0", baseline=math.nan, candidate=-math.inf)
    verdict = Verdict(Outcome.INCONCLUSIVE, 1.0, Window(0.0, 1.0), (finding,), "no data", final=False)
    (found,) = through(mapping.VERDICT, verdict).findings
    assert math.isnan(found.baseline or 0.0)
    assert found.candidate == -math.inf


@settings(deadline=None)  # a loaded machine takes its time
@given(every(Rollout))
def test_types_are_kept_and_not_only_equal(value: Rollout) -> None:
    found = through(mapping.ROLLOUT, value)
    assert type(found.phase) is type(value.phase)
    assert isinstance(found.plan, tuple)
    assert all(isinstance(step, Step) for step in found.plan)
    assert hash(found.policy) == hash(value.policy)
    assert isinstance(found.paused, bool)


def test_every_column_of_the_value_is_a_column_of_the_table() -> None:
    """A new field without a column would be lost without a word."""
    service = a_service()
    release = a_release(service, 1)
    assert set(mapping.rollout_values(a_rollout(service, 1))) <= set(tables.rollouts.c.keys())
    assert set(mapping.release_values(release)) <= set(tables.releases.c.keys())
    assert {field.name for field in fields(Signal)} <= set(tables.signals.c.keys())
    assert {field.name for field in fields(Event)} <= set(tables.events.c.keys())
    assert {field.name for field in fields(Token)} <= set(tables.tokens.c.keys())


def test_an_unknown_part_is_refused() -> None:
    data = mapping.SERVICE.encode(a_service())
    data["container"]["colour"] = "red"
    with pytest.raises(ValidationError, match=r"container\.colour"):
        mapping.SERVICE.decode(data)


def test_a_missing_part_is_refused_unless_it_has_a_default() -> None:
    service = a_service()
    data = mapping.SERVICE.encode(service)
    for field in fields(service):
        less = {name: value for name, value in data.items() if name != field.name}
        if field.default is MISSING and field.default_factory is MISSING:
            with pytest.raises(ValidationError, match=field.name):
                mapping.SERVICE.decode(less)
        else:
            default = field.default if field.default_factory is MISSING else field.default_factory()
            assert getattr(mapping.SERVICE.decode(less), field.name) == default


def test_a_container_of_before_it_knew_files_and_networks_is_read() -> None:
    service = a_service()
    data = mapping.SERVICE.encode(service)
    data.pop("depends_on")
    for name in (
        "mounts", "tmpfs", "external_volumes", "files", "limits", "rights", "naming", "log", "tty", "stdin_open"
    ):  # fmt: skip
        data["container"].pop(name)
    assert mapping.SERVICE.decode(data) == service


def test_an_error_does_not_show_what_was_stored() -> None:
    data = mapping.SERVICE.encode(a_service())
    data["container"]["environment"] = {"PASSWORD": ["hunter2"]}
    with pytest.raises(ValidationError) as refused:
        mapping.SERVICE.decode(data)
    assert "hunter2" not in str(refused.value)


def test_a_wrong_type_is_refused() -> None:
    data = mapping.ROLLOUT.encode(replace(a_rollout(a_service(), 1), cursor=1))
    for name, wrong in (
        ("phase", "asleep"),
        ("cursor", "one"),
        ("plan", None),
        ("step_started_at", "soon"),
        ("backend", []),
    ):
        with pytest.raises(ValidationError, match=name):
            mapping.ROLLOUT.decode({**data, name: wrong})
