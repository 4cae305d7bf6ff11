"""What is printed: nothing in it is obeyed by a terminal, whoever wrote it into a name, a reason or a log."""

from __future__ import annotations

import json
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from tidegate.text import CONTROL_CHARS, escape


class SafeConsole(Console):
    """rich's own, which lets escape sequences in a text through."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does; what comes from rich itself, such as the moves of a live picture, stays."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(escape(segment.text, keep="\n"), segment.style)


def json_text(answer: object, indent: int | None = None) -> str:
    """A document that reads as it was, with what a terminal would obey in JSON's own escapes."""
    text = json.dumps(answer, indent=indent, ensure_ascii=False)
    return CONTROL_CHARS.sub(lambda match: match[0] if match[0] == "\n" else json.dumps(match[0])[1:-1], text)
