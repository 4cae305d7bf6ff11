"""nginx's log of requests: how they ended, by release; for the report, and through Prometheus for the analysis."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from processes import free_port
from support.backends import Backends
from support.measurements import ERRORS, LATENCY, NEW, OLD
from support.nginx import ExternalNginx, get, open_folder, owned_router
from support.prometheus import AnalysisHarness, metrics_of, running_prometheus
from support.request_logs import exported_counts
from support.scripted_server import ScriptedServer
from support.wait import eventually
from tidegate.analysis.queries import COUNTED_RESPONSES
from tidegate.analysis.verdict import Reason
from tidegate.core.routing import Backend, Member, Traffic
from tidegate.drivers.routers.nginx.driver import NginxRouter
from tidegate.testing.router_contract import member
from traffic import Load

ROOT = Path(__file__).parents[2]
#: The application's own errors, and what nginx answers in place of an answer; None: the answer broke off.
APPLICATIONS = {"/500": 500, "/502": 502, "/503": 503, "/504": 504}
MADE_UP = {"/reset": 502, "/nothing": 502, "/nonsense": None, "/cut": None}


@pytest.fixture
def home() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture
def owned(home: Path) -> Iterator[NginxRouter]:
    with owned_router(home) as router:
        yield router


@pytest.fixture
def broken() -> Iterator[ScriptedServer]:
    made = ScriptedServer()
    yield made
    made.stop()


# -- for the report --------------------------------------------------------------------------------------------------------


def counted(router: NginxRouter, backend: Backend, requests: int) -> Traffic:
    """Of the backend, once so many requests are. A line is written just after the answer."""

    def found() -> Traffic:
        traffic = router.read(backend).traffic
        assert traffic is not None
        return traffic

    eventually(f"{requests} requests are counted", lambda: found().requests >= requests)
    return found()


def test_answers_that_nginx_made_up_are_lost_and_those_of_the_application_are_errors(
    owned: NginxRouter, shop: Backend, broken: ScriptedServer
) -> None:
    failing = replace(member(0), address=broken.address)
    owned.write(shop, (failing,), 1)
    for path, status in ({"/200": 200, "/404": 404} | APPLICATIONS | MADE_UP).items():
        assert get(shop.listen, path) in (status, None if path == "/nonsense" else status), path
    assert counted(owned, shop, 10) == Traffic(10, 4, 4)
    assert get(shop.listen, "/200", "HEAD") == 200
    assert counted(owned, shop, 11) == Traffic(11, 4, 4), "an answer without its body is none that broke off"

    owned.write(shop, (replace(member(1, "v2-2"), address=f"127.0.0.1:{free_port()}"),), 1)
    assert get(shop.listen, "/200") == 502, "refused"
    owned.write(shop, (), 1)
    assert get(shop.listen, "/200") == 503, "nobody"
    seen = owned.read(shop)
    assert counted(owned, shop, 13) == Traffic(13, 6, 4)
    assert seen.by_release == {"v1-1": Traffic(11, 4, 4), "v2-2": Traffic(1, 1, 0)}


def test_a_client_that_leaves_or_speaks_nonsense_loses_nothing(
    owned: NginxRouter, shop: Backend, broken: ScriptedServer
) -> None:
    """The nonsense is no request for anybody."""
    owned.write(shop, (replace(member(0), address=broken.address),), 1)
    host, _, port = shop.listen.rpartition(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"GET /silence HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually("the application has the request", lambda: broken.heads)
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"nonsense\r\n\r\n")
        assert b" 400 " in client.recv(65536)
    assert counted(owned, shop, 1) == Traffic(1, 0, 0)


def test_one_that_refused_before_another_answered_lost_nothing(
    owned: NginxRouter, shop: Backend, broken: ScriptedServer
) -> None:
    good = replace(member(0), address=broken.address)
    owned.write(shop, (good, replace(member(1, "v2-2"), address=f"127.0.0.1:{free_port()}")), 1)
    for _ in range(8):
        assert get(shop.listen, "/200") == 200
    assert counted(owned, shop, 8) == Traffic(8, 0, 0)
    assert owned.read(shop).by_release == {"v1-1": Traffic(8, 0, 0)}


def test_the_log_is_put_aside_and_no_line_is_missed(
    home: Path, shop: Backend, apps: Backends, load: Callable[..., Load]
) -> None:
    with owned_router(home, log_rotate_bytes=8_000) as router:
        router.write(shop, (apps.start("v1-1"), apps.start("v2-2")), 1)
        traffic = load(shop.listen, get=150, post_ka=150)
        eventually("900 requests are answered", lambda: router.read(shop).traffic and traffic.counts.requests > 900)
        seen = traffic.finish()
        found = counted(router, shop, seen.requests)
        assert found == Traffic(seen.requests, 0, 0)
        kept = sum((home / "nginx" / name).stat().st_size for name in ("requests.log", "requests.log.1"))
    assert kept < 30_000, "of more than 40,000 bytes that were written"


def test_a_reload_for_one_service_keeps_the_counts_of_another(
    owned: NginxRouter, shop: Backend, broken: ScriptedServer
) -> None:
    owned.write(shop, (replace(member(0), address=broken.address),), 1)
    assert get(shop.listen, "/200") == 200
    before = counted(owned, shop, 1)
    owned.write(Backend("other", f"127.0.0.1:{free_port()}"), (member(1),), 1)
    assert get(shop.listen, "/200") == 200
    assert counted(owned, shop, 2) == replace(before, requests=2)


def test_without_a_log_nothing_is_counted(home: Path, shop: Backend) -> None:
    with owned_router(home, log="off") as router:
        router.write(shop, (member(0),), 1)
        assert router.read(shop).traffic is None


def test_the_lines_for_an_adopted_nginx_are_right(home: Path, broken: ScriptedServer) -> None:
    _, lines = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs" / "nginx.md").read_text(), re.S)
    listen, log = f"127.0.0.1:{free_port()}", home / "theirs.log"
    text = lines.replace("shop_tidegate", "shop").replace("/var/log/nginx/tidegate.log", str(log))
    there = ExternalNginx(home, more=text.replace("listen 80", f"listen {listen}"), log=log)
    try:
        there.begin()
        there.router.write(Backend("shop"), (replace(member(0), address=broken.address),), 1)
        for path in ("/200", *APPLICATIONS, *MADE_UP):
            get(listen, path)
        assert counted(there.router, Backend("shop"), 9) == Traffic(9, 4, 4)
        there.router.write(Backend("shop"), (), 1)
        assert get(listen, "/200") == 503
        assert all(each.status == "ok" for each in there.router.check())
    finally:
        there.stop()


# -- for the analysis ------------------------------------------------------------------------------------------------------


def name(each: Member) -> str:
    return f"{each.release}.{each.ordinal}.{each.instance}"


def test_counters_and_buckets_of_each_server(owned: NginxRouter, shop: Backend, broken: ScriptedServer) -> None:
    failing = replace(member(0), address=broken.address)
    gone = replace(member(1, "v2-2"), address=f"127.0.0.1:{free_port()}")
    owned.write(shop, (failing,), 1)
    get(shop.listen, "/200")
    assert counted(owned, shop, 1).requests == 1
    with exported_counts(owned) as counts:
        for path in ("/200", "/404", *APPLICATIONS, *MADE_UP):
            get(shop.listen, path)
        owned.write(shop, (gone,), 1)
        get(shop.listen, "/200")
        owned.write(shop, (failing, gone), 1)
        for _ in range(4):
            assert get(shop.listen, "/200") == 200

        def outcomes() -> dict[tuple[str, str], float]:
            every = counts.series(COUNTED_RESPONSES).items()
            return {((of := dict(labels))["code"], of["server"]): value for labels, value in every}

        eventually("the last line is read", lambda: outcomes().get(("2xx", name(failing))) == 5)
        counts.await_timed(name(failing), 12)
        found = outcomes()
        assert found.pop(("5xx", name(gone))) > 1, "asked first, and refused"
        assert found == {("2xx", name(failing)): 5, ("4xx", name(failing)): 1, ("5xx", name(failing)): 8}
        assert counts.timed() == {name(failing): 12}, "neither those that never began, nor one from before"


def test_errors_and_latency_of_a_new_release_are_found(
    home: Path, tmp_path: Path, apps: Backends, load: Callable[..., Load]
) -> None:
    """A real nginx and Prometheus: a bad release fails by both checks; each request is counted once."""
    with (
        owned_router(home, log_rotate_bytes=100_000) as router,
        exported_counts(router) as counts,
        running_prometheus(tmp_path, {"tidegate": counts.address}) as url,
    ):
        bake = AnalysisHarness(metrics_of(url), ERRORS, LATENCY)
        shop = Backend(bake.proxy, f"127.0.0.1:{free_port()}")
        old = apps.start(OLD)
        router.write(shop, (old,), 1)
        traffic = load(shop.listen, get=100, post_ka=100)
        # What is usual, beyond the first slow ones.
        eventually("1500 lines are read", lambda: sum(counts.series(COUNTED_RESPONSES).values()) > 1500)
        bake.scraped()
        bake.begin()
        router.write(shop, (old, apps.start(NEW, ERROR_RATIO="0.3", SERVICE_MS="400")), 1)

        def both_worse() -> bool:
            findings = bake.measure(final=False)
            return all(findings[check].reason is Reason.WORSE for check in ("errors", "latency"))

        eventually("both checks find the new release worse", both_worse, 200.0, poll_seconds=0.5)
        found = bake.settled()["errors"]
        sent = traffic.finish().requests
        eventually("each request is counted once", lambda: sum(counts.series(COUNTED_RESPONSES).values()) == sent)
    assert bake.outcome == "FAIL"
    assert found.candidate == pytest.approx(0.3, abs=0.12)
    assert found.baseline == 0.0
