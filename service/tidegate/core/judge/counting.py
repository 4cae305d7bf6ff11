"""From raw samples to what happened inside a window. Pure.

Counters are differenced sample by sample. What a plain `last - first` or Prometheus' own `increase` gets wrong:

- a value that falls is a counter that started anew: all of the new value counts;
- a series that begins inside the window (a new server) began at 0: all of its first value counts, but only where the
  source was already collecting from the same target, else what came before the source looked would count too;
- a series that ends (a deleted server) counts up to its last sample;
- a series that was absent while others of its target were there began anew, even when its value is higher than before.

What one scrape brought has one time stamp, so the times of all series of a target together are the times of its scrapes.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tidegate.core.judge.questions import RESPONSES
from tidegate.core.judge.series import Labels, Series
from tidegate.core.judge.verdict import Time, Window

STALE_SECONDS = 30.0
STALE_SCRAPES = 3
BLOCKS = 12  # parts of a window, to see how unsteady errors are over time
FAILED_CODES = frozenset({"5xx"})

Target = tuple[tuple[str, str], ...]
Samples = tuple[tuple[Time, float], ...]

_OF_THE_SERVER = frozenset({"__name__", "proxy", "server", "code"})


def target(labels: Labels) -> Target:
    """Which scrape target (and replica of Prometheus) a series came from: every label that HAProxy did not set."""
    return tuple(sorted((name, value) for name, value in labels.items() if name not in _OF_THE_SERVER))


def finite(series: Series) -> Samples:
    """Its samples without NaN and Inf, oldest first."""
    return tuple(sorted((at, value) for at, value in series.samples if math.isfinite(value)))


@dataclass(frozen=True)
class Scrapes:
    """When each target was scraped, as far as the answers show."""

    times: Mapping[Target, tuple[Time, ...]]

    @classmethod
    def of(cls, answers: Iterable[Sequence[Series]]) -> Scrapes:
        """Read from all answers together: the more series, the surer."""
        found: dict[Target, set[Time]] = {}
        for series in (each for answer in answers for each in answer):
            found.setdefault(target(series.labels), set()).update(at for at, _ in series.samples)
        return cls({key: tuple(sorted(times)) for key, times in found.items()})

    def between(self, key: Target, after: Time, before: Time) -> bool:
        """Whether the target was scraped after one moment and before another."""
        times = self.times.get(key, ())
        place = bisect.bisect_right(times, after)
        return place < len(times) and times[place] < before

    def interval_seconds(self) -> float | None:
        """The usual time between two scrapes, of the slowest target; None when there were not two."""
        gaps = [
            statistics.median(later - earlier for earlier, later in pairwise(times))
            for times in self.times.values()
            if len(times) > 1
        ]
        return max(gaps, default=None)

    def stale_seconds(self) -> float:
        """How old the newest sample may be."""
        return max(STALE_SECONDS, STALE_SCRAPES * (self.interval_seconds() or 0.0))


def increases(series: Series, scrapes: Scrapes, window: Window) -> tuple[Samples, bool]:
    """How much a counter grew at each of its samples inside the window (start, end], and whether its beginning is known.

    Where the beginning is unknown, the first sample counts nothing: some of it may be older than the window.
    """
    key, grown, known = target(series.labels), [], True
    before: float | None = None
    there, anew = -math.inf, False  # when the series was last there, if only as NaN; whether it was absent since
    for at, value in sorted(series.samples):
        if at > window.end:
            break
        anew = anew or scrapes.between(key, there, at)
        there = at
        if not math.isfinite(value):
            continue
        if at > window.start:
            known = known and (before is not None or anew)
            grown.append((at, _step(before, value, anew)))
        before, anew = value, False
    return tuple(grown), known


def _step(before: float | None, value: float, anew: bool) -> float:
    """How much a counter grew from one sample to the next."""
    if anew or (before is not None and value < before):
        return value
    return 0.0 if before is None else value - before


@dataclass(frozen=True)
class Tally:
    """What happened on one side inside a window.

    `copies` is how many targets report the same server: two proxies, or one that is scraped twice, which cannot be told
    apart. Shares are not changed by it, but the counts may be that many times too high as evidence.
    """

    requests: float = 0.0
    failed: float = 0.0
    servers: frozenset[str] = frozenset()  # seen lately enough, by HAProxy's name
    copies: int = 1
    newest: Time | None = None  # of all samples up to the window's end; None: no sample at all inside it
    dropped: int = 0  # NaN and Inf among the samples
    cut: int = 0  # series whose first sample could not be counted
    blocks: tuple[tuple[float, float], ...] = field(default=())  # (requests, failed) in equal parts of the window

    @property
    def share(self) -> float:
        """Failed requests among all, in [0, 1]; NaN without requests."""
        return self.failed / self.requests if self.requests else math.nan

    @property
    def later_requests(self) -> float:
        """Those in the second half of the window."""
        return sum(requests for requests, _ in self.blocks[BLOCKS // 2 :])


def is_failed(labels: Labels) -> bool:
    """Whether a counter counts failed requests: 5xx, no connection, no or a broken answer."""
    return labels.get("__name__") != RESPONSES or labels.get("code") in FAILED_CODES


def tally(answer: Sequence[Series], scrapes: Scrapes, window: Window) -> Tally:
    """Count one side. HAProxy does not count its own 502 and 503 as responses of the server, so errors are added.

    An answer that broke off half-way is in both counters, and so counts as two requests, of which one failed.
    """
    requests, failed, cut = [0.0] * BLOCKS, [0.0] * BLOCKS, 0
    for series in answer:
        grown, known = increases(series, scrapes, window)
        cut += not known
        for at, value in grown:
            block = _block(at, window)
            requests[block] += value
            failed[block] += value if is_failed(series.labels) else 0.0
    return Tally(
        requests=sum(requests),
        failed=sum(failed),
        servers=_fresh_servers(answer, scrapes, window),
        copies=copies(answer),
        newest=newest(answer, window),
        dropped=dropped(answer, window),
        cut=cut,
        blocks=tuple(zip(requests, failed, strict=True)),
    )


def _block(at: Time, window: Window) -> int:
    """Which part of the window a moment of it falls into."""
    return min(BLOCKS - 1, int(BLOCKS * (at - window.start) / window.seconds)) if window.seconds > 0 else 0


def _fresh_servers(answer: Sequence[Series], scrapes: Scrapes, window: Window) -> frozenset[str]:
    oldest = window.end - scrapes.stale_seconds()
    return frozenset(
        series.labels.get("server", "") for series in answer if any(oldest <= at <= window.end for at, _ in series.samples)
    )


def newest(answer: Sequence[Series], window: Window) -> Time | None:
    """The newest finite sample inside the window."""
    return max((at for series in answer for at, _ in finite(series) if window.start < at <= window.end), default=None)


def dropped(answer: Sequence[Series], window: Window) -> int:
    """How many samples inside the window are NaN or Inf."""
    return sum(
        1
        for series in answer
        for at, value in series.samples
        if window.start < at <= window.end and not math.isfinite(value)
    )


def copies(answer: Sequence[Series]) -> int:
    """The largest number of targets that report one server; at least 1."""
    reporters: dict[str, set[Target]] = {}
    for series in answer:
        reporters.setdefault(series.labels.get("server", ""), set()).add(target(series.labels))
    return max((len(targets) for targets in reporters.values()), default=1)
