"""HAProxy as a router, when Tidegate dies or HAProxy is reloaded in the middle; and the old processes of a reload."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from processes import free_port
from support.backends import Backends
from support.crash_points import every_step, some_steps
from support.haproxy import ADOPTED, ExternalHAProxy, before_step, kill, killed_before_step, reload
from support.prerequisites import program
from support.wait import eventually, exit_status
from tidegate.core.routing import Backend, Preview
from tidegate.drivers.routers.haproxy import process, runtime_api, servers
from tidegate.drivers.routers.haproxy.driver import HAProxyRouter
from tidegate.drivers.routers.haproxy.options import HAProxyOptions
from tidegate.drivers.routers.members import server_name
from tidegate.testing.router_contract import ids, member
from tidegate.testing.router_traffic_contract import remove_and_drain
from traffic import Load

SHOP = Backend("shop")
BEFORE = (member(0), member(1), member(2))
AFTER = (replace(member(1), address="127.0.0.1:30901"), member(3, "v2-2"), member(4, "v2-2"))


# -- killed between two steps ----------------------------------------------------------------------------------------------


def in_file(path: Path, backend: str) -> set[str]:
    """The instances that the file has for a backend."""
    section = re.search(rf"^backend {backend}$(.*?)(?=^\S|\Z)", path.read_text(), re.M | re.S)
    return set(re.findall(r"^ +server [^\s.]+\.\d+\.([^\s.]+)", section[1], re.M)) if section else set()


def serving(admin: Path, backend: str) -> set[str]:
    """The instances that the running process sends new requests to."""
    ask = partial(runtime_api.send_command, admin)
    there = servers.parse_servers(runtime_api.stats_rows(ask, backend), runtime_api.server_states(ask, backend))
    return set(servers.routed_members(there))


def nobody_is_forgotten(router: HAProxyRouter, backend: Backend, admin: Path, file: Path) -> None:
    """Who is sent requests, or would be after a reload, is told to be a member."""
    members = ids(router.read(backend).members)
    assert members
    assert serving(admin, backend.name) <= members
    assert in_file(file, backend.name) <= members


@pytest.mark.parametrize(("first", "then"), list(enumerate(("goes on", "is killed", "is reloaded"))))
def test_killed_at_any_step_of_a_write(owned: HAProxyRouter, home: Path, shop: Backend, first: int, then: str) -> None:
    admin, file = home / "haproxy" / "admin.sock", home / "haproxy" / "haproxy.cfg"
    for step in some_steps(first):
        owned.write(shop, BEFORE, 1)
        if not killed_before_step(step, lambda: owned.write(shop, AFTER, 2)):
            break
        nobody_is_forgotten(owned, shop, admin, file)
        {"goes on": lambda _: None, "is killed": kill, "is reloaded": reload}[then](owned)
        nobody_is_forgotten(owned, shop, admin, file)
        owned.write(shop, AFTER, 2)
        assert set(owned.read(shop).members) == set(AFTER)
        assert in_file(file, "shop") == ids(AFTER)
        eventually("nobody drains", lambda: not owned.read(shop).draining)
        (home / "haproxy" / "state.json").unlink()  # the fence begins anew
    assert step > 15, "there are more steps than that"


@pytest.mark.parametrize(("first", "change"), list(enumerate(("another backend", "another listen", "a preview"))))
def test_killed_at_any_step_of_a_change_that_reloads(
    owned: HAProxyRouter, home: Path, shop: Backend, first: int, change: str
) -> None:
    admin, file = home / "haproxy" / "admin.sock", home / "haproxy" / "haproxy.cfg"
    for step in some_steps(first):
        owned.write(shop, BEFORE, 1)
        changed = Backend("other" if change == "another backend" else "shop", f"127.0.0.1:{free_port()}")
        if change == "a preview":
            changed = replace(shop, preview=Preview(header="X-Shop-Preview: blue"))
        if not killed_before_step(step, lambda to=changed: owned.write(to, AFTER, 1)):
            break
        nobody_is_forgotten(owned, shop, admin, file)
        kill(owned)
        nobody_is_forgotten(owned, shop, admin, file)
        owned.write(changed, AFTER, 1)
        assert set(owned.read(changed).members) == set(AFTER)
        if change == "another backend":
            assert in_file(file, "shop") == ids(BEFORE)
        owned.stop_process()
        eventually("HAProxy has ended", lambda: owned.pid is None)
        for each in (file, home / "haproxy" / "state.json"):
            each.unlink()
    assert step > 15, "there are more steps than that"


def test_killed_at_any_step_of_an_adopted_write(standing: Callable[..., ExternalHAProxy]) -> None:
    there = standing()
    for step in some_steps(0):
        there.router.write(SHOP, BEFORE, 1)
        if not killed_before_step(step, lambda: there.router.write(SHOP, AFTER, 1)):
            break
        nobody_is_forgotten(there.router, SHOP, there.socket, there.config)
        there.reload()
        nobody_is_forgotten(there.router, SHOP, there.socket, there.config)
        there.router.write(SHOP, AFTER, 1)
        assert set(there.router.read(SHOP).members) == set(AFTER)
        assert in_file(there.config, "shop") == ids(AFTER)
    assert step > 15, "there are more steps than that"


# -- reloaded in the middle ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("master", [True, False], ids=["master", "no master"])
@pytest.mark.parametrize("wait", [True, False], ids=["reloaded", "reloading"])
def test_reloaded_at_any_step_of_a_write(
    standing: Callable[..., ExternalHAProxy], apps: Backends, load: Callable[..., Load], wait: bool, master: bool
) -> None:
    """The whole route is replaced at once: were the old ones taken out without the new ones, requests would get 503."""
    there = standing(master=master)
    old, new = [apps.start("v1-1") for _ in range(2)], [apps.start("v2-2") for _ in range(2)]
    there.router.write(SHOP, old, 1)
    traffic = load(f"127.0.0.1:{there.port}", get_ka=200, get=100)
    for step in some_steps(2 * wait + master):
        there.router.write(SHOP, old, 1)
        before = there.worker()
        act = there.reload if wait else there.begin_reload
        with before_step(step, act) as happened:
            there.router.write(SHOP, new, 1)
        if not happened:
            break
        seen = there.router.read(SHOP)
        gone = ids([*old, *new]) - ids(seen.members) - set(seen.draining)
        eventually("another worker answers", lambda pid=before: there.worker() != pid)
        assert not gone & serving(there.socket, "shop"), "told to be gone, and served again"
        there.router.write(SHOP, new, 1)
        assert ids(there.router.read(SHOP).members) == ids(new)
        assert in_file(there.config, "shop") == ids(new)
    assert step > 15, "there are more steps than that"
    counts = traffic.finish()
    assert counts.by_outcome == {"ok": counts.requests}


def test_a_new_worker_with_the_file_of_before_takes_over_at_any_step(standing: Callable[..., ExternalHAProxy]) -> None:
    """It reads its file some time before it takes over, and does not know what was changed in between."""
    there, missed = standing(), list[int]()
    for step in every_step():
        there.router.write(SHOP, BEFORE, 1)
        before = there.config.read_text()

        def take_over(read: str = before) -> int:
            now = there.config.read_text()
            there.config.write_text(read)
            old = there.reload()
            there.config.write_text(now)
            return old

        with before_step(step, take_over) as happened:
            there.router.write(SHOP, AFTER, 1)
        if not happened:
            break
        if set(there.router.read(SHOP).members) == set(BEFORE):
            missed.append(step)
            there.router.write(SHOP, AFTER, 1)
        assert set(there.router.read(SHOP).members) == set(AFTER)
        assert in_file(there.config, "shop") == ids(AFTER)
    assert step > 15, "there are more steps than that"
    assert missed == [step - 3, step - 2, step - 1], "only while it looks whether all is done"


# -- old processes ---------------------------------------------------------------------------------------------------------


@contextmanager
def idle_client(address: str) -> Iterator[socket.socket]:
    """A client whose connection stays open after its first answer."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        assert b" 200 OK" in asked(client)
        yield client


