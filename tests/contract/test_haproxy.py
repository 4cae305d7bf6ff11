"""HAProxy as a router, on the real one: owned and adopted, idle and under load."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from support.backends import Backends, backends, free_port
from support.need import program
from tidegate.core.model import Backend, Member
from tidegate.drivers.routers.haproxy import HAProxyOptions, HAProxyRouter
from tidegate.errors import RouterError
from tidegate.testing.router_contract import RouterContract, ids, member
from traffic import Load

ADOPTED = """\
global
    stats socket {home}/admin.sock mode 600 level {level} expose-fd listeners
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    option idle-close-on-response
frontend in
    bind 127.0.0.1:{port}
    default_backend shop
backend shop
    balance {balance}
{servers}
backend other
    balance roundrobin
"""


def until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "did not come about in time"
        time.sleep(0.01)


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder with a short name: a unix socket's path has at most about 100 characters."""
    with tempfile.TemporaryDirectory(prefix="tg") as folder:
        yield Path(folder)


@pytest.fixture
def owned(home: Path) -> Iterator[HAProxyRouter]:
    """A router that starts its own HAProxy; ended with the test."""
    program("haproxy")
    exporter = f"127.0.0.1:{free_port()}"
    router = HAProxyRouter(HAProxyOptions(directory=home / "haproxy", exporter=exporter), "test")
    yield router
    pid = router.pid
    router.stop_process()
    if pid is not None:
        until(lambda: ended(pid))


@pytest.fixture
def shop() -> Backend:
    return Backend("shop", f"127.0.0.1:{free_port()}")


class TestOwned(RouterContract):
    @pytest.fixture
    def router(self, owned: HAProxyRouter) -> HAProxyRouter:
        return owned

    @pytest.fixture
    def backend(self, shop: Backend) -> Backend:
        return shop

    @pytest.fixture
    def other(self) -> Backend:
        return Backend("other", f"127.0.0.1:{free_port()}")


class Standing:
    """A HAProxy that somebody else runs."""

    def __init__(self, home: Path, *, level: str = "admin", balance: str = "roundrobin", servers: str = "") -> None:
        self.port, self.config, self.socket = free_port(), home / "haproxy.cfg", home / "admin.sock"
        values = {"home": home, "port": self.port, "level": level, "balance": balance, "servers": servers}
        self.config.write_text(ADOPTED.format(**values))
        self.process = subprocess.Popen([program("haproxy"), "-W", "-f", str(self.config)])
        until(self.socket.exists)
        self.router = HAProxyRouter(
            HAProxyOptions(mode="adopted", socket=self.socket, config=self.config, directory=home / "fences"), "test"
        )

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def standing(home: Path) -> Iterator[Callable[..., Standing]]:
    made: list[Standing] = []

    def make(**options: str) -> Standing:
        made.append(Standing(home, **options))
        return made[-1]

    yield make
    for each in made:
        each.stop()


class TestAdopted(RouterContract):
    @pytest.fixture
    def router(self, standing: Callable[..., Standing]) -> HAProxyRouter:
        return standing().router

    @pytest.fixture
    def backend(self) -> Backend:
        return Backend("shop")

    @pytest.fixture
    def other(self) -> Backend:
        return Backend("other")


# -- the file is the truth ------------------------------------------------------------------------------------------------


def test_a_killed_haproxy_comes_back_with_its_route(owned: HAProxyRouter, shop: Backend) -> None:
    owned.write(shop, (member(0), member(1)), 3)
    pid = owned.pid
    assert pid is not None
    workers = owned.workers()
    for each in (pid, *workers):
        os.kill(each, signal.SIGKILL)
    until(lambda: all(ended(each) for each in (pid, *workers)))
    assert ids(owned.read(shop).members) == ids([member(0), member(1)])
    assert owned.pid != pid


def test_a_reload_keeps_the_route(owned: HAProxyRouter, shop: Backend) -> None:
    owned.write(shop, (member(0), member(1)), 1)
    owned.write(shop, (member(1), member(2)), 1)
    before = owned.workers()
    os.kill(owned.pid or 0, signal.SIGUSR2)
    until(lambda: bool(set(owned.workers()) - set(before)))
    assert ids(owned.read(shop).members) == ids([member(1), member(2)])


def test_an_adopted_file_keeps_the_route_and_everything_else(standing: Callable[..., Standing]) -> None:
    there = standing()
    before = there.config.read_text()
    there.router.write(Backend("shop"), (member(0), member(1)), 1)
    there.process.send_signal(signal.SIGUSR2)
    time.sleep(0.5)  # the master tells nobody when it has reloaded; what is read afterwards does
    until(lambda: ids(there.router.read(Backend("shop")).members) == ids([member(0), member(1)]))
    lines = there.config.read_text().splitlines()
    assert [line for line in before.splitlines() if line.strip() and line not in lines] == []


# -- what is refused, before anything is changed ---------------------------------------------------------------------------


def test_a_taken_listen_address(owned: HAProxyRouter) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RouterError, match="choose another `listen`") as refused:
            owned.write(Backend("shop", f"127.0.0.1:{taken.getsockname()[1]}"), (member(0),), 1)
    assert not refused.value.retryable


