"""Finds older builds of a job that wait for a node in Jenkins' queue. Pure.

A pipeline that waits for a node has a task in the queue whose `url` is the build's URL relative to Jenkins' root
(`job/team/job/repo/12/`). The task's `name` ("part of team » repo #12") is not used: it is translated and contains display
names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from tidegate.core.build import Build

#: The `tree` parameter of the request for the queue.
TREE = "items[id,task[_class,url]]"
PLACEHOLDER_TASK = "org.jenkinsci.plugins.workflow.support.steps.ExecutorStepExecution$PlaceholderTask"


def find_obsolete_builds(queue: Mapping[str, Any], build: Build) -> tuple[int, ...]:
    """The numbers of older builds of the same job that wait for a node.

    Other queue items are ignored: builds that have not started, other tasks, and tasks without a URL (old plugins).
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
    """The number of the job's build that the task belongs to; 0 if it belongs to none."""
    if not isinstance(task, dict) or task.get("_class") != PLACEHOLDER_TASK:
        return 0
    address = re.fullmatch(r"(.+)/(\d{1,9})/?", str(task.get("url") or ""))
    return int(address[2]) if address and unquote(address[1]) == job else 0
