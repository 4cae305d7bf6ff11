"""Terminal output. Control characters from names, reasons or logs are escaped, so a terminal never obeys them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from tidegate.text import CONTROL_CHARS, escape

UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


class SafeConsole(Console):
    """A rich console that also escapes the control characters that rich lets through."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape text; keep rich's own control segments, such as the cursor movements of a live display."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(escape(segment.text, allowed="\n"), segment.style)


def json_text(answer: object, indent: int | None = None) -> str:
    """A JSON document that parses to the same value, with control characters as JSON escapes."""
    text = json.dumps(answer, indent=indent, ensure_ascii=False)
    return CONTROL_CHARS.sub(lambda match: match[0] if match[0] == "\n" else json.dumps(match[0])[1:-1], text)


def relative_time(timestamp: str | None, now: datetime | None = None) -> str:
    """`2 min ago` or `in 3 h`, rounded down, for an ISO 8601 `timestamp`; empty for None. `now` defaults to this moment."""
    if not timestamp:
        return ""
    seconds = (datetime.fromisoformat(timestamp) - (now or datetime.now(UTC))).total_seconds()
    for unit, size in UNITS:
        if abs(seconds) >= size:
            amount = f"{int(abs(seconds) // size)} {unit}"
            return f"in {amount}" if seconds > 0 else f"{amount} ago"
    return "now"