def test_a_backend_without_listen(owned: HAProxyRouter) -> None:
    with pytest.raises(RouterError, match=r"x-tidegate\.listen"):
        owned.write(Backend("shop"), (member(0),), 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"servers": "    server old 127.0.0.1:9"}, "servers of its own"),
        ({"balance": "source"}, "balance source"),
        ({"level": "user"}, "level admin"),
    ],
)
def test_a_configuration_that_cannot_be_kept_true(
    standing: Callable[..., Standing], options: dict[str, str], said: str
) -> None:
    there = standing(**options)
    before = there.config.read_text()
    with pytest.raises(RouterError, match=said) as refused:
        there.router.write(Backend("shop"), (member(0),), 1)
    assert not refused.value.retryable
    assert there.config.read_text() == before


def test_a_backend_that_is_not_there(standing: Callable[..., Standing]) -> None:
    there = standing()
    with pytest.raises(RouterError, match="no `backend shoe`"):
        there.router.write(Backend("shoe"), (member(0),), 1)


def test_nobody_answers(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text("backend shop\n    balance roundrobin\n")
    options = HAProxyOptions(mode="adopted", socket=tmp_path / "none", config=config, directory=tmp_path / "fences")
    with pytest.raises(RouterError) as refused:
        HAProxyRouter(options, "test").read(Backend("shop"))
    assert refused.value.retryable


def test_options_that_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="needs socket"):
        HAProxyOptions(mode="adopted")
    with pytest.raises(ValidationError, match="for mode adopted"):
        HAProxyOptions(mode="owned", socket=tmp_path)


# -- with traffic -----------------------------------------------------------------------------------------------------


@pytest.fixture
def apps(tmp_path: Path) -> Iterator[Backends]:
    program("gcc")
    with backends(tmp_path / "counters") as made:
        yield made


def test_an_empty_route_answers_503(owned: HAProxyRouter, shop: Backend) -> None:
    owned.write(shop, (), 1)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"http://{shop.listen}/", timeout=5)


def test_draining_shows_requests_in_flight(owned: HAProxyRouter, shop: Backend, apps: Backends) -> None:
    old, new = apps.start("v1-1"), apps.start("v2-2")
    owned.write(shop, (old,), 1)
    load = Load(shop.listen, slow_gets=3, slow_get_ms=1500)
    until(lambda: owned.read(shop).busy.get(old.instance) == 3)
    owned.write(shop, (new,), 1)
    assert owned.read(shop).draining == {old.instance: 3}
    until(lambda: owned.read(shop).draining == {old.instance: 0})
    owned.write(shop, (new,), 1)
    assert owned.read(shop).draining == {}
    assert set(load.finish().by_outcome) == {"ok"}


def test_counters_tell_lost_requests_from_the_applications_errors(
    owned: HAProxyRouter, shop: Backend, apps: Backends
) -> None:
    good, bad = apps.start("v1-1"), apps.start("v2-2", ERROR_RATIO="1")
    owned.write(shop, (good, bad), 1)
    load = Load(shop.listen, get=40)
    until(lambda: load.counts.errors > 20)
    errors = load.finish()
    seen = owned.read(shop).traffic
    assert seen is not None
    assert (seen.requests, seen.lost, seen.errors) == (errors.requests, 0, errors.errors)

    owned.write(shop, (), 1)
    load = Load(shop.listen, get=40)
    until(lambda: load.counts.lost > 20)
    refused = load.finish()
    after = owned.read(shop).traffic
    assert after is not None
    assert after.lost == refused.lost
    assert after.errors == errors.errors


def switch(router: HAProxyRouter, backend: Backend, apps: Backends, serving: list[Member], release: str) -> None:
    """Replace the oldest; kill it with SIGKILL the moment the router says that nothing can reach it."""
    old = serving.pop(0)
    serving.append(apps.start(release))
    router.write(backend, serving, 1)
    while old.instance in (draining := router.read(backend).draining):
        if draining[old.instance] == 0:
            router.write(backend, serving, 1)
        time.sleep(0.005)
    apps.kill(old)


@pytest.mark.parametrize("client", ["naive", "checking"])
def test_nothing_is_lost_over_switches_and_reloads(
    owned: HAProxyRouter, shop: Backend, apps: Backends, client: str
) -> None:
    serving = [apps.start("v1-1") for _ in range(3)]
    owned.write(shop, serving, 1)
    rates = {"get_ka": 120, "get": 60, "post_ka": 40, "post": 20, "slow_gets": 3, "slow_posts": 3}
    load = Load(shop.listen, client=client, slow_get_ms=600, slow_post_ms=800, **rates)
    until(lambda: load.counts.requests > 100)
    for number in range(20):
        switch(owned, shop, apps, serving, f"v2-{number}")
        if number in (5, 10, 15):
            os.kill(owned.pid or 0, signal.SIGUSR2)
    seen = load.finish()
    assert seen.by_outcome == {"ok": seen.requests}
    assert seen.posts_sent == apps.posts()


def test_the_load_generator_sees_what_a_careless_switch_loses(owned: HAProxyRouter, shop: Backend, apps: Backends) -> None:
    """The control: without the drain, the same traffic is cut, so that the test above could fail."""
    serving = [apps.start("v1-1") for _ in range(2)]
    owned.write(shop, serving, 1)
    load = Load(shop.listen, slow_gets=8, slow_get_ms=500)
    until(lambda: load.counts.requests > 20)
    old = serving.pop(0)
    serving.append(apps.start("v2-2"))
    owned.write(shop, serving, 1)
    apps.kill(old)
    seen = load.finish()
    assert seen.lost > 0
    assert seen.requests > seen.lost
