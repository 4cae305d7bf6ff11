"""Two OpenAPI documents compared: each rule, by one change to a small API."""

from __future__ import annotations

import copy
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
from tidegate.openapi_diff.result import ApiChange, DiffOutcome, DiffResult, Effect, OnBreaking, conclude

#: What is changed in the new document; the worst effect; a part of its message.
RULES: list[tuple[dict[str, object], Effect, str]] = [
    ({PATH: ABSENT}, BREAKING, "/orders/{id} was removed"),
    ({f"{PATH}/put": ABSENT}, BREAKING, "PUT /orders/{id} was removed"),
    ({"/paths/~1carts": {"get": {"responses": {}}}}, COMPATIBLE, "/carts is new"),
    ({f"{PATH}/delete": {"responses": {}}}, COMPATIBLE, "DELETE /orders/{id} is new"),
    ({"/servers": [{"url": "https://shop/v2"}]}, BREAKING, "no longer served below /"),
    # parameters
    ({f"{PATH}/get/parameters/0/required": True}, BREAKING, "query parameter limit is newly required"),
    ({f"{PATH}/get/parameters/0/schema/maximum": 50}, BREAKING, "query parameter limit: maximum was 100, is 50"),
    ({f"{PATH}/get/parameters/0/schema/maximum": 500}, COMPATIBLE, ""),
    ({f"{PATH}/get/parameters/0/schema/exclusiveMinimum": 1}, BREAKING, "minimum was 1, is 1 (exclusive)"),
    ({f"{PATH}/get/parameters/0/schema/minimum": ABSENT}, COMPATIBLE, ""),
    ({f"{PATH}/get/parameters/0/schema/type": "string"}, BREAKING, "type was integer, is string"),
    ({f"{PATH}/get/parameters/0/schema/type": "number"}, COMPATIBLE, ""),
    ({f"{PATH}/get/parameters/0/schema/multipleOf": 5}, BREAKING, "multipleOf was unrestricted, is 5"),
    ({f"{PATH}/get/parameters/0/style": "pipeDelimited"}, UNKNOWN, "its style"),
    ({f"{PATH}/get/parameters/1/name": "x-trace"}, COMPATIBLE, ""),
    ({f"{PATH}/get/parameters/1": ABSENT}, WARNING, "header parameter X-Trace is no longer read"),
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
    ({f"{PATH}/put/requestBody": ABSENT}, WARNING, "the body is no longer read"),
    ({f"{PATH}/put/requestBody/content": {"text/csv": {}}}, BREAKING, "the body is no longer application/json"),
    ({f"{PATH}/put/requestBody/content/text~1csv": {}}, COMPATIBLE, ""),
    ({f"{DRAFT}/required": ["item", "count"]}, BREAKING, "the body: count is newly required"),
    ({f"{DRAFT}/required": []}, COMPATIBLE, ""),
    ({f"{DRAFT}/properties/size": {"type": "integer"}}, COMPATIBLE, ""),
    ({f"{DRAFT}/properties/count": ABSENT}, WARNING, "count is no longer read"),
    ({f"{DRAFT}/properties/count": ABSENT, f"{DRAFT}/additionalProperties": False}, BREAKING, "count is rejected"),
    ({f"{DRAFT}/additionalProperties": False}, WARNING, "additional properties are now restricted"),
    ({f"{DRAFT}/properties/colour/enum": ["red"]}, BREAKING, "colour: 'green' is no longer allowed"),
    ({f"{DRAFT}/properties/colour/enum": ["red", "green", "blue"]}, COMPATIBLE, ""),
    ({f"{DRAFT}/properties/count/enum": [1, 2]}, BREAKING, "only some values are now allowed"),
    ({f"{DRAFT}/properties/colour/maxLength": 3}, BREAKING, "colour: 'green' is no longer allowed"),
    ({f"{DRAFT}/properties/colour/pattern": "^r"}, UNKNOWN, "colour: cannot tell what the change of its pattern means"),
    ({f"{DRAFT}/properties/count/format": "int32"}, BREAKING, "format was unrestricted, is int32"),
    ({f"{DRAFT}/properties/item/maxLength": 20}, BREAKING, "item: maxLength was 40, is 20"),
    ({f"{DRAFT}/properties/item/maxLength": 80}, COMPATIBLE, ""),
    ({f"{DRAFT}/properties/item/minLength": 2}, BREAKING, "item: minLength was 1, is 2"),
    ({f"{DRAFT}/properties/item/pattern": "^[a-z]+$"}, BREAKING, "pattern was unrestricted, is ^[a-z]+$"),
    ({f"{DRAFT}/properties/tags/maxItems": 3}, BREAKING, "tags: maxItems was 5, is 3"),
    ({f"{DRAFT}/properties/tags/uniqueItems": True}, BREAKING, "uniqueItems was false, is true"),
    ({f"{DRAFT}/properties/tags/items/maxLength": 9}, BREAKING, "tags[]: maxLength was unrestricted, is 9"),
    ({f"{DRAFT}/properties/when/type": "string"}, BREAKING, "when: type was null or string, is string"),
    ({f"{DRAFT}/properties/item/not": {"const": "x"}}, UNKNOWN, "cannot tell what the change of `not` means"),
    ({f"{DRAFT}/properties/item/$ref": "https://elsewhere/schema"}, UNKNOWN, "is external"),
    ({f"{DRAFT}/properties/item/$ref": "#/components/schemas/None"}, UNKNOWN, "has no target"),
    ({f"{DRAFT}/properties/item/allOf": [{"$ref": f"#{DRAFT}/properties/item"}]}, UNKNOWN, "includes itself"),
    ({f"{DRAFT}/properties/item/type": "text"}, UNKNOWN, "an unknown type: text"),
    ({f"{DRAFT}/required": ["item", "count"], f"{DRAFT}/properties/count/readOnly": True}, COMPATIBLE, ""),
    # responses
    ({f"{PATH}/get/responses/200": ABSENT}, BREAKING, "response 200 was removed"),
    ({f"{PATH}/get/responses/404": ABSENT}, WARNING, "response 404 was removed"),
    ({f"{PATH}/get/responses/202": {}}, WARNING, "response 202 is new"),
    ({f"{PATH}/get/responses/500": {}}, COMPATIBLE, ""),
    ({f"{PATH}/get/responses/200/content": {"text/csv": {}}}, BREAKING, "response 200 is no longer application/json"),
    ({f"{PATH}/get/responses/200/headers": {}}, BREAKING, "header etag was removed"),
    ({f"{PATH}/get/responses/200/headers/ETag/required": False}, BREAKING, "header etag is no longer always present"),
    ({f"{ORDER}/properties/note": ABSENT}, BREAKING, "response 200: note was removed"),
    ({f"{ORDER}/required": ["id"]}, BREAKING, "state is no longer always present"),
    ({f"{ORDER}/properties/id": ABSENT, f"{ORDER}/required": ["state"]}, BREAKING, "id was removed"),
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
    ({"/security": [{"token": []}]}, BREAKING, "requests without a credential are no longer accepted"),
    ({"/security": [{"token": []}, {}]}, COMPATIBLE, ""),
    ({f"{PATH}/get/callbacks": {"done": {}}}, UNKNOWN, "cannot tell what the change of `callbacks` means"),
]


