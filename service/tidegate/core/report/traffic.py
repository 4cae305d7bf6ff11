"""Request counts of a rollout, from the cumulative counters in its events. Pure.

The counters of the proxy start at zero after a restart or reload: if a counter decreased, the counts of that batch are
unknown, and the report says so. (A restart goes unnoticed if the new counters have exceeded the old ones by the next
event.) The counters of the prober start with each engine; they are added up, without what an engine counted after its last
event.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tidegate.core.model import Event
from tidegate.core.probes import ProbeCounts, ProbeFailure, ProbeStats
from tidegate.core.routing import Traffic

NO_COUNTERS = "the proxy reported no counters"
NO_RELEASE_COUNTERS = "the proxy reported no counters by release"
COUNTERS_RESET = "the proxy was restarted or reloaded, so its counters were reset"
COUNTERS_LOST = "the proxy no longer reports this release"
NO_TRAFFIC = Traffic(0, 0, 0)


@dataclass(frozen=True, slots=True)
class EventCounters:
    """What one event carries. None: it does not, so it is not known."""

    traffic: Traffic | None = None
    by_release: Mapping[str, Traffic] | None = None
    probed: ProbeStats | None = None


@dataclass(frozen=True, slots=True)
class ReleaseTraffic:
    """The requests of one release. `counts` is None where they are not known; `unknown_reason` says why."""

    release: str
    counts: Traffic | None
    unknown_reason: str = ""


@dataclass(frozen=True, slots=True)
class ProbedCounts:
    """Requests of the prober; `by_release` of those whose answer named one, in the application's own words."""

    total: ProbeCounts
    by_release: Mapping[str, ProbeCounts] = field(default_factory=dict)


def read_counters(event: Event) -> EventCounters:
    """The counters in an event's data."""
    traffic = _read_traffic(event.data.get("traffic"))
    releases_data = event.data.get("by_release")
    releases: dict[str, Traffic] | None = None
    if isinstance(releases_data, Mapping):
        releases = {str(name): each for name, value in releases_data.items() if (each := _read_traffic(value)) is not None}
    elif traffic is not None and traffic.requests == 0:
        releases = {}  # none was sent to any
    return EventCounters(traffic, releases, _read_probe_stats(event.data.get("probed")))


def _read_traffic(data: object) -> Traffic | None:
    if not isinstance(data, Mapping):
        return None
    return Traffic(integer(data.get("requests")), integer(data.get("lost")), integer(data.get("errors")))


def _read_probe_stats(data: object) -> ProbeStats | None:
    if not isinstance(data, Mapping) or not isinstance(data.get("since"), int | float):
        return None
    releases, failures = data.get("by_release"), data.get("failures")
    return ProbeStats(
        since=float(data["since"]),
        total=_read_probe_counts(data),
        by_release={str(name): _read_probe_counts(release) for name, release in releases.items()}
        if isinstance(releases, Mapping)
        else {},
        failures=tuple(
            ProbeFailure(float(failure["at"]), str(failure["reason"]))
            for failure in failures
            if isinstance(failure, Mapping)
        )
        if isinstance(failures, list | tuple)
        else (),
    )


def _read_probe_counts(data: object) -> ProbeCounts:
    if not isinstance(data, Mapping):
        return ProbeCounts()
    return ProbeCounts(integer(data.get("requests")), integer(data.get("failed")), integer(data.get("slow")))


# -- the proxy's counters ---------------------------------------------------------------------------------------------


def traffic_difference(counters: Sequence[Traffic | None]) -> tuple[Traffic | None, str]:
    """What came between the first and the last, or why that is not known.

    `errors` alone may fall by a little without a restart: what counted as the application's may turn out to be lost.
    """
    known = [each for each in counters if each is not None]
    if counters[0] is None:
        return None, NO_COUNTERS
    if _was_reset(known):
        return None, COUNTERS_RESET
    first, last = known[0], known[-1]
    return Traffic(last.requests - first.requests, last.lost - first.lost, max(0, last.errors - first.errors)), ""


def _was_reset(known: Sequence[Traffic]) -> bool:
    return any(later.requests < earlier.requests or later.lost < earlier.lost for earlier, later in pairwise(known))


