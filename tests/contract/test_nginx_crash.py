"""nginx as a router, when Tidegate dies at any step, and when somebody else reloads in the middle."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from support.crash_points import CrashPoints
from support.nginx import ExternalNginx, external_nginxes, generations, kill, open_folder, owned_router, reload
from support.wait import eventually
from tidegate.core.routing import Backend
from tidegate.drivers.routers.nginx.driver import NginxRouter
from tidegate.drivers.routers.nginx.generations import serving_generation
from tidegate.testing.router_contract import ids, member

SHOP = Backend("shop")
BEFORE = (member(0), member(1), member(2))
AFTER = (replace(member(1), address="127.0.0.1:30901"), member(3, "v2-2"), member(4, "v2-2"))
STEPS = CrashPoints(((Path, "rename"), (os, "kill")))  # files put in place, signals
MAX_STEPS = 30


@pytest.fixture
def home() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture
def owned(home: Path) -> Iterator[NginxRouter]:
    with owned_router(home) as router:
        yield router


@pytest.fixture
def standing(home: Path) -> Iterator[Callable[..., ExternalNginx]]:
    with external_nginxes(home) as make:
        yield make


def in_file(path: Path, backend: str) -> set[str]:
    """The addresses that the file has for a backend."""
    section = re.search(rf"^upstream {backend} {{\n(.*?)^}}", path.read_text(), re.M | re.S)
    return set(re.findall(r"^ +server (\S+) weight", section[1], re.M)) if section else set()


def nobody_is_forgotten(router: NginxRouter, backend: Backend, home: Path, file: Path) -> None:
    """Who is sent requests by any process, or would be after a reload, is a member or draining. (Without traffic a worker
    that is shutting down sends none.)"""
    seen = router.read(backend)
    assert seen.members
    there = generations(home).workers(router.pid)  # after: whoever ends in between is told too much, never too little
    serving = [one.generation for one in there if not one.leaving]
    sent = {member.instance for one in serving for member in one.routes[backend.name].members}
    assert sent <= ids(seen.members) | {*seen.draining}
    told = {each.address: each.instance for each in (*BEFORE, *AFTER)}
    assert {told[address] for address in in_file(file, backend.name)} <= ids(seen.members) | {*seen.draining}


@pytest.mark.parametrize("then", ["goes on", "is killed", "is reloaded"])
def test_killed_at_any_step_of_a_write(owned: NginxRouter, home: Path, shop: Backend, then: str) -> None:
    file = home / "nginx" / "nginx.conf"
    for step in range(1, MAX_STEPS):
        owned.write(shop, BEFORE, 1)
        if not STEPS.killed_before(step, lambda: owned.write(shop, AFTER, 2)):
            break
        nobody_is_forgotten(owned, shop, home, file)
        if then != "goes on":
            {"is killed": kill, "is reloaded": reload}[then](owned, home)
        nobody_is_forgotten(owned, shop, home, file)
        owned.write(shop, AFTER, 2)
        assert set(owned.read(shop).members) == set(AFTER)
        assert in_file(file, "shop") == {each.address for each in AFTER}
        eventually("no process knows of an instance that left", lambda: not owned.read(shop).draining)
        (home / "nginx" / "state.json").unlink()  # the fence begins anew
    assert step > 4, "there are more steps than that"


def test_killed_at_any_step_of_an_adopted_write(home: Path, standing: Callable[..., ExternalNginx]) -> None:
    there = standing()
    for step in range(1, MAX_STEPS):
        there.router.write(SHOP, BEFORE, 1)
        if not STEPS.killed_before(step, lambda: there.router.write(SHOP, AFTER, 1)):
            break
        nobody_is_forgotten(there.router, SHOP, home, there.include)
        there.reload()
        nobody_is_forgotten(there.router, SHOP, home, there.include)
        there.router.write(SHOP, AFTER, 1)
        assert set(there.router.read(SHOP).members) == set(AFTER)
        assert in_file(there.include, "shop") == {each.address for each in AFTER}
    assert step > 3, "there are more steps than that"


def test_turned_back_after_a_crash(owned: NginxRouter, home: Path, shop: Backend) -> None:
    """What an interrupted write left in the file does not come back with the next reload."""
    owned.write(shop, BEFORE, 1)
    assert STEPS.killed_before(4, lambda: owned.write(shop, AFTER, 2)), "just before the signal"
    assert owned.read(shop).draining == {each.instance: None for each in AFTER[1:]}
    owned.write(shop, BEFORE, 2)
    reload(owned, home)
    assert set(owned.read(shop).members) == set(BEFORE)
    assert owned.read(shop).draining == {}


def test_reloaded_by_somebody_at_any_step(home: Path, standing: Callable[..., ExternalNginx]) -> None:
    there = standing()
    for step in range(1, MAX_STEPS):
        there.router.write(SHOP, BEFORE, 1)
        with STEPS.before(step, there.reload) as happened:
            there.router.write(SHOP, AFTER, 1)
        if not happened:
            break
        assert set(there.router.read(SHOP).members) == set(AFTER)
        assert serving_generation(generations(home).workers(there.pid)).routes["shop"].members == AFTER
    assert step > 3, "there are more steps than that"


def test_a_file_that_somebody_put_back_is_mended_by_the_next_write(owned: NginxRouter, home: Path, shop: Backend) -> None:
    file = home / "nginx" / "nginx.conf"
    owned.write(shop, (member(0),), 1)
    before = file.read_text()
    owned.write(shop, (member(1),), 1)
    file.write_text(before)
    assert owned.read(shop).draining == {member(0).instance: None}, "a reload would bring it back"
    reload(owned, home)
    assert ids(owned.read(shop).members) == ids([member(0)]), "and so it did"
    owned.write(shop, (member(1),), 1)
    reload(owned, home)
    assert ids(owned.read(shop).members) == ids([member(1)])


def test_a_removed_folder_does_not_hide_what_is_served(owned: NginxRouter, home: Path, shop: Backend) -> None:
    owned.write(shop, (member(0),), 7)
    for path in (*(home / "nginx" / "generations").iterdir(), home / "nginx" / "state.json"):
        path.unlink()
    assert ids(owned.read(shop).members) == ids([member(0)])
    owned.write(shop, (member(1),), 1)
    reload(owned, home)
    assert ids(owned.read(shop).members) == ids([member(1)])


def test_generations_that_nobody_serves_are_removed(owned: NginxRouter, home: Path, shop: Backend) -> None:
    for number in range(5):
        owned.write(shop, (member(number),), 1)
    assert len([*(home / "nginx" / "generations").iterdir()]) <= 2


def test_an_unchanged_write_reloads_nothing(owned: NginxRouter, home: Path, shop: Backend) -> None:
    owned.write(shop, BEFORE, 1)
    before = {worker.pid for worker in generations(home).workers(owned.pid)}
    owned.write(shop, BEFORE[::-1], 2)
    assert {worker.pid for worker in generations(home).workers(owned.pid)} == before
    assert owned.read(shop).fence == 2