def asked(client: socket.socket) -> bytes:
    """What it is answered."""
    client.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
    return client.recv(65536)


@pytest.mark.parametrize("master", [True, False], ids=["master", "no master"])
def test_an_old_worker_may_still_send_requests_to_those_that_left(
    standing: Callable[..., ExternalHAProxy], apps: Backends, master: bool
) -> None:
    there = standing(master=master)
    old, new = apps.start("v1-1"), apps.start("v2-2")
    there.router.write(SHOP, (old,), 1)
    with idle_client(f"127.0.0.1:{there.port}") as client:
        there.reload()
        there.router.write(SHOP, (new,), 1)
        for _ in range(3):
            there.router.write(SHOP, (new,), 1)
            seen = there.router.read(SHOP)
            assert (ids(seen.members), seen.draining) == (ids([new]), {old.instance: None})
        assert b"x-version: v1-1" in asked(client), "the old worker knows no better"
    eventually("the old worker has ended", lambda: there.router.read(SHOP).draining == {})
    there.router.write(SHOP, (new,), 1)
    assert there.router.read(SHOP).draining == {}


def test_an_old_worker_of_an_owned_one_hands_the_requests_of_idle_clients_over(
    owned: HAProxyRouter, shop: Backend, apps: Backends
) -> None:
    old, new = apps.start("v1-1"), apps.start("v2-2")
    owned.write(shop, (old,), 1)
    with idle_client(shop.listen) as one, idle_client(shop.listen) as other:
        reload(owned)
        owned.write(shop, (new,), 1)
        eventually("nobody drains", lambda: not owned.read(shop).draining)
        apps.kill(old)
        for client in (one, other):
            assert b"x-version: v2-2" in asked(client)


