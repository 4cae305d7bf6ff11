"""The judge on a real Envoy that a real Prometheus scrapes, and on nothing else: errors and response times by release."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from processes import free_port
from support.envoy import envoy_router, kill
from support.haproxy import short_folder
from support.judged import Application, agrees, application, send
from support.looks import ERRORS, LATENCY, NEW, OLD, server_of
from support.prometheus import Bake, metrics_of, running_prometheus
from tidegate.core.judge.verdict import Outcome, Reason
from tidegate.core.routing import Backend, Member
from tidegate.drivers.routers.envoy import EnvoyRouter

LONGEST_SECONDS = 60.0


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
class Scene:
    """A service of its own on Envoy, and the applications of its two releases."""

    router: EnvoyRouter
    bake: Bake
    port: int = field(default_factory=free_port)

    def route(self, apps: Mapping[str, Application]) -> None:
        """By release."""
        named = {release.replace("_", "-"): app for release, app in apps.items()}
        members = [
            Member(server_of(release).rpartition(".")[2], release, 0, f"127.0.0.1:{app.port}")
            for release, app in named.items()
        ]
        self.router.write(Backend(self.bake.proxy, f"127.0.0.1:{self.port}"), members, 1)

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
        """Send requests until the judge has seen enough."""
        deadline = time.monotonic() + LONGEST_SECONDS
        while self.bake.look(final=False)[check].outcome is not Outcome.FAIL:
            assert time.monotonic() < deadline, self.bake.verdicts[-1].sentence
            send(self.port, 80)

    def long(self, check: str, seconds: float) -> None:
        """Send requests for so long; it must not fail meanwhile."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            send(self.port, 80)
            assert self.bake.look(final=False)[check].outcome is not Outcome.FAIL, self.bake.verdicts[-1].sentence


@pytest.fixture
def scene(router: tuple[EnvoyRouter, str]) -> Iterator[Callable[..., Scene]]:
    made: list[Bake] = []

    def make(*checks: object) -> Scene:
        made.append(Bake(metrics_of(router[1]), *checks))
        return Scene(router[0], made[-1])

    yield make
    for each in made:
        assert repr(each.replayed()) == repr(each.verdicts)


def test_errors_are_counted_from_the_first_request_and_a_bad_release_fails(scene: Callable[..., Scene]) -> None:
    there = scene(ERRORS)
    with application(fails_each=50) as old, application(fails_each=10) as new:
        there.begin(old, new)
        old.failed = 0
        send(there.port, 400)
        agrees(there.bake.settled(final=False)["errors"], new, old)
        there.until_it_fails("errors")
        found = there.bake.settled()["errors"]
        agrees(found, new, old)
    assert (found.reason, there.bake.outcome) == (Reason.WORSE, "FAIL")


def test_a_release_as_good_as_before_passes_also_when_envoy_was_killed(scene: Callable[..., Scene]) -> None:
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
        agrees(found, new, old)
    assert (found.outcome, there.bake.outcome) == (Outcome.PASS, "PASS")


def test_answers_that_break_off_are_failures_and_each_request_is_one(scene: Callable[..., Scene]) -> None:
    there = scene(ERRORS)
    with application() as old, application(breaks_each=4) as new:
        there.begin(old, new)
        there.until_it_fails("errors")
        found = there.bake.settled()["errors"]
        assert (found.candidate_count, found.baseline_count) == (new.requests, old.requests)
        assert found.candidate == pytest.approx(new.broken / new.requests)


def test_a_release_that_is_three_times_as_slow_fails(scene: Callable[..., Scene]) -> None:
    there = scene(LATENCY)
    with application(seconds=0.01) as old, application(seconds=0.03) as new:
        there.begin(old, new)
        there.until_it_fails("latency")
        assert there.bake.settled()["latency"].reason is Reason.WORSE
    assert "took longer than" in there.bake.verdicts[-1].sentence


def test_a_release_that_is_as_fast_as_before_does_not_fail(scene: Callable[..., Scene]) -> None:
    there = scene(LATENCY)
    with application(seconds=0.01) as old, application(seconds=0.01) as new:
        there.begin(old, new)
        there.long("latency", 5)
        there.flushed()
        found = there.bake.settled()["latency"]
        assert found.outcome is not Outcome.FAIL
        assert found.candidate_count == pytest.approx(new.requests, abs=1)
        assert found.baseline_count == pytest.approx(old.requests, abs=1)
