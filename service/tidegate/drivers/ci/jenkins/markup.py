"""What Jenkins makes of markup in a description. Pure."""

from __future__ import annotations

from enum import StrEnum

PREVIEW = "markupFormatter/previewDescription"  # renders the form field `text` as Jenkins renders descriptions
SAMPLE = '<a href="https://tidegate.invalid/">Tidegate</a>'


class Markup(StrEnum):
    """How Jenkins shows a description."""

    HTML = "safe HTML"  # links and other harmless elements work
    PLAIN = "plain text"  # it shows markup as it is written
    UNKNOWN = "unknown"


def read_preview(rendered: str) -> Markup:
    """The markup that Jenkins supports, from its preview of `SAMPLE`."""
    if '<a href="https://tidegate.invalid/"' in rendered.replace("'", '"'):
        return Markup.HTML
    return Markup.PLAIN if "&lt;a " in rendered else Markup.UNKNOWN
