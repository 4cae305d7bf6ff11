"""Raw counters to what happened in each interval to each instance. Pure.

What a plain `last - first` or Prometheus' own `increase` gets wrong:

- a value that falls is a counter that started anew: all of the new value counts;
- a series that begins while its target was already scraped (a new server) began at 0: all of its first value counts;
- a series that was absent while others of its target were there began anew, even when its value is higher than before;
- a target that was not scraped for a while loses nothing: the next sample has it all, and is counted when it was taken.

What one scrape brought has one time stamp, so the times of all series of a target together are the times of its scrapes.
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

#: Set by the exporters, and not by Prometheus: what differs between series of one target.
EXPORTER_LABELS = frozenset({"__name__", "proxy", "server", "code", "le"})


@dataclass(frozen=True, slots=True)
class Increase:
    """By how much a counter grew, known at a moment; since the scrape before."""

    labels: Labels
    at: Time
    amount: float


@dataclass
class _ScrapeTarget:
    """One scrape target, or one replica of Prometheus: when it was scraped last, and the value of each series then; NaN
    where it is not known."""

    last_scrape: Time = -math.inf
    recent_scrapes: deque[Time] = field(default_factory=lambda: deque(maxlen=REMEMBERED_SCRAPES))
    series: dict[Key, tuple[Time, float]] = field(default_factory=dict)


class Counters:
    """Differences counters, however their samples are handed over; those that are known already are passed over."""

    def __init__(self) -> None:
        self._targets: dict[Target, _ScrapeTarget] = {}
        self.dropped = 0  # samples that were not numbers
        self.uncountable = 0  # series whose first sample could not be counted

    def add(self, found: Sequence[Series]) -> Iterator[Increase]:
        """What grew, in the order of time for each target. Each is divided among the targets that report the same server,
        which may be one that is scraped twice: shares stay right, and evidence is never counted twice."""
        copies = self._copies(found)
        by_target: dict[Target, list[Series]] = {}
        for series in found:
            by_target.setdefault(target_of(series.labels), []).append(series)
        for key, group in by_target.items():
            there = self._targets.setdefault(key, _ScrapeTarget())
            for labels, at, amount in self._differences(there, group):
                yield Increase(labels, at, amount / copies)

    @staticmethod
    def _copies(found: Iterable[Series]) -> int:
        """How many report the same instance. An application's labels are not known, so series of the same scrape are told
        by its time: those of another target, or replica, were scraped at another one."""
        reporters: dict[Hashable, set[Hashable]] = {}
        for series in found:
            labels, newest = series.labels, series.samples[-1][0] if series.samples else None
            reporter = target_of(labels) if "server" in labels else newest
            reporters.setdefault(labels.get("server") or _instance_name(labels), set()).add(reporter)
        return max((len(reporter) for reporter in reporters.values()), default=1)

    def _differences(self, there: _ScrapeTarget, group: Iterable[Series]) -> Iterator[tuple[Labels, Time, float]]:
        scrapes: dict[Time, list[tuple[Key, Labels, float]]] = {}
        for series in group:
            key = tuple(sorted(series.labels.items()))
            for at, value in series.samples:
                if at > there.last_scrape:
                    scrapes.setdefault(at, []).append((key, series.labels, value))
        for at in sorted(scrapes):
            for key, labels, value in scrapes[at]:
                amount = self._increase(there, key, value)
                there.series[key] = (at, value if math.isfinite(value) else self._previous(there, key)[1])
                if amount:
                    yield labels, at, amount
            there.last_scrape = at
            there.recent_scrapes.append(at)

    def _increase(self, there: _ScrapeTarget, key: Key, value: float) -> float:
        if not math.isfinite(value):
            self.dropped += 1
            return 0.0
        at, before = self._previous(there, key)
        if at != there.last_scrape or value < before:
            return value
        if math.isnan(before):
            self.uncountable += 1
            return 0.0
        return value - before

    @staticmethod
    def _previous(there: _ScrapeTarget, key: Key) -> tuple[Time, float]:
        """A series' last number, and when it was last there; one that begins while its target was known began at 0."""
        began = 0.0 if there.last_scrape > -math.inf else math.nan
        return there.series.get(key, (there.last_scrape, began))

    @property
    def interval_seconds(self) -> float | None:
        """The usual time between two scrapes, of the slowest target; None when there were not two."""
        gaps = [
            statistics.median(later - earlier for earlier, later in pairwise(there.recent_scrapes))
            for there in self._targets.values()
            if len(there.recent_scrapes) > 1
        ]
        return max(gaps, default=None)

    @property
    def last_scrape(self) -> Time | None:
        """The newest scrape of any target."""
        return max((there.last_scrape for there in self._targets.values()), default=None)

    def complete_until(self, now: Time) -> Time:
        """Up to when all is known: the oldest of the targets' newest scrapes; one that went stale is not waited for."""
        fresh = [there.last_scrape for there in self._targets.values() if now - there.last_scrape <= self.stale_seconds]
        return min(fresh, default=-math.inf)

    @property
    def stale_seconds(self) -> float:
        """How old the newest sample may be."""
        return max(STALE_SECONDS, STALE_SCRAPES * (self.interval_seconds or 0.0))


