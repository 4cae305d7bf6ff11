"""Comparison of two schemas: does the receiving side accept everything that the sending side may send?

For requests the old schema sends and the new one receives; for responses it is the other way round. So a schema that allows
less breaks requests, and one that allows more breaks responses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from tidegate.openapi_diff.documents import Node, OpenApiDocument, Undecidable, is_alike
from tidegate.openapi_diff.result import ApiChange, Effect
from tidegate.openapi_diff.schema_model import NumericBound, SchemaShape, is_among, shapes_of

MAX_COMPARISONS = 100_000  # pairs of schemas in two documents
MAX_DEPTH = 60  # of nested schemas
HARMLESS = frozenset({Effect.WARNING, Effect.COMPATIBLE})
ANY_SCHEMA = Node(True, "")
#: Pairs of formats of which the first is a subset of the second.
NARROWER_FORMATS = {("int32", "int64"), ("float", "double"), ("int32", "double")}


class Usage(Enum):
    """Whether a schema describes a request or a response."""

    REQUEST = "request"
    RESPONSE = "response"


@dataclass(frozen=True, slots=True)
class SchemaPair:
    """A schema of the old document, its counterpart in the new one, and the name of the place for messages."""

    old: Node
    new: Node
    label: str

    def child(self, old: Node, new: Node, name: str) -> SchemaPair:
        """A pair of nested schemas."""
        return SchemaPair(old, new, f"{self.label}{name}")


@dataclass(frozen=True, slots=True)
class BranchPair:
    """One branch of each side: what may be sent, and what is accepted."""

    sent: SchemaShape
    understood: SchemaShape
    pair: SchemaPair
    use: Usage

    def change(self, effect: Effect, what: str) -> ApiChange:
        """A change at this place."""
        return ApiChange(effect, self.pair.new.pointer, f"{self.pair.label}: {what}")

    def restriction_change(self, name: str, sent: object, known: object) -> ApiChange:
        """A breaking change of a restriction, reported from old to new."""
        old, new = (sent, known) if self.use is Usage.REQUEST else (known, sent)
        return self.change(Effect.BREAKING, f"{name} was {_format_value(old)}, is {_format_value(new)}")


@dataclass
class SchemaComparer:
    """Compares the schemas of two documents, each pair once."""

    old: OpenApiDocument
    new: OpenApiDocument
    _results: dict[tuple[str, str, Usage], tuple[ApiChange, ...]] = field(default_factory=dict)
    _depth: int = 0

    def compare(self, pair: SchemaPair, use: Usage) -> tuple[ApiChange, ...]:
        """The changes between two schemas. A recursive schema counts as compatible while it is being compared: the outer
        comparison finds its changes."""
        key = (pair.old.pointer, pair.new.pointer, use)
        try:
            key = (_resolved_pointer(self.old, pair.old), _resolved_pointer(self.new, pair.new), use)
            if key in self._results:
                return self._results[key]
            if self._depth >= MAX_DEPTH or len(self._results) >= MAX_COMPARISONS:
                raise Undecidable("there are too many schemas to compare")
            self._results[key] = ()
            self._depth += 1
            try:
                result = tuple(dict.fromkeys(self._compare(pair, use)))
            finally:
                self._depth -= 1
        except Undecidable as reason:
            result = (ApiChange(Effect.UNKNOWN, pair.new.pointer, f"{pair.label}: cannot tell: {reason}"),)
        self._results[key] = result
        return result

    def _compare(self, pair: SchemaPair, use: Usage) -> Iterator[ApiChange]:
        old, new = shapes_of(self.old, pair.old), shapes_of(self.new, pair.new)
        sent, known = (old, new) if use is Usage.REQUEST else (new, old)
        lost = _lost_types(_all_types(sent), _all_types(known))
        if lost:
            match = BranchPair(sent[0], known[0], pair, use)
            yield match.restriction_change("type", _all_types(sent), _all_types(known))
            return
        for branch in sent:
            if len(known) == 1:
                yield from self._compare_branches(BranchPair(branch, known[0], pair, use))
                continue
            yield from self._best_branch(
                [list(self._compare_branches(BranchPair(branch, candidate, pair, use))) for candidate in known], pair
            )

    @staticmethod
    def _best_branch(tried: Sequence[list[ApiChange]], pair: SchemaPair) -> Iterator[ApiChange]:
        """The changes to the best of several candidate branches, if one is compatible; else an `UNKNOWN` change."""
        harmful = [[change for change in changes if change.effect not in HARMLESS] for changes in tried]
        if all(harmful):
            closest = min(harmful, key=len)[0].message
            what = f"cannot tell whether one of {len(tried)} branches is compatible: {closest}"
            yield ApiChange(Effect.UNKNOWN, pair.new.pointer, f"{pair.label}: {what}")
            return
        fitting = (changes for changes, harm in zip(tried, harmful, strict=True) if not harm)
        yield from min(
            fitting, key=lambda changes: (sum(change.effect is Effect.WARNING for change in changes), len(changes))
        )

    # -- one branch of each -------------------------------------------------------------------------------------------

    def _compare_branches(self, match: BranchPair) -> Iterator[ApiChange]:
        sent, known = match.sent, match.understood
        if _lost_types(sent.types, known.types):
            yield match.restriction_change("type", sent.types, known.types)
            return
        yield from _values(match)
        yield from _format(match)
        yield from _ranges(match)
        yield from self._opaque(match)
        if "object" in sent.types:
            yield from self._objects(match)
        if "array" in sent.types and known.items is not None:
            yield from self._compare_part(match, sent.items or ANY_SCHEMA, known.items, "[]")

    def _compare_part(self, match: BranchPair, sent: Node, known: Node, name: str) -> tuple[ApiChange, ...]:
        old, new = (sent, known) if match.use is Usage.REQUEST else (known, sent)
        return self.compare(match.pair.child(old, new, name), match.use)

    def _opaque(self, match: BranchPair) -> Iterator[ApiChange]:
        for key, node in match.understood.opaque.items():
            other = match.sent.opaque.get(key)
            old, new = (other, node) if match.use is Usage.REQUEST else (node, other)
            if old is None or new is None or not is_alike(old, new, (self.old, self.new)):
                yield match.change(Effect.UNKNOWN, f"cannot tell what the change of `{key}` means")

    # -- objects ------------------------------------------------------------------------------------------------------

    def _objects(self, match: BranchPair) -> Iterator[ApiChange]:
        sent, known = match.sent, match.understood
        for name in sorted(known.required - sent.required):
            if not self._is_reversed(match, name):
                yield from self._missing(match, name)
        for name, node in sent.properties.items():
            if name in known.properties:
                yield from self._compare_part(match, node, known.properties[name], f".{name}")
            else:
                yield from self._only_sent(match, name, node)
        for name in sorted(known.properties.keys() - sent.properties.keys() - (known.required - sent.required)):
            if match.use is Usage.RESPONSE:
                yield match.change(Effect.BREAKING, f"{name} was removed")
            elif sent.additional is not None and not isinstance(sent.additional.value, bool):
                yield from self._compare_part(match, sent.additional, known.properties[name], f".{name}")
        yield from self._additional(match)

    def _is_reversed(self, match: BranchPair, name: str) -> bool:
        """Whether the property is never sent: `readOnly` in a request, `writeOnly` in a response."""
        node, key = match.understood.properties.get(name), "readOnly" if match.use is Usage.REQUEST else "writeOnly"
        document = self.new if match.use is Usage.REQUEST else self.old
        return node is not None and (node.flag(key) or document.resolve(node).flag(key))

    def _missing(self, match: BranchPair, name: str) -> Iterator[ApiChange]:
        """A property that is required by one side and optional on the other."""
        if match.use is Usage.REQUEST:
            yield match.change(Effect.BREAKING, f"{name} is newly required")
        elif name in match.sent.properties:
            yield match.change(Effect.BREAKING, f"{name} is no longer always present")
        else:
            yield match.change(Effect.BREAKING, f"{name} was removed")

    def _only_sent(self, match: BranchPair, name: str, node: Node) -> Iterator[ApiChange]:
        """A property that only the sending side defines: new in a response, or removed from a request."""
        extra = match.understood.additional
        closed = extra is not None and extra.value is False
        if extra is not None and not isinstance(extra.value, bool):
            yield from self._compare_part(match, node, extra, f".{name}")
        elif match.use is Usage.RESPONSE:
            effect = Effect.WARNING if closed else Effect.COMPATIBLE
            yield match.change(effect, f"{name} is new" + (", where additional properties were excluded" if closed else ""))
        elif closed:
            yield match.change(Effect.BREAKING, f"{name} is rejected")
        else:
            yield match.change(Effect.WARNING, f"{name} is no longer read")

    def _additional(self, match: BranchPair) -> Iterator[ApiChange]:
        """Additional properties. Without `additionalProperties` in the schema, few clients send or read any."""
        sent, known = match.sent.additional, match.understood.additional
        if known is None or known.value is True or (sent is not None and sent.value is False):
            return
        if sent is not None and known.value is not False and sent.value is not True:
            yield from self._compare_part(match, sent, known, ".*")
        elif sent is not None and match.use is Usage.REQUEST:
            yield match.restriction_change("additionalProperties", sent.value, known.value)
        elif match.use is Usage.REQUEST:
            yield match.change(Effect.WARNING, "additional properties are now restricted")
        else:
            yield match.change(Effect.WARNING, "additional properties may occur")


def _resolved_pointer(document: OpenApiDocument, node: Node) -> str:
    """The identity of a schema: the target of its reference, unless other keys next to the reference apply."""
    alone = not isinstance(node.value, Mapping) or len(node.value) == 1 or not document.ref_siblings
    return document.resolve(node).pointer if alone else node.pointer


# -- values, formats, ranges ------------------------------------------------------------------------------------------


def _all_types(branches: Sequence[SchemaShape]) -> frozenset[str]:
    result = frozenset[str]().union(*(branch.types for branch in branches))
    return result - {"integer"} if "number" in result else result


def _lost_types(sent: frozenset[str], known: frozenset[str]) -> frozenset[str]:
    return frozenset(kind for kind in sent - known if not (kind == "integer" and "number" in known))


def _values(match: BranchPair) -> Iterator[ApiChange]:
    """Enumerated values, each checked against all restrictions of the other side."""
    sent, known = _format_list(match.sent), match.understood
    if sent is None:
        if known.values is not None and match.use is Usage.REQUEST:
            yield match.change(Effect.BREAKING, "only some values are now allowed")
        elif known.values is not None:
            yield match.change(Effect.WARNING, "values outside the list may occur")
        return
    lost = [value for value in sent if not _allows(known, value)]
    if lost:
        listed = ", ".join(map(repr, lost[:5])) + (" …" if len(lost) > 5 else "")
        what = "no longer allowed" if match.use is Usage.REQUEST else "new"
        effect = Effect.BREAKING if match.use is Usage.REQUEST else Effect.WARNING
        yield match.change(effect, f"{listed} {'is' if len(lost) == 1 else 'are'} {what}")


def _format_list(shape: SchemaShape) -> Sequence[object] | None:
    """All values of a shape; None when they cannot be listed."""
    if shape.values is not None:
        return [value for value in shape.values if _allows(shape, value)]
    if not shape.types <= {"boolean", "null"}:
        return None
    return [value for kind, value in (("boolean", True), ("boolean", False), ("null", None)) if kind in shape.types]


def _allows(shape: SchemaShape, value: object) -> bool:
    """Whether the shape's list, range and sizes allow a value."""
    if shape.values is not None and not is_among(value, shape.values):
        return False
    if isinstance(value, str | list | Mapping):
        kind = "Length" if isinstance(value, str) else "Items" if isinstance(value, list) else "Properties"
        return shape.sizes.get(f"min{kind}", 0) <= len(value) <= shape.sizes.get(f"max{kind}", len(value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    own = NumericBound(value, False)
    beyond = (shape.minimum and _beyond(own, shape.minimum, 1)) or (shape.maximum and _beyond(own, shape.maximum, -1))
    return not beyond and (not shape.multiple or not (value / shape.multiple) % 1)


def _format(match: BranchPair) -> Iterator[ApiChange]:
    sent, known = match.sent, match.understood
    if known.format and sent.format != known.format and (sent.format, known.format) not in NARROWER_FORMATS:
        yield match.restriction_change("format", sent.format, known.format)
    if known.patterns - sent.patterns:
        if sent.patterns or sent.values is not None:
            yield match.change(Effect.UNKNOWN, "cannot tell what the change of its pattern means")
        else:
            yield match.restriction_change("pattern", None, " and ".join(sorted(known.patterns)))
    if known.unique and not sent.unique:
        yield match.restriction_change("uniqueItems", False, True)


def _ranges(match: BranchPair) -> Iterator[ApiChange]:
    """Limits of the receiving side that are tighter; enumerated values are checked in `_values`."""
    sent, known = match.sent, match.understood
    if _format_list(sent) is not None:
        return
    if known.minimum and _beyond(sent.minimum, known.minimum, 1):
        yield match.restriction_change("minimum", sent.minimum, known.minimum)
    if known.maximum and _beyond(sent.maximum, known.maximum, -1):
        yield match.restriction_change("maximum", sent.maximum, known.maximum)
    if known.multiple is not None and (sent.multiple is None or not known.multiple or (sent.multiple / known.multiple) % 1):
        yield match.restriction_change("multipleOf", sent.multiple, known.multiple)
    for key, limit in known.sizes.items():
        other, sign = sent.sizes.get(key), 1 if key.startswith("min") else -1
        if (other is None and not (sign == 1 and limit <= 0)) or (other is not None and sign * other < sign * limit):
            yield match.restriction_change(key, other, limit)


def _beyond(sent: NumericBound | None, known: NumericBound, sign: int) -> bool:
    """Whether values beyond the limit may be sent; `sign` is 1 for a lower limit and -1 for an upper one."""
    if sent is None or sent.value == known.value:
        return sent is None or (known.exclusive and not sent.exclusive)
    return sign * sent.value < sign * known.value


def _format_value(value: object) -> str:
    if isinstance(value, frozenset):
        return " or ".join(sorted(value)) or "nothing"
    if value is None or value == "":
        return "unrestricted"
    if isinstance(value, Mapping):
        return "a schema"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