@pytest.mark.parametrize(("changes", "effect", "message"), RULES, ids=[f"{n}" for n in range(len(RULES))])
def test_each_rule(changes: dict[str, object], effect: Effect, message: str) -> None:
    result = diff_documents(API, edit_document(changes))
    assert worst_effect(result) in ({effect} if effect is not COMPATIBLE else {COMPATIBLE, None}), result
    assert any(message in change.message and change.effect is effect for change in result) or not message, result


def test_what_is_taken_back_is_no_change() -> None:
    assert diff_documents(API, copy.deepcopy(API)) == ()


def test_a_body_that_was_not_there_is_newly_required() -> None:
    before = edit_document({f"{PATH}/put/requestBody": ABSENT})
    assert diff_documents(before, API) == ()
    (result,) = diff_documents(before, edit_document({f"{PATH}/put/requestBody/required": True}))
    assert (result.effect, result.message) == (BREAKING, "PUT /orders/{id}: the body is newly required")


def secured(*wanted: dict[str, list[str]], kind: str = "oauth2") -> dict[str, Any]:
    schemes = {"login": {"type": kind}, "key": {"type": "apiKey", "in": "header", "name": "X-Key"}}
    return edit_document({"/security": list(wanted), "/components/securitySchemes": schemes})


@pytest.mark.parametrize(
    ("old", "new", "breaks"),
    [
        ([{"login": ["read"]}], [{"login": ["read"]}], False),
        ([{"login": ["read", "write"]}], [{"login": ["read"]}], False),
        ([{"login": ["read"]}], [{"login": ["read", "write"]}], True),
        ([{"login": []}], [{"login": [], "key": []}], True),
        ([{"login": []}], [{"key": []}, {"login": []}], False),
        ([{"key": []}, {"login": []}], [{"key": []}], True),
        ([{"key": []}], [], False),
    ],
)
def test_what_was_shown_must_still_be_enough(old: list[Any], new: list[Any], breaks: bool) -> None:
    result = diff_documents(secured(*old), secured(*new))
    assert {change.message for change in result} == (
        {f"{method} /orders/{{id}}: the previous credential is no longer accepted" for method in ("GET", "PUT")}
        if breaks
        else set()
    )


