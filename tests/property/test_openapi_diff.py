"""In random documents: nothing breaks by standing still or by growing, a loss always does, and what is called good is so.

The last is judged by jsonschema, which knows nothing of our rules: a value that was right is right.
"""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tidegate.openapi_diff.diff import diff_documents
from tidegate.openapi_diff.result import Effect

Schema = dict[str, Any]
NAMES = ("a", "b", "c")
SMALL = st.integers(0, 4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 6) | st.sampled_from([0.5, 2.0]) | st.sampled_from(["", "x", "xx", "xxxx"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=5,
)


def optional(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Schema]:
    return st.fixed_dictionaries({}, optional=keys)


def kinds(*names: str) -> st.SearchStrategy[Any]:
    return st.sampled_from([*names, [names[0], "null"]])


NUMBERS = st.fixed_dictionaries(
    {"type": kinds("integer", "number")},
    optional={
        "minimum": SMALL,
        "maximum": SMALL,
        "exclusiveMinimum": SMALL,
        "exclusiveMaximum": SMALL,
        "multipleOf": st.just(2),
    },
)
TEXTS = st.fixed_dictionaries(
    {"type": kinds("string")}, optional={"minLength": SMALL, "maxLength": SMALL, "pattern": st.sampled_from(["^x", "x$"])}
)
LISTED = st.lists(st.sampled_from(["x", 1, 2, None, True]), min_size=1, max_size=3, unique_by=repr).map(
    lambda each: {"enum": each}
)
PLAIN = (
    NUMBERS | TEXTS | LISTED | st.just({"type": "boolean"}) | st.just({}) | st.sampled_from([{"const": 1}, {"const": "x"}])
)


def larger(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    objects = st.fixed_dictionaries(
        {"type": kinds("object")},
        optional={
            "properties": st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
            "required": st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
            "additionalProperties": st.booleans() | inner,
            "maxProperties": SMALL,
        },
    )
    lists = st.fixed_dictionaries(
        {"type": kinds("array")},
        optional={"items": inner, "minItems": SMALL, "maxItems": SMALL, "uniqueItems": st.booleans()},
    )
    several = st.lists(inner, min_size=1, max_size=3)
    combined = several.map(lambda each: {"anyOf": each}) | several.map(lambda each: {"allOf": each})
    return (
        objects | lists | combined | st.sampled_from(["A", "B"]).map(lambda name: {"$ref": f"#/components/schemas/{name}"})
    )


SCHEMAS = st.recursive(PLAIN, larger, max_leaves=6)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Some paths with parameters, a body and an answer; two schemas that may be made of each other."""
    paths: dict[str, Any] = {}
    for path in draw(st.lists(st.sampled_from(["/a", "/b/{id}", "/c"]), min_size=1, unique=True)):
        paths[path] = {method: draw(operations()) for method in draw(st.sets(st.sampled_from(["get", "post"]), min_size=1))}
    return whole(paths, draw(SCHEMAS), draw(SCHEMAS))


@st.composite
def operations(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=2))
    parameters = [{"name": name, "in": "query", "required": draw(st.booleans()), "schema": draw(SCHEMAS)} for name in names]
    result: dict[str, Any] = {"parameters": parameters, "responses": {"200": content(draw(SCHEMAS))}}
    if draw(st.booleans()):
        result["requestBody"] = {"required": draw(st.booleans()), **content(draw(SCHEMAS))}
    return result


def content(schema: Schema) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def whole(paths: dict[str, Any], a: Schema, b: Schema) -> dict[str, Any]:
    return {"openapi": "3.1.0", "paths": paths, "components": {"schemas": {"A": a, "B": b}}}


def effects(old: dict[str, Any], new: dict[str, Any]) -> set[Effect]:
    return {change.effect for change in diff_documents(old, new)}


@settings(deadline=None, derandomize=True)
@given(documents())
def test_standing_still_breaks_nothing(document: dict[str, Any]) -> None:
    assert effects(document, copy.deepcopy(document)) <= {Effect.UNKNOWN}


@settings(deadline=None, derandomize=True)
@given(documents(), st.data())
def test_an_optional_thing_more_breaks_nothing(document: dict[str, Any], data: st.DataObject) -> None:
    grown = copy.deepcopy(document)
    path = data.draw(st.sampled_from(sorted(grown["paths"])))
    operation = grown["paths"][path][data.draw(st.sampled_from(sorted(grown["paths"][path])))]
    what = data.draw(st.sampled_from(["path", "operation", "parameter", "media", "answer", "body"]))
    if what == "path":
        grown["paths"]["/new"] = {"get": {"responses": {}}}
    elif what == "operation":
        grown["paths"][path]["delete"] = {"responses": {}}
    elif what == "parameter":
        operation["parameters"].append({"name": "new", "in": "header", "schema": data.draw(SCHEMAS)})
    elif what == "media":
        operation["responses"]["200"]["content"]["text/csv"] = {}
    elif what == "answer":
        operation["responses"]["418"] = content(data.draw(SCHEMAS))
    else:
        operation.setdefault("requestBody", content(data.draw(SCHEMAS)))
    assert Effect.BREAKING not in effects(document, grown)


@settings(deadline=None, derandomize=True)
@given(documents(), st.data())
def test_an_operation_less_breaks(document: dict[str, Any], data: st.DataObject) -> None:
    shrunk = copy.deepcopy(document)
    path = data.draw(st.sampled_from(sorted(shrunk["paths"])))
    del shrunk["paths"][path][data.draw(st.sampled_from(sorted(shrunk["paths"][path])))]
    assert Effect.BREAKING in effects(document, shrunk)


def right(document: dict[str, Any], schema: Schema, value: object) -> bool:
    return jsonschema.Draft202012Validator({**schema, "components": document["components"]}).is_valid(value)


def closed(schema: Any) -> Any:
    """With no other properties than the named ones: nobody is taken to send what is not told of, so that an optional
    property more breaks nothing."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(each) for key, each in schema.items()}
    kind = schema.get("type")
    named = "object" in (kind if isinstance(kind, list) else [kind]) and not isinstance(
        result.get("additionalProperties"), dict
    )
    return {**result, "additionalProperties": False} if named else result


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Schema, Schema]:
    """Two schemas that are much alike, as a schema and its next version are."""
    old = draw(SCHEMAS)
    new = copy.deepcopy(old)
    for _ in range(draw(st.integers(0, 2))):
        place = data_place(new, draw)
        without = sorted(place.keys() - {"type"})  # where none is told, `properties` stand for an object's
        if not without or draw(st.booleans()):
            place.clear()
            place.update(copy.deepcopy(draw(SCHEMAS)))
        else:
            del place[draw(st.sampled_from(without))]
    return old, new


def data_place(schema: Schema, draw: st.DrawFn) -> Schema:
    """The schema, or one within it."""
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", ()), *schema.get("allOf", ())]
    inner += [each for key in ("items", "additionalProperties") if isinstance(each := schema.get(key), dict)]
    return data_place(draw(st.sampled_from(inner)), draw) if inner and draw(st.booleans()) else schema


@settings(max_examples=100, deadline=None, derandomize=True)
@given(pairs(), SCHEMAS, SCHEMAS, st.lists(VALUES, min_size=20, max_size=20), st.sampled_from(["request", "response"]))
def test_what_is_called_good_is_good(
    pair: tuple[Schema, Schema], a: Schema, b: Schema, values: list[object], use: str
) -> None:
    """Of a request, what was right is still; of an answer, what is right now was so before."""
    sides = []
    for schema in pair:
        operation = {"requestBody": content(schema)} if use == "request" else {"responses": {"200": content(schema)}}
        sides.append(whole({"/": {"post": operation}}, a, b))
    assume(effects(sides[0], sides[1]) <= {Effect.COMPATIBLE})
    (sent, known) = (0, 1) if use == "request" else (1, 0)
    for value in values:
        try:
            assert not right(closed(sides[sent]), closed(pair[sent]), value) or right(sides[known], pair[known], value), (
                value
            )
        except RecursionError:
            assume(False)
