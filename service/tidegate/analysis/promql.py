"""PromQL as text: recognise plain selectors, escape values, fill placeholders. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_SPACE = r"(?:\s|\#[^\n]*(?:\n|$))*"  # PromQL allows comments wherever it allows white space
_STRING = r"""(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`[^`]*`)"""
_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_MATCHER = rf"[a-zA-Z_][a-zA-Z0-9_]*{_SPACE}(?:=~|!~|!=|=){_SPACE}{_STRING}{_SPACE}"
_BRACES = rf"\{{{_SPACE}(?:{_MATCHER}(?:,{_SPACE}{_MATCHER})*(?:,{_SPACE})?)?\}}"
_SELECTOR = re.compile(rf"{_SPACE}(?P<name>{_NAME})?{_SPACE}(?P<braces>{_BRACES})?{_SPACE}")
_NUMBERS = frozenset({"inf", "nan"})
#: By number, because `\\"` is an error between single quotes and `\\'` between double ones.
_ESCAPES = {"\\": "\\\\", '"': "\\x22", "'": "\\x27", "`": "\\x60", "\n": "\\n"}
_TOKEN = re.compile(
    rf"(?P<space>\s+|\#[^\n]*)|(?P<string>{_STRING})|(?P<number>\.?[0-9][A-Za-z0-9_.]*)|(?P<name>{_NAME})"
    r"|(?P<symbol>[(){}\[\],=!~<>+\-*/%^@:])",
    re.DOTALL,
)
#: Names that are no metrics; a list of labels may follow the first ones.
_GROUPING = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_KEYWORDS = _GROUPING | {"and", "or", "unless", "atan2", "offset", "bool", *_NUMBERS}
_PLACEHOLDER = re.compile(r"\$(release|service|window)\b")


def is_selector(query: str) -> bool:
    """Whether it is a metric name with matchers and nothing else: no range, offset, function or operator."""
    match = _SELECTOR.fullmatch(query)
    if match is None or (match["name"] is None and match["braces"] is None):
        return False
    return match["braces"] is not None or match["name"].lower() not in _NUMBERS


def add_matchers(selector: str, matchers: str) -> str:
    """A plain selector with more matchers. They come first, so that a comment at its end cannot hide them."""
    name, brace, rest = selector.partition("{")
    return f"{name.strip()}{{{matchers},{rest}" if brace else f"{name.strip()}{{{matchers}}}"


def range_query(query: str, milliseconds: int, step_milliseconds: int = 0) -> str:
    """The raw samples of a plain selector; with a step, the values of any query at its multiples.

    The range is on a line of its own, so that a comment cannot hide it.
    """
    if step_milliseconds:
        return f"({query}\n)[{milliseconds}ms:{step_milliseconds}ms]"
    return f"{query}\n[{milliseconds}ms]"


def escape(value: str) -> str:
    """A value escaped for any of PromQL's quotes. Back quotes have no escapes, so the value cannot end them."""
    return "".join(_ESCAPES.get(character, character) for character in value)


def quote(value: str) -> str:
    """A value as a PromQL string, for `=` and `!=`."""
    return f'"{escape(value)}"'


def escape_regex(value: str) -> str:
    """A value as a regular expression that matches only itself; not yet quoted."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", value)


def placeholders(query: str) -> frozenset[str]:
    """The placeholders in the query: `release`, `service`, `window`."""
    return frozenset(_PLACEHOLDER.findall(query))


def fill_placeholders(query: str, values: Mapping[str, str]) -> str:
    """The query with `$release`, `$service` and `$window` replaced. Every other `$`, as in a regular expression, is kept.

    White space is kept: joining lines would comment out the rest of the query after a `#`.
    """
    return _PLACEHOLDER.sub(lambda match: escape(values[match[1]]), query)


def find_unconfined(query: str, matchers: Mapping[str, str]) -> str:
    """What in a query could select series without these labels and values; empty if every selector matches them with `=`.

    Whatever is not understood counts as such: the query must be one of Prometheus, without the extensions of others.
    """
    tokens = _tokens(query)
    if tokens is None:
        return "the query cannot be examined"
    position = 0
    while position < len(tokens) - 1:
        (kind, text), following = tokens[position], tokens[position + 1][1].lower()
        is_name = kind == "name"
        if (kind, text) == ("symbol", "{"):
            end = _index_of("}", tokens, position)
            if missing := _missing_matcher(tokens[position + 1 : end], matchers):
                return f"a selector lacks {missing}"
            position = end
        elif (kind, text) == ("symbol", "["):
            position = _index_of("]", tokens, position)  # what is between are durations
        elif is_name and text.lower() in _GROUPING and following == "(":
            position = _index_of(")", tokens, position)  # what is between are labels
        elif is_name and text.lower() not in _KEYWORDS and following not in ("{", "(", "by", "without"):
            return f"the selector {text} has no matchers"
        position += 1
    return ""


def _tokens(query: str) -> list[tuple[str, str]] | None:
    """Kind and text of each word of the query, and an empty one at its end; None for one that is not known."""
    tokens, at = [], 0
    while at < len(query):
        match = _TOKEN.match(query, at)
        if match is None:
            return None
        tokens += [(str(match.lastgroup), match[0])] if match.lastgroup != "space" else []
        at = match.end()
    return [*tokens, ("end", "")]


def _index_of(symbol: str, tokens: Sequence[tuple[str, str]], start: int) -> int:
    return next((index for index in range(start, len(tokens)) if tokens[index] == ("symbol", symbol)), len(tokens))


def _missing_matcher(tokens: Sequence[tuple[str, str]], matchers: Mapping[str, str]) -> str:
    """A matcher that is not one of those between the braces; empty if all are."""
    if any(kind == "name" and text.lower() == "or" for kind, text in tokens):
        return "a plain list of matchers"
    items: list[list[str]] = [[]]
    for _, text in tokens:
        items[-1:] = [items[-1], []] if text == "," else [[*items[-1], text]]
    for label, value in matchers.items():
        if not any(item == [label, "=", mark + value + mark] for item in items for mark in "\"'`"):
            return f'{label}="{value}"'
    return ""