def test_another_kind_of_login_is_another_login_and_an_undefined_one_cannot_be_told() -> None:
    assert worst_effect(diff_documents(secured({"login": []}), secured({"login": []}, kind="openIdConnect"))) is BREAKING
    assert worst_effect(diff_documents(API, edit_document({"/security": [{"none": []}]}))) is UNKNOWN


def test_callbacks_that_stay_are_no_change_also_where_they_lead_to_themselves() -> None:
    body = {"requestBody": {"content": {"application/json": {"schema": {"$ref": f"#{ORDER}"}}}}}
    with_callback = edit_document({f"{PATH}/put/callbacks": {"done": {"{$request.body#/url}": {"post": body}}}})
    assert diff_documents(with_callback, copy.deepcopy(with_callback)) == ()
    result = diff_documents(with_callback, edit_document({f"{ORDER}/properties/id/maximum": 5}, with_callback))
    assert [(change.effect, "`callbacks`" in change.message) for change in result] == [(UNKNOWN, True)]


def test_a_change_names_its_place_in_the_new_document() -> None:
    (result,) = diff_documents(API, edit_document({f"{DRAFT}/properties/item/maxLength": 20}))
    assert (result.path, result.breaking) == (f"{DRAFT}/properties/item", True)
    assert result.message == "PUT /orders/{id}: the body.item: maxLength was 40, is 20"


# -- one outcome of all -----------------------------------------------------------------------------------------------


def change(effect: Effect, number: int = 1) -> ApiChange:
    return ApiChange(effect, "/paths", f"{effect} {number}")


@pytest.mark.parametrize(
    ("effects", "policy", "outcome", "stops"),
    [
        ([], OnBreaking.FAIL, DiffOutcome.PASSED, False),
        ([COMPATIBLE], OnBreaking.FAIL, DiffOutcome.PASSED, False),
        ([COMPATIBLE, WARNING], OnBreaking.FAIL, DiffOutcome.WARNED, False),
        ([WARNING, UNKNOWN], OnBreaking.FAIL, DiffOutcome.UNKNOWN, True),
        ([WARNING, UNKNOWN], OnBreaking.WARN, DiffOutcome.UNKNOWN, False),
        ([UNKNOWN, BREAKING], OnBreaking.FAIL, DiffOutcome.FAILED, True),
        ([UNKNOWN, BREAKING], OnBreaking.WARN, DiffOutcome.WARNED, False),
    ],
)
def test_the_worst_says_it(effects: list[Effect], policy: OnBreaking, outcome: DiffOutcome, stops: bool) -> None:
    result = conclude([change(effect) for effect in effects], policy)
    assert (result.outcome, result.blocks(policy)) == (outcome, stops)


def test_the_sentence_names_some_and_counts_the_rest() -> None:
    diff_result: DiffResult = conclude([change(BREAKING, number) for number in range(5)], OnBreaking.FAIL)
    assert diff_result.message == "5 breaking changes: breaking 0; breaking 1; breaking 2; and 2 more"
