"""A YAML loader for Compose files: plain YAML of bounded size.

Scalars have the types that Compose gives them: `yes`, `22:22` and `2026-01-01` are text, unlike in YAML 1.1.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import yaml

from tidegate.compose.merge import Override, Reset
from tidegate.errors import InvalidSpec, Problem

MAX_NODES = 20_000  # in one file, with its aliases resolved
MAX_ENTRIES = 1_000  # of one list or mapping
TAG = "tag:yaml.org,2002:"
PLAIN_TAGS = {TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
UNPRINTABLE = re.compile("[\ud800-\udfff\0]")
MERGE_TAGS = {"!reset", "!override"}  # of the Compose specification


class _ComposeYamlLoader(yaml.SafeLoader):
    """A loader that stops early on a large text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    count = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        self.count += 1
        if self.count > MAX_NODES:
            raise _yaml_error(self.get_mark(), f"more than {MAX_NODES} values")
        return super().compose_node(parent, index)  # type: ignore[arg-type]  # the stubs allow only numbers


for _name, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"[-+]?(?:0b[0-1_]+|0o?[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)", list("-+0123456789")),
    (
        "float",
        r"(?:[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
        list("-+0123456789."),
    ),
    ("merge", r"<<", ["<"]),
):
    _ComposeYamlLoader.add_implicit_resolver(TAG + _name, re.compile(f"^{_pattern}$"), _first)


def _construct_override(loader: _ComposeYamlLoader, node: yaml.Node) -> Override:
    """The value that a node without its tag has."""
    untagged = copy.copy(node)
    plain = not isinstance(node, yaml.ScalarNode) or node.style is None
    value = node.value if isinstance(node, yaml.ScalarNode) else None
    untagged.tag = loader.resolve(type(node), value, (plain, not plain))  # type: ignore[no-untyped-call]
    return Override(loader.construct_object(untagged, deep=True))


_ComposeYamlLoader.add_constructor("!reset", lambda loader, node: Reset())
_ComposeYamlLoader.add_constructor("!override", _construct_override)


def load(text: str) -> object:
    """The document, with `merge.Reset` and `merge.Override` for the tags of merging.

    Raises `InvalidSpec`, with line and column, when the text is not YAML or too large."""
    try:
        return _construct(text.removeprefix("\ufeff"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InvalidSpec([Problem(where, f"not a Compose file: {error.problem}")]) from error
    except (yaml.YAMLError, ValueError, LookupError, TypeError) as error:
        raise InvalidSpec([Problem("", f"not a Compose file: {error}")]) from error
    except RecursionError as error:
        raise InvalidSpec([Problem("", "not a Compose file: nested too deeply")]) from error


def _construct(text: str) -> object:
    loader = _ComposeYamlLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _yaml_error(mark: Any, what: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, what, mark)


def _count_values(node: yaml.Node, sizes: dict[int, int]) -> int:
    """The number of values in a node with its aliases resolved; raises on unsupported or excessive YAML.

    The check precedes construction, because nested merges grow while they are constructed.
    """
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise _yaml_error(node.start_mark, "an alias that contains itself")
        return sizes[id(node)]
    sizes[id(node)] = 0  # count in progress
    if node.tag not in PLAIN_TAGS | MERGE_TAGS:
        raise _yaml_error(node.start_mark, _tag_message(node.tag))
    if isinstance(node, yaml.CollectionNode) and len(node.value) > MAX_ENTRIES:
        raise _yaml_error(
            node.start_mark, f"{len(node.value)} entries in one list or mapping; allowed: at most {MAX_ENTRIES}"
        )
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
    elif isinstance(node, yaml.ScalarNode) and UNPRINTABLE.search(node.value):
        raise _yaml_error(node.start_mark, "invalid character: NUL or a lone surrogate")
    size = 1
    for child in _children(node):
        size += _count_values(child, sizes)
        if size > MAX_NODES:
            raise _yaml_error(node.start_mark, f"more than {MAX_NODES} values with its aliases resolved")
    sizes[id(node)] = size
    return size


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        yield from (value for _, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _check_keys(node: yaml.MappingNode) -> None:
    """Keys must be text and unique; YAML would silently drop the first of two."""
    keys: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _yaml_error(key.start_mark, "a key must be plain text")
        if key.tag not in PLAIN_TAGS:
            raise _yaml_error(key.start_mark, _tag_message(key.tag))
        if key.value in keys:
            raise _yaml_error(key.start_mark, f"duplicate key {key.value}")
        keys.add(key.value)
        if key.tag != TAG + "merge":
            key.tag = TAG + "str"


def _tag_message(tag: str) -> str:
    return f"the tag {tag.replace(TAG, '!!')} is not supported; use plain YAML"
