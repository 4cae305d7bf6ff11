"""The line about a rollout in the description of the build that asked for it. Pure.

A description may hold other lines, of people and of other rollouts; they stay. Jenkins may show it with a markup formatter,
so names and reasons are escaped. The pipeline's own line about the rollout begins in the same way and is replaced, too.
"""

from __future__ import annotations

import html

from tidegate.core.model import Rollout
from tidegate.core.phases import Phase

MAX_NAME_CHARS, MAX_REASON_CHARS, MAX_LINK_CHARS = (
    128,
    200,
    300,
)  # the longest of each, in characters before they are escaped


def format_line(rollout: Rollout, reason: str, link: str) -> str:
    """`Tidegate: demo/shop v2-4 rolling back (FAIL): why, http://…`"""
    outcome = f" ({rollout.verdict.outcome.value})" if rollout.verdict is not None else ""
    text = f"{_format_phase(rollout)}{outcome}"
    text += f": {_single_line(reason, MAX_REASON_CHARS)}" if reason else ""
    text += f", {_single_line(link, MAX_LINK_CHARS)}" if link else ""
    return _line_prefix(rollout) + html.escape(text, quote=False)


def replace_line(description: str, rollout: Rollout, new: str) -> str:
    """The description with the rollout's line replaced, or added at the end."""
    beginning, lines, done = _line_prefix(rollout), [], False
    for existing in description.split("\n") if description else []:
        if not existing.startswith(beginning):
            lines.append(existing)
        elif not done:
            lines.append(new)
            done = True
    return "\n".join(lines if done else [*lines, new])


def _line_prefix(rollout: Rollout) -> str:
    """What its line is known by: no two rollouts of a build are to the same release."""
    return html.escape(
        f"Tidegate: {_single_line(rollout.service, MAX_NAME_CHARS)} {_single_line(rollout.new, MAX_NAME_CHARS)} ",
        quote=False,
    )


def _format_phase(rollout: Rollout) -> str:
    phase = rollout.phase.value.replace("_", " ")
    if rollout.paused and rollout.phase.live:
        return f"{phase}, paused"
    if rollout.phase is Phase.RUNNING and rollout.approval_since is not None:
        return f"{phase}, waiting for a person"
    return phase


def _single_line(text: str, longest: int) -> str:
    """One line of it without what cannot be printed."""
    flat = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return flat if len(flat) <= longest else flat[: longest - 1] + "…"
