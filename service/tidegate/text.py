"""Text of people and programs, made safe to display. Pure.

A terminal interprets escape sequences, a log takes a line break for another entry, and a direction mark reverses text. Such
characters are displayed by their numbers.
"""

from __future__ import annotations

import re
import unicodedata

#: Control characters, line and paragraph separators, what turns or hides writing, and halves of characters.
CONTROL_CHARS = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
#: What one line must not have in it, as a pattern of JSON Schema. Joiners and marks of direction belong to some languages.
LINE_PATTERN = r"^[^\x00-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060-\u2069\ufeff]*$"
#: And what a name must not have in it besides (`find_invisible`), for then two that look alike could be two.
NAME_PATTERN = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
#: Unicode's Default_Ignorable_Code_Point: what is displayed as nothing.
_DEFAULT_IGNORABLE = re.compile(
    "[\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def identity(name: str) -> str:
    """The form of a name by which people are distinguished: normalized (NFKC), without case, white space collapsed.

    `Alice`, ` alice` and full-width `Ａｌｉｃｅ` are one person. Names with invisible characters are refused
    (`find_invisible`).
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return " ".join(folded.split())


def find_invisible(name: str) -> str:
    """The first character of a name that is displayed as nothing or has no meaning of its own, as `U+200B`; empty if there
    is none."""
    found = next((each for each in name if _DEFAULT_IGNORABLE.match(each) or _is_blank(each)), "")
    return f"U+{ord(found):04X}" if found else ""


def _is_blank(character: str) -> bool:
    """Whether it is the empty Braille pattern, a format character, for private use, or not assigned."""
    return character == "\u2800" or unicodedata.category(character) in ("Cf", "Cn", "Co")


def single_line(text: str, max_chars: int) -> str:
    """The text on one line of at most `max_chars` characters: white space collapsed, unprintable characters removed."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= max_chars else line[: max_chars - 1] + "…"


def escape(text: str, allowed: str = "") -> str:
    """The text with such characters as `\\x1b` and `\\u202e`, but for those to `allowed`."""
    return CONTROL_CHARS.sub(lambda found: found[0] if found[0] in allowed else _escape_sequence(ord(found[0])), text)


def _escape_sequence(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
