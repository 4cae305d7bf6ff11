"""The analysis of a real Envoy that only a real Prometheus scrapes: errors and response times by release."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from processes import free_port
from support.backends import Backends
from support.envoy import envoy_router, kill
from support.faulty_application import Application, application, assert_counts_agree, send
from support.haproxy import short_folder
from support.measurements import ERRORS, LATENCY, NEW, OLD, server_of
from support.prometheus import AnalysisHarness, has_counted, metrics_of, running_prometheus
from support.wait import eventually
from tidegate.analysis.verdict import Outcome, Reason
from tidegate.core.routing import Backend, Member
from tidegate.drivers.routers.envoy.driver import EnvoyRouter
from traffic import Load

MAX_MEASUREMENTS = 40
USUAL_MS = 200  # that the old release takes, in the mean; a busy machine adds tens
SPREAD = "0.5"  # of the logarithm of the times
CONNECTIONS = 40  # of which each asks again as soon as it is answered


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EnvoyRouter, str]]:
    """Envoy, and the address of a Prometheus that scrapes its exporter."""
    port = free_port()
    with (
        short_folder() as home,
        envoy_router(home, port) as made,
        running_prometheus(made_ready(made, tmp_path_factory), {"envoy": f"127.0.0.1:{port}"}) as url,
    ):
        yield made, url


def made_ready(router: EnvoyRouter, folders: pytest.TempPathFactory) -> Path:
    """A folder; Envoy runs, so that there is something to scrape."""
    router.write(Backend("first", f"127.0.0.1:{free_port()}"), (), 1)
    return folders.mktemp("prometheus")


@dataclass
class EnvoyScrapeSetup:
    """A service of its own on Envoy, and the applications of its two releases."""

    router: EnvoyRouter
    bake: AnalysisHarness
    port: int = field(default_factory=free_port)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def route(self, apps: Mapping[str, Application]) -> None:
        """By release."""
        named = {release.replace("_", "-"): app for release, app in apps.items()}
        members = [
            Member(server_of(release).rpartition(".")[2], release, 0, f"127.0.0.1:{app.port}")
            for release, app in named.items()
        ]
        self.write(*members)

    def write(self, *members: Member) -> None:
        self.router.write(Backend(self.bake.proxy, self.address), members, 1)

    def begin(self, old: Application, new: Application) -> None:
        """The old release served 160 requests, which were scraped; now the new one is routed, too."""
        self.route({OLD: old})
        send(self.port, 160)
        self.flushed()
        self.bake.begin()
        old.requests = 0
        self.route({OLD: old, NEW: new})

    def flushed(self) -> None:
        """Wait until all is scraped: Envoy shows its histograms as they were at the last second."""
        self.bake.scraped(1.2)

    def until_it_fails(self, check: str) -> None:
        """80 requests after each measurement, until the check fails."""
        for _ in range(MAX_MEASUREMENTS):
            if self.bake.measure(final=False)[check].outcome is Outcome.FAIL:
                return
            send(self.port, 80)
            self.flushed()
        raise AssertionError(f"after {MAX_MEASUREMENTS} measurements: {self.bake.verdicts[-1].message}")

    def begin_timed(self, apps: Backends, load: Callable[..., Load], milliseconds: int) -> tuple[Member, Member, int, Load]:
        """Both releases, of which the new one takes so long, with traffic; and what the old one had answered before."""
        old = apps.start(OLD, SERVICE_MS=str(USUAL_MS), JITTER=SPREAD)
        new = apps.start(NEW, SERVICE_MS=str(milliseconds), JITTER=SPREAD)
        self.write(old)
        before = load(self.address, get_ka=10 * CONNECTIONS)
        eventually("160 requests are answered", lambda: before.counts.requests >= 160)
        before.finish()
        self.flushed()
        self.bake.begin()
        self.write(old, new)
        return old, new, apps.answered(old), load(self.address, get_ka=10 * CONNECTIONS)


@pytest.fixture
def scene(router: tuple[EnvoyRouter, str]) -> Iterator[Callable[..., EnvoyScrapeSetup]]:
    made: list[AnalysisHarness] = []

    def make(*checks: object) -> EnvoyScrapeSetup:
        made.append(AnalysisHarness(metrics_of(router[1]), *checks))
        return EnvoyScrapeSetup(router[0], made[-1])

    yield make
    for setup in made:
        assert repr(setup.replayed()) == repr(setup.verdicts)


def test_errors_are_counted_from_the_first_request_and_a_bad_release_fails(scene: Callable[..., EnvoyScrapeSetup]) -> None:
    there = scene(ERRORS)
    with application(fails_each=50) as old, application(fails_each=10) as new:
        there.begin(old, new)
        old.failed = 0
        send(there.port, 400)
        assert_counts_agree(there.bake.settled(final=False)["errors"], new, old)
        there.until_it_fails("errors")
        found = there.bake.settled()["errors"]
        assert_counts_agree(found, new, old)
    assert (found.reason, there.bake.outcome) == (Reason.WORSE, "FAIL")


def test_a_release_as_good_as_before_passes_also_when_envoy_was_killed(scene: Callable[..., EnvoyScrapeSetup]) -> None:
    there = scene(ERRORS)
    with application(fails_each=50) as old, application(fails_each=50) as new:
        there.begin(old, new)
        old.failed = 0
        send(there.port, 800)
        there.bake.scraped()
        kill(there.router)
        there.route({OLD: old, NEW: new})
        send(there.port, 240)
        found = there.bake.settled()["errors"]
        assert_counts_agree(found, new, old)
    assert has_counted(found)


def test_answers_that_break_off_are_failures_and_each_request_is_one(scene: Callable[..., EnvoyScrapeSetup]) -> None:
    there = scene(ERRORS)
    with application() as old, application(breaks_each=4) as new:
        there.begin(old, new)
        there.until_it_fails("errors")
        found = there.bake.settled()["errors"]
        assert (found.candidate_count, found.baseline_count) == (new.requests, old.requests)
        assert found.candidate == pytest.approx(new.broken / new.requests)


def test_a_release_that_is_three_times_as_slow_fails(
    scene: Callable[..., EnvoyScrapeSetup], apps: Backends, load: Callable[..., Load]
) -> None:
    there = scene(LATENCY)
    *_, traffic = there.begin_timed(apps, load, 3 * USUAL_MS)

    def fails() -> bool:
        return there.bake.measure(final=False)["latency"].outcome is Outcome.FAIL

    eventually("the check fails", fails, 200.0, poll_seconds=0.5)
    traffic.finish()
    assert there.bake.settled()["latency"].reason is Reason.WORSE
    assert "share slower than" in there.bake.verdicts[-1].message


def test_a_release_that_is_as_fast_as_before_does_not_fail(
    scene: Callable[..., EnvoyScrapeSetup], apps: Backends, load: Callable[..., Load]
) -> None:
    there = scene(LATENCY)
    old, new, before, traffic = there.begin_timed(apps, load, USUAL_MS)

    def seen() -> float:
        found = there.bake.measure(final=False)["latency"]
        assert found.outcome is not Outcome.FAIL, there.bake.verdicts[-1].message
        return found.candidate_count or 0

    eventually("enough requests are seen", lambda: seen() >= 500, 200.0, poll_seconds=0.5)
    traffic.finish()
    there.flushed()
    found = there.bake.settled()["latency"]
    assert found.outcome is not Outcome.FAIL
    assert found.candidate_count == pytest.approx(apps.answered(new), abs=1)
    assert found.baseline_count == pytest.approx(apps.answered(old) - before, abs=1)
