"""Two OpenAPI documents compared: versions, branches, recursion, and documents of the wrong shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.openapi_documents import (
    ABSENT,
    API,
    BREAKING,
    COMPATIBLE,
    DRAFT,
    ORDER,
    PATH,
    UNKNOWN,
    WARNING,
    edit_document,
    worst_effect,
)
from tidegate.openapi_diff.diff import diff_documents
from tidegate.openapi_diff.result import ApiChange

# -- versions and spellings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [{"swagger": "2.0", "paths": {}}, {"openapi": "4.0.0"}, {}, {"openapi": 3}])
def test_other_versions_are_not_compared(old: dict[str, object]) -> None:
    for pair in ((old, API), (API, old)):
        (result,) = diff_documents(*pair)
        assert result.effect is UNKNOWN
        assert result.message.startswith("cannot tell: only OpenAPI 3.0 to 3.2 is supported; the document declares ")


def test_both_versions_spellings_mean_the_same() -> None:
    schema = f"{DRAFT}/properties/when"
    three = edit_document({"/openapi": "3.0.3", schema: {"type": "string", "format": "date", "nullable": True}})
    limit = {f"{PATH}/get/parameters/0/schema/exclusiveMinimum": True}
    other = {f"{PATH}/get/parameters/0/schema": {"type": "integer", "exclusiveMinimum": 1, "maximum": 100}}
    assert diff_documents(three, API) == diff_documents(API, three) == ()
    assert diff_documents(edit_document(limit, three), edit_document(other)) == ()


@pytest.mark.parametrize("key", ["anyOf", "oneOf"])
def test_one_of_a_type_or_null_is_a_type_that_may_be_null(key: str) -> None:
    schema = {key: [{"type": "string", "format": "date"}, {"type": "null"}], "title": "When"}
    other = edit_document({f"{DRAFT}/properties/when": schema})
    assert diff_documents(API, other) == diff_documents(other, API) == ()


def test_what_a_version_does_not_know_says_nothing() -> None:
    """`nullable` is of 3.0 only; keys beside `$ref` count from 3.1 on."""
    nullable = {f"{DRAFT}/properties/count/nullable": True}
    assert diff_documents(edit_document(nullable), API) == ()
    beside = {f"{DRAFT}/properties/parent": {"$ref": f"#{ORDER}", "maxProperties": 1}}
    before = edit_document({f"{DRAFT}/properties/parent": {"$ref": f"#{ORDER}"}})
    assert "maxProperties was unrestricted, is 1" in diff_documents(before, edit_document(beside))[0].message
    old = {"/openapi": "3.0.3", f"{DRAFT}/properties/when": ABSENT}
    assert diff_documents(edit_document(old, before), edit_document(beside, edit_document(old, before))) == ()


def test_a_part_of_all_is_as_good_as_the_whole() -> None:
    other = edit_document({f"{PATH}/put/requestBody/content/application~1json/schema": {"allOf": [{"$ref": f"#{DRAFT}"}]}})
    assert diff_documents(API, other) == diff_documents(other, API) == ()
    (result,) = diff_documents(API, edit_document({f"{DRAFT}/required": ["item", "count"]}, other))
    assert result.breaking


def test_of_several_parts_the_tightest_holds() -> None:
    parts = [
        {"type": "string", "minLength": 1, "maxLength": 99},
        {"type": ["string", "null"], "minLength": 3, "maxLength": 40},
    ]
    item = f"{DRAFT}/properties/item"
    old, whole = (
        edit_document({item: {"allOf": parts}}),
        edit_document({item: {"type": "string", "minLength": 3, "maxLength": 40}}),
    )
    assert diff_documents(old, whole) == diff_documents(whole, old) == ()
    assert "minLength was 3, is 4" in diff_documents(old, edit_document({f"{item}/minLength": 4}, whole))[0].message
    numbers = edit_document({item: {"allOf": [{"type": "number"}, {"type": ["integer", "string"]}]}})
    assert diff_documents(numbers, edit_document({item: {"type": "integer"}})) == ()


def test_a_map_of_values_is_compared_by_its_values() -> None:
    def counting(values: object) -> dict[str, Any]:
        return edit_document({f"{DRAFT}/properties/item": {"type": "object", "additionalProperties": values}})

    small = {"type": "integer", "maximum": 5}
    assert diff_documents(counting(small), counting({"type": "integer"})) == ()
    assert (
        "item.*: maximum was unrestricted, is 5"
        in diff_documents(counting({"type": "integer"}), counting(small))[0].message
    )
    assert "additionalProperties was true, is false" in diff_documents(counting(True), counting(False))[0].message
    named = {"type": "object", "properties": {"a": {"type": "string"}}}
    (result,) = diff_documents(counting(small), edit_document({f"{DRAFT}/properties/item": named}))
    assert (result.effect, result.message) == (BREAKING, "PUT /orders/{id}: the body.item.a: type was integer, is string")


def test_a_class_of_answers_or_the_default_covers_a_code() -> None:
    answers = API["paths"]["/orders/{id}"]["get"]["responses"]
    for code in ("2XX", "default"):
        (result,) = diff_documents(API, edit_document({f"{PATH}/get/responses": {code: answers["200"], "404": {}}}))
        assert (result.effect, result.message) == (WARNING, f"GET /orders/{{id}}: response {code} is new"), (
            "others may come, too"
        )
    assert worst_effect(diff_documents(API, edit_document({f"{PATH}/get/responses/302": {}}))) is WARNING
    assert worst_effect(diff_documents(edit_document({f"{PATH}/get/responses/302": {}}), API)) is BREAKING


@pytest.mark.parametrize("media", ["application/*", "*/*", "application/json; charset=utf-8", "Application/JSON"])
def test_a_range_of_media_types_covers_one(media: str) -> None:
    body = f"{PATH}/put/requestBody/content"
    other = {media: API["paths"]["/orders/{id}"]["put"]["requestBody"]["content"]["application/json"]}
    assert diff_documents(API, edit_document({body: other})) == ()


def test_two_names_of_a_path_variable_are_one_path() -> None:
    other = edit_document(
        {
            PATH: ABSENT,
            "/paths/~1orders~1{order}": edit_document({"/parameters/0/name": "order"}, API["paths"]["/orders/{id}"]),
        }
    )
    assert diff_documents(API, other) == ()


# -- branches ---------------------------------------------------------------------------------------------------------


def branches(*schemas: object) -> dict[str, Any]:
    return edit_document({f"{DRAFT}/properties/item": {"oneOf": list(schemas)}})


CARD = {"type": "object", "required": ["card"], "properties": {"card": {"type": "string"}}}
CASH = {"type": "object", "required": ["cash"], "properties": {"cash": {"type": "number"}}}
TEXT = {"type": "string", "maxLength": 5}


def test_a_branch_more_is_no_harm_and_the_order_is_none() -> None:
    assert diff_documents(branches(CARD, CASH), branches(CASH, TEXT, CARD)) == ()


def test_a_type_that_no_branch_has_any_more_breaks() -> None:
    (result,) = diff_documents(branches(CARD, CASH, TEXT), branches(CARD, CASH))
    assert (result.effect, result.message) == (
        BREAKING,
        "PUT /orders/{id}: the body.item: type was object or string, is object",
    )


def test_a_branch_that_fits_none_cannot_be_told() -> None:
    stricter = {**CASH, "required": ["cash", "currency"]}
    (result,) = diff_documents(branches(CARD, CASH), branches(CARD, stricter))
    assert result.effect is UNKNOWN
    assert "cannot tell whether one of 2 branches is compatible" in result.message


def test_what_is_to_look_at_in_the_branch_that_fits_is_told() -> None:
    def answering(*values: str) -> dict[str, Any]:
        return edit_document({f"{ORDER}/properties/note": {"oneOf": [{"type": "integer"}, {"enum": list(values)}]}})

    (result,) = diff_documents(answering("a"), answering("a", "b"))
    assert (result.effect, result.message) == (WARNING, "GET /orders/{id}: response 200.note: 'b' is new")


def test_of_branches_that_fit_the_best_is_taken() -> None:
    wide, narrow = {"type": "object"}, {"type": "object", "properties": {"a": {"type": "string"}}}
    answering = edit_document({f"{ORDER}/properties/note": {"anyOf": [wide, narrow]}})
    assert diff_documents(answering, answering) == ()


# -- recursion and size -----------------------------------------------------------------------------------------------


def test_a_schema_within_itself_comes_to_an_end_and_is_told_once() -> None:
    result = diff_documents(API, edit_document({f"{ORDER}/properties/note": {"type": "integer"}}))
    assert [change.message for change in result] == ["GET /orders/{id}: response 200.note: type was string, is integer"]


def test_references_that_lead_to_each_other_cannot_be_told() -> None:
    ring = {
        "/components/schemas/A": {"$ref": "#/components/schemas/B"},
        "/components/schemas/B": {"$ref": "#/components/schemas/A"},
    }
    (result,) = diff_documents(API, edit_document({**ring, f"{DRAFT}/properties/item": {"$ref": "#/components/schemas/A"}}))
    assert (result.effect, "form a loop" in result.message) == (UNKNOWN, True)


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return {"openapi": "3.1.0", "paths": {"/": {"get": {"responses": {"200": {"content": {"a/b": {"schema": schema}}}}}}}}


@pytest.mark.parametrize("levels", [100, 3000])
def test_what_is_too_deep_cannot_be_told(levels: int) -> None:
    (result,) = diff_documents(deep(levels), deep(levels))
    assert result.effect is UNKNOWN


def test_many_branches_of_many_cannot_be_told() -> None:
    wide: dict[str, Any] = {"allOf": [{"anyOf": [{"type": "object", "required": [f"{n}"]} for n in range(9)]}] * 3}
    (result,) = diff_documents(API, edit_document({f"{DRAFT}/properties/item": wide}))
    assert "too many branches" in result.message


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
    other = edit_document(place(junk))
    for result in (diff_documents(API, other), diff_documents(other, other)):
        assert all(isinstance(change, ApiChange) for change in result)
    assert worst_effect(diff_documents(API, other)) not in (None, COMPATIBLE) or junk in (None, {"a": 1})
