"""Two OpenAPI documents compared: paths, operations, parameters, bodies, answers, security.

    compare(old, new) -> tuple[Change, ...]

`docs/checks.md` has the rules in a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tidegate.openapi_diff.documents import Node, OpenApiDocument, Undecidable, is_alike
from tidegate.openapi_diff.result import ApiChange, Effect
from tidegate.openapi_diff.schema_compat import ANY_SCHEMA, SchemaComparer, SchemaPair, Usage

NodePair = tuple[Node, Node]  # of the old document, of the new one
#: What is only told when it is not the same: what a change of these means cannot be told in general.
OPAQUE_KEYS = ("callbacks", "servers")
DEFAULT_STYLES = {"query": "form", "cookie": "form", "path": "simple", "header": "simple"}


def diff_documents(old: Mapping[str, object], new: Mapping[str, object]) -> tuple[ApiChange, ...]:
    """All differences that a client of the old document may notice. Never raises: what cannot be compared is a change with
    the effect `UNKNOWN`."""
    try:
        documents = OpenApiDocument(old), OpenApiDocument(new)
        return tuple(dict.fromkeys(_DocumentDiff(documents, SchemaComparer(*documents)).changes()))
    except Undecidable as reason:
        return (ApiChange(Effect.UNKNOWN, "", f"cannot tell: {reason}"),)
    except RecursionError:
        return (ApiChange(Effect.UNKNOWN, "", "cannot tell: a document is nested too deep"),)


@dataclass(frozen=True, slots=True)
class _DocumentDiff:
    documents: tuple[OpenApiDocument, OpenApiDocument]
    schemas: SchemaComparer

    def changes(self) -> Iterator[ApiChange]:
        old, new = self.documents
        yield from self._bases()
        for template, (path, item) in old.paths.items():
            if template not in new.paths:
                yield ApiChange(Effect.BREAKING, item.pointer, f"{path} is gone")
                continue
            yield from self._path(path, item, *new.paths[template])
        for template, (path, item) in new.paths.items():
            if template not in old.paths:
                yield ApiChange(Effect.COMPATIBLE, item.pointer, f"{path} is new")
        yield from self._opaque_changes("webhooks", (old.root, new.root), "the document")

    def _bases(self) -> Iterator[ApiChange]:
        """Hosts may change: they name the proxy, or an instance. Paths may not."""
        try:
            lost = sorted(self.documents[0].bases - self.documents[1].bases)
        except Undecidable as reason:
            yield from self._opaque_changes("servers", (self.documents[0].root, self.documents[1].root), str(reason))
            return
        if lost:
            told = ", ".join(each or "/" for each in lost)
            yield ApiChange(Effect.BREAKING, "/servers", f"it is not served below {told} any more")

    def _path(self, path: str, item: Node, new_path: str, new_item: Node) -> Iterator[ApiChange]:
        old, new = (document.operations(each) for document, each in zip(self.documents, (item, new_item), strict=True))
        for method, operation in old.items():
            if method not in new:
                yield ApiChange(Effect.BREAKING, operation.pointer, f"{method} {path} is gone")
                continue
            try:
                yield from self._operation(f"{method} {path}", (path, item, operation), (new_path, new_item, new[method]))
            except Undecidable as reason:
                yield ApiChange(Effect.UNKNOWN, new[method].pointer, f"{method} {path}: cannot tell: {reason}")
        for method in sorted(new.keys() - old.keys()):
            yield ApiChange(Effect.COMPATIBLE, new[method].pointer, f"{method} {new_path} is new")
        yield from self._opaque_changes("servers", (item, new_item), path)

    def _operation(self, words: str, old: tuple[str, Node, Node], new: tuple[str, Node, Node]) -> Iterator[ApiChange]:
        before, after = (document.parameters(*each) for document, each in zip(self.documents, (old, new), strict=True))
        operations = old[2], new[2]
        yield from self._parameters(words, before, after)
        yield from self._body(words, operations)
        yield from self._responses(words, operations)
        yield from self._security(words, operations)
        for key in OPAQUE_KEYS:
            yield from self._opaque_changes(key, operations, words)

    def _opaque_changes(self, key: str, both: NodePair, words: str) -> Iterator[ApiChange]:
        old, new = both[0].get(key), both[1].get(key)
        if old is None and new is None:
            return
        if old is None or new is None or not is_alike(old, new, self.documents):
            pointer = (new or both[1]).pointer
            yield ApiChange(Effect.UNKNOWN, pointer, f"{words}: cannot tell what the change of `{key}` means")

    # -- what is sent -------------------------------------------------------------------------------------------------

    def _parameters(
        self, words: str, old: Mapping[tuple[str, str], Node], new: Mapping[tuple[str, str], Node]
    ) -> Iterator[ApiChange]:
        for key, node in new.items():
            told, needed = f"{words}: {key[0]} parameter {node.text('name')}", node.flag("required")
            if key in old:
                yield from self._parameter(told, (old[key], node))
            elif key[0] == "path":
                yield ApiChange(
                    Effect.UNKNOWN, node.pointer, f"{told}: cannot tell what was allowed before, for it was not told"
                )
            elif needed:
                yield ApiChange(Effect.BREAKING, node.pointer, f"{told} is new and required")
            else:
                yield ApiChange(Effect.COMPATIBLE, node.pointer, f"{told} is new")
        for key in sorted(old.keys() - new.keys()):
            told = f"{words}: {key[0]} parameter {old[key].text('name')}"
            yield ApiChange(Effect.WARNING, old[key].pointer, f"{told} is not read any more")

    def _parameter(self, words: str, both: NodePair) -> Iterator[ApiChange]:
        old, new = both
        if new.flag("required") and not old.flag("required"):
            yield ApiChange(Effect.BREAKING, new.pointer, f"{words} is newly required")
        if _parameter_style(old) != _parameter_style(new):
            yield ApiChange(Effect.UNKNOWN, new.pointer, f"{words}: cannot tell what the change of its style means")
        schemas = old.get("schema"), new.get("schema")
        if schemas != (None, None):
            yield from self._schemas(words, schemas, new, Usage.REQUEST)
        yield from self._contents(words, both, Usage.REQUEST)

    def _body(self, words: str, both: NodePair) -> Iterator[ApiChange]:
        old, new = (
            None if (result := each.get("requestBody")) is None else document.resolve(result)
            for document, each in zip(self.documents, both, strict=True)
        )
        if new is not None and new.flag("required") and (old is None or not old.flag("required")):
            yield ApiChange(Effect.BREAKING, new.pointer, f"{words}: the body is newly required")
        if old is not None and new is None:
            yield ApiChange(Effect.WARNING, old.pointer, f"{words}: the body is not read any more")
        elif old is not None and new is not None:
            yield from self._contents(f"{words}: the body", (old, new), Usage.REQUEST)

    # -- what is answered ---------------------------------------------------------------------------------------------

    def _responses(self, words: str, both: NodePair) -> Iterator[ApiChange]:
        old, new = (each.mapping("responses") for each in both)
        for code, node in old.items():
            result, told = _covering_response(code, new), f"{words}: answer {code}"
            if result is not None:
                yield from self._response(told, (self.documents[0].resolve(node), self.documents[1].resolve(result)))
            elif code.startswith("x-"):
                continue
            else:
                effect = Effect.BREAKING if _is_success(code) else Effect.WARNING
                yield ApiChange(effect, node.pointer, f"{told} is gone")
        for code, node in new.items():
            if _covering_response(code, old) is None and _is_success(code):
                yield ApiChange(Effect.WARNING, node.pointer, f"{words}: answer {code} is new")

    def _response(self, words: str, both: NodePair) -> Iterator[ApiChange]:
        yield from self._contents(words, both, Usage.ANSWER)
        old, new = ({name.lower(): each for name, each in node.mapping("headers").items()} for node in both)
        for name, header in old.items():
            before, told = self.documents[0].resolve(header), f"{words}: header {name}"
            if name not in new:
                effect = Effect.BREAKING if before.flag("required") else Effect.WARNING
                yield ApiChange(effect, before.pointer, f"{told} is gone")
                continue
            after = self.documents[1].resolve(new[name])
            if before.flag("required") and not after.flag("required"):
                yield ApiChange(Effect.BREAKING, after.pointer, f"{told} is not always there any more")
            yield from self._schemas(told, (before.get("schema"), after.get("schema")), after, Usage.ANSWER)

    # -- both ---------------------------------------------------------------------------------------------------------

    def _contents(self, words: str, both: NodePair, use: Usage) -> Iterator[ApiChange]:
        old, new = (document.content_types(each) for document, each in zip(self.documents, both, strict=True))
        for media, node in old.items():
            result = _covering_media(media, new)
            if result is None:
                yield ApiChange(Effect.BREAKING, node.pointer, f"{words} is not {media} any more")
                continue
            yield from self._schemas(words, (node.get("schema"), result.get("schema")), result, use)
            yield from self._opaque_changes("encoding", (node, result), words)

    def _schemas(self, words: str, both: tuple[Node | None, Node | None], place: Node, use: Usage) -> Iterator[ApiChange]:
        old, new = (each or Node(ANY_SCHEMA.value, f"{place.pointer}/schema") for each in both)
        yield from self.schemas.compare(SchemaPair(old, new, words), use)

    def _security(self, words: str, both: NodePair) -> Iterator[ApiChange]:
        old, new = (document.security(each) for document, each in zip(self.documents, both, strict=True))
        for shown in old or ({},):
            if new and not any(
                all(scheme in shown and scopes <= shown[scheme] for scheme, scopes in wanted.items()) for wanted in new
            ):
                what = "what was shown to get in" if shown else "coming without a credential"
                yield ApiChange(Effect.BREAKING, both[1].pointer, f"{words}: {what} is not enough any more")


def _parameter_style(node: Node) -> tuple[str, bool]:
    style = node.text("style") or DEFAULT_STYLES.get(node.text("in"), "")
    explode = node.get("explode")
    return style, style == "form" if explode is None else explode.value is True


def _covering_response(code: str, answers: Mapping[str, Node]) -> Node | None:
    """The answer that covers a code: itself, its class, or the default."""
    return next((answers[each] for each in (code, f"{code[:1]}XX", "default") if each in answers), None)


def _is_success(code: str) -> bool:
    return code[:1] in ("1", "2", "3") or code == "default"


def _covering_media(media: str, contents: Mapping[str, Node]) -> Node | None:
    """The content that covers a media type: itself or a range."""
    return next((contents[each] for each in (media, f"{media.partition('/')[0]}/*", "*/*") if each in contents), None)
