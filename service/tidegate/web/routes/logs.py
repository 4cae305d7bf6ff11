"""The route of logs: the last lines of all instances of a service, and those that follow."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence

from flask import Response

from tidegate.clock import Time
from tidegate.core.logs import InstanceLog
from tidegate.core.model import Instance
from tidegate.errors import InvalidSpec, Problem
from tidegate.ports import Platform
from tidegate.text import escape
from tidegate.web.api import api, principal, respond
from tidegate.web.errors import INVALID_REQUEST, ApiProblem
from tidegate.web.log_followers import POLL_SECONDS
from tidegate.web.openapi import blueprint, problems
from tidegate.web.parameters import LogsQuery, ServicePath
from tidegate.web.views.logs import LogLineView, LogNoteView, LogsView

bp = blueprint("logs", "What instances write to standard output and standard error.")
MAX_LINES = 2000  # in one response, of all instances together
MIN_LINES = 10  # of each instance
MAX_INSTANCES = 100  # read at a time: their positions must fit into a URL
MAX_CURSOR_BYTES = 16_384
NANOSECONDS = 1_000_000_000


@bp.get("/services/<environment>/<service>/logs", responses={"200": LogsView, **problems(404, 502)})
def read_logs(path: ServicePath, query: LogsQuery) -> Response:
    """The last lines of the logs of all instances; with `after`, those that follow.

    With `wait`, the response comes when there is a line, at the latest after so many seconds. No line is returned twice.
    """
    principal().require("logs", path.key)
    platform = api().drivers(path.environment).platform
    row, after = api().store.get_service(path.key), _decode(query.after)

    def read() -> LogsView:
        instances = _choose(platform, path.key, row.service.policy.max_restarts, query)
        lines = query.lines if not after else max(MIN_LINES, MAX_LINES // max(1, len(instances)))
        return _view(instances, platform.read_logs(instances, after, min(lines, MAX_LINES)), after)

    if not query.wait:
        return respond(read())
    deadline, slots = api().now() + query.wait, api().long_poll_slots
    with api().log_followers.acquire(principal().token.id), slots.acquire():
        view = read()
        while not view.lines and not _is_over(deadline):
            slots.stopping.wait(POLL_SECONDS)
            view = read()
    return respond(view)


def _is_over(deadline: Time) -> bool:
    return api().now() >= deadline or api().long_poll_slots.stopping.is_set()


def _choose(platform: Platform, service: str, max_restarts: int, query: LogsQuery) -> list[Instance]:
    """The instances that are asked for. Raises `InvalidSpec` if there are too many."""
    chosen = [
        instance
        for instance in platform.instances(service, max_restarts)
        if query.release in ("", instance.release) and query.instance in ("", instance.id)
    ]
    if len(chosen) > MAX_INSTANCES:
        text = f"found {len(chosen)} instances; at most {MAX_INSTANCES} are read: name a release or an instance"
        raise InvalidSpec([Problem("release", text)])
    return chosen


def _view(instances: Sequence[Instance], logs: Sequence[InstanceLog], after: Mapping[str, int]) -> LogsView:
    known = {instance.id: instance for instance in instances}
    lines = sorted((line.at_ns, log.instance, line.text) for log in logs for line in log.lines)
    position = {log.instance: log.lines[-1].at_ns if log.lines else after.get(log.instance, 0) for log in logs}
    return LogsView(
        lines=[
            LogLineView(
                at=at / NANOSECONDS,
                instance=instance,
                release=known[instance].release,
                ordinal=known[instance].ordinal,
                text=escape(text),
            )
            for at, instance, text in lines
        ],
        missing=[
            LogNoteView(instance=log.instance, release=one.release, ordinal=one.ordinal, message=message)
            for log in logs
            if (message := log.problem or ("lines were left out: too many since the last request" if log.skipped else ""))
            and (one := known[log.instance])
        ],
        next=_encode({instance: at for instance, at in position.items() if at}),
    )


def _encode(position: Mapping[str, int]) -> str:
    """The positions in the logs as text. Clients must treat it as opaque."""
    return base64.urlsafe_b64encode(zlib.compress(json.dumps(position).encode(), 9)).decode().rstrip("=")


def _decode(after: str) -> dict[str, int]:
    """The positions in the logs by instance; empty for the first request. Raises `ApiProblem` for what is no position."""
    if not after:
        return {}
    try:
        packed = base64.urlsafe_b64decode(after + "=" * (-len(after) % 4))
        text = zlib.decompressobj().decompress(packed, MAX_CURSOR_BYTES)
        position = json.loads(text)
        return {str(instance): int(at) for instance, at in position.items()}
    except (ValueError, TypeError, AttributeError, zlib.error) as error:
        text_ = "invalid position; send `next` of the previous response unchanged"
        places = [{"in": "query", "pointer": "/after", "path": "after", "detail": text_}]
        raise ApiProblem(INVALID_REQUEST, f"after: {text_}", places) from error