def sum_traffic(counts: Sequence[Traffic | None]) -> Traffic | None:
    """Of all; one that is not known makes the sum unknown."""
    known = [count for count in counts if count is not None]
    if not counts or len(known) < len(counts):
        return None
    return Traffic(
        sum(each.requests for each in known), sum(each.lost for each in known), sum(each.errors for each in known)
    )


def traffic_by_release(counters: Sequence[EventCounters], ours: Collection[str]) -> tuple[tuple[ReleaseTraffic, ...], str]:
    """What came for each release between the first and the last, or why nothing is known of any. Releases other than `ours`
    are left out where they got nothing."""
    if _was_reset([each.traffic for each in counters if each.traffic is not None]):
        return (), COUNTERS_RESET
    known = [each.by_release for each in counters if each.by_release is not None]
    if counters[0].by_release is None or any(each.traffic is not None and each.by_release is None for each in counters):
        return (), NO_RELEASE_COUNTERS
    names = sorted({name for each in known for name in each})
    result = [_release_traffic(name, [each.get(name) for each in known]) for name in names]
    return tuple(each for each in result if each.release in ours or each.counts != NO_TRAFFIC), ""


def _release_traffic(name: str, counters: Sequence[Traffic | None]) -> ReleaseTraffic:
    """A release that is not reported yet had no requests. One that disappears again makes the counts unknown."""
    begun = next(place for place, each in enumerate(counters) if each is not None)
    if None in counters[begun:]:
        return ReleaseTraffic(name, None, COUNTERS_LOST)
    counts, unknown = traffic_difference(counters if begun == 0 else [NO_TRAFFIC, *counters[begun:]])
    return ReleaseTraffic(name, counts, unknown)


def sum_releases(
    batches: Sequence[tuple[Sequence[ReleaseTraffic], str]],
) -> tuple[tuple[ReleaseTraffic, ...], str]:
    """Of all batches; one of which nothing is known makes the sum unknown."""
    unknown = next((reason for _, reason in batches if reason), "" if batches else NO_RELEASE_COUNTERS)
    if unknown:
        return (), unknown
    release_traffics: dict[str, list[ReleaseTraffic]] = {}
    for releases, _ in batches:
        for release in releases:
            release_traffics.setdefault(release.release, []).append(release)
    return tuple(
        ReleaseTraffic(
            name,
            sum_traffic([each.counts for each in them]),
            next((each.unknown_reason for each in them if each.unknown_reason), ""),
        )
        for name, them in sorted(release_traffics.items())
    ), ""


# -- the prober's -----------------------------------------------------------------------------------------------------


def probe_difference(last: ProbeStats | None, counters: Sequence[ProbeStats | None]) -> ProbedCounts | None:
    """What came after `last`, which the events before had; None where nobody probed. Another engine begins at nothing."""
    known = [each for each in counters if each is not None]
    if not known:
        return None
    total, releases = ProbeCounts(), dict[str, ProbeCounts]()
    for each in known:
        before = last if last is not None and last.since == each.since else ProbeStats(each.since)
        total = total.plus(each.total.minus(before.total))
        for name, counts in each.by_release.items():
            releases[name] = releases.get(name, ProbeCounts()).plus(
                counts.minus(before.by_release.get(name, ProbeCounts()))
            )
        last = each
    return ProbedCounts(total, {name: each for name, each in sorted(releases.items()) if each.requests})


def sum_probes(batches: Sequence[ProbedCounts | None]) -> ProbedCounts | None:
    """Of those batches that were probed."""
    known = [batch for batch in batches if batch is not None]
    if not known:
        return None
    total, releases = ProbeCounts(), dict[str, ProbeCounts]()
    for each in known:
        total = total.plus(each.total)
        for name, counts in each.by_release.items():
            releases[name] = releases.get(name, ProbeCounts()).plus(counts)
    return ProbedCounts(total, dict(sorted(releases.items())))


# -- data of events ---------------------------------------------------------------------------------------------------


def mapping(event: Event, name: str) -> Mapping[str, int]:
    """Counts by name; empty where the data have none."""
    result = event.data.get(name)
    return {str(key): integer(value) for key, value in result.items()} if isinstance(result, Mapping) else {}


def sequence(event: Event, name: str) -> Sequence[object]:
    """A list; empty where the data have none."""
    result = event.data.get(name)
    return list(result) if isinstance(result, list | tuple) else []


def integer(value: object) -> int:
    """A count; 0 for anything else."""
    return value if isinstance(value, int) else 0
