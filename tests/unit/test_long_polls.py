"""Requests that wait for events: one look for all of them, and nobody waits for what cannot come."""

from __future__ import annotations

import socket
import threading
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

from support.wait import MAX_SECONDS, eventually
from tidegate.errors import StoreError
from tidegate.store_port import Store
from tidegate.web.long_polls import LongPolls, has_client_left

FOR_EVER = 280.0  # longer than any test


class Numbers:
    """A store that knows the number of each rollout's last event, and counts how often it is asked."""

    def __init__(self) -> None:
        self.last: dict[str, int] = {}
        self.asked: list[frozenset[str]] = []
        self.broken = False

    def last_events(self, wanted: Collection[str]) -> Mapping[str, int]:
        self.asked.append(frozenset(wanted))
        if self.broken:
            raise StoreError("the server is gone", retryable=True)
        return {each: self.last[each] for each in wanted if each in self.last}


def waiting(numbers: Numbers, stopping: threading.Event, pool: ThreadPoolExecutor, *rollouts: str) -> list[Future[None]]:
    """A request for each, which waits for an event after the first; all of them were asked about."""
    polls = LongPolls(cast(Store, numbers), stopping)
    found: list[Future[None]] = [pool.submit(polls.wait, rollout, 1, FOR_EVER) for rollout in rollouts]
    eventually("all are asked about", lambda: numbers.asked and numbers.asked[-1] >= set(rollouts))
    return found


def test_only_those_are_woken_for_whom_there_is_something() -> None:
    numbers, stopping = Numbers(), threading.Event()
    numbers.last = {"shop-1": 1, "cart-1": 1}
    with ThreadPoolExecutor(3) as pool:
        shop, again, cart = waiting(numbers, stopping, pool, "shop-1", "shop-1", "cart-1")
        numbers.last["shop-1"] = 2
        shop.result(MAX_SECONDS)
        again.result(MAX_SECONDS)
        eventually("only the other one is asked about", lambda: numbers.asked[-1] == {"cart-1"})
        assert not cart.done()
        stopping.set()
        cart.result(MAX_SECONDS)


def test_who_waits_for_what_is_unknown_is_sent_to_ask_for_it() -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting(Numbers(), threading.Event(), pool, "gone")[0].result(MAX_SECONDS)


def test_a_database_that_fails_keeps_nobody_waiting() -> None:
    numbers = Numbers()
    numbers.last = {"shop-1": 1}
    with ThreadPoolExecutor(1) as pool:
        (shop,) = waiting(numbers, threading.Event(), pool, "shop-1")
        numbers.broken = True
        shop.result(MAX_SECONDS)


def test_nothing_is_asked_while_nobody_waits() -> None:
    numbers = Numbers()
    numbers.last = {"shop-1": 1}
    polls = LongPolls(cast(Store, numbers), threading.Event())
    polls.wait("shop-1", 1, 0.05)
    eventually("no thread asks", lambda: all(thread.name != "long-polls" for thread in threading.enumerate()))
    polls.wait("shop-1", 0, FOR_EVER)
    assert numbers.asked[-1] == {"shop-1"}, "and it begins again"


def test_a_poll_ends_when_its_client_has_left() -> None:
    numbers, left = Numbers(), threading.Event()
    numbers.last = {"shop-1": 1}
    polls = LongPolls(cast(Store, numbers), threading.Event())
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(polls.wait, "shop-1", 1, FOR_EVER, left.is_set)
        eventually("it is asked about", lambda: numbers.asked)
        left.set()
        poll.result(MAX_SECONDS)


def test_a_closed_connection_means_that_the_client_has_left() -> None:
    server, client = socket.socketpair()
    with server:
        for name in ("gunicorn.socket", "werkzeug.socket"):
            assert not has_client_left({name: server})
        client.close()
        assert has_client_left({"gunicorn.socket": server})
    assert has_client_left({"gunicorn.socket": server}), "already closed here, too"
    assert not has_client_left({}), "a server that does not show its connection"
