"""Text of people and programs, made safe to display. Pure.

A terminal interprets escape sequences, a log takes a line break for another entry, and a direction mark reverses text. Such
characters are displayed by their numbers.
"""

from __future__ import annotations

import re

#: Control characters, line and paragraph separators, what turns or hides writing, and halves of characters.
CONTROL_CHARS = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
#: What one line must not have in it, as a pattern of JSON Schema. Joiners and marks of direction belong to some languages.
LINE_PATTERN = r"^[^\x00-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060-\u2069\ufeff]*$"
#: And what a name must not have in it, for then two that look alike could be two.
NAME_PATTERN = r"^[^\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]*$"


def single_line(text: str, max_chars: int) -> str:
    """The text on one line of at most `max_chars` characters: white space collapsed, unprintable characters removed."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= max_chars else line[: max_chars - 1] + "…"


def escape(text: str, allowed: str = "") -> str:
    """The text with such characters as `\\x1b` and `\\u202e`, but for those to `allowed`."""
    return CONTROL_CHARS.sub(lambda found: found[0] if found[0] in allowed else _escape_sequence(ord(found[0])), text)


def _escape_sequence(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
