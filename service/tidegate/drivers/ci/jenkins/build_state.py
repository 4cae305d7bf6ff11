"""Whether a build is over, who ended it, and whom it asks, from its page in Jenkins' API. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tidegate.core.build import BuildState
from tidegate.drivers.ci.jenkins.inputs import asked_rollouts
from tidegate.text import single_line

#: The `tree` parameter of the request for a build.
TREE = "number,building,result,actions[_class,causes[_class,shortDescription,user[id]],executions[id,settled]]"
INTERRUPTED = "jenkins.model.InterruptedBuildAction"
ABORTED_BY = re.compile(r"Aborted by (\S.*)")  # the user id, where the cause has no user of its own
MAX_TEXT_CHARS = 200


def read_state(page: Mapping[str, Any], number: int) -> BuildState | None:
    """The state of the build. None if the page does not say: a build that Jenkins is loading has neither."""
    building, result = page.get("building"), page.get("result")
    if page.get("number") != number or not isinstance(building, bool):
        return None
    if building:
        return BuildState(is_running=True, asks_for=asked_rollouts(page))
    if not isinstance(result, str) or not result:
        return None
    texts, people = [], []
    for cause in _interruptions(page):
        text = single_line(str(cause.get("shortDescription") or ""), MAX_TEXT_CHARS)
        user, named = cause.get("user"), ABORTED_BY.fullmatch(text)
        texts.append(text)
        people.append(str(user["id"]) if isinstance(user, dict) and user.get("id") else named[1] if named else "")
    person = next(filter(None, people), "")
    return BuildState(False, result, "; ".join(filter(None, texts)), single_line(person, MAX_TEXT_CHARS))


def _interruptions(page: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Why the build was interrupted. Other actions have causes, too: why it was started."""
    actions = page.get("actions")
    for action in actions if isinstance(actions, list) else ():
        if isinstance(action, dict) and action.get("_class") == INTERRUPTED:
            causes = action.get("causes")
            yield from (cause for cause in (causes if isinstance(causes, list) else ()) if isinstance(cause, dict))
