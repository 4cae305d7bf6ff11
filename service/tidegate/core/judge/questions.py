"""What is asked of the metrics before a verdict: for each check its questions about both sides. Pure.

    questions(rollout, window) -> the questions        (then the engine fetches each)
    judge(rollout, window, final, answers, now) -> the verdict

The ready-made checks ask for raw counters of HAProxy's exporter, never for `rate` or `increase`: those miss the first jump
of a new series, and so the first errors of a new instance. Each such question asks for `LOOKBACK_SECONDS` more than the
window that is judged: the last sample before the window is what the first one inside is compared with, and tells a
server that came inside the window from one that the source has only begun to watch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from tidegate.core.judge import promql
from tidegate.core.judge.series import Series
from tidegate.core.judge.verdict import Reason, Window
from tidegate.core.model import Check, CheckKind, Rollout

#: How much older than the window the raw samples are asked for: room for scrape intervals of up to a minute.
LOOKBACK_SECONDS = 120.0
#: A value has to be beyond its limit this often in a row before it fails a release.
LOOKS = 3

RESPONSES = "haproxy_server_http_responses_total"
CONNECTION_ERRORS = "haproxy_server_connection_errors_total"
RESPONSE_ERRORS = "haproxy_server_response_errors_total"
#: Not the *total* time: measured, that one also counts the pauses of clients that keep their connection open.
RESPONSE_TIME = "haproxy_server_response_time_average_seconds"

REQUESTS = "requests"  # part: counters of the `errors` check
TIMES = "times"  # part: counters and averages of the `latency` check
SAMPLES = "samples"  # part: the raw samples of a plain selector
VALUES = tuple(f"value {number}" for number in range(1, LOOKS + 1))  # parts: an expression at moments, oldest first


class Side(StrEnum):
    """Which release is asked about."""

    BASELINE = "baseline"  # the old one
    CANDIDATE = "candidate"  # the new one


@dataclass(frozen=True, slots=True)
class Question:
    """One query for the metrics source. `window` is what to fetch, wider than what is judged for raw counters."""

    check: str
    side: Side
    part: str
    query: str
    window: Window


@dataclass(frozen=True, slots=True)
class Failure:
    """The answer of a source that could not answer: why, and one sentence for people."""

    reason: Reason
    sentence: str


Answer = tuple[Series, ...] | Failure


def asked_checks(rollout: Rollout) -> tuple[Check, ...]:
    """The checks that can be asked: without an old release only those against fixed limits."""
    return tuple(check for check in rollout.checks if rollout.old is not None or check.is_limit)


def concurrent(rollout: Rollout) -> bool:
    """Whether the old release takes traffic in the present step, side by side with the new one."""
    return rollout.old is not None and rollout.old in rollout.step.route


def baseline_window(rollout: Rollout, window: Window) -> Window:
    """The same span for both sides; without a baseline beside it, as much time just before the proxy was switched."""
    if concurrent(rollout):
        return window
    switched = window.start if rollout.shifted is None else rollout.shifted
    return Window(switched - window.seconds, switched)


def comparable(rollout: Rollout, check: Check) -> bool:
    """Whether the two sides' answers can differ: side by side, only a query that mentions `$release` tells them apart."""
    if check.kind is not CheckKind.QUERY or check.is_limit or not concurrent(rollout):
        return True
    return "release" in promql.placeholders(check.query)


def spacing_seconds(rollout: Rollout, window: Window) -> float:
    """Seconds between the moments at which an expression is asked: a look apart, closer in a window too short for that."""
    return min(rollout.policy.look_seconds, window.seconds / LOOKS)


def questions(rollout: Rollout, window: Window) -> tuple[Question, ...]:
    """All that has to be asked to judge the present step over this window."""
    return tuple(question for check in asked_checks(rollout) for question in questions_of(rollout, check, window))


def questions_of(rollout: Rollout, check: Check, window: Window) -> tuple[Question, ...]:
    """The questions of one check; none when its two sides could not be told apart."""
    if not comparable(rollout, check):
        return ()
    asked = list(_about(rollout, check, Side.CANDIDATE, window, rollout.new))
    if rollout.old is not None and not check.is_limit:
        asked += _about(rollout, check, Side.BASELINE, baseline_window(rollout, window), rollout.old)
    return tuple(asked)


def _about(rollout: Rollout, check: Check, side: Side, window: Window, release: str) -> tuple[Question, ...]:
    """The questions of one check about one release."""
    if check.kind is CheckKind.QUERY:
        return _own(rollout, check, side, window, release)
    wide = Window(window.start - LOOKBACK_SECONDS, window.end)
    names: tuple[str, ...]
    if check.kind is CheckKind.ERRORS:
        names, part = (RESPONSES, CONNECTION_ERRORS, RESPONSE_ERRORS), REQUESTS
    else:
        names, part = (RESPONSES, RESPONSE_TIME), TIMES
    return (Question(check.name, side, part, servers(names, rollout.backend.name, release), wide),)


def servers(names: tuple[str, ...], proxy: str, release: str) -> str:
    """A selector for metrics of all servers of a release: HAProxy knows them as `<release>.<ordinal>.<instance>`.

    One query for several metrics, so that they are of the same scrapes.
    """
    server = promql.literal(release) + r"\.[0-9]+\.[a-z0-9]+"
    metric = "|".join(names)
    return f"{{__name__=~{promql.quoted(metric)},proxy={promql.quoted(proxy)},server=~{promql.quoted(server)}}}"


def _own(rollout: Rollout, check: Check, side: Side, window: Window, release: str) -> tuple[Question, ...]:
    """The user's PromQL: a plain selector once over the window, an expression at the last few moments of it."""
    if promql.is_selector(check.query):
        query = _filled(rollout, check.query, window, release)
        return (Question(check.name, side, SAMPLES, query, window),)
    spacing = spacing_seconds(rollout, window)
    spans = [Window(window.start, window.end - spacing * back) for back in range(LOOKS - 1, -1, -1)]
    return tuple(
        Question(check.name, side, part, _filled(rollout, check.query, span, release), span)
        for part, span in zip(VALUES, spans, strict=True)
    )


def _filled(rollout: Rollout, query: str, window: Window, release: str) -> str:
    """`$service` is the Compose name of the service, `$window` whole seconds, at least one."""
    name = rollout.service.rpartition("/")[2]
    return promql.filled(query, {"release": release, "service": name, "window": f"{_seconds(window)}s"})


def _seconds(window: Window) -> int:
    return max(1, math.ceil(window.seconds))
