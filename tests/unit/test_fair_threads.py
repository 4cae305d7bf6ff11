"""Threads for slow calls: nobody takes all, everybody gets one."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from support.wait import eventually, pause
from tidegate.fair_threads import FairThreads


class Gate:
    """Calls that last until the gate opens."""

    def __init__(self) -> None:
        self.open, self.inside, self._lock = threading.Event(), Counter[str](), threading.Lock()

    def pass_by(self, key: str) -> str:
        with self._lock:
            self.inside[key] += 1
        assert self.open.wait(300)
        return key


def test_one_takes_its_share_and_every_other_gets_at_least_one() -> None:
    gate, threads = Gate(), FairThreads("test", total=4, share=3)
    futures = [threads.submit(key, lambda key=key: gate.pass_by(key)) for key in "aaaaabbcde"]
    wanted = {"a": 3, "b": 1, "c": 1, "d": 1, "e": 1}
    eventually("those that have room have begun", lambda: gate.inside == wanted)
    pause(0.1, "no other begins")
    assert gate.inside == wanted
    gate.open.set()
    threads.join()
    assert [future.result(60) for future in futures] == list("aaaaabbcde")


def test_an_error_is_the_result_and_makes_room() -> None:
    threads = FairThreads("test", total=1, share=1)
    failed = threads.submit("a", lambda: 1 // 0)
    assert threads.submit("a", lambda: "next").result(60) == "next"
    with pytest.raises(ZeroDivisionError):
        failed.result(60)
