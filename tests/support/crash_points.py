"""Doing something, or dying, just before any of the steps by which a driver reaches outside."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

MAX_STEPS = 100  # of one change


def stride(short: int) -> int:
    """The distance between the steps that are tried in `make check` and `make test`. `make kills` and `make properties`
    (CRASH_STEPS=all) try all of them."""
    return 1 if os.environ.get("CRASH_STEPS") == "all" else short


def every_step() -> Iterable[int]:
    """The numbers of the steps of a change. A test leaves its loop at the first one that the change does not have."""
    return range(1, MAX_STEPS)


def some_steps(first: int) -> Iterable[int]:
    """Every third step: each of several similar tests begins at another one, so that together they come to every step."""
    return range(1 + first % stride(3), MAX_STEPS, stride(3))


@dataclass(frozen=True)
class CrashPoints:
    """What counts as a step: each call of one of these, an object and the name of its function."""

    places: Sequence[tuple[Any, str]]

    @contextmanager
    def before(self, number: int, then: Callable[[], object]) -> Iterator[list[object]]:
        """Do something just before the n-th step. Gives a list of what it returned: empty when there was no such step."""
        originals = [getattr(owner, name) for owner, name in self.places]
        left, returned = number, list[object]()

        def counted(step: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    restore()
                    returned.append(then())
                return step(*arguments)

            return run

        def restore() -> None:
            for (owner, name), original in zip(self.places, originals, strict=True):
                setattr(owner, name, original)

        for (owner, name), original in zip(self.places, originals, strict=True):
            setattr(owner, name, counted(original))
        try:
            yield returned
        finally:
            restore()

    def killed_before(self, number: int, act: Callable[[], None]) -> bool:
        """Act in a process that is gone, as by SIGKILL, just before its n-th step. False: it had no such step."""
        child = os.fork()
        if child == 0:
            try:
                with self.before(number, lambda: os._exit(9)):
                    act()
                os._exit(0)
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9), "it failed instead"
        return code == 9
