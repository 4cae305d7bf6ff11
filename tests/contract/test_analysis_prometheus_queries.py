"""The analysis of a real Prometheus: histograms, the user's own PromQL, and the history."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from processes import free_port
from support.measurements import ERRORS, LATENCY, NEW, OLD, rollout_of, server_of
from support.prometheus import AnalysisHarness, Exporter, Prometheus, has_counted, metrics_of, started
from support.wait import eventually
from tidegate.analysis.queries import LOOKBACK_SECONDS, RESPONSE_SECONDS, RESPONSES, QueryPurpose
from tidegate.analysis.verdict import Finding, Outcome, Reason
from tidegate.core.model import Check, CheckKind, Direction
from tidegate.core.routing import Backend

A, N = server_of(OLD), server_of(NEW)
BOUNDS = ("0.005", "0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1.0", "+Inf")
MEAN = 0.03  # seconds; response times are exponential
ODD = "a \"b\" 'c' \\ d{}=,$é`.*"
PAST, QUIET = "past", "quiet"  # services that have a history
PAST_LOAD = (95.0, 105.0)  # a gauge of the old release, in turn
Amounts = Mapping[str, float]  # by series, as `name{labels}`


def text(values: Amounts) -> str:
    """As an exporter writes it."""
    return "".join(f"{series} {value}\n" for series, value in values.items())


def named(name: str, **labels: str) -> str:
    """A series in Prometheus' text format."""
    escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    return name + "{" + ",".join(f'{label}="{value.translate(escapes)}"' for label, value in labels.items()) + "}"


def requests(good: float, bad: float, **labels: str) -> Amounts:
    """As HAProxy's exporter has them."""
    return {named(RESPONSES, **labels, code=code): number for code, number in (("2xx", good), ("5xx", bad))}


def times(
    number: float, mean: float = MEAN, name: str = RESPONSE_SECONDS, bounds: Sequence[str] = BOUNDS, **labels: str
) -> Amounts:
    """The buckets of so many requests."""
    return {named(name, **labels, le=bound): number * (1 - math.exp(-float(bound) / mean)) for bound in bounds}


# -- a Prometheus with a past ------------------------------------------------------------------------------------------


def total(seconds: float, **labels: str) -> Amounts:
    """The old releases' counters after so many seconds. One has ten requests a second, of which one in a hundred fails; the
    other sixty in two hours."""
    errors = requests(9.9 * seconds, 0.1 * seconds, proxy=PAST, server=A, **labels)
    slow = times(10 * seconds, proxy=PAST, server=A, **labels)
    return {**errors, **slow, **times(seconds / 120, proxy=QUIET, server=A, **labels)}


def history(target: str, now: float) -> Iterator[str]:
    """Two hours, with a restart of the proxy half-way. It ends before the samples of which the judge takes the interval."""
    begin, labels = int(now) - 7200, {"job": "haproxy", "instance": target}
    moments = range(begin, int(now - LOOKBACK_SECONDS) - 10, 15)
    values = {at: total((at - begin) % 3600, **labels) for at in moments}
    for series in values[begin]:
        yield from (f"{series} {values[at][series]} {at}" for at in moments)
    load = named("load", **labels, service=PAST, release=OLD)
    yield from (f"{load} {PAST_LOAD[at // 30 % 2]} {at}" for at in moments)


