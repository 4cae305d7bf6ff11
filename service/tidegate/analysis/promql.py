"""PromQL as text: recognise plain selectors, escape values, fill placeholders. Pure."""

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
