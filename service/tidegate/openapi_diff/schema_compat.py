"""Two schemas held against each other. There is one question: is all that one side may send understood by the other?

Of requests the old schema is what is sent and the new one what is understood; of answers it is the other way round. So a
schema that allows less breaks a request, and one that allows more breaks an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from tidegate.openapi_diff.documents import Node, OpenApiDocument, Undecidable, is_alike
from tidegate.openapi_diff.result import ApiChange, Effect
from tidegate.openapi_diff.schema_model import NumericBound, SchemaShape, is_among, shapes_of

MAX_COMPARISONS = 100_000  # pairs of schemas in two documents
MAX_DEPTH = 60  # schemas within schemas
HARMLESS = frozenset({Effect.WARNING, Effect.COMPATIBLE})
ANY_SCHEMA = Node(True, "")
#: What fits into what, beside the same format.
NARROWER_FORMATS = {("int32", "int64"), ("float", "double"), ("int32", "double")}


class Usage(Enum):
    """Who sends what the schema describes."""

    REQUEST = "request"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class SchemaPair:
    """A schema of the old document and its counterpart in the new one, and how people call the place."""

    old: Node
    new: Node
    label: str

    def child(self, old: Node, new: Node, name: str) -> SchemaPair:
        """A part of both."""
        return SchemaPair(old, new, f"{self.label}{name}")


@dataclass(frozen=True, slots=True)
class BranchPair:
    """One branch of each side: what may be sent, and what is understood."""

    sent: SchemaShape
    understood: SchemaShape
    pair: SchemaPair
    use: Usage

    def change(self, effect: Effect, what: str) -> ApiChange:
        """About this place."""
        return ApiChange(effect, self.pair.new.pointer, f"{self.pair.label}: {what}")

    def restriction_change(self, name: str, sent: object, known: object) -> ApiChange:
        """A restriction that the other side does not keep; told as from old to new."""
        old, new = (sent, known) if self.use is Usage.REQUEST else (known, sent)
        return self.change(Effect.BREAKING, f"{name} was {_format_value(old)}, is {_format_value(new)}")


@dataclass
class SchemaComparer:
    """Compares schemas of two documents; each pair of them once."""

    old: OpenApiDocument
    new: OpenApiDocument
    _results: dict[tuple[str, str, Usage], tuple[ApiChange, ...]] = field(default_factory=dict)
    _depth: int = 0

    def compare(self, pair: SchemaPair, use: Usage) -> tuple[ApiChange, ...]:
        """What breaks, and what cannot be told. A schema within itself is taken to fit while it is being compared: what
        does not fit is found at its first round."""
        key = (pair.old.pointer, pair.new.pointer, use)
        try:
            key = (_resolved_pointer(self.old, pair.old), _resolved_pointer(self.new, pair.new), use)
            if key in self._results:
                return self._results[key]
            if self._depth >= MAX_DEPTH or len(self._results) >= MAX_COMPARISONS:
                raise Undecidable("there is too much to compare")
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
            held = BranchPair(sent[0], known[0], pair, use)
            yield held.restriction_change("type", _all_types(sent), _all_types(known))
            return
        for branch in sent:
            if len(known) == 1:
                yield from self._compare_branches(BranchPair(branch, known[0], pair, use))
                continue
            yield from self._best_branch(
                [list(self._compare_branches(BranchPair(branch, each, pair, use))) for each in known], pair
            )

    @staticmethod
    def _best_branch(tried: Sequence[list[ApiChange]], pair: SchemaPair) -> Iterator[ApiChange]:
        """What is told of a branch that was held against several: of the one that it fits best, if it fits one."""
        faults = [[change for change in changes if change.effect not in HARMLESS] for changes in tried]
        if all(faults):
            least = min(faults, key=len)[0].message
            what = f"cannot tell whether one of {len(tried)} branches still fits: {least}"
            yield ApiChange(Effect.UNKNOWN, pair.new.pointer, f"{pair.label}: {what}")
            return
        fitting = (changes for changes, fault in zip(tried, faults, strict=True) if not fault)
        yield from min(
            fitting, key=lambda changes: (sum(change.effect is Effect.WARNING for change in changes), len(changes))
        )

    # -- one branch of each -------------------------------------------------------------------------------------------

    def _compare_branches(self, held: BranchPair) -> Iterator[ApiChange]:
        sent, known = held.sent, held.understood
        if _lost_types(sent.types, known.types):
            yield held.restriction_change("type", sent.types, known.types)
            return
        yield from _values(held)
        yield from _format(held)
        yield from _ranges(held)
        yield from self._opaque(held)
        if "object" in sent.types:
            yield from self._objects(held)
        if "array" in sent.types and known.items is not None:
            yield from self._compare_part(held, sent.items or ANY_SCHEMA, known.items, "[]")

    def _compare_part(self, held: BranchPair, sent: Node, known: Node, name: str) -> tuple[ApiChange, ...]:
        old, new = (sent, known) if held.use is Usage.REQUEST else (known, sent)
        return self.compare(held.pair.child(old, new, name), held.use)

    def _opaque(self, held: BranchPair) -> Iterator[ApiChange]:
        for key, node in held.understood.opaque.items():
            other = held.sent.opaque.get(key)
            old, new = (other, node) if held.use is Usage.REQUEST else (node, other)
            if old is None or new is None or not is_alike(old, new, (self.old, self.new)):
                yield held.change(Effect.UNKNOWN, f"cannot tell what the change of `{key}` means")

    # -- objects ------------------------------------------------------------------------------------------------------

    def _objects(self, held: BranchPair) -> Iterator[ApiChange]:
        sent, known = held.sent, held.understood
        for name in sorted(known.required - sent.required):
            if not self._is_reversed(held, name):
                yield from self._missing(held, name)
        for name, node in sent.properties.items():
            if name in known.properties:
                yield from self._compare_part(held, node, known.properties[name], f".{name}")
            else:
                yield from self._only_sent(held, name, node)
        for name in sorted(known.properties.keys() - sent.properties.keys() - (known.required - sent.required)):
            if held.use is Usage.ANSWER:
                yield held.change(Effect.BREAKING, f"{name} is gone")
            elif sent.additional is not None and not isinstance(sent.additional.value, bool):
                yield from self._compare_part(held, sent.additional, known.properties[name], f".{name}")
        yield from self._additional(held)

    def _is_reversed(self, held: BranchPair, name: str) -> bool:
        """`readOnly` is never part of a request, `writeOnly` never of an answer."""
        node, key = held.understood.properties.get(name), "readOnly" if held.use is Usage.REQUEST else "writeOnly"
        document = self.new if held.use is Usage.REQUEST else self.old
        return node is not None and (node.flag(key) or document.resolve(node).flag(key))

    def _missing(self, held: BranchPair, name: str) -> Iterator[ApiChange]:
        """One that must be there and may be missing."""
        if held.use is Usage.REQUEST:
            yield held.change(Effect.BREAKING, f"{name} is newly required")
        elif name in held.sent.properties:
            yield held.change(Effect.BREAKING, f"{name} is not always there any more")
        else:
            yield held.change(Effect.BREAKING, f"{name} is gone")

    def _only_sent(self, held: BranchPair, name: str, node: Node) -> Iterator[ApiChange]:
        """One that the other side has no name for: new in an answer, or gone from a request."""
        extra = held.understood.additional
        closed = extra is not None and extra.value is False
        if extra is not None and not isinstance(extra.value, bool):
            yield from self._compare_part(held, node, extra, f".{name}")
        elif held.use is Usage.ANSWER:
            effect = Effect.WARNING if closed else Effect.COMPATIBLE
            yield held.change(effect, f"{name} is new" + (", where no others were to come" if closed else ""))
        elif closed:
            yield held.change(Effect.BREAKING, f"{name} is refused")
        else:
            yield held.change(Effect.WARNING, f"{name} is not read any more")

    def _additional(self, held: BranchPair) -> Iterator[ApiChange]:
        """Properties without a name of their own. Where nothing was said of them, few clients send or read any."""
        sent, known = held.sent.additional, held.understood.additional
        if known is None or known.value is True or (sent is not None and sent.value is False):
            return
        if sent is not None and known.value is not False and sent.value is not True:
            yield from self._compare_part(held, sent, known, ".*")
        elif sent is not None and held.use is Usage.REQUEST:
            yield held.restriction_change("additionalProperties", sent.value, known.value)
        elif held.use is Usage.REQUEST:
            yield held.change(Effect.WARNING, "other properties than the named ones are not free any more")
        else:
            yield held.change(Effect.WARNING, "other properties than the named ones may come")


def _resolved_pointer(document: OpenApiDocument, node: Node) -> str:
    """What a schema is known by: where its reference leads, unless something stands beside that."""
    alone = not isinstance(node.value, Mapping) or len(node.value) == 1 or not document.ref_siblings
    return document.resolve(node).pointer if alone else node.pointer


# -- values, formats, ranges ------------------------------------------------------------------------------------------


def _all_types(branches: Sequence[SchemaShape]) -> frozenset[str]:
    result = frozenset[str]().union(*(branch.types for branch in branches))
    return result - {"integer"} if "number" in result else result


def _lost_types(sent: frozenset[str], known: frozenset[str]) -> frozenset[str]:
    return frozenset(each for each in sent - known if not (each == "integer" and "number" in known))


def _values(held: BranchPair) -> Iterator[ApiChange]:
    """Listed values: each is held against all that the other side says of it."""
    sent, known = _format_list(held.sent), held.understood
    if sent is None:
        if known.values is not None and held.use is Usage.REQUEST:
            yield held.change(Effect.BREAKING, "only some values are allowed now")
        elif known.values is not None:
            yield held.change(Effect.WARNING, "other values than the listed ones may come")
        return
    lost = [value for value in sent if not _allows(known, value)]
    if lost:
        told = ", ".join(map(repr, lost[:5])) + (" …" if len(lost) > 5 else "")
        what = "not allowed any more" if held.use is Usage.REQUEST else "new"
        effect = Effect.BREAKING if held.use is Usage.REQUEST else Effect.WARNING
        yield held.change(effect, f"{told} {'is' if len(lost) == 1 else 'are'} {what}")


def _format_list(shape: SchemaShape) -> Sequence[object] | None:
    """Its values, where they can be listed."""
    if shape.values is not None:
        return [value for value in shape.values if _allows(shape, value)]
    if not shape.types <= {"boolean", "null"}:
        return None
    return [value for kind, value in (("boolean", True), ("boolean", False), ("null", None)) if kind in shape.types]


def _allows(shape: SchemaShape, value: object) -> bool:
    """Whether a value is within the list, the range and the sizes."""
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


def _format(held: BranchPair) -> Iterator[ApiChange]:
    sent, known = held.sent, held.understood
    if known.format and sent.format != known.format and (sent.format, known.format) not in NARROWER_FORMATS:
        yield held.restriction_change("format", sent.format, known.format)
    if known.patterns - sent.patterns:
        if sent.patterns or sent.values is not None:
            yield held.change(Effect.UNKNOWN, "cannot tell what the change of its pattern means")
        else:
            yield held.restriction_change("pattern", None, " and ".join(sorted(known.patterns)))
    if known.unique and not sent.unique:
        yield held.restriction_change("uniqueItems", False, True)


def _ranges(held: BranchPair) -> Iterator[ApiChange]:
    """Limits that are tighter than what may be sent; listed values were held against them one by one."""
    sent, known = held.sent, held.understood
    if _format_list(sent) is not None:
        return
    if known.minimum and _beyond(sent.minimum, known.minimum, 1):
        yield held.restriction_change("minimum", sent.minimum, known.minimum)
    if known.maximum and _beyond(sent.maximum, known.maximum, -1):
        yield held.restriction_change("maximum", sent.maximum, known.maximum)
    if known.multiple is not None and (sent.multiple is None or not known.multiple or (sent.multiple / known.multiple) % 1):
        yield held.restriction_change("multipleOf", sent.multiple, known.multiple)
    for key, limit in known.sizes.items():
        other, sign = sent.sizes.get(key), 1 if key.startswith("min") else -1
        if (other is None and not (sign == 1 and limit <= 0)) or (other is not None and sign * other < sign * limit):
            yield held.restriction_change(key, other, limit)


def _beyond(sent: NumericBound | None, known: NumericBound, sign: int) -> bool:
    """Whether something may be sent beyond the limit; `sign` is -1 for an upper one."""
    if sent is None or sent.value == known.value:
        return sent is None or (known.exclusive and not sent.exclusive)
    return sign * sent.value < sign * known.value


def _format_value(value: object) -> str:
    if isinstance(value, frozenset):
        return " or ".join(sorted(value)) or "nothing"
    if value is None or value == "":
        return "free"
    if isinstance(value, Mapping):
        return "a schema"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