@dataclass
class GaugeExporters:
    """A proxy's exporter and three instances with metrics of their own, scraped by one Prometheus. `past`: the counters of
    the services that have one, as they were shown last."""

    proxy: Exporter
    instances: Mapping[tuple[str, str], Exporter]  # by release and ordinal
    prometheus: Prometheus
    past: dict[str, float]
    shown: dict[str, float] = field(default_factory=dict)

    def bake(self, *checks: Check, proxy: str = "", concurrent: bool = True, **policy: float) -> AnalysisHarness:
        """`concurrent`: both releases take traffic."""
        made = AnalysisHarness(metrics_of(self.prometheus.url), *checks, **policy)
        made.up, made.proxy = 'up{job="haproxy"}', proxy or made.proxy
        made.rollout = replace(made.rollout, backend=Backend(made.proxy), plan=rollout_of(concurrent=concurrent).plan)
        return made

    def begin(self, bake: AnalysisHarness, old: Amounts) -> None:
        """The new release is routed, after a scrape of the old one."""
        self.shown = {**old, **self.past}
        self.proxy.text = text(self.shown)
        bake.scraped()
        bake.begin()

    def play(self, bake: AnalysisHarness, each: Amounts, count: int) -> Finding:
        """Let the counters grow, be scraped and looked at so often, or until it fails; the finding of the only check."""
        self.shown = {**dict.fromkeys(each, 0.0), **self.shown}
        for _ in range(count):
            self.shown = {series: value + each.get(series, 0.0) for series, value in self.shown.items()}
            self.proxy.text = text(self.shown)
            bake.scraped()
            bake.measure(final=False)
            if bake.outcome == "FAIL":
                break
        self.past = {series: self.shown[series] for series in self.past}
        (found,) = bake.settled().values()
        assert repr(bake.replayed()) == repr(bake.verdicts)
        return found


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GaugeExporters]:
    proxy, instances = Exporter(), {place: Exporter() for place in ((OLD, "0"), (OLD, "1"), (NEW, "0"))}
    labelled = [
        (each.address, {"service": ODD, "release": release, "ordinal": ordinal})
        for (release, ordinal), each in instances.items()
    ]
    prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), {"haproxy": proxy.address}, instances=labelled)
    prometheus.fill(history(proxy.address, time.time()))
    try:
        with started(prometheus):
            yield GaugeExporters(proxy, instances, prometheus, dict(total(3600.0)))
    finally:
        for instance in (proxy, *instances.values()):
            instance.close()


# -- latency -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("proxy", "factor", "outcome"), [("", 1.0, "PASS"), (PAST, 1.0, "PASS"), (PAST, 2.0, "FAIL")])
def test_response_times_from_the_proxys_log(farm: GaugeExporters, proxy: str, factor: float, outcome: str) -> None:
    bake = farm.bake(LATENCY, proxy=proxy)
    old = times(50, proxy=bake.proxy, server=A)
    new = times(40, factor * MEAN, proxy=bake.proxy, server=server_of(NEW, int(factor)))
    farm.begin(bake, old)
    found = farm.play(bake, {**old, **new}, 12 if outcome == "PASS" else 40)
    results = [result for query, result in bake.saved[-1].results if query.purpose is QueryPurpose.SAMPLES]
    bounds = {series.labels["le"] for result in results for series in result}
    assert bounds == {"0.02", "0.05", "0.1", "+Inf"}, "about one half, a fifth and a thirtieth are slower"
    assert any(found.candidate == pytest.approx(math.exp(-float(bound) / MEAN / factor)) for bound in bounds)
    assert found.candidate_count == pytest.approx(sum(farm.shown[series] for series in new if "+Inf" in series))
    assert (bake.outcome, found.reason) == (outcome, Reason.OK if outcome == "PASS" else Reason.WORSE)


def test_a_short_history_counts_together_with_what_came_since(farm: GaugeExporters) -> None:
    """Neither of them has the hundred requests that bounds are chosen from."""
    bake = farm.bake(LATENCY, proxy=QUIET)
    farm.begin(bake, {})
    found = farm.play(bake, {**times(10, proxy=QUIET, server=A), **times(10, proxy=QUIET, server=N)}, 7)
    assert found.baseline_count is not None
    assert 50 <= found.baseline_count < 100
    assert has_counted(found)


@pytest.mark.parametrize(("bounds", "counts"), [(("+Inf",), False), (("0", "+Inf"), False), (("0.05", "+Inf"), True)])
def test_a_histogram_with_hardly_a_bound(farm: GaugeExporters, bounds: Sequence[str], counts: bool) -> None:
    bake = farm.bake(LATENCY)
    old, new = (times(50, bounds=bounds, proxy=bake.proxy, server=server) for server in (A, N))
    farm.begin(bake, old)
    assert has_counted(farm.play(bake, {**old, **new}, 6)) is counts


def test_the_applications_own_histogram(farm: GaugeExporters) -> None:
    """Each instance is a target of its own, with labels that the analysis does not know."""

    def show(new: float, old: float) -> None:
        for (release, _), exporter in farm.instances.items():
            number, found = new if release == NEW else old, dict[str, float]()
            for handler, share in (("/a", 0.75), ("/b", 0.25)):
                found |= times(share * number, name="http_seconds_bucket", handler=handler, code="200")
            exporter.text = text(found)

    bake = farm.bake(replace(LATENCY, query='http_seconds_bucket{service="$service"} # all of it'))
    bake.rollout, bake.up = replace(bake.rollout, service=f"demo/{ODD}"), "up"
    show(0, 1000)
    bake.scraped()
    bake.begin()
    for number in range(1, 6):
        show(100 * number, 1000 + 60 * number)
        bake.scraped()
        bake.measure(final=False)
    found = bake.settled()["latency"]
    assert (found.candidate_count, found.baseline_count) == (pytest.approx(500), pytest.approx(2 * 300))
    assert has_counted(found)


