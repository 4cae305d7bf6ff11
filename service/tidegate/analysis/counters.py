"""From raw counters to increases per interval and instance. Pure.

It handles what a plain `last - first` or the `increase` of Prometheus gets wrong:

- A value that falls means that the counter was reset: all of the new value counts.
- A series that begins while its target was already scraped (a new server) began at 0: all of its first value counts.
- A series that was absent while others of its target were present was reset, even if its value is higher than before.
- A target that was not scraped for a while loses nothing: the next sample has the whole increase, counted at its time.

All samples of a scrape have the same timestamp, so the timestamps of all series of a target are the times of its scrapes.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tidegate.analysis.queries import Labels, Series
from tidegate.clock import Time

STALE_SECONDS = 30.0
STALE_SCRAPES = 3
REMEMBERED_SCRAPES = 32

Target = tuple[tuple[str, str], ...]
Key = tuple[tuple[str, str], ...]

#: Labels set by the exporters, not by Prometheus: they differ between the series of one target.
EXPORTER_LABELS = frozenset({"__name__", "proxy", "server", "code", "le"})


@dataclass(frozen=True, slots=True)
class Increase:
    """By how much a counter grew between the scrape at `at` and the one before."""

    labels: Labels
    at: Time
    amount: float


@dataclass
class _ScrapeTarget:
    """A scrape target, or a replica of Prometheus: its last scrape, and the last value of each series with its time; NaN if
    unknown."""

    last_scrape: Time = -math.inf
    recent_scrapes: deque[Time] = field(default_factory=lambda: deque(maxlen=REMEMBERED_SCRAPES))
    series: dict[Key, tuple[Time, float]] = field(default_factory=dict)


class Counters:
    """Computes the increases of counters. Samples that are known already are skipped."""

    def __init__(self) -> None:
        self._targets: dict[Target, _ScrapeTarget] = {}
        self.dropped = 0  # samples that are NaN or infinite
        self.uncountable = 0  # series whose first sample has no known predecessor

    def add(self, batch: Sequence[Series]) -> Iterator[Increase]:
        """The increases, ordered by time for each target. Each is divided by the number of targets that report the same
        server, since it may be one target scraped twice: shares stay correct, and no request counts as evidence twice."""
        copies = self._copies(batch)
        by_target: dict[Target, list[Series]] = {}
        for series in batch:
            by_target.setdefault(target_of(series.labels), []).append(series)
        for key, group in by_target.items():
            target = self._targets.setdefault(key, _ScrapeTarget())
            for labels, at, amount in self._differences(target, group):
                yield Increase(labels, at, amount / copies)

    @staticmethod
    def _copies(batch: Iterable[Series]) -> int:
        """How many targets report the same instance. The labels of an application are unknown, so its series belong to the
        same scrape if they have the same time: another target, or replica, is scraped at another time."""
        reporters: dict[Hashable, set[Hashable]] = {}
        for series in batch:
            labels, newest = series.labels, series.samples[-1][0] if series.samples else None
            reporter = target_of(labels) if "server" in labels else newest
            reporters.setdefault(labels.get("server") or _instance_name(labels), set()).add(reporter)
        return max((len(names) for names in reporters.values()), default=1)

    def _differences(self, target: _ScrapeTarget, group: Iterable[Series]) -> Iterator[tuple[Labels, Time, float]]:
        scrapes: dict[Time, list[tuple[Key, Labels, float]]] = {}
        for series in group:
            key = tuple(sorted(series.labels.items()))
            for at, value in series.samples:
                if at > target.last_scrape:
                    scrapes.setdefault(at, []).append((key, series.labels, value))
        for at in sorted(scrapes):
            for key, labels, value in scrapes[at]:
                amount = self._increase(target, key, value)
                target.series[key] = (at, value if math.isfinite(value) else self._previous(target, key)[1])
                if amount:
                    yield labels, at, amount
            target.last_scrape = at
            target.recent_scrapes.append(at)

    def _increase(self, target: _ScrapeTarget, key: Key, value: float) -> float:
        if not math.isfinite(value):
            self.dropped += 1
            return 0.0
        at, before = self._previous(target, key)
        if at != target.last_scrape or value < before:
            return value
        if math.isnan(before):
            self.uncountable += 1
            return 0.0
        return value - before

    @staticmethod
    def _previous(target: _ScrapeTarget, key: Key) -> tuple[Time, float]:
        """The last sample of a series; one that begins after the first scrape of its target began at 0."""
        initial = 0.0 if target.last_scrape > -math.inf else math.nan
        return target.series.get(key, (target.last_scrape, initial))

    @property
    def interval_seconds(self) -> float | None:
        """The median time between two scrapes of the slowest target; None before its second scrape."""
        gaps = [
            statistics.median(later - earlier for earlier, later in pairwise(target.recent_scrapes))
            for target in self._targets.values()
            if len(target.recent_scrapes) > 1
        ]
        return max(gaps, default=None)

    @property
    def last_scrape(self) -> Time | None:
        """The newest scrape of all targets."""
        return max((target.last_scrape for target in self._targets.values()), default=None)

    def complete_until(self, now: Time) -> Time:
        """The time until which data is complete: the oldest of the last scrapes of all targets that are not stale."""
        scrapes = [target.last_scrape for target in self._targets.values()]
        return min((at for at in scrapes if now - at <= self.stale_seconds), default=-math.inf)

    @property
    def stale_seconds(self) -> float:
        """The maximum age of the newest sample."""
        return max(STALE_SECONDS, STALE_SCRAPES * (self.interval_seconds or 0.0))


def target_of(labels: Labels) -> Target:
    """The scrape target (and replica of Prometheus) of a series: all labels not set by an exporter."""
    return tuple(sorted((name, value) for name, value in labels.items() if name not in EXPORTER_LABELS))


@dataclass
class InstanceColumn:
    """A compared instance, with the times of its first and last sample."""

    release: str
    ordinal: int
    first_seen: Time
    last_seen: Time


class InstanceIndex:
    """Assigns each instance an index, by its server name in the proxy or by the labels `release` and `ordinal`."""

    def __init__(self, releases: Iterable[str]) -> None:
        self._releases = frozenset(releases)
        self._indexes: dict[tuple[str, str, str], int] = {}
        self.columns: list[InstanceColumn] = []

    def index_of(self, labels: Labels) -> int | None:
        """The index of the instance of a series; None if it belongs to no compared release."""
        name = _instance_name(labels)
        if name is None or name[0] not in self._releases:
            return None
        if name not in self._indexes:
            self._indexes[name] = len(self.columns)
            self.columns.append(InstanceColumn(name[0], int(name[1]), math.inf, -math.inf))
        return self._indexes[name]

    def add(self, batch: Iterable[Series]) -> None:
        """Record when each instance has samples, also without traffic."""
        for series in batch:
            index = self.index_of(series.labels)
            if index is not None and series.samples:
                column = self.columns[index]
                column.first_seen = min(column.first_seen, series.samples[0][0])
                column.last_seen = max(column.last_seen, series.samples[-1][0])


def _instance_name(labels: Mapping[str, str]) -> tuple[str, str, str] | None:
    without_server = [labels.get("release", ""), labels.get("ordinal", ""), ""]
    parts = labels["server"].split(".") if "server" in labels else without_server
    if len(parts) != 3 or not parts[1].isdecimal():
        return None
    return parts[0], parts[1], parts[2]


class IntervalSums:
    """Sums of amounts by interval, slot (kind of amount) and instance, in intervals of `interval_seconds` from `origin`."""

    def __init__(self, origin: Time, dt: float) -> None:
        self.origin, self.interval_seconds = origin, dt
        self._open: dict[int, dict[tuple[str, int], float]] = {}
        self._next = 0

    def add(self, at: Time, slot: str, instance: int, amount: float) -> None:
        """Add an amount at a time. Ignored before the origin, and in intervals that were returned already."""
        number = math.ceil((at - self.origin) / self.interval_seconds) - 1
        if number >= self._next:
            cell = self._open.setdefault(number, {})
            cell[slot, instance] = cell.get((slot, instance), 0.0) + amount

    def open_sums(self) -> Mapping[tuple[str, int], float]:
        """The sums over all intervals that were not returned yet."""
        sums: dict[tuple[str, int], float] = {}
        for cell in self._open.values():
            for key, amount in cell.items():
                sums[key] = sums.get(key, 0.0) + amount
        return sums

    def pop_ended(self, until: Time) -> Iterator[tuple[Time, Mapping[tuple[str, int], float]]]:
        """The start and the sums of each interval that has ended, also of empty ones."""
        while self.origin + (self._next + 1) * self.interval_seconds <= until + 1e-9:
            number, self._next = self._next, self._next + 1
            yield self.origin + number * self.interval_seconds, self._open.pop(number, {})