def test_a_server_that_drains_in_the_new_process_may_be_busy_in_the_old_one(
    standing: Callable[..., ExternalHAProxy], apps: Backends
) -> None:
    there = standing()
    old, new = apps.start("v1-1"), apps.start("v2-2")
    there.router.write(SHOP, (old, new), 1)
    with idle_client(f"127.0.0.1:{there.port}"):
        there.reload()
        there.ask(f"set server shop/{server_name(old)} state drain")
        assert there.router.read(SHOP).draining == {old.instance: None}, "0 in the new process proves nothing"
    eventually("the old worker has ended", lambda: there.router.read(SHOP).draining == {old.instance: 0})


def test_a_process_without_a_master_names_those_that_it_replaces(home: Path) -> None:
    config, admin, port = home / "haproxy.cfg", home / "admin.sock", free_port()
    config.write_text(ADOPTED.format(home=home, port=port, level="admin", balance="random", servers="", timeout="9s"))
    options = HAProxyOptions(mode="adopted", socket=admin, config=config, directory=home / "kept")
    router, command = HAProxyRouter(options, "test"), [program("haproxy"), "-f", str(config)]
    first = subprocess.Popen(command)
    try:
        eventually("HAProxy listens", admin.exists, process=first)
        router.write(SHOP, (member(0),), 1)
        with socket.create_connection(("127.0.0.1", port)) as client:
            second = subprocess.Popen([*command, "-x", str(admin), "-sf", str(first.pid)])
            try:
                answer = partial(runtime_api.send_command, admin)
                eventually(
                    "the second answers", lambda: runtime_api.process_info(answer)["Pid"] == str(second.pid), process=second
                )
                router.write(SHOP, (member(1),), 1)
                assert router.read(SHOP).draining == {member(0).instance: None}
                client.close()
                assert exit_status(first) == 0
                assert router.read(SHOP).draining == {}
            finally:
                second.kill()
                exit_status(second)
    finally:
        first.kill()
        exit_status(first)


def test_where_no_process_can_be_seen_a_young_one_may_have_one_before_it(
    standing: Callable[..., ExternalHAProxy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = standing()
    there.router.write(SHOP, (member(0),), 1)
    remove_and_drain(there.router, SHOP, [member(1)], member(0))
    assert there.router.read(SHOP).draining == {}
    monkeypatch.setattr(process, "PROC", tmp_path)
    assert there.router.read(SHOP).draining == {member(0).instance: None}
    monkeypatch.setattr(process, "YOUNG_SECONDS", 0.0)
    assert there.router.read(SHOP).draining == {}