# -- the time before ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bad", "outcome"), [(0.01, "PASS"), (0.2, "FAIL")])
def test_without_a_concurrent_baseline_the_history_is_the_baseline(farm: GaugeExporters, bad: float, outcome: str) -> None:
    bake, server = farm.bake(ERRORS, proxy=PAST, concurrent=False), server_of(NEW, 5 + (outcome == "FAIL"))
    farm.begin(bake, {})
    found = farm.play(bake, requests(50 * (1 - bad), 50 * bad, proxy=PAST, server=server), 10 if outcome == "PASS" else 40)
    assert (found.candidate, bake.outcome) == (pytest.approx(bad), outcome)
    assert 0.017 < (found.limit or 0.0) <= 0.03, "the history has 1 %, from many requests"
    assert "compared with the time before the rollout" in found.message


def test_without_any_baseline_nothing_can_be_compared(farm: GaugeExporters) -> None:
    bake = farm.bake(ERRORS, concurrent=False)
    farm.begin(bake, {})
    found = farm.play(bake, requests(50, 0, proxy=bake.proxy, server=N), 3)
    assert (found.reason, bake.outcome) == (Reason.NOT_COMPARABLE, "INCONCLUSIVE")


# -- the user's own PromQL ---------------------------------------------------------------------------------------------

QUEUE = 'queue{service="$service",release="$release"}'


def own(query: str, name: str = "own", least: int = 2, **more: Any) -> Check:
    return Check(name, CheckKind.QUERY, query=query, min_samples=least, **more)


def gauges(name: str, service: str, values: Mapping[str, float]) -> str:
    """One of each release, and another part that is 1 less."""
    each = {(release, part): values[release] - (part == "b") for release in values for part in "ab"}
    return text({named(name, service=service, release=release, part=part): each[release, part] for release, part in each})


#: The outcomes of a limit at the first and the second measurement, with a gauge of 7 and 6.
LIMITS = (
    (own(f"max({QUEUE})", maximum=7), "few-data", "ok"),
    (own(f"max({QUEUE})", maximum=6), "few-data", "limit"),
    (own(f"max({QUEUE})", maximum=6, least=1), "limit", "limit"),
    (own(f"sum({QUEUE}) # of all", minimum=13), "few-data", "ok"),
    (own(f"sum({QUEUE})", minimum=13.5), "few-data", "limit"),
    (own(QUEUE.replace("}", ",part='a'}"), maximum=7), "few-data", "ok"),
    (own(f"max(max_over_time({QUEUE}[$window]))", minimum=7.5), "few-data", "limit"),
    (own("1 + 1", maximum=2), "few-data", "ok"),
    (own(QUEUE, maximum=10), "many-series", "many-series"),
    (own("max(no_such_thing)", maximum=10), "no-data", "no-data"),
    (own(f"max({QUEUE}) * 0 / 0", maximum=10), "no-data", "no-data"),
    (own(f"max({QUEUE}) / 0", maximum=10), "no-data", "no-data"),
    (own("sum(", maximum=10), "bad-query", "bad-query"),
    (own(f"{QUEUE} * on(release) {QUEUE}", maximum=10), "bad-query", "bad-query"),
    (own('"seven"', maximum=10), "bad-query", "bad-query"),
)


def test_limits_and_every_answer_that_is_no_number(farm: GaugeExporters) -> None:
    checks = [replace(check, name=f"c{number}") for number, (check, *_) in enumerate(LIMITS)]
    bake = farm.bake(*checks)
    bake.begin()
    farm.proxy.text = gauges("queue", "shop", {NEW: 7, OLD: 100})
    bake.scraped()
    for column in (1, 2):
        found = bake.measure(final=False)
        assert [(check.query, str(found[check.name].reason)) for check in checks] == [
            (row[0].query, row[column]) for row in LIMITS
        ]
    assert bake.outcome == "FAIL"


@pytest.mark.parametrize("critical", [True, False])
def test_a_query_that_is_refused_holds_a_good_release_up_when_it_is_critical(farm: GaugeExporters, critical: bool) -> None:
    bake = farm.bake(own(f"max({QUEUE})", "good", 1, maximum=7), own("sum(", "bad", 1, maximum=7, critical=critical))
    bake.begin()
    farm.proxy.text = gauges("queue", "shop", {NEW: 7})
    bake.scraped()
    assert bake.measure()["bad"].outcome is Outcome.INCONCLUSIVE
    assert bake.outcome == ("INCONCLUSIVE" if critical else "PASS")


