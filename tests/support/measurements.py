"""Synthetic rollouts, HAProxy counters and measurements for the analysis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tidegate.analysis.analysis import CanaryAnalysis
from tidegate.analysis.measurement import InstanceSample, Measurement
from tidegate.analysis.queries import RESPONSES, Query, QueryFailure, QueryPurpose, QueryResult, Series
from tidegate.analysis.verdict import Verdict
from tidegate.core.model import (
    Check,
    CheckKind,
    Policy,
    Rollout,
)
from tidegate.core.phases import Phase
from tidegate.core.plan import Gate, Step
from tidegate.core.routing import Backend

OLD, NEW = "v1-1", "v2-4"
ORIGIN = 1_000_000.0  # when the new release was first routed
POLICY = Policy(interval_seconds=5.0, warmup_seconds=10.0)
ERRORS = Check("errors", CheckKind.ERRORS)
LATENCY = Check("latency", CheckKind.LATENCY)


def rollout_of(
    *checks: Check, old: str | None = OLD, steps: int = 1, concurrent: bool = True, olds: int = 4, policy: Policy = POLICY
) -> Rollout:
    """A rollout analysed in each of `steps`, each with one more new instance; `concurrent`: the old one takes traffic."""
    plan = []
    for number in range(steps):
        route = {NEW: number + 1, **({old: olds - number} if old and concurrent else {})}
        plan.append(Step(route, route, Gate(60.0, analyzed=True)))
    return Rollout(
        id="r1", service="demo/shop", old=old, new=NEW, plan=tuple(plan), backend=Backend("shop"), created=0.0,
        phase=Phase.RUNNING, traffic_confirmed_at=ORIGIN, step_ready_at=ORIGIN, checks=checks, policy=policy,
    )  # fmt: skip


def server_of(release: str, ordinal: int = 0) -> str:
    """A server's name in HAProxy."""
    return f"{release}.{ordinal}.{ordinal:012x}"


@dataclass
class FakeMetricsSource:
    """What a Prometheus would answer: HAProxy's counters, written scrape by scrape."""

    series: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = field(default_factory=dict)
    down: QueryFailure | None = None

    def scrape(self, at: float, counts: dict[str, tuple[float, float]], **more: str) -> None:
        """Each server's requests and failed requests so far."""
        for server, (requests, failed) in counts.items():
            for code, value in (("2xx", requests - failed), ("5xx", failed)):
                labels = {"__name__": RESPONSES, "proxy": "shop", "server": server, "code": code, "job": "haproxy", **more}
                self.add(at, labels, value)

    def add(self, at: float, labels: dict[str, str], value: float) -> None:
        """One sample."""
        self.series.setdefault(tuple(sorted(labels.items())), []).append((at, value))

    def answer(self, question: Query) -> QueryResult:
        """As Prometheus would; the history in steps."""
        if self.down is not None:
            return self.down
        window, found = question.window, []
        for key, samples in self.series.items():
            inside = [(at, value) for at, value in samples if window.start <= at <= window.end]
            if question.purpose is QueryPurpose.HISTORY and question.step_seconds:
                inside = _in_steps(inside, question)
            if inside:
                found.append(Series(dict(key), tuple(inside)))
        return tuple(found)


def _in_steps(samples: Sequence[tuple[float, float]], question: Query) -> list[tuple[float, float]]:
    """The last value up to each step, if it is no older than five minutes."""
    found, at = [], question.window.start
    while at <= question.window.end:
        known = [sample for sample in samples if at - 300 <= sample[0] <= at]
        if known:
            found.append((at, known[-1][1]))
        at += question.step_seconds
    return found


def measure(
    analysis: CanaryAnalysis, source: FakeMetricsSource, at: float, *, step: int = 0, concurrent: bool = True,
    final: bool = False, shifted: float = ORIGIN, present: Iterable[InstanceSample] = (), routed: int = 1,
) -> Measurement:  # fmt: skip
    """A measurement with the results of all queries."""
    answers = tuple((question, source.answer(question)) for question in analysis.queries(at))
    return Measurement(at, step, shifted, shifted, concurrent, routed, final, tuple(present), answers)


