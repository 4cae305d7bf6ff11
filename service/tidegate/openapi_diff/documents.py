"""An OpenAPI document as it is read: its version, its references, its operations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import unquote, urlsplit

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace", "query")
MAX_REFERENCES = 20  # references that lead to references
VERSION = re.compile(r"3\.[012]\.\d+(-.+)?")


class Undecidable(Exception):
    """Something in a document keeps it from being compared; the message says what."""


def escape_token(token: str) -> str:
    """As a part of a JSON Pointer."""
    return token.replace("~", "~0").replace("/", "~1")


@dataclass(frozen=True, slots=True)
class Node:
    """A value of a document and the JSON Pointer to where it stands."""

    value: object
    pointer: str

    def child(self, *tokens: str, value: object) -> Node:
        """A value below it."""
        return Node(value, "/".join((self.pointer, *map(escape_token, tokens))))

    def get(self, key: str) -> Node | None:
        """The value of a key; None where there is none."""
        if not isinstance(self.value, Mapping) or key not in self.value:
            return None
        return self.child(key, value=self.value[key])

    def mapping(self, key: str) -> Mapping[str, Node]:
        """The values below a key by name; empty where it is absent. Raises `Undecidable` for anything but an object."""
        result = self.get(key)
        if result is None:
            return {}
        if not isinstance(result.value, Mapping):
            raise Undecidable(f"{result.pointer} is not an object")
        return {str(name): result.child(str(name), value=value) for name, value in result.value.items()}

    def sequence(self, key: str) -> Sequence[Node]:
        """The values of a list; empty where it is absent. Raises `Undecidable` for anything but a list."""
        result = self.get(key)
        if result is None:
            return ()
        if not isinstance(result.value, Sequence) or isinstance(result.value, str):
            raise Undecidable(f"{result.pointer} is not a list")
        return tuple(result.child(str(place), value=value) for place, value in enumerate(result.value))

    def flag(self, key: str) -> bool:
        """Whether it says true."""
        return isinstance(self.value, Mapping) and self.value.get(key) is True

    def text(self, key: str) -> str:
        """A text; empty where there is none."""
        result = self.value.get(key) if isinstance(self.value, Mapping) else None
        return result if isinstance(result, str) else ""


class OpenApiDocument:
    """A whole document. Raises `Undecidable` for what is not OpenAPI 3."""

    def __init__(self, value: Mapping[str, object]) -> None:
        self.root = Node(value, "")
        version = self.root.text("openapi")
        if not VERSION.fullmatch(version):
            told = version or (f"Swagger {self.root.text('swagger')}" if "swagger" in value else "no version")
            raise Undecidable(f"only OpenAPI 3.0 to 3.2 is compared, and it says {told}")
        self.ref_siblings = not version.startswith("3.0")  # from 3.1 on, keys beside `$ref` count
        self.nullable = not self.ref_siblings

    def resolve(self, node: Node) -> Node:
        """What a `$ref` leads to, or the node itself. Raises `Undecidable` when it leads nowhere or elsewhere."""
        for _ in range(MAX_REFERENCES):
            reference = node.value.get("$ref") if isinstance(node.value, Mapping) else None
            if not isinstance(reference, str):
                return node
            node = self._target(reference)
        raise Undecidable(f"the references at {node.pointer} do not come to an end")

    def _target(self, reference: str) -> Node:
        if not reference.startswith("#/"):
            raise Undecidable(f"the reference {reference} leads out of the document")
        value: object = self.root.value
        pointer = unquote(reference[1:])
        for token in pointer.split("/")[1:]:
            token = token.replace("~1", "/").replace("~0", "~")
            if isinstance(value, Mapping) and token in value:
                value = value[token]
            elif isinstance(value, Sequence) and not isinstance(value, str) and token.isdigit() and int(token) < len(value):
                value = value[int(token)]
            else:
                raise Undecidable(f"the reference {reference} leads nowhere")
        return Node(value, pointer)

    @cached_property
    def bases(self) -> frozenset[str]:
        """The paths below which it says to be served; hosts are left out, for they name the proxy or an instance."""
        result = {_base_path(server) for server in self.root.sequence("servers")}
        return frozenset(result or {""})

    @cached_property
    def paths(self) -> Mapping[str, tuple[str, Node]]:
        """By template with nameless variables (`/orders/{}`): the path as it is written, and its item."""
        nodes: dict[str, tuple[str, Node]] = {}
        for path, item in self.root.mapping("paths").items():
            if path.startswith("x-"):
                continue
            template = re.sub(r"\{[^}]*\}", "{}", path)
            if template in nodes:
                raise Undecidable(f"{nodes[template][0]} and {path} are the same path")
            nodes[template] = (path, self.resolve(item))
        return nodes

    def operations(self, item: Node) -> Mapping[str, Node]:
        """By method, in capitals."""
        result = {method: item.get(method) for method in METHODS}
        return {method.upper(): each for method, each in result.items() if each is not None}

    def parameters(self, path: str, item: Node, operation: Node) -> Mapping[tuple[str, str], Node]:
        """By where they are and their name; those of a path by their place in it, headers in small letters."""
        variables = re.findall(r"\{([^}]*)\}", path)
        nodes: dict[tuple[str, str], Node] = {}
        for node in (*item.sequence("parameters"), *operation.sequence("parameters")):
            each = self.resolve(node)
            where, name = each.text("in"), each.text("name")
            if where == "header":
                name = name.lower()
            elif where == "path" and name in variables:
                name = str(variables.index(name))
            nodes[where, name] = each
        return nodes

    def security(self, operation: Node) -> Sequence[Mapping[str, frozenset[str]]]:
        """What a client must show, as alternatives: scopes by the definition of each scheme. None at all: nothing."""
        holder = operation if operation.get("security") is not None else self.root
        return tuple(dict(self._requirements(each)) for each in holder.sequence("security"))

    def _requirements(self, alternative: Node) -> Iterator[tuple[str, frozenset[str]]]:
        if not isinstance(alternative.value, Mapping):
            raise Undecidable(f"{alternative.pointer} is not an object")
        components = self.root.get("components")
        schemes = components.mapping("securitySchemes") if components is not None else {}
        for name in alternative.value:
            if name not in schemes:
                raise Undecidable(f"the security scheme {name} is not defined")
            scheme = self.resolve(schemes[name])
            known = " ".join(scheme.text(key).lower() for key in ("type", "scheme", "in", "name") if scheme.text(key))
            scopes = frozenset(str(each.value) for each in alternative.sequence(name))
            yield (known if known.split()[:1] in (["http"], ["apikey"]) else f"{known} {name}"), scopes

    def content_types(self, holder: Node) -> Mapping[str, Node]:
        """The contents of a body by media type, without its parameters."""
        return {name.partition(";")[0].strip().lower(): each for name, each in holder.mapping("content").items()}


def _base_path(server: Node) -> str:
    url = server.text("url")
    if not url or "{" in url:
        raise Undecidable(f"{server.pointer} has {'variables' if url else 'no url'}")
    return urlsplit(url).path.rstrip("/")


def is_alike(old: Node, new: Node, documents: tuple[OpenApiDocument, OpenApiDocument]) -> bool:
    """Whether two values say the same, also where their references lead."""
    return _is_alike(old, new, documents, set())


def _is_alike(old: Node, new: Node, documents: tuple[OpenApiDocument, OpenApiDocument], seen: set[tuple[str, str]]) -> bool:
    old, new = documents[0].resolve(old), documents[1].resolve(new)
    if (old.pointer, new.pointer) in seen:
        return True
    seen.add((old.pointer, new.pointer))
    one, other = old.value, new.value
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(
            _is_alike(old.child(str(key), value=one[key]), new.child(str(key), value=other[key]), documents, seen)
            for key in one
        )
    if isinstance(one, list) and isinstance(other, list):
        pairs = enumerate(zip(one, other, strict=False))
        return len(one) == len(other) and all(
            _is_alike(old.child(str(place), value=a), new.child(str(place), value=b), documents, seen)
            for place, (a, b) in pairs
        )
    return type(one) is type(other) and one == other
