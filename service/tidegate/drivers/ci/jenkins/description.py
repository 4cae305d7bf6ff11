"""The line about a rollout in the description of the build that requested it. Pure.

Other lines of the description, of people and of other rollouts, are kept. Names and reasons are escaped, because Jenkins
may render the description with a markup formatter.
"""

from __future__ import annotations

import html

from tidegate.core.model import Rollout
from tidegate.core.phases import Phase
from tidegate.text import single_line

MAX_NAME_CHARS, MAX_REASON_CHARS, MAX_LINK_CHARS = 128, 200, 300  # before escaping


def format_line(rollout: Rollout, reason: str, link: str) -> str:
    """`Tidegate: demo/shop v2-4 rolling back (FAIL): reason, http://…`"""
    outcome = f" ({rollout.verdict.outcome.value})" if rollout.verdict is not None else ""
    text = f"{_format_phase(rollout)}{outcome}"
    text += f": {single_line(reason, MAX_REASON_CHARS)}" if reason else ""
    text += f", {single_line(link, MAX_LINK_CHARS)}" if link else ""
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
    """The unique start of the rollout's line: a build has at most one rollout to a release."""
    return html.escape(
        f"Tidegate: {single_line(rollout.service, MAX_NAME_CHARS)} {single_line(rollout.new, MAX_NAME_CHARS)} ",
        quote=False,
    )


def _format_phase(rollout: Rollout) -> str:
    phase = rollout.phase.value.replace("_", " ")
    if rollout.paused and rollout.phase.live:
        return f"{phase}, paused"
    if rollout.phase is Phase.RUNNING and rollout.approval_since is not None:
        return f"{phase}, waiting for a person"
    return phase
