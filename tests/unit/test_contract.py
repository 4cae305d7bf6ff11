"""Two OpenAPI documents compared: each rule, by one change to a small API."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tidegate.core.contract.comparing import compare
from tidegate.core.contract.values import Change, Comparison, Effect, OnBreaking, Outcome, concluded

BREAKING, UNKNOWN, WARNING, COMPATIBLE = Effect.BREAKING, Effect.UNKNOWN, Effect.WARNING, Effect.COMPATIBLE

API: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "shop", "version": "1"},
    "paths": {
        "/orders/{id}": {
            "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}],
            "get": {
                "parameters": [
                    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100}},
                    {"name": "X-Trace", "in": "header", "schema": {"type": "string"}},
                ],
                "responses": {
                    "200": {
                        "headers": {"ETag": {"required": True, "schema": {"type": "string"}}},
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Order"}}},
                    },
                    "404": {"description": "none"},
                },
            },
            "put": {
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Draft"}}}},
                "responses": {"204": {"description": "stored"}},
            },
        }
    },
    "components": {
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        "schemas": {
            "Order": {
                "type": "object",
                "required": ["id", "state"],
                "properties": {
                    "id": {"type": "integer", "format": "int32"},
                    "state": {"enum": ["open", "paid"]},
                    "note": {"type": "string", "maxLength": 50},
                    "parent": {"$ref": "#/components/schemas/Order"},
                },
            },
            "Draft": {
                "type": "object",
                "required": ["item"],
                "properties": {
                    "item": {"type": "string", "minLength": 1, "maxLength": 40},
                    "count": {"type": "integer"},
                    "colour": {"enum": ["red", "green"]},
                    "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
                    "when": {"type": ["string", "null"], "format": "date"},
                },
            },
        },
    },
}
PATH = "/paths/~1orders~1{id}"
ORDER, DRAFT = "/components/schemas/Order", "/components/schemas/Draft"
ABSENT = object()


def edited(changes: Mapping[str, object], document: Mapping[str, Any] = API) -> dict[str, Any]:
    """The document with other values at these JSON Pointers; `ABSENT` takes one away."""
    made: dict[str, Any] = copy.deepcopy(dict(document))
    for pointer, value in changes.items():
        *tokens, last = [token.replace("~1", "/") for token in pointer.split("/")[1:]]
        place: Any = made
        for token in tokens:
            place = place[int(token)] if isinstance(place, list) else place.setdefault(token, {})
        if value is ABSENT:
            del place[int(last) if isinstance(place, list) else last]
        elif isinstance(place, list):
            place[int(last) :] = [value]
        else:
            place[last] = value
    return made


def worst(changes: tuple[Change, ...]) -> Effect | None:
    return min((change.effect for change in changes), key=list(Effect).index, default=None)


#: What is changed in the new document; the worst effect; a piece of its sentence.
RULES: list[tuple[dict[str, object], Effect, str]] = [
    ({PATH: ABSENT}, BREAKING, "/orders/{id} is gone"),
    ({f"{PATH}/put": ABSENT}, BREAKING, "PUT /orders/{id} is gone"),
    ({"/paths/~1carts": {"get": {"responses": {}}}}, COMPATIBLE, "/carts is new"),
    ({f"{PATH}/delete": {"responses": {}}}, COMPATIBLE, "DELETE /orders/{id} is new"),
    ({"/servers": [{"url": "https://shop/v2"}]}, BREAKING, "not served below / any more"),
    # parameters
    ({f"{PATH}/get/parameters/0/required": True}, BREAKING, "query parameter limit is newly required"),
    ({f"{PATH}/get/parameters/0/schema/maximum": 50}, BREAKING, "query parameter limit: maximum was 100, is 50"),
    ({f"{PATH}/get/parameters/0/schema/maximum": 500}, COMPATIBLE, ""),
    ({f"{PATH}/get/parameters/0/schema/exclusiveMinimum": 1}, BREAKING, "minimum was 1, is 1 (exclusive)"),
    ({f"{PATH}/get/parameters/0/schema/minimum": ABSENT}, COMPATIBLE, ""),
    ({f"{PATH}/get/parameters/0/schema/type": "string"}, BREAKING, "type was integer, is string"),
    ({f"{PATH}/get/parameters/0/schema/type": "number"}, COMPATIBLE, ""),
    ({f"{PATH}/get/parameters/0/schema/multipleOf": 5}, BREAKING, "multipleOf was free, is 5"),
    ({f"{PATH}/get/parameters/0/style": "pipeDelimited"}, UNKNOWN, "its style"),
    ({f"{PATH}/get/parameters/1/name": "x-trace"}, COMPATIBLE, ""),
    ({f"{PATH}/get/parameters/1": ABSENT}, WARNING, "header parameter X-Trace is not read any more"),
    *(
        (
            {f"{PATH}/put/parameters": [{"name": "v", "in": where, "required": True}]},
            BREAKING,
            f"{where} parameter v is new and",
        )
        for where in ("query", "header", "cookie")
    ),
    ({f"{PATH}/put/parameters": [{"name": "v", "in": "query"}]}, COMPATIBLE, "query parameter v is new"),
    # what is sent
    ({f"{PATH}/put/requestBody/required": True}, BREAKING, "the body is newly required"),
    ({f"{PATH}/put/requestBody": ABSENT}, WARNING, "the body is not read any more"),
    ({f"{PATH}/put/requestBody/content": {"text/csv": {}}}, BREAKING, "the body is not application/json any more"),
    ({f"{PATH}/put/requestBody/content/text~1csv": {}}, COMPATIBLE, ""),
    ({f"{DRAFT}/required": ["item", "count"]}, BREAKING, "the body: count is newly required"),
    ({f"{DRAFT}/required": []}, COMPATIBLE, ""),
    ({f"{DRAFT}/properties/size": {"type": "integer"}}, COMPATIBLE, ""),
    ({f"{DRAFT}/properties/count": ABSENT}, WARNING, "count is not read any more"),
    ({f"{DRAFT}/properties/count": ABSENT, f"{DRAFT}/additionalProperties": False}, BREAKING, "count is refused"),
    ({f"{DRAFT}/additionalProperties": False}, WARNING, "not free any more"),
    ({f"{DRAFT}/properties/colour/enum": ["red"]}, BREAKING, "colour: 'green' is not allowed any more"),
    ({f"{DRAFT}/properties/colour/enum": ["red", "green", "blue"]}, COMPATIBLE, ""),
    ({f"{DRAFT}/properties/count/enum": [1, 2]}, BREAKING, "only some values are allowed now"),
    ({f"{DRAFT}/properties/colour/maxLength": 3}, BREAKING, "colour: 'green' is not allowed any more"),
    ({f"{DRAFT}/properties/colour/pattern": "^r"}, UNKNOWN, "colour: cannot tell what the change of its pattern means"),
    ({f"{DRAFT}/properties/count/format": "int32"}, BREAKING, "format was free, is int32"),
    ({f"{DRAFT}/properties/item/maxLength": 20}, BREAKING, "item: maxLength was 40, is 20"),
    ({f"{DRAFT}/properties/item/maxLength": 80}, COMPATIBLE, ""),
    ({f"{DRAFT}/properties/item/minLength": 2}, BREAKING, "item: minLength was 1, is 2"),
    ({f"{DRAFT}/properties/item/pattern": "^[a-z]+$"}, BREAKING, "pattern was free, is ^[a-z]+$"),
    ({f"{DRAFT}/properties/tags/maxItems": 3}, BREAKING, "tags: maxItems was 5, is 3"),
    ({f"{DRAFT}/properties/tags/uniqueItems": True}, BREAKING, "uniqueItems was false, is true"),
    ({f"{DRAFT}/properties/tags/items/maxLength": 9}, BREAKING, "tags[]: maxLength was free, is 9"),
    ({f"{DRAFT}/properties/when/type": "string"}, BREAKING, "when: type was null or string, is string"),
    ({f"{DRAFT}/properties/item/not": {"const": "x"}}, UNKNOWN, "cannot tell what the change of `not` means"),
    ({f"{DRAFT}/properties/item/$ref": "https://elsewhere/schema"}, UNKNOWN, "leads out of the document"),
    ({f"{DRAFT}/properties/item/$ref": "#/components/schemas/None"}, UNKNOWN, "leads nowhere"),
    ({f"{DRAFT}/properties/item/allOf": [{"$ref": f"#{DRAFT}/properties/item"}]}, UNKNOWN, "is made of itself"),
    ({f"{DRAFT}/properties/item/type": "text"}, UNKNOWN, "a type that is not known: text"),
    ({f"{DRAFT}/required": ["item", "count"], f"{DRAFT}/properties/count/readOnly": True}, COMPATIBLE, ""),
    # what is answered
    ({f"{PATH}/get/responses/200": ABSENT}, BREAKING, "answer 200 is gone"),
    ({f"{PATH}/get/responses/404": ABSENT}, WARNING, "answer 404 is gone"),
    ({f"{PATH}/get/responses/202": {}}, WARNING, "answer 202 is new"),
    ({f"{PATH}/get/responses/500": {}}, COMPATIBLE, ""),
    ({f"{PATH}/get/responses/200/content": {"text/csv": {}}}, BREAKING, "answer 200 is not application/json any more"),
    ({f"{PATH}/get/responses/200/headers": {}}, BREAKING, "header etag is gone"),
    ({f"{PATH}/get/responses/200/headers/ETag/required": False}, BREAKING, "header etag is not always there any more"),
    ({f"{ORDER}/properties/note": ABSENT}, BREAKING, "answer 200: note is gone"),
    ({f"{ORDER}/required": ["id"]}, BREAKING, "state is not always there any more"),
    ({f"{ORDER}/properties/id": ABSENT, f"{ORDER}/required": ["state"]}, BREAKING, "id is gone"),
    ({f"{ORDER}/properties/total": {"type": "number"}}, COMPATIBLE, "total is new"),
    ({f"{ORDER}/properties/state/enum": ["open", "paid", "lost"]}, WARNING, "state: 'lost' is new"),
    ({f"{ORDER}/properties/state/enum": ["open"]}, COMPATIBLE, ""),
    ({f"{ORDER}/properties/id/type": ["integer", "null"]}, BREAKING, "id: type was integer, is integer or null"),
    ({f"{ORDER}/properties/id/type": "number"}, BREAKING, "id: type was integer, is number"),
    ({f"{ORDER}/properties/id/format": "int64"}, BREAKING, "id: format was int32, is int64"),
    ({f"{ORDER}/properties/note/maxLength": 500}, BREAKING, "note: maxLength was 50, is 500"),
    ({f"{ORDER}/properties/note/maxLength": 5}, COMPATIBLE, ""),
    ({f"{ORDER}/properties/parent": {"type": "string"}}, BREAKING, "parent: type was object, is string"),
    # who may
    ({"/security": [{"token": []}]}, BREAKING, "coming without a credential is not enough any more"),
    ({"/security": [{"token": []}, {}]}, COMPATIBLE, ""),
    ({f"{PATH}/get/callbacks": {"done": {}}}, UNKNOWN, "cannot tell what the change of `callbacks` means"),
]


@pytest.mark.parametrize(("changes", "effect", "sentence"), RULES, ids=[f"{n}" for n in range(len(RULES))])
def test_each_rule(changes: dict[str, object], effect: Effect, sentence: str) -> None:
    found = compare(API, edited(changes))
    assert worst(found) in ({effect} if effect is not COMPATIBLE else {COMPATIBLE, None}), found
    assert any(sentence in change.sentence and change.effect is effect for change in found) or not sentence, found


def test_what_is_taken_back_is_no_change() -> None:
    assert compare(API, copy.deepcopy(API)) == ()


def test_a_change_names_its_place_in_the_new_document() -> None:
    (found,) = compare(API, edited({f"{DRAFT}/properties/item/maxLength": 20}))
    assert (found.path, found.breaking) == (f"{DRAFT}/properties/item", True)
    assert found.sentence == "PUT /orders/{id}: the body.item: maxLength was 40, is 20"


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


def test_a_part_of_all_is_as_good_as_the_whole() -> None:
    other = edited({f"{PATH}/put/requestBody/content/application~1json/schema": {"allOf": [{"$ref": f"#{DRAFT}"}]}})
    assert compare(API, other) == compare(other, API) == ()
    (found,) = compare(API, edited({f"{DRAFT}/required": ["item", "count"]}, other))
    assert found.breaking


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


# -- one outcome of all -----------------------------------------------------------------------------------------------


def change(effect: Effect, number: int = 1) -> Change:
    return Change(effect, "/paths", f"{effect} {number}")


@pytest.mark.parametrize(
    ("effects", "policy", "outcome", "stops"),
    [
        ([], OnBreaking.FAIL, Outcome.PASSED, False),
        ([COMPATIBLE], OnBreaking.FAIL, Outcome.PASSED, False),
        ([COMPATIBLE, WARNING], OnBreaking.FAIL, Outcome.WARNED, False),
        ([WARNING, UNKNOWN], OnBreaking.FAIL, Outcome.UNKNOWN, True),
        ([WARNING, UNKNOWN], OnBreaking.WARN, Outcome.UNKNOWN, False),
        ([UNKNOWN, BREAKING], OnBreaking.FAIL, Outcome.FAILED, True),
        ([UNKNOWN, BREAKING], OnBreaking.WARN, Outcome.WARNED, False),
    ],
)
def test_the_worst_says_it(effects: list[Effect], policy: OnBreaking, outcome: Outcome, stops: bool) -> None:
    found = concluded([change(each) for each in effects], policy)
    assert (found.outcome, found.stops(policy)) == (outcome, stops)


def test_the_sentence_names_some_and_counts_the_rest() -> None:
    found: Comparison = concluded([change(BREAKING, number) for number in range(5)], OnBreaking.FAIL)
    assert found.sentence == "5 breaking changes: breaking 0; breaking 1; breaking 2; and 2 more"
