"""Access to an OpenAPI document: its version, references and operations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import unquote, urlsplit

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace", "query")
MAX_REFERENCES = 20  # in a chain
VERSION = re.compile(r"3\.[012]\.\d+(-.+)?")


class Undecidable(Exception):
    """Part of a document cannot be compared; the message is the reason."""


def escape_token(token: str) -> str:
    """A token escaped for a JSON Pointer."""
    return token.replace("~", "~0").replace("/", "~1")


@dataclass(frozen=True, slots=True)
class Node:
    """A value of a document and the JSON Pointer to it."""

    value: object
    pointer: str

    def child(self, *tokens: str, value: object) -> Node:
        """A value below it."""
        return Node(value, "/".join((self.pointer, *map(escape_token, tokens))))

    def get(self, key: str) -> Node | None:
        """The value of a key; None when absent."""
        if not isinstance(self.value, Mapping) or key not in self.value:
            return None
        return self.child(key, value=self.value[key])

    def mapping(self, key: str) -> Mapping[str, Node]:
        """The values of an object by name; empty when absent. Raises `Undecidable` when it is not an object."""
        result = self.get(key)
        if result is None:
            return {}
        if not isinstance(result.value, Mapping):
            raise Undecidable(f"{result.pointer} is not an object")
        return {str(name): result.child(str(name), value=value) for name, value in result.value.items()}

    def sequence(self, key: str) -> Sequence[Node]:
        """The values of a list; empty when absent. Raises `Undecidable` when it is not a list."""
        result = self.get(key)
        if result is None:
            return ()
        if not isinstance(result.value, Sequence) or isinstance(result.value, str):
            raise Undecidable(f"{result.pointer} is not a list")
        return tuple(result.child(str(place), value=value) for place, value in enumerate(result.value))

    def flag(self, key: str) -> bool:
        """Whether the value of a key is true."""
        return isinstance(self.value, Mapping) and self.value.get(key) is True

    def text(self, key: str) -> str:
        """The text of a key; empty when absent or not text."""
        result = self.value.get(key) if isinstance(self.value, Mapping) else None
        return result if isinstance(result, str) else ""


class OpenApiDocument:
    """A document. Raises `Undecidable` when it is not OpenAPI 3."""

    def __init__(self, value: Mapping[str, object]) -> None:
        self.root = Node(value, "")
        version = self.root.text("openapi")
        if not VERSION.fullmatch(version):
            declared = version or (f"Swagger {self.root.text('swagger')}" if "swagger" in value else "no version")
            raise Undecidable(f"only OpenAPI 3.0 to 3.2 is supported; the document declares {declared}")
        self.ref_siblings = not version.startswith("3.0")  # from 3.1 on, keys next to `$ref` apply
        self.nullable = not self.ref_siblings

    def resolve(self, node: Node) -> Node:
        """The target of a `$ref`, or the node itself. Raises `Undecidable` for a dangling or an external reference."""
        for _ in range(MAX_REFERENCES):
            reference = node.value.get("$ref") if isinstance(node.value, Mapping) else None
            if not isinstance(reference, str):
                return node
            node = self._target(reference)
        raise Undecidable(f"the references at {node.pointer} form a loop")

    def _target(self, reference: str) -> Node:
        if not reference.startswith("#/"):
            raise Undecidable(f"the reference {reference} is external")
        value: object = self.root.value
        pointer = unquote(reference[1:])
        for token in pointer.split("/")[1:]:
            token = token.replace("~1", "/").replace("~0", "~")
            if isinstance(value, Mapping) and token in value:
                value = value[token]
            elif isinstance(value, Sequence) and not isinstance(value, str) and token.isdigit() and int(token) < len(value):
                value = value[int(token)]
            else:
                raise Undecidable(f"the reference {reference} has no target")
        return Node(value, pointer)

    @cached_property
    def bases(self) -> frozenset[str]:
        """The base paths in `servers`; hosts are ignored, since they name the proxy or an instance."""
        result = {_base_path(server) for server in self.root.sequence("servers")}
        return frozenset(result or {""})

    @cached_property
    def paths(self) -> Mapping[str, tuple[str, Node]]:
        """The paths and their items, by template without names of variables (`/orders/{}`)."""
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
        """The operations by method, in capitals."""
        result = {method: item.get(method) for method in METHODS}
        return {method.upper(): node for method, node in result.items() if node is not None}

    def parameters(self, path: str, item: Node, operation: Node) -> Mapping[tuple[str, str], Node]:
        """Parameters by location and name: path parameters by their position, headers in lower case."""
        variables = re.findall(r"\{([^}]*)\}", path)
        nodes: dict[tuple[str, str], Node] = {}
        for node in (*item.sequence("parameters"), *operation.sequence("parameters")):
            parameter = self.resolve(node)
            where, name = parameter.text("in"), parameter.text("name")
            if where == "header":
                name = name.lower()
            elif where == "path" and name in variables:
                name = str(variables.index(name))
            nodes[where, name] = parameter
        return nodes

    def security(self, operation: Node) -> Sequence[Mapping[str, frozenset[str]]]:
        """The alternatives of required credentials: scopes by security scheme. Empty: no credential is required."""
        holder = operation if operation.get("security") is not None else self.root
        return tuple(dict(self._requirements(alternative)) for alternative in holder.sequence("security"))

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
            scopes = frozenset(str(scope.value) for scope in alternative.sequence(name))
            yield (known if known.split()[:1] in (["http"], ["apikey"]) else f"{known} {name}"), scopes

    def content_types(self, holder: Node) -> Mapping[str, Node]:
        """The contents of a body by media type, without parameters."""
        return {name.partition(";")[0].strip().lower(): node for name, node in holder.mapping("content").items()}


def _base_path(server: Node) -> str:
    url = server.text("url")
    if not url or "{" in url:
        raise Undecidable(f"{server.pointer} has {'variables' if url else 'no url'}")
    return urlsplit(url).path.rstrip("/")


def is_alike(old: Node, new: Node, documents: tuple[OpenApiDocument, OpenApiDocument]) -> bool:
    """Whether two values are equal with their references resolved."""
    return _is_alike(old, new, documents, set())


def _is_alike(
    old: Node, new: Node, documents: tuple[OpenApiDocument, OpenApiDocument], visited: set[tuple[str, str]]
) -> bool:
    old, new = documents[0].resolve(old), documents[1].resolve(new)
    if (old.pointer, new.pointer) in visited:
        return True
    visited.add((old.pointer, new.pointer))
    one, other = old.value, new.value
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(
            _is_alike(old.child(str(key), value=one[key]), new.child(str(key), value=other[key]), documents, visited)
            for key in one
        )
    if isinstance(one, list) and isinstance(other, list):
        pairs = enumerate(zip(one, other, strict=False))
        return len(one) == len(other) and all(
            _is_alike(old.child(str(place), value=a), new.child(str(place), value=b), documents, visited)
            for place, (a, b) in pairs
        )
    return type(one) is type(other) and one == other