LOAD = 'avg(load{service="$service",release="$release"})'


@pytest.mark.parametrize(
    ("value", "direction", "outcome"),
    [(104.0, Direction.LOWER, "PASS"), (150.0, Direction.LOWER, "FAIL"), (60.0, Direction.HIGHER, "FAIL")],
)
def test_old_against_new(farm: GaugeExporters, value: float, direction: Direction, outcome: str) -> None:
    """Each measurement is a whole block of 30 s: the values are the same at any time."""
    bake = farm.bake(own(LOAD, direction=direction, margin=0.1), interval_seconds=30.0)
    bake.rollout = replace(bake.rollout, service=f"demo/{PAST}")
    farm.proxy.text = text({named("load", service=PAST, release=r): n for r, n in ((OLD, 100.0), (NEW, value))})
    bake.scraped()
    bake.begin()
    there, bake.metrics = bake.metrics, metrics_of(f"http://127.0.0.1:{free_port()}", 0.2)
    assert bake.measure(final=False)["own"].reason is Reason.SOURCE_DOWN
    bake.metrics = there
    for _ in range(30):
        found = bake.measure(final=False)["own"]
    assert (found.baseline, found.candidate, bake.outcome) == (100.0, value, outcome)
    parts = [[query.purpose for query, _ in measurement.results] for measurement in bake.saved]
    assert [QueryPurpose.HISTORY in part for part in parts] == [True, True, *[False] * 29], (
        "it is asked until it is answered"
    )
    ((asked, series),) = [answer for answer in bake.saved[1].results if answer[0].purpose is QueryPurpose.HISTORY]
    ((past,),) = [(each.samples,) for each in series]
    assert asked.step_seconds == 30.0
    assert len(past) >= 115
    assert {number for _, number in past} >= set(PAST_LOAD)
    assert all(at % 30 == 0 and asked.window.start <= at <= asked.window.end for at, _ in past)


# -- names that are no good --------------------------------------------------------------------------------------------

ESCAPING = ('x"} or vector(7) or up{a="', "x'} or vector(7) or up{a='", "x`} or vector(7) or up{a=`")


@pytest.mark.parametrize("quote", ['"', "'"])
@pytest.mark.parametrize("name", [ODD, "$release", "two\nlines # and", *ESCAPING])
def test_any_name_is_quoted(farm: GaugeExporters, name: str, quote: str) -> None:
    query = QUEUE.replace('"', quote)
    others = own(f"max({query.replace('=', '!=', 1)})", "others", 1, maximum=50)
    bake = farm.bake(own(f"max({query})", least=1, maximum=5), others)
    bake.rollout = replace(bake.rollout, service=f"demo/{name}", new=name)
    farm.proxy.text = gauges("queue", name, {name: 3}) + gauges("queue", "other", {name: 40})
    bake.scraped()
    bake.begin()
    assert {finding.check: finding.candidate for finding in bake.measure().values()} == {"own": 3.0, "others": 40.0}
    assert bake.outcome == "PASS"


def test_a_name_in_back_quotes_cannot_end_them(farm: GaugeExporters) -> None:
    bake = farm.bake(own("max(queue{service=`$service`})", maximum=5))
    bake.rollout = replace(bake.rollout, service=f"demo/{ESCAPING[2]}")
    bake.begin()
    assert bake.measure()["own"].reason is Reason.NO_DATA


def test_a_releases_name_is_no_pattern(farm: GaugeExporters) -> None:
    name = 'v2"+(x)|v*[1]$\\'
    bake = farm.bake(ERRORS)
    (step,) = bake.rollout.plan
    bake.rollout = replace(bake.rollout, new=name, plan=(replace(step, route={OLD: 4, name: 1}),))
    old, new, other = (
        named(RESPONSES, proxy=bake.proxy, server=server_of(release), code="2xx") for release in (OLD, name, "v1")
    )
    farm.proxy.text = text({old: 0})
    bake.scraped()
    bake.begin()
    farm.proxy.text = text({old: 200, new: 100, other: 999})

    def counted() -> Finding | None:
        """What was found as soon as a scrape that came in time showed it."""
        found = bake.settled()["errors"]
        return found if has_counted(found) else None

    found = eventually("both releases are counted", counted)
    assert (found.candidate_count, found.baseline_count) == (100, 200)
    asked = {series.labels["server"] for _, answer in bake.saved[-1].results for series in answer}
    assert asked == {server_of(OLD), server_of(name)}
