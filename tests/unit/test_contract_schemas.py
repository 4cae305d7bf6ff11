"""Two OpenAPI documents compared: versions, branches, recursion, and documents of the wrong shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.contract import ABSENT, API, BREAKING, COMPATIBLE, DRAFT, ORDER, PATH, UNKNOWN, WARNING, edited, worst
from tidegate.core.contract.comparing import compare
from tidegate.core.contract.values import Change

# -- versions and spellings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [{"swagger": "2.0", "paths": {}}, {"openapi": "4.0.0"}, {}, {"openapi": 3}])
def test_other_versions_are_not_compared(old: dict[str, object]) -> None:
    for pair in ((old, API), (API, old)):
        (found,) = compare(*pair)
        assert found.effect is UNKNOWN
        assert found.sentence.startswith("cannot tell: only OpenAPI 3.0 to 3.2 is compared, and it says ")


def test_both_versions_spellings_mean_the_same() -> None:
    schema = f"{DRAFT}/properties/when"
    three = edited({"/openapi": "3.0.3", schema: {"type": "string", "format": "date", "nullable": True}})
    limit = {f"{PATH}/get/parameters/0/schema/exclusiveMinimum": True}
    other = {f"{PATH}/get/parameters/0/schema": {"type": "integer", "exclusiveMinimum": 1, "maximum": 100}}
    assert compare(three, API) == compare(API, three) == ()
    assert compare(edited(limit, three), edited(other)) == ()


@pytest.mark.parametrize("key", ["anyOf", "oneOf"])
def test_one_of_a_type_or_null_is_a_type_that_may_be_null(key: str) -> None:
    schema = {key: [{"type": "string", "format": "date"}, {"type": "null"}], "title": "When"}
    other = edited({f"{DRAFT}/properties/when": schema})
    assert compare(API, other) == compare(other, API) == ()


def test_what_a_version_does_not_know_says_nothing() -> None:
    """`nullable` is of 3.0 only; keys beside `$ref` count from 3.1 on."""
    nullable = {f"{DRAFT}/properties/count/nullable": True}
    assert compare(edited(nullable), API) == ()
    beside = {f"{DRAFT}/properties/parent": {"$ref": f"#{ORDER}", "maxProperties": 1}}
    before = edited({f"{DRAFT}/properties/parent": {"$ref": f"#{ORDER}"}})
    assert "maxProperties was free, is 1" in compare(before, edited(beside))[0].sentence
    old = {"/openapi": "3.0.3", f"{DRAFT}/properties/when": ABSENT}
    assert compare(edited(old, before), edited(beside, edited(old, before))) == ()


def test_a_part_of_all_is_as_good_as_the_whole() -> None:
    other = edited({f"{PATH}/put/requestBody/content/application~1json/schema": {"allOf": [{"$ref": f"#{DRAFT}"}]}})
    assert compare(API, other) == compare(other, API) == ()
    (found,) = compare(API, edited({f"{DRAFT}/required": ["item", "count"]}, other))
    assert found.breaking


def test_of_several_parts_the_tightest_holds() -> None:
    parts = [
        {"type": "string", "minLength": 1, "maxLength": 99},
        {"type": ["string", "null"], "minLength": 3, "maxLength": 40},
    ]
    item = f"{DRAFT}/properties/item"
    old, whole = edited({item: {"allOf": parts}}), edited({item: {"type": "string", "minLength": 3, "maxLength": 40}})
    assert compare(old, whole) == compare(whole, old) == ()
    assert "minLength was 3, is 4" in compare(old, edited({f"{item}/minLength": 4}, whole))[0].sentence
    numbers = edited({item: {"allOf": [{"type": "number"}, {"type": ["integer", "string"]}]}})
    assert compare(numbers, edited({item: {"type": "integer"}})) == ()


def test_a_map_of_values_is_compared_by_its_values() -> None:
    def counting(values: object) -> dict[str, Any]:
        return edited({f"{DRAFT}/properties/item": {"type": "object", "additionalProperties": values}})

    small = {"type": "integer", "maximum": 5}
    assert compare(counting(small), counting({"type": "integer"})) == ()
    assert "item.*: maximum was free, is 5" in compare(counting({"type": "integer"}), counting(small))[0].sentence
    assert "additionalProperties was true, is false" in compare(counting(True), counting(False))[0].sentence
    named = {"type": "object", "properties": {"a": {"type": "string"}}}
    (found,) = compare(counting(small), edited({f"{DRAFT}/properties/item": named}))
    assert (found.effect, found.sentence) == (BREAKING, "PUT /orders/{id}: the body.item.a: type was integer, is string")


def test_a_class_of_answers_or_the_default_covers_a_code() -> None:
    answers = API["paths"]["/orders/{id}"]["get"]["responses"]
    for code in ("2XX", "default"):
        (found,) = compare(API, edited({f"{PATH}/get/responses": {code: answers["200"], "404": {}}}))
        assert (found.effect, found.sentence) == (WARNING, f"GET /orders/{{id}}: answer {code} is new"), (
            "others may come, too"
        )
    assert worst(compare(API, edited({f"{PATH}/get/responses/302": {}}))) is WARNING
    assert worst(compare(edited({f"{PATH}/get/responses/302": {}}), API)) is BREAKING


@pytest.mark.parametrize("media", ["application/*", "*/*", "application/json; charset=utf-8", "Application/JSON"])
def test_a_range_of_media_types_covers_one(media: str) -> None:
    body = f"{PATH}/put/requestBody/content"
    other = {media: API["paths"]["/orders/{id}"]["put"]["requestBody"]["content"]["application/json"]}
    assert compare(API, edited({body: other})) == ()


def test_two_names_of_a_path_variable_are_one_path() -> None:
    other = edited(
        {PATH: ABSENT, "/paths/~1orders~1{order}": edited({"/parameters/0/name": "order"}, API["paths"]["/orders/{id}"])}
    )
    assert compare(API, other) == ()


# -- branches ---------------------------------------------------------------------------------------------------------


def branches(*schemas: object) -> dict[str, Any]:
    return edited({f"{DRAFT}/properties/item": {"oneOf": list(schemas)}})


CARD = {"type": "object", "required": ["card"], "properties": {"card": {"type": "string"}}}
CASH = {"type": "object", "required": ["cash"], "properties": {"cash": {"type": "number"}}}
TEXT = {"type": "string", "maxLength": 5}


def test_a_branch_more_is_no_harm_and_the_order_is_none() -> None:
    assert compare(branches(CARD, CASH), branches(CASH, TEXT, CARD)) == ()


def test_a_type_that_no_branch_has_any_more_breaks() -> None:
    (found,) = compare(branches(CARD, CASH, TEXT), branches(CARD, CASH))
    assert (found.effect, found.sentence) == (
        BREAKING,
        "PUT /orders/{id}: the body.item: type was object or string, is object",
    )


def test_a_branch_that_fits_none_cannot_be_told() -> None:
    stricter = {**CASH, "required": ["cash", "currency"]}
    (found,) = compare(branches(CARD, CASH), branches(CARD, stricter))
    assert found.effect is UNKNOWN
    assert "cannot tell whether one of 2 branches still fits" in found.sentence


def test_what_is_to_look_at_in_the_branch_that_fits_is_told() -> None:
    def answering(*values: str) -> dict[str, Any]:
        return edited({f"{ORDER}/properties/note": {"oneOf": [{"type": "integer"}, {"enum": list(values)}]}})

    (found,) = compare(answering("a"), answering("a", "b"))
    assert (found.effect, found.sentence) == (WARNING, "GET /orders/{id}: answer 200.note: 'b' is new")


def test_of_branches_that_fit_the_best_is_taken() -> None:
    wide, narrow = {"type": "object"}, {"type": "object", "properties": {"a": {"type": "string"}}}
    answering = edited({f"{ORDER}/properties/note": {"anyOf": [wide, narrow]}})
    assert compare(answering, answering) == ()


# -- recursion and size -----------------------------------------------------------------------------------------------


def test_a_schema_within_itself_comes_to_an_end_and_is_told_once() -> None:
    found = compare(API, edited({f"{ORDER}/properties/note": {"type": "integer"}}))
    assert [change.sentence for change in found] == ["GET /orders/{id}: answer 200.note: type was string, is integer"]


def test_references_that_lead_to_each_other_cannot_be_told() -> None:
    ring = {
        "/components/schemas/A": {"$ref": "#/components/schemas/B"},
        "/components/schemas/B": {"$ref": "#/components/schemas/A"},
    }
    (found,) = compare(API, edited({**ring, f"{DRAFT}/properties/item": {"$ref": "#/components/schemas/A"}}))
    assert (found.effect, "do not come to an end" in found.sentence) == (UNKNOWN, True)


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return {"openapi": "3.1.0", "paths": {"/": {"get": {"responses": {"200": {"content": {"a/b": {"schema": schema}}}}}}}}


@pytest.mark.parametrize("levels", [100, 3000])
def test_what_is_too_deep_cannot_be_told(levels: int) -> None:
    (found,) = compare(deep(levels), deep(levels))
    assert found.effect is UNKNOWN


def test_many_branches_of_many_cannot_be_told() -> None:
    wide: dict[str, Any] = {"allOf": [{"anyOf": [{"type": "object", "required": [f"{n}"]} for n in range(9)]}] * 3}
    (found,) = compare(API, edited({f"{DRAFT}/properties/item": wide}))
    assert "too many branches" in found.sentence


MISSHAPED: list[Callable[[object], dict[str, object]]] = [
    lambda junk: {"/paths": junk},
    lambda junk: {PATH: junk},
    lambda junk: {f"{PATH}/get": junk},
    lambda junk: {f"{PATH}/get/parameters": junk},
    lambda junk: {f"{PATH}/get/responses": junk},
    lambda junk: {f"{PATH}/get/responses/200/content": junk},
    lambda junk: {ORDER: junk},
    lambda junk: {f"{ORDER}/properties": junk},
    lambda junk: {f"{ORDER}/required": junk},
    lambda junk: {f"{ORDER}/properties/id/type": junk},
    lambda junk: {"/security": junk},
    lambda junk: {"/servers": junk},
]


@pytest.mark.parametrize("place", MISSHAPED, ids=[f"{n}" for n in range(len(MISSHAPED))])
@pytest.mark.parametrize("junk", [7, "text", ["text"], None, {"a": 1}])
def test_a_misshapen_document_is_never_good_and_never_an_exception(
    place: Callable[[object], dict[str, object]], junk: object
) -> None:
    other = edited(place(junk))
    for found in (compare(API, other), compare(other, other)):
        assert all(isinstance(change, Change) for change in found)
    assert worst(compare(API, other)) not in (None, COMPATIBLE) or junk in (None, {"a": 1})
