"""The line about a rollout in the description of the build that asked for it. Pure.

A description may hold other lines, of people and of other rollouts; they stay. Jenkins may show it with a markup formatter,
so names and reasons are escaped. The pipeline's own line about the rollout begins in the same way and is replaced, too.
"""

from __future__ import annotations

import html

from tidegate.core.model import Rollout
from tidegate.core.phases import Phase

NAME, REASON, LINK = 128, 200, 300  # the longest of each, in characters before they are escaped


def line(rollout: Rollout, reason: str, link: str) -> str:
    """`Tidegate: demo/shop v2-4 rolling back (FAIL): why, http://…`"""
    outcome = f" ({rollout.verdict.outcome.value})" if rollout.verdict is not None else ""
    said = f"{_standing(rollout)}{outcome}"
    said += f": {_plain(reason, REASON)}" if reason else ""
    said += f", {_plain(link, LINK)}" if link else ""
    return _beginning(rollout) + html.escape(said, quote=False)


def changed(description: str, rollout: Rollout, new: str) -> str:
    """The description with the rollout's line replaced, or added at the end."""
    beginning, lines, done = _beginning(rollout), [], False
    for each in description.split("\n") if description else []:
        if not each.startswith(beginning):
            lines.append(each)
        elif not done:
            lines.append(new)
            done = True
    return "\n".join(lines if done else [*lines, new])


def _beginning(rollout: Rollout) -> str:
    """What its line is known by: no two rollouts of a build are to the same release."""
    return html.escape(f"Tidegate: {_plain(rollout.service, NAME)} {_plain(rollout.new, NAME)} ", quote=False)


def _standing(rollout: Rollout) -> str:
    phase = rollout.phase.value.replace("_", " ")
    if rollout.paused and rollout.phase.live:
        return f"{phase}, paused"
    if rollout.phase is Phase.RUNNING and rollout.held is not None:
        return f"{phase}, waiting for a person"
    return phase


def _plain(text: str, longest: int) -> str:
    """One line of it without what cannot be printed."""
    flat = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return flat if len(flat) <= longest else flat[: longest - 1] + "…"
