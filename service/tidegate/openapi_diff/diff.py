"""Comparison of two OpenAPI documents: paths, operations, parameters, bodies, responses, security.

`docs/checks.md` has a table of the rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tidegate.openapi_diff.documents import Node, OpenApiDocument, Undecidable, is_alike
from tidegate.openapi_diff.result import ApiChange, Effect
from tidegate.openapi_diff.schema_compat import ANY_SCHEMA, SchemaComparer, SchemaPair, Usage

NodePair = tuple[Node, Node]  # in the old document, in the new one
#: Only compared for equality: the effect of a change cannot be decided in general.
OPAQUE_KEYS = ("callbacks", "servers")
DEFAULT_STYLES = {"query": "form", "cookie": "form", "path": "simple", "header": "simple"}


def diff_documents(old: Mapping[str, object], new: Mapping[str, object]) -> tuple[ApiChange, ...]:
    """All differences that a client of the old document may notice. Never raises: what cannot be compared becomes a change
    with the effect `UNKNOWN`."""
    try:
        documents = OpenApiDocument(old), OpenApiDocument(new)
        return tuple(dict.fromkeys(_DocumentDiff(documents, SchemaComparer(*documents)).changes()))
    except Undecidable as reason:
        return (ApiChange(Effect.UNKNOWN, "", f"cannot tell: {reason}"),)
    except RecursionError:
        return (ApiChange(Effect.UNKNOWN, "", "cannot tell: a document is nested too deeply"),)


@dataclass(frozen=True, slots=True)
class _DocumentDiff:
    documents: tuple[OpenApiDocument, OpenApiDocument]
    schemas: SchemaComparer

    def changes(self) -> Iterator[ApiChange]:
        old, new = self.documents
        yield from self._bases()
        for template, (path, item) in old.paths.items():
            if template not in new.paths:
                yield ApiChange(Effect.BREAKING, item.pointer, f"{path} was removed")
                continue
            yield from self._path(path, item, *new.paths[template])
        for template, (path, item) in new.paths.items():
            if template not in old.paths:
                yield ApiChange(Effect.COMPATIBLE, item.pointer, f"{path} is new")
        yield from self._opaque_changes("webhooks", (old.root, new.root), "the document")

    def _bases(self) -> Iterator[ApiChange]:
        """Compare the base paths. Hosts may change, since they name the proxy or an instance."""
        try:
            lost = sorted(self.documents[0].bases - self.documents[1].bases)
        except Undecidable as reason:
            yield from self._opaque_changes("servers", (self.documents[0].root, self.documents[1].root), str(reason))
            return
        if lost:
            paths = ", ".join(base or "/" for base in lost)
            yield ApiChange(Effect.BREAKING, "/servers", f"no longer served below {paths}")

    def _path(self, path: str, item: Node, new_path: str, new_item: Node) -> Iterator[ApiChange]:
        old, new = (document.operations(node) for document, node in zip(self.documents, (item, new_item), strict=True))
        for method, operation in old.items():
            if method not in new:
                yield ApiChange(Effect.BREAKING, operation.pointer, f"{method} {path} was removed")
                continue
            try:
                yield from self._operation(f"{method} {path}", (path, item, operation), (new_path, new_item, new[method]))
            except Undecidable as reason:
                yield ApiChange(Effect.UNKNOWN, new[method].pointer, f"{method} {path}: cannot tell: {reason}")
        for method in sorted(new.keys() - old.keys()):
            yield ApiChange(Effect.COMPATIBLE, new[method].pointer, f"{method} {new_path} is new")
        yield from self._opaque_changes("servers", (item, new_item), path)

    def _operation(self, words: str, old: tuple[str, Node, Node], new: tuple[str, Node, Node]) -> Iterator[ApiChange]:
        before, after = (document.parameters(*place) for document, place in zip(self.documents, (old, new), strict=True))
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

    # -- requests -----------------------------------------------------------------------------------------------------

    def _parameters(
        self, words: str, old: Mapping[tuple[str, str], Node], new: Mapping[tuple[str, str], Node]
    ) -> Iterator[ApiChange]:
        for key, node in new.items():
            label = f"{words}: {key[0]} parameter {node.text('name')}"
            if key in old:
                yield from self._parameter(label, (old[key], node))
            elif key[0] == "path":
                yield ApiChange(
                    Effect.UNKNOWN, node.pointer, f"{label}: cannot tell what was allowed before: it was undocumented"
                )
            elif node.flag("required"):
                yield ApiChange(Effect.BREAKING, node.pointer, f"{label} is new and required")
            else:
                yield ApiChange(Effect.COMPATIBLE, node.pointer, f"{label} is new")
        for key in sorted(old.keys() - new.keys()):
            label = f"{words}: {key[0]} parameter {old[key].text('name')}"
            yield ApiChange(Effect.WARNING, old[key].pointer, f"{label} is no longer read")

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
            None if (result := operation.get("requestBody")) is None else document.resolve(result)
            for document, operation in zip(self.documents, both, strict=True)
        )
        if new is not None and new.flag("required") and (old is None or not old.flag("required")):
            yield ApiChange(Effect.BREAKING, new.pointer, f"{words}: the body is newly required")
        if old is not None and new is None:
            yield ApiChange(Effect.WARNING, old.pointer, f"{words}: the body is no longer read")
        elif old is not None and new is not None:
            yield from self._contents(f"{words}: the body", (old, new), Usage.REQUEST)

    # -- responses ----------------------------------------------------------------------------------------------------

    def _responses(self, words: str, both: NodePair) -> Iterator[ApiChange]:
        old, new = (operation.mapping("responses") for operation in both)
        for code, node in old.items():
            result, label = _covering_response(code, new), f"{words}: response {code}"
            if result is not None:
                yield from self._response(label, (self.documents[0].resolve(node), self.documents[1].resolve(result)))
            elif code.startswith("x-"):
                continue
            else:
                effect = Effect.BREAKING if _is_success(code) else Effect.WARNING
                yield ApiChange(effect, node.pointer, f"{label} was removed")
        for code, node in new.items():
            if _covering_response(code, old) is None and _is_success(code):
                yield ApiChange(Effect.WARNING, node.pointer, f"{words}: response {code} is new")

    def _response(self, words: str, both: NodePair) -> Iterator[ApiChange]:
        yield from self._contents(words, both, Usage.RESPONSE)
        old, new = ({name.lower(): header for name, header in node.mapping("headers").items()} for node in both)
        for name, header in old.items():
            before, label = self.documents[0].resolve(header), f"{words}: header {name}"
            if name not in new:
                effect = Effect.BREAKING if before.flag("required") else Effect.WARNING
                yield ApiChange(effect, before.pointer, f"{label} was removed")
                continue
            after = self.documents[1].resolve(new[name])
            if before.flag("required") and not after.flag("required"):
                yield ApiChange(Effect.BREAKING, after.pointer, f"{label} is no longer always present")
            yield from self._schemas(label, (before.get("schema"), after.get("schema")), after, Usage.RESPONSE)

    # -- contents and schemas -----------------------------------------------------------------------------------------

    def _contents(self, words: str, both: NodePair, use: Usage) -> Iterator[ApiChange]:
        old, new = (document.content_types(holder) for document, holder in zip(self.documents, both, strict=True))
        for media, node in old.items():
            result = _covering_media(media, new)
            if result is None:
                yield ApiChange(Effect.BREAKING, node.pointer, f"{words} is no longer {media}")
                continue
            yield from self._schemas(words, (node.get("schema"), result.get("schema")), result, use)
            yield from self._opaque_changes("encoding", (node, result), words)

    def _schemas(self, words: str, both: tuple[Node | None, Node | None], place: Node, use: Usage) -> Iterator[ApiChange]:
        old, new = (schema or Node(ANY_SCHEMA.value, f"{place.pointer}/schema") for schema in both)
        yield from self.schemas.compare(SchemaPair(old, new, words), use)

    def _security(self, words: str, both: NodePair) -> Iterator[ApiChange]:
        old, new = (document.security(operation) for document, operation in zip(self.documents, both, strict=True))
        for given in old or ({},):
            if new and not any(
                all(scheme in given and scopes <= given[scheme] for scheme, scopes in wanted.items()) for wanted in new
            ):
                what = "the previous credential is" if given else "requests without a credential are"
                yield ApiChange(Effect.BREAKING, both[1].pointer, f"{words}: {what} no longer accepted")


def _parameter_style(node: Node) -> tuple[str, bool]:
    style = node.text("style") or DEFAULT_STYLES.get(node.text("in"), "")
    explode = node.get("explode")
    return style, style == "form" if explode is None else explode.value is True


def _covering_response(code: str, responses: Mapping[str, Node]) -> Node | None:
    """The response that covers a code: the code itself, its class, or the default."""
    return next((responses[key] for key in (code, f"{code[:1]}XX", "default") if key in responses), None)


def _is_success(code: str) -> bool:
    return code[:1] in ("1", "2", "3") or code == "default"


def _covering_media(media: str, contents: Mapping[str, Node]) -> Node | None:
    """The content that covers a media type: the type itself or a range."""
    return next((contents[key] for key in (media, f"{media.partition('/')[0]}/*", "*/*") if key in contents), None)
