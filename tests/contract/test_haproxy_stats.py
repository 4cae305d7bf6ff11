"""What HAProxy counts: lost requests and the application's errors, of all and by release, through deletions and crashes."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from processes import free_port
from support.backends import Backends
from support.haproxy import ExternalHAProxy, killed_before_step
from support.scripted_server import ScriptedServer
from support.wait import eventually
from tidegate.core.routing import Backend, Traffic, split_listen
from tidegate.drivers.routers.haproxy.driver import HAProxyRouter
from tidegate.testing.router_contract import member
from tidegate.testing.router_traffic_contract import remove_and_drain
from traffic import Load

SHOP = Backend("shop")


def test_counters_tell_lost_requests_from_the_applications_errors(
    owned: HAProxyRouter, shop: Backend, apps: Backends, load: Callable[..., Load]
) -> None:
    good, bad = apps.start("v1-1"), apps.start("v2-2", ERROR_RATIO="1")
    owned.write(shop, (good, bad), 1)
    traffic = load(shop.listen, get=40)
    eventually("20 errors are answered", lambda: traffic.counts.errors > 20)
    errors = traffic.finish()
    counts(owned, shop, errors.requests, 0, errors.errors)

    owned.write(shop, (), 1)
    traffic = load(shop.listen, get=40)
    eventually("20 requests are lost", lambda: traffic.counts.lost > 20)
    refused = traffic.finish()
    counts(owned, shop, errors.requests + refused.requests, refused.lost, errors.errors)


def counts(router: HAProxyRouter, backend: Backend, requests: int, lost: int, errors: int) -> None:
    """HAProxy counts a request after its client has the answer; once it has, the numbers must be these."""
    with suppress(AssertionError):
        eventually("all are counted", lambda: router.read(backend).traffic == Traffic(requests, lost, errors))
    assert router.read(backend).traffic == Traffic(requests, lost, errors)


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    made = ScriptedServer()
    yield made
    made.stop()


def get(port: int, path: str) -> int | None:
    """The status; None when the answer broke off."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (http.client.HTTPException, OSError):
        return None
    finally:
        connection.close()


APPLICATIONS = {"/500": 500, "/502": 502, "/503": 503, "/504": 504}
MADE_UP = {"/reset": 502, "/nothing": 502, "/nonsense": 502, "/silence": 504, "/cut": None}


def test_answers_that_haproxy_made_up_are_lost_and_those_of_the_application_are_errors(
    standing: Callable[..., ExternalHAProxy], scripted: ScriptedServer
) -> None:
    there = standing(timeout="2s")
    failing, gone, good = (replace(member(number), address=scripted.address) for number in range(3))
    there.router.write(SHOP, (failing,), 1)
    for path, status in ({"/200": 200, "/404": 404} | APPLICATIONS | MADE_UP).items():
        assert get(there.port, path) == status
    counts(there.router, SHOP, 11, 5, 4)

    remove_and_drain(there.router, SHOP, [replace(gone, address=f"127.0.0.1:{free_port()}")], failing)
    assert there.router.read(SHOP).draining == {}, "the failing one was deleted, and its counters with it"
    counts(there.router, SHOP, 11, 5, 4)
    assert get(there.port, "/200") == 503, "refused"
    counts(there.router, SHOP, 12, 6, 4)

    there.router.write(SHOP, (), 1)
    assert get(there.port, "/200") == 503, "no server"
    counts(there.router, SHOP, 13, 7, 4)

    there.router.write(SHOP, (failing, good), 1)
    for path in (*APPLICATIONS, *MADE_UP):
        get(there.port, path)
    counts(there.router, SHOP, 22, 12, 8)  # a name that came again
    remove_and_drain(there.router, SHOP, [good], failing)
    counts(there.router, SHOP, 22, 12, 8)

    there.reload()
    counts(there.router, SHOP, 0, 0, 0)  # another process starts at 0
    get(there.port, "/reset")
    counts(there.router, SHOP, 1, 1, 0)  # what the process before counted is no part of it
    get(there.port, "/503")
    there.router.write(SHOP, (failing,), 1)
    counts(there.router, SHOP, 2, 1, 1)


