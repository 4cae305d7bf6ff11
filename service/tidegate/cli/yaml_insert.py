"""Adds a key to a mapping in the text of a YAML file, without touching anything else: comments, quotes and order stay."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

Node = yaml.Node


def insert(text: str, path: Sequence[str], key: str, lines: Sequence[str]) -> str:
    """The text with `key` at the end of the mapping at `path`. `lines` are its value: one line goes behind the key, several
    below it, with an indentation of their own. Raises `ValueError` if there is no such mapping, or it cannot be changed so
    that only the key is added."""
    node, parent_column = _find(text, path)
    if node.flow_style:
        changed = _in_flow(text, node, key, lines)
    else:
        column = node.value[0][0].start_mark.column
        indent, step = " " * column, " " * max(1, column - parent_column)
        head = f"{indent}{key}: {lines[0]}" if len(lines) == 1 else f"{indent}{key}:"
        body = [] if len(lines) == 1 else [f"{indent}{step}{line}" for line in lines]
        end = text.find("\n", _end(text, node))
        kept, rest = (text, "") if end < 0 else (text[:end], text[end:])
        changed = "\n".join([kept, head, *body]) + rest
    _require_only_added(text, changed, path, key)
    return changed


def _in_flow(text: str, node: yaml.MappingNode, key: str, lines: Sequence[str]) -> str:
    """In a mapping such as `{image: shop}`: before its brace, on the same line."""
    value = lines[0] if len(lines) == 1 else "{" + ", ".join(lines) + "}"
    end = node.end_mark.index - 1
    before = text[:end].rstrip()
    separator = "" if before.endswith("{") else " " if before.endswith(",") else ", "
    return f"{before}{separator}{key}: {value}{text[len(before) :]}"


def _find(text: str, path: Sequence[str]) -> tuple[yaml.MappingNode, int]:
    """The mapping at the path, and the column of its key."""
    node, column = yaml.compose(text, Loader=yaml.SafeLoader), -1
    for name in path:
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        found = next(((key, value) for key, value in pairs if key.value == name), None)
        if found is None:
            raise ValueError(f"there is no {'.'.join(path)}")
        column, node = found[0].start_mark.column, found[1]
    if not isinstance(node, yaml.MappingNode) or not node.value:
        raise ValueError(f"{'.'.join(path)} is not a mapping with keys")
    return node, column


def _end(text: str, node: yaml.MappingNode) -> int:
    """The index in the text at which the content of a block mapping ends."""
    key, value = node.value[-1]
    if value.start_mark.index < key.start_mark.index:  # an alias: its value is elsewhere
        return int(key.end_mark.index)
    return max(int(key.end_mark.index), _end_of_value(text, value))


def _end_of_value(text: str, node: Node) -> int:
    end = int(node.end_mark.index)
    if isinstance(node, yaml.ScalarNode):
        return len(text[:end].rstrip()) if node.style in ("|", ">") else end
    if not isinstance(node, yaml.CollectionNode) or node.flow_style or not node.value:
        return end
    return _end(text, node) if isinstance(node, yaml.MappingNode) else _end_of_value(text, node.value[-1])


def _require_only_added(before: str, after: str, path: Sequence[str], key: str) -> None:
    """Raise `ValueError` unless the documents are equal but for the key."""
    try:
        old, new = yaml.safe_load(before), yaml.safe_load(after)
        place = new
        for name in path:
            place = place[name]
        place.pop(key)
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("the file has a form that cannot be changed safely") from error
    if old != new:
        raise ValueError("the file has a form that cannot be changed safely")
