"""Rollouts and HAProxy's counters, made up for the judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tidegate.core.judge.questions import Answer, Failure, Question, Side
from tidegate.core.judge.series import Series
from tidegate.core.model import Backend, Check, CheckKind, Gate, Rollout, Step
from tidegate.core.phases import Phase

OLD, NEW = "v1-1", "v2-4"
SETTLED = 10_000.0


def check_of(check: str | Check) -> Check:
    """`errors` and `latency` by name, with their usual margins."""
    if isinstance(check, Check):
        return check
    return {
        "errors": Check("errors", CheckKind.ERRORS, margin=0.005),
        "latency": Check("latency", CheckKind.LATENCY, margin=0.2),
    }[check]


def rollout_of(*checks: str | Check, old: str | None = OLD, beside: bool = True, replicas: int = 1) -> Rollout:
    """A rollout in its judged step; `beside`: the old release still serves."""
    route = {NEW: replicas, **({old: 4} if old and beside else {})}
    return Rollout(
        id="r1",
        service="demo/shop",
        old=old,
        new=NEW,
        plan=(Step(route, route, Gate(60.0, judged=True)),),
        backend=Backend("shop"),
        created=0.0,
        phase=Phase.RUNNING,
        shifted=SETTLED - 1,
        settled=SETTLED,
        checks=tuple(check_of(check) for check in checks),
    )


Course = Callable[[float], tuple[float, float]]  # time -> (requests, failed) so far, cumulative


def labels(name: str, server: str, code: str = "", **more: str) -> dict[str, str]:
    """As HAProxy's exporter and Prometheus set them."""
    base = {"__name__": name, "proxy": "shop", "server": server, "job": "haproxy", "instance": "127.0.0.1:8405"}
    return {**base, **({"code": code} if code else {}), **more}


def server_of(release: str, ordinal: int = 0) -> str:
    """A server's name in HAProxy."""
    return f"{release}.{ordinal}.{ordinal:012x}"


def counters(server: str, times: list[float], course: Course, **more: str) -> tuple[Series, ...]:
    """2xx and 5xx of one server, scraped at these times."""
    name = "haproxy_server_http_responses_total"
    good = tuple((at, course(at)[0] - course(at)[1]) for at in times)
    bad = tuple((at, course(at)[1]) for at in times)
    return Series(labels(name, server, "2xx", **more), good), Series(labels(name, server, "5xx", **more), bad)


def answered(asked: tuple[Question, ...], sides: Mapping[Side, Answer]) -> dict[Question, Answer]:
    """Every question about a side gets that side's series, cut to what was asked for."""
    return {each: _cut(sides[each.side], each) for each in asked}


def _cut(answer: Answer, question: Question) -> Answer:
    if isinstance(answer, Failure):
        return answer
    window = question.window
    cut = (Series(each.labels, tuple(s for s in each.samples if window.start <= s[0] <= window.end)) for each in answer)
    return tuple(each for each in cut if each.samples)