def test_counts_are_kept_when_tidegate_is_killed_around_the_deletion(
    standing: Callable[..., ExternalHAProxy], scripted: ScriptedServer
) -> None:
    there = standing()
    failing, good = (replace(member(number, f"v{number}"), address=scripted.address) for number in range(2))
    for step in range(1, 100):
        there.router.write(SHOP, (failing,), 1)
        assert get(there.port, "/500") == 500
        assert get(there.port, "/reset") == 502
        after = (step * 2, step, step)
        counts(there.router, SHOP, *after)
        crashed = killed_before_step(step, lambda: there.router.write(SHOP, (good,), 1))
        for _ in range(2):
            counts(there.router, SHOP, *after)
            assert there.router.read(SHOP).by_release["v0"] == Traffic(*after)
            there.router.write(SHOP, (good,), 1)
        if not crashed:
            break
    assert step > 15, "there are more steps than that"


def test_the_same_by_release(standing: Callable[..., ExternalHAProxy], scripted: ScriptedServer) -> None:
    there = standing(timeout="2s")
    old, new = (replace(member(number, f"v{number}"), address=scripted.address) for number in (1, 2))

    def by_release(**wanted: tuple[int, int, int]) -> None:
        expected = {release: Traffic(*numbers) for release, numbers in wanted.items()}
        with suppress(AssertionError):
            eventually("all are counted", lambda: there.router.read(SHOP).by_release == expected)
        assert there.router.read(SHOP).by_release == expected

    there.router.write(SHOP, (old,), 1)
    for path in ("/200", "/404", *APPLICATIONS, *MADE_UP):
        get(there.port, path)
    by_release(v1=(11, 5, 4))

    there.router.write(SHOP, (new,), 1)
    for path in ("/200", "/reset", "/503"):
        get(there.port, path)
    by_release(v1=(11, 5, 4), v2=(3, 1, 1))  # the deleted one's are kept

    there.router.write(SHOP, (), 1)
    assert get(there.port, "/200") == 503
    by_release(v1=(11, 5, 4), v2=(3, 1, 1))  # for lack of a server: of no release
    counts(there.router, SHOP, 15, 7, 5)

    there.router.write(SHOP, (old, replace(member(3, "v2"), address=scripted.address)), 1)
    for _ in range(2):
        get(there.port, "/nothing")
    by_release(v1=(12, 6, 4), v2=(4, 2, 1))  # names that came again, and another of the same release

    there.reload()
    get(there.port, "/200")
    get(there.port, "/200")
    by_release(v1=(1, 0, 0), v2=(1, 0, 0))  # another process starts at 0


def test_a_refused_request_is_lost_once_and_one_that_another_server_answered_never(
    owned: HAProxyRouter, shop: Backend, scripted: ScriptedServer
) -> None:
    good, gone = replace(member(1, "v1"), address=scripted.address), replace(member(2, "v2"), address="127.0.0.1:1")
    owned.write(shop, (gone,), 1)
    port = split_listen(shop.listen)[1]
    assert get(port, "/200") == 503, "by its server, or by its backup when the check was quicker"
    counts(owned, shop, 1, 1, 0)
    assert owned.read(shop).by_release == {"v2": Traffic(1, 1, 0)}
    owned.write(shop, (good, gone), 1)
    assert {get(port, "/200") for _ in range(6)} == {200}, "tried again on the other one"
    counts(owned, shop, 7, 1, 0)
    assert owned.read(shop).by_release == {"v1": Traffic(6, 0, 0), "v2": Traffic(1, 1, 0)}


def test_a_client_that_leaves_has_lost_nothing(standing: Callable[..., ExternalHAProxy], apps: Backends) -> None:
    there, app = standing(), apps.start("v1")
    there.router.write(SHOP, (app,), 1)
    with socket.create_connection(("127.0.0.1", there.port)) as line:
        line.sendall(b"GET /?ms=5000 HTTP/1.1\r\nHost: shop\r\n\r\n")
        eventually("it is in flight", lambda: there.router.read(SHOP).busy == {app.instance: 1})
    eventually("it is over", lambda: there.router.read(SHOP).busy == {app.instance: 0})
    assert there.router.read(SHOP).by_release["v1"].lost == 0
