"""The text of a Compose file as a document: plain YAML, with nothing that could surprise."""

from __future__ import annotations

from typing import Any

import yaml

from tidegate.errors import InvalidSpec, Problem

MOST_NODES = 20_000  # what the aliases of a small file may grow to


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping: the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} stands twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load(text: str) -> object:
    """The document. Raises `InvalidSpec` with line and column when the text is not YAML, or grows without bounds."""
    try:
        document = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InvalidSpec([Problem(where, f"not a Compose file: {error.problem}")]) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidSpec([Problem("", f"not a Compose file: {error}")]) from error
    if _nodes(document) > MOST_NODES:
        raise InvalidSpec([Problem("", f"not a Compose file: more than {MOST_NODES} values with its aliases resolved")])
    return document


def _nodes(document: object) -> int:
    """How many values there are, counted no further than it matters."""
    count, waiting = 0, [document]
    while waiting and count <= MOST_NODES:
        node = waiting.pop()
        count += 1
        if isinstance(node, dict):
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
    return count
