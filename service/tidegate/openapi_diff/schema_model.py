"""Schemas normalised for comparison: `allOf` merged, `anyOf` and `oneOf` as branches, one form for OpenAPI 3.0 and 3.1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tidegate.openapi_diff.documents import Node, OpenApiDocument, Undecidable

TYPES = frozenset({"null", "boolean", "object", "array", "number", "integer", "string"})
MAX_BRANCHES = 64
MAX_NESTING = 30  # levels of nested parts in one schema
SIZE_KEYS = frozenset({"minLength", "minItems", "minProperties", "maxLength", "maxItems", "maxProperties"})
#: Only compared for equality: the effect of a change cannot be decided in general.
OPAQUE_KEYWORDS = frozenset({
    "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "contains", "minContains",
    "maxContains", "patternProperties", "propertyNames", "unevaluatedProperties", "unevaluatedItems", "prefixItems",
    "contentEncoding", "contentMediaType", "contentSchema", "discriminator", "xml", "$dynamicRef", "$recursiveRef",
})  # fmt: skip
IMPLIED_TYPES = {"properties": "object", "additionalProperties": "object", "required": "object", "items": "array"}
ANNOTATION_FORMATS = frozenset({"password"})  # formats that restrict nothing


@dataclass(frozen=True, slots=True)
class NumericBound:
    """A minimum or maximum, inclusive or exclusive."""

    value: float
    exclusive: bool

    def __str__(self) -> str:
        return f"{self.value:g}{' (exclusive)' if self.exclusive else ''}"


@dataclass(frozen=True, slots=True)
class SchemaShape:
    """The restrictions of one branch of a schema; None or empty: unrestricted. `types` never has both integer and number.

    `additional` is the schema of additional properties; None when the schema does not define it.
    """

    types: frozenset[str] = TYPES - {"integer"}
    values: tuple[object, ...] | None = None
    format: str = ""
    minimum: NumericBound | None = None
    maximum: NumericBound | None = None
    multiple: float | None = None
    sizes: Mapping[str, float] = field(default_factory=dict)
    patterns: frozenset[str] = frozenset()
    unique: bool = False
    properties: Mapping[str, Node] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    additional: Node | None = None
    items: Node | None = None
    opaque: Mapping[str, Node] = field(default_factory=dict)

    @property
    def is_types_only(self) -> bool:
        """Whether it restricts nothing but the types."""
        return self == SchemaShape(types=self.types)


ANY_SHAPE = SchemaShape()


def shapes_of(document: OpenApiDocument, node: Node) -> tuple[SchemaShape, ...]:
    """The branches of a schema: a value is valid if one of them allows it. Raises `Undecidable`."""
    return _join_branches(_shapes_of(document, node, ()))


def _shapes_of(document: OpenApiDocument, node: Node, within: tuple[str, ...]) -> tuple[SchemaShape, ...]:
    if node.pointer in within or len(within) > MAX_NESTING:
        raise Undecidable(f"{node.pointer} includes itself")
    within = (*within, node.pointer)
    if isinstance(node.value, bool):
        return (ANY_SHAPE,) if node.value else (SchemaShape(types=frozenset()),)
    if not isinstance(node.value, Mapping):
        raise Undecidable(f"{node.pointer} is not a schema")
    if "$ref" in node.value:
        target = document.resolve(node)
        result = _shapes_of(document, target, within)
        rest = {key: value for key, value in node.value.items() if key != "$ref"}
        if not document.ref_siblings or not rest:
            return result
        return _combine_all(result, _shapes_of(document, Node(rest, node.pointer + "/"), within))
    result = (_own_shape(document, node),)
    for part in node.sequence("allOf"):
        result = _combine_all(result, _shapes_of(document, part, within))
    for key in ("anyOf", "oneOf"):
        branches = node.sequence(key)
        if branches:
            result = _combine_all(
                result, _join_branches([shape for part in branches for shape in _shapes_of(document, part, within)])
            )
    if document.nullable and node.flag("nullable"):
        result = tuple(replace(shape, types=shape.types | {"null"}) for shape in result)
    return result


def _own_shape(document: OpenApiDocument, node: Node) -> SchemaShape:
    """The restrictions that the schema itself defines."""
    raw = node.value if isinstance(node.value, Mapping) else {}
    values = _read_values(raw)
    sizes = {key: number for key in raw.keys() & SIZE_KEYS if (number := _read_number(raw, key)) is not None}
    return SchemaShape(
        types=_read_types(node, raw, values),
        values=values,
        format="" if node.text("format") in ANNOTATION_FORMATS else node.text("format"),
        minimum=_read_bound(raw, "minimum", "exclusiveMinimum", max),
        maximum=_read_bound(raw, "maximum", "exclusiveMaximum", min),
        multiple=_read_number(raw, "multipleOf"),
        sizes=sizes,
        patterns=frozenset({node.text("pattern")} - {""}),
        unique=node.flag("uniqueItems"),
        properties=node.mapping("properties"),
        required=frozenset(str(name.value) for name in node.sequence("required")),
        additional=node.get("additionalProperties"),
        items=node.get("items"),
        opaque={key: node.child(key, value=raw[key]) for key in sorted(raw.keys() & OPAQUE_KEYWORDS)},
    )


def _read_types(node: Node, raw: Mapping[str, object], values: Sequence[object] | None) -> frozenset[str]:
    type_ = raw.get("type")
    if type_ is None:
        implied = {kind for key, kind in IMPLIED_TYPES.items() if key in raw}
        result = implied or ({_type_of(value) for value in values} if values is not None else TYPES)
    else:
        result = {type_} if isinstance(type_, str) else set(type_) if isinstance(type_, list) else {""}
    if not result <= TYPES:
        raise Undecidable(f"{node.pointer} has an unknown type: {type_}")
    return frozenset(result - {"integer"} if "number" in result else result)


def _type_of(value: object) -> str:
    kinds: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (Mapping, "object"), (list, "array"),
    )  # fmt: skip
    return next((name for kind, name in kinds if isinstance(value, kind)), "null")


def _read_values(raw: Mapping[str, object]) -> tuple[object, ...] | None:
    if "const" in raw:
        return (raw["const"],)
    values = raw.get("enum")
    return tuple(values) if isinstance(values, list) else None


def _read_number(raw: Mapping[str, object], key: str) -> float | None:
    value = raw.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _read_bound(
    raw: Mapping[str, object], key: str, exclusive: str, tighter: Callable[[Iterable[float]], float]
) -> NumericBound | None:
    """A bound: `exclusiveMinimum` is a flag for `minimum` in 3.0, and a number from 3.1 on."""
    result = [] if (value := _read_number(raw, key)) is None else [NumericBound(value, raw.get(exclusive) is True)]
    if (own := _read_number(raw, exclusive)) is not None:
        result.append(NumericBound(own, True))
    return _tightest_bound(result, tighter)


def _tightest_bound(bounds: Sequence[NumericBound], tighter: Callable[[Iterable[float]], float]) -> NumericBound | None:
    if not bounds:
        return None
    value = tighter(bound.value for bound in bounds)
    return NumericBound(value, any(bound.exclusive for bound in bounds if bound.value == value))


# -- merging ----------------------------------------------------------------------------------------------------------


def _combine_all(some: Sequence[SchemaShape], others: Sequence[SchemaShape]) -> tuple[SchemaShape, ...]:
    """Every combination of a branch of each side."""
    if len(some) * len(others) > MAX_BRANCHES:
        raise Undecidable("there are too many branches")
    return tuple(_combine(one, other) for one in some for other in others)


def _combine(one: SchemaShape, other: SchemaShape) -> SchemaShape:
    if one == ANY_SHAPE:
        return other
    if other == ANY_SHAPE:
        return one
    formats = {one.format, other.format} - {""}
    if len(formats) > 1 or (one.multiple is not None and other.multiple is not None and one.multiple != other.multiple):
        raise Undecidable("one value has two formats or two multiples")
    if one.opaque.keys() & other.opaque.keys():
        raise Undecidable(f"{', '.join(sorted(one.opaque.keys() & other.opaque.keys()))} occurs twice for one value")
    return SchemaShape(
        types=common_types(one.types, other.types),
        values=_common_values(one.values, other.values),
        format=next(iter(formats), ""),
        minimum=_tightest_bound([bound for bound in (one.minimum, other.minimum) if bound], max),
        maximum=_tightest_bound([bound for bound in (one.maximum, other.maximum) if bound], min),
        multiple=one.multiple if one.multiple is not None else other.multiple,
        sizes={key: _tightest_size(key, one, other) for key in one.sizes.keys() | other.sizes.keys()},
        patterns=one.patterns | other.patterns,
        unique=one.unique or other.unique,
        properties=_merge_properties(one.properties, other.properties),
        required=one.required | other.required,
        additional=_merge_nodes(one.additional, other.additional),
        items=_merge_nodes(one.items, other.items),
        opaque={**one.opaque, **other.opaque},
    )


def common_types(one: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    """The types that both allow. Integers are also numbers."""
    both = one & other
    integers = (
        {"integer"} if ("number" in one and "integer" in other) or ("integer" in one and "number" in other) else set()
    )
    return both | integers


def _common_values(one: tuple[object, ...] | None, other: tuple[object, ...] | None) -> tuple[object, ...] | None:
    if one is None or other is None:
        return other if one is None else one
    return tuple(value for value in one if is_among(value, other))


def is_among(value: object, values: Sequence[object]) -> bool:
    """Whether the value is in the list; true is not 1."""
    return any(_type_of(value) == _type_of(other) and value == other for other in values)


def _tightest_size(key: str, one: SchemaShape, other: SchemaShape) -> float:
    sizes = [shape.sizes[key] for shape in (one, other) if key in shape.sizes]
    return max(sizes) if key.startswith("min") else min(sizes)


def _merge_properties(one: Mapping[str, Node], other: Mapping[str, Node]) -> Mapping[str, Node]:
    result = dict(one)
    for name, node in other.items():
        merged = _merge_nodes(result.get(name), node)
        assert merged is not None
        result[name] = merged
    return result


def _merge_nodes(one: Node | None, other: Node | None) -> Node | None:
    """The node that exists; two as the parts of a generated `allOf`."""
    if one is None or other is None or one == other:
        return one if other is None else other
    return Node({"allOf": [one.value, other.value]}, f"{one.pointer}&{other.pointer}")


def _join_branches(branches: Sequence[SchemaShape]) -> tuple[SchemaShape, ...]:
    """Join branches that only restrict types; add a lone `null` to the types of the other branches."""
    bare = frozenset[str]().union(*(branch.types for branch in branches if branch.is_types_only))
    bare = bare - {"integer"} if "number" in bare else bare
    others = list(dict.fromkeys(id(branch) for branch in branches if not branch.is_types_only))
    kept = [branch for branch in branches if id(branch) in others]
    if kept and bare == {"null"}:
        return tuple(replace(shape, types=shape.types | {"null"}, values=_with_null(shape.values)) for shape in kept)
    return (*kept, *([SchemaShape(types=bare)] if bare or not kept else []))


def _with_null(values: tuple[object, ...] | None) -> tuple[object, ...] | None:
    return values if values is None or is_among(None, values) else (*values, None)
