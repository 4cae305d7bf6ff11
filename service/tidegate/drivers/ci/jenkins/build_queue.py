"""Older builds of a job that wait for a node, in Jenkins' queue. Pure.

The part of a pipeline that needs a node stands in the queue as a task of its own, whose `url` is the build's, relative to
Jenkins' root (`job/team/job/repo/12/`). Its `name` ("part of team » repo #12") is translated, and of display names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from tidegate.core.model import Build

#: What is asked of the queue.
TREE = "items[id,task[_class,url]]"
PLACEHOLDER_TASK = "org.jenkinsci.plugins.workflow.support.steps.ExecutorStepExecution$PlaceholderTask"


def find_obsolete_builds(queue: Mapping[str, Any], build: Build) -> tuple[int, ...]:
    """The numbers of the older builds of the same job of which a part waits in the queue.

    What is not surely one is left out: jobs that wait to begin, other tasks, those of old plugins without an address.
    """
    job = f"job/{'/job/'.join(build.job.split('/'))}"
    items = queue.get("items")
    numbers = {
        _build_number(item.get("task"), job)
        for item in (items if isinstance(items, list) else ())
        if isinstance(item, dict)
    }
    return tuple(sorted(number for number in numbers if 0 < number < build.number))


def _build_number(task: object, job: str) -> int:
    """Of the build of this job that a task is a part of; 0 when it is none."""
    if not isinstance(task, dict) or task.get("_class") != PLACEHOLDER_TASK:
        return 0
    address = re.fullmatch(r"(.+)/(\d{1,9})/?", str(task.get("url") or ""))
    return int(address[2]) if address and unquote(address[1]) == job else 0