Rates = Callable[[str, float], tuple[float, float]]  # (server, time) -> requests and failed requests a second


def run_traffic(
    analysis: CanaryAnalysis, source: FakeMetricsSource, servers: Sequence[str], rates: Rates, seconds: float, *,
    every: float = 5.0, until_fail: bool = True, step: int = 0,
) -> tuple[list[Measurement], list[Verdict]]:  # fmt: skip
    """Steady traffic, scraped at each measurement; the last one is at the end of the bake."""
    totals = {server: [1000.0, 0.0] if server.startswith(OLD) else [0.0, 0.0] for server in servers}
    source.scrape(ORIGIN - every, {name: (a, b) for name, (a, b) in totals.items() if name.startswith(OLD)})
    source.scrape(ORIGIN, {name: (a, b) for name, (a, b) in totals.items() if name.startswith(OLD)})
    measurements, verdicts, at = [], [], ORIGIN
    while at < ORIGIN + seconds:
        at += every
        for server, total in totals.items():
            requests, failed = rates(server, at)
            total[0] += requests * every
            total[1] += failed * every
        source.scrape(at, {name: (a, b) for name, (a, b) in totals.items()})
        measurements.append(measure(analysis, source, at, final=at >= ORIGIN + seconds, step=step))
        verdicts.append(analysis.add(measurements[-1]))
        if until_fail and verdicts[-1].outcome == "FAIL":
            break
    return measurements, verdicts


def with_policy(**changes: object) -> Policy:
    """The policy of these tests with something else."""
    return replace(POLICY, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Bake:
    """A batch of one new instance against `olds`, scraped every `scrape` seconds, with the history of half an hour."""

    olds: int = 4
    seconds: float = 60.0
    scrape: float = 15.0
    rps: float = 4.0  # of each instance
    old_share: float = 0.005  # failed requests
    new_share: float = 0.005
    extensions: int = 2

    def ends(self, seed: int) -> tuple[Verdict, int]:
        """The verdict that ends the bake, measured every 5 s and extended as the gates do, and the extensions made."""
        policy = with_policy(interval_seconds=5.0, warmup_seconds=self.seconds / 3)
        analysis, source = CanaryAnalysis(rollout_of(ERRORS, olds=self.olds, policy=policy), ORIGIN), FakeMetricsSource()
        chance = np.random.default_rng(seed)
        totals = {server: [0.0, 0.0] for server in (*(server_of(OLD, n) for n in range(self.olds)), server_of(NEW))}
        scraped, at, extended = ORIGIN - 1800.0 + chance.uniform(0, self.scrape), ORIGIN, 0
        while True:
            at += 5.0
            while scraped + self.scrape <= at:
                scraped += self.scrape
                self._scrape(source, totals, scraped, chance)
            final = at >= ORIGIN + self.seconds * (1 + extended)
            measurement = measure(analysis, source, at, final=final)
            verdict = analysis.add(replace(measurement, extendable=extended < self.extensions))
            if verdict.outcome == "FAIL" or (final and (verdict.outcome == "PASS" or extended == self.extensions)):
                return verdict, extended
            extended += final

    def _scrape(
        self, source: FakeMetricsSource, totals: dict[str, list[float]], at: float, chance: np.random.Generator
    ) -> None:
        for server, total in totals.items():
            is_new = server.startswith(NEW)
            seconds = min(self.scrape, at - ORIGIN) if is_new else self.scrape
            if seconds > 0:
                requests = int(chance.poisson(self.rps * seconds))
                total[0] += requests
                total[1] += int(chance.binomial(requests, self.new_share if is_new else self.old_share))
        source.scrape(at, {server: (a, b) for server, (a, b) in totals.items() if at > ORIGIN or server.startswith(OLD)})