def target_of(labels: Labels) -> Target:
    """Which scrape target (and replica of Prometheus) a series came from: every label that no exporter set."""
    return tuple(sorted((name, value) for name, value in labels.items() if name not in EXPORTER_LABELS))


@dataclass
class InstanceColumn:
    """An instance among those that are compared, with when it was first and last seen in the metrics."""

    release: str
    ordinal: int
    first_seen: Time
    last_seen: Time


class InstanceIndex:
    """Gives each instance its place, by the server's name in the proxy or by the labels `release` and `ordinal`."""

    def __init__(self, releases: Iterable[str]) -> None:
        self._releases = frozenset(releases)
        self._indexes: dict[tuple[str, str, str], int] = {}
        self.columns: list[InstanceColumn] = []

    def index_of(self, labels: Labels) -> int | None:
        """Where it stands; None for what is of no release that is judged."""
        name = _instance_name(labels)
        if name is None or name[0] not in self._releases:
            return None
        if name not in self._indexes:
            self._indexes[name] = len(self.columns)
            self.columns.append(InstanceColumn(name[0], int(name[1]), math.inf, -math.inf))
        return self._indexes[name]

    def add(self, found: Iterable[Series]) -> None:
        """Note when each was there; also without traffic."""
        for series in found:
            place = self.index_of(series.labels)
            if place is not None and series.samples:
                column = self.columns[place]
                column.first_seen = min(column.first_seen, series.samples[0][0])
                column.last_seen = max(column.last_seen, series.samples[-1][0])


def _instance_name(labels: Mapping[str, str]) -> tuple[str, str, str] | None:
    own = [labels.get("release", ""), labels.get("ordinal", ""), ""]
    parts = labels["server"].split(".") if "server" in labels else own
    if len(parts) != 3 or not parts[1].isdecimal():
        return None
    return parts[0], parts[1], parts[2]


class IntervalSums:
    """Amounts by interval and instance: `slots` kinds of amounts, intervals of `interval_seconds` seconds from `origin`
    on."""

    def __init__(self, origin: Time, dt: float) -> None:
        self.origin, self.interval_seconds = origin, dt
        self._open: dict[int, dict[tuple[str, int], float]] = {}
        self._next = 0

    def add(self, at: Time, slot: str, place: int, amount: float) -> None:
        """An amount that is known at a moment; what came before the origin, or too late for its interval, is left out."""
        number = math.ceil((at - self.origin) / self.interval_seconds) - 1
        if number >= self._next:
            cell = self._open.setdefault(number, {})
            cell[slot, place] = cell.get((slot, place), 0.0) + amount

    def open_sums(self) -> Mapping[tuple[str, int], float]:
        """The sums of all intervals that were not handed out yet."""
        result: dict[tuple[str, int], float] = {}
        for cell in self._open.values():
            for key, amount in cell.items():
                result[key] = result.get(key, 0.0) + amount
        return result

    def pop_ended(self, until: Time) -> Iterator[tuple[Time, Mapping[tuple[str, int], float]]]:
        """Each interval that is over, with its beginning; empty ones too."""
        while self.origin + (self._next + 1) * self.interval_seconds <= until + 1e-9:
            number, self._next = self._next, self._next + 1
            yield self.origin + number * self.interval_seconds, self._open.pop(number, {})
