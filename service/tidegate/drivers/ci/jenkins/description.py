"""The line about a rollout in the description of the build that requested it. Pure.

Other lines of the description, of people and of other rollouts, are kept. Where Jenkins renders safe HTML, the line has a
link. Names and reasons are always escaped, since an administrator may change what Jenkins renders.
"""

from __future__ import annotations

import html
import re

from tidegate.core.model import Rollout
from tidegate.core.phases import Phase
from tidegate.drivers.ci.jenkins.markup import Markup
from tidegate.text import single_line

MAX_NAME_CHARS, MAX_REASON_CHARS, MAX_LINK_CHARS = 128, 200, 300  # before escaping


def format_line(rollout: Rollout, reason: str, link: str, markup: Markup) -> str:
    """`Tidegate: demo/shop v2-4 rolling back (FAIL): reason, http://…`; as HTML, the name of the release is the link."""
    name, link = _release_name(rollout), single_line(link, MAX_LINK_CHARS)
    outcome = f" ({rollout.verdict.outcome.value})" if rollout.verdict is not None else ""
    text = f" {_format_phase(rollout)}{outcome}"
    text += f": {single_line(reason, MAX_REASON_CHARS)}" if reason else ""
    if markup is Markup.HTML and link:
        return f'<div>Tidegate: <a href="{html.escape(link)}">{html.escape(name)}</a>{html.escape(text)}</div>'
    return html.escape(f"Tidegate: {name}{text}" + (f", {link}" if link else ""), quote=False)


def replace_line(description: str, rollout: Rollout, new: str) -> str:
    """The description with the rollout's line replaced, or added at the end."""
    name, lines, done = _release_name(rollout), [], False
    names = "|".join(map(re.escape, sorted({html.escape(name), html.escape(name, quote=False)})))
    ours = re.compile(rf'(<div>)?Tidegate: (<a href="[^"]*">)?({names})(</a>)? ')
    for existing in description.split("\n") if description else []:
        if not ours.match(existing):
            lines.append(existing)
        elif not done:
            lines.append(new)
            done = True
    return "\n".join(lines if done else [*lines, new])


def _release_name(rollout: Rollout) -> str:
    """Unique among the lines of a build, which has at most one rollout to a release."""
    return f"{single_line(rollout.service, MAX_NAME_CHARS)} {single_line(rollout.new, MAX_NAME_CHARS)}"


def _format_phase(rollout: Rollout) -> str:
    phase = rollout.phase.value.replace("_", " ")
    if rollout.paused and rollout.phase.live:
        return f"{phase}, paused"
    if rollout.phase is Phase.RUNNING and rollout.approval_since is not None:
        return f"{phase}, waiting for a person"
    return phase
