"""PromQL as text: telling a plain selector from an expression, escaping values, filling placeholders. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

_SPACE = r"(?:\s|\#[^\n]*(?:\n|$))*"  # PromQL allows comments wherever it allows white space
_STRING = r"""(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`[^`]*`)"""
_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_MATCHER = rf"[a-zA-Z_][a-zA-Z0-9_]*{_SPACE}(?:=~|!~|!=|=){_SPACE}{_STRING}{_SPACE}"
_BRACES = rf"\{{{_SPACE}(?:{_MATCHER}(?:,{_SPACE}{_MATCHER})*(?:,{_SPACE})?)?\}}"
_SELECTOR = re.compile(rf"{_SPACE}(?P<name>{_NAME})?{_SPACE}(?P<braces>{_BRACES})?{_SPACE}")
_NUMBERS = frozenset({"inf", "nan"})
#: By number, because `\\"` is an error between single quotes and `\\'` between double ones.
_ESCAPES = {"\\": "\\\\", '"': "\\x22", "'": "\\x27", "`": "\\x60", "\n": "\\n"}
_PLACEHOLDER = re.compile(r"\$(release|service|window)\b")


def is_selector(query: str) -> bool:
    """Whether it is a metric name with matchers and nothing else: no range, offset, function or operator."""
    match = _SELECTOR.fullmatch(query)
    if match is None or (match["name"] is None and match["braces"] is None):
        return False
    return match["braces"] is not None or match["name"].lower() not in _NUMBERS


def add_matchers(selector: str, matchers: str) -> str:
    """A plain selector with more matchers. They come first, out of reach of a comment at its end."""
    name, brace, rest = selector.partition("{")
    return f"{name.strip()}{{{matchers},{rest}" if brace else f"{name.strip()}{{{matchers}}}"


def range_query(query: str, milliseconds: int, step_milliseconds: int = 0) -> str:
    """The raw samples of a plain selector; with a step, the values of any query at its multiples.

    The range stands on a line of its own, out of reach of a comment.
    """
    if step_milliseconds:
        return f"({query}\n)[{milliseconds}ms:{step_milliseconds}ms]"
    return f"{query}\n[{milliseconds}ms]"


def escape(value: str) -> str:
    """A value made safe inside any of PromQL's quotes (in back quotes nothing can be escaped, so it cannot end them)."""
    return "".join(_ESCAPES.get(character, character) for character in value)


def quote(value: str) -> str:
    """A value as a PromQL string, for `=` and `!=`."""
    return f'"{escape(value)}"'


def escape_regex(value: str) -> str:
    """A value as a piece of a regular expression that matches just itself; still to be quoted."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", value)


def placeholders(query: str) -> frozenset[str]:
    """Which of `release`, `service`, `window` the query mentions."""
    return frozenset(_PLACEHOLDER.findall(query))


def fill_placeholders(query: str, values: Mapping[str, str]) -> str:
    """The query with `$release`, `$service` and `$window` replaced; every other `$` (as in a regular expression) stays.

    White space is left as it is: joining lines would turn a `#` comment into the end of the query.
    """
    return _PLACEHOLDER.sub(lambda found: escape(values[found[1]]), query)
