"""Requests by release and by the prober: from the events' data, differenced by batch."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from tidegate.cli.render import render_report
from tidegate.clock import Time
from tidegate.core.decisions import Move
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Event, Rollout
from tidegate.core.phases import Phase
from tidegate.core.probes import ProbeCounts, ProbeFailure, ProbeStats
from tidegate.core.report.build import Report, build_report
from tidegate.core.report.traffic import ReleaseTraffic, read_counters
from tidegate.core.routing import Backend, RouterState, Traffic
from tidegate.engine import events
from tidegate.web.views.report import ReportView, load_report

ROLLOUT = Rollout("r1", "demo/shop", "v1-1", "v2-2", (), Backend("shop"), 100.0, phase=Phase.SUCCEEDED, finished=130.0)
OLD, NEW = "v1-1", "v2-2"
Counts = tuple[int, int, int]


def event(
    kind: EventKind,
    at: Time,
    total: Counts | None = None,
    by: Mapping[str, Counts] | None = None,
    probed: ProbeStats | None = None,
) -> Event:
    """As the engine makes it and the database gives it back."""
    traffic = None if total is None else Traffic(*total)
    routed = RouterState(traffic=traffic, by_release={name: Traffic(*each) for name, each in (by or {}).items()})
    (made,) = events.with_probes([Event(kind, f"it {kind}", at, data=events.context_data(ROLLOUT, routed))], probed)
    return replace(made, data=json.loads(json.dumps(made.data)))


def told(*story: Event) -> Report:
    return build_report(ROLLOUT, story, ())


def rows(found: tuple[ReleaseTraffic, ...]) -> dict[str, Traffic | str]:
    return {each.release: each.counts or each.unknown_reason for each in found}


STORY = (
    event(EventKind.STEP_STARTED, 1.0, (100, 1, 2), {OLD: (100, 1, 2)}),
    event(EventKind.TRAFFIC_CONFIRMED, 2.0, (120, 1, 2), {OLD: (120, 1, 2)}),
    event(EventKind.STEP_READY, 3.0, (150, 1, 4), {OLD: (140, 1, 2), NEW: (10, 0, 2)}),
    event(EventKind.STEP_ADVANCED, 4.0, (250, 2, 8), {OLD: (200, 1, 3), NEW: (50, 1, 5)}),
    event(EventKind.STEP_STARTED, 4.1, (260, 2, 8), {OLD: (205, 1, 3), NEW: (55, 1, 5)}),
    event(EventKind.STEP_READY, 5.0, (300, 2, 9), {OLD: (210, 1, 3), NEW: (90, 1, 6)}),
    event(EventKind.SUCCEEDED, 6.0, (400, 2, 9), {OLD: (210, 1, 3), NEW: (190, 1, 6)}),
)


def test_each_batch_and_the_whole_have_their_requests_by_release() -> None:
    result = told(*STORY)
    first, second = result.steps
    assert rows(first.by_release) == {OLD: Traffic(100, 0, 1), NEW: Traffic(50, 1, 5)}
    assert rows(second.by_release) == {OLD: Traffic(10, 0, 0), NEW: Traffic(140, 0, 1)}, "from where the first batch ended"
    assert rows(result.by_release) == {OLD: Traffic(110, 0, 1), NEW: Traffic(190, 1, 6)}
    assert [batch.releases_unknown for batch in result.steps] == ["", ""]
    for batch in result.steps:
        known = [each.counts for each in batch.by_release if each.counts is not None]
        assert sum(each.requests for each in known) == batch.requests
        assert sum(each.lost for each in known) == batch.lost


def test_a_proxy_that_does_not_count_by_release_is_said_so() -> None:
    result = told(*(replace(each, data={**each.data, "by_release": None}) for each in STORY))
    assert "by_release" not in event(EventKind.STEP_READY, 1.0, (1, 0, 0)).data
    assert {batch.releases_unknown for batch in result.steps} == {"the proxy reported no counters by release"}
    assert (result.by_release, result.releases_unknown) == ((), "the proxy reported no counters by release")
    assert result.requests is not None, "the whole is known all the same"


def test_counts_by_release_that_are_lacking_in_one_event_are_not_known() -> None:
    result = told(*STORY[:2], event(EventKind.STEP_READY, 3.0, (150, 1, 4)), STORY[3])
    assert result.steps[0].releases_unknown == "the proxy reported no counters by release"


def test_a_first_deploy_begins_with_no_release_at_all() -> None:
    story = [event(EventKind.STEP_STARTED, 1.0, (0, 0, 0)), event(EventKind.STEP_READY, 2.0, (30, 0, 0), {NEW: (30, 0, 0)})]
    result = build_report(replace(ROLLOUT, old=None), story, ())
    assert rows(result.by_release) == {NEW: Traffic(30, 0, 0)}


def test_counters_that_began_anew_are_unknown_by_release_too() -> None:
    """Even where those of the new release look well, for they may be of after the restart only."""
    result = told(*STORY[:3], event(EventKind.STEP_ADVANCED, 4.0, (40, 0, 0), {NEW: (40, 0, 0)}), *STORY[4:5])
    first = result.steps[0]
    assert first.by_release == ()
    assert first.releases_unknown == "the proxy was restarted or reloaded, so its counters were reset"
    assert result.releases_unknown == first.releases_unknown, "a sum with an unknown in it is unknown"


def test_one_release_whose_counters_are_gone_is_unknown_alone() -> None:
    result = told(*STORY[:3], event(EventKind.STEP_ADVANCED, 4.0, (250, 2, 8), {NEW: (50, 1, 5)}))
    assert rows(result.steps[0].by_release) == {OLD: "the proxy no longer reports this release", NEW: Traffic(50, 1, 5)}
    assert rows(result.by_release)[OLD] == "the proxy no longer reports this release"


def test_one_release_whose_counter_fell_is_unknown_alone() -> None:
    result = told(*STORY[:3], event(EventKind.STEP_ADVANCED, 4.0, (250, 2, 8), {OLD: (3, 0, 0), NEW: (50, 1, 5)}))
    assert rows(result.steps[0].by_release)[NEW] == Traffic(50, 1, 5)
    assert "counters were reset" in str(rows(result.steps[0].by_release)[OLD])


def test_releases_of_long_ago_are_left_out() -> None:
    story = [event(each.kind, each.at, (9, 0, 0), {"v0-9": (9, 0, 0), OLD: (0, 0, 0)}) for each in STORY]
    assert rows(told(*story).by_release) == {OLD: Traffic(0, 0, 0)}


# -- the prober -------------------------------------------------------------------------------------------------------


def probed(since: Time, seen: int, failed: int = 0, slow: int = 0, **by: Counts) -> ProbeStats:
    failures = tuple(ProbeFailure(since + number, "answered 503") for number in range(failed))
    return ProbeStats(
        since, ProbeCounts(seen, failed, slow), {name: ProbeCounts(*each) for name, each in by.items()}, failures
    )


def with_probes(*counted: ProbeStats | None) -> list[Event]:
    kinds = (
        EventKind.STEP_STARTED,
        EventKind.STEP_READY,
        EventKind.STEP_ADVANCED,
        EventKind.STEP_STARTED,
        EventKind.STEP_READY,
        EventKind.SUCCEEDED,
    )
    return [event(kind, float(at), None, None, each) for at, (kind, each) in enumerate(zip(kinds, counted, strict=True))]


def test_probes_are_differenced_by_batch_and_none_falls_between_two() -> None:
    story = with_probes(
        probed(0.5, 2, v1=(2, 0, 0)),
        probed(0.5, 5, 1, v1=(4, 0, 0)),
        probed(0.5, 9, 1, 2, v1=(5, 0, 0), v2=(3, 0, 2)),
        probed(0.5, 10, 1, 2, v1=(5, 0, 0), v2=(4, 0, 2)),
        probed(0.5, 12, 1, 2, v1=(5, 0, 0), v2=(6, 0, 2)),
        probed(0.5, 20, 3, 2, v1=(5, 0, 0), v2=(12, 0, 2)),
    )
    result = told(*story)
    first, second = (batch.probed for batch in result.steps)
    assert first is not None
    assert second is not None
    assert (first.total, second.total) == (ProbeCounts(9, 1, 2), ProbeCounts(11, 2, 0))
    assert first.by_release == {"v1": ProbeCounts(5, 0, 0), "v2": ProbeCounts(3, 0, 2)}
    assert second.by_release == {"v2": ProbeCounts(9, 0, 0)}
    assert result.probed is not None
    assert (result.probed.total, result.probed.by_release["v2"]) == (ProbeCounts(20, 3, 2), ProbeCounts(12, 0, 2))
    assert [probe_failure.at for probe_failure in result.probe_failures] == [0.5, 1.5, 2.5], "each once"


def test_another_engine_counts_anew_and_is_added() -> None:
    story = with_probes(
        probed(0.5, 5), probed(0.5, 10, 1), probed(2.5, 4), probed(2.5, 5), probed(5.5, 3, 1), probed(5.5, 4, 1)
    )
    result = told(*story)
    assert [batch.probed and batch.probed.total for batch in result.steps] == [
        ProbeCounts(14, 1, 0),
        ProbeCounts(5, 1, 0),
    ]
    assert result.probed is not None
    assert result.probed.total == ProbeCounts(10 + 5 + 4, 2, 0)
    assert [probe_failure.at for probe_failure in result.probe_failures] == [0.5, 5.5]


def test_what_nobody_probed_is_not_known() -> None:
    result = told(*with_probes(None, None, None, probed(3.5, 1), None, probed(3.5, 7)))
    assert [batch.probed and batch.probed.total for batch in result.steps] == [None, ProbeCounts(7, 0, 0)]
    assert told(*with_probes(*[None] * 6)).probed is None


@pytest.mark.parametrize("junk", [None, 7, "text", {}, {"since": "now"}, {"since": 1.0, "by_release": 3, "failures": 4}])
def test_data_of_another_shape_are_read_as_far_as_they_go(junk: object) -> None:
    counters = read_counters(
        Event(EventKind.STEP_READY, "", 1.0, data={"traffic": junk, "by_release": junk, "probed": junk})
    )
    assert counters.probed is None or counters.probed == ProbeStats(1.0)


# -- as people see it -------------------------------------------------------------------------------------------------


def shown(*story: Event) -> tuple[dict[str, Any], str]:
    """As the API tells it, and as `tidegate report` prints it."""
    numbered = [replace(each, number=number) for number, each in enumerate(story, 1)]
    store: Any = SimpleNamespace(events=lambda rollout, after, limit: numbered[after:], verdicts=lambda rollout: ())
    answer = ReportView.model_validate(load_report(store, ROLLOUT)).model_dump(mode="json")
    out = io.StringIO()
    Console(file=out, width=150, no_color=True).print(render_report(answer))
    return answer, out.getvalue()


def test_the_report_tells_it_by_release() -> None:
    end = event(
        EventKind.SUCCEEDED, 6.0, (400, 2, 9), {OLD: (210, 1, 3), NEW: (190, 1, 6)}, probed(0.5, 20, 1, 2, v2=(12, 0, 2))
    )
    answer, text = shown(*STORY[:-1], end)
    assert answer["by_release"][0] == {"release": OLD, "requests": 110, "lost": 0, "errors": 1, "unknown_reason": ""}
    assert answer["probed"] == {
        "requests": 20,
        "failed": 1,
        "slow": 2,
        "by_release": {"v2": {"requests": 12, "failed": 0, "slow": 2}},
    }
    assert answer["probe_failures"] == [{"at": "1970-01-01T00:00:00.500Z", "reason": "answered 503"}]
    assert answer["steps"][0]["probed"] is None
    lines = text.splitlines()
    assert "v1-1: requests 110, lost 0, errors 1" in lines
    assert "v2-2: requests 190, lost 1, errors 6" in lines
    assert "v2: probes 12, 0 failed, 2 slow" in lines
    assert any(line.split() == ["of", "v2-2", "50", "1", "5", "–"] for line in lines)
    assert any("Probe failed: answered 503" in line for line in lines)


def test_the_report_says_what_is_not_known() -> None:
    answer, text = shown(event(EventKind.STEP_STARTED, 1.0, (5, 0, 0)), event(EventKind.SUCCEEDED, 2.0, (9, 0, 0)))
    assert answer["by_release"] == []
    assert answer["releases_unknown"] == "the proxy reported no counters by release"
    assert "by release: the proxy reported no counters by release" in text
    assert "not probed" in text


def test_probes_stand_where_the_proxys_counters_do() -> None:
    step, plain = (
        events.move(Move(Phase.RUNNING, "on"), ROLLOUT, RouterState(), 1.0),
        Event(EventKind.DRIVER_ERROR, "down", 1.0),
    )
    counted, alone = events.with_probes([step, plain], probed(0.5, 3))
    assert counted.data["probed"] == {"since": 0.5, "requests": 3, "failed": 0, "slow": 0, "by_release": {}, "failures": []}
    assert alone == plain
    assert events.with_probes([step, plain], None) == [step, plain]
