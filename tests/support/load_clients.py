"""The clients of a load measurement: many that wait for events, and a few whose ordinary requests are timed."""

from __future__ import annotations

import http.client
import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from urllib.parse import urlsplit

WAIT_SECONDS = 20.0  # what a long poll asks for
ASKERS = 4  # threads that ask ordinary questions
PAUSE_SECONDS = 0.1  # of each of them, between an answer and the next question
PATIENCE_SECONDS = 60.0


class LoadConnection:
    """A kept connection to the server."""

    def __init__(self, address: str, token: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=PATIENCE_SECONDS)
        self._headers = {"Authorization": f"Bearer {token}"}

    def get(self, path: str) -> int:
        """The status; the whole answer has come then."""
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status

    def close(self) -> None:
        """Whatever it waits for is given up."""
        self._connection.close()


class LoadClients:
    """While it is entered, `waiting` long polls are held open and ordinary GETs are sent; `rollouts` are what they ask of,
    each with its service."""

    def __init__(self, address: str, token: str, rollouts: Sequence[tuple[str, str]], waiting: int) -> None:
        self._address, self._token, self._rollouts = address, token, rollouts
        self._stopping = threading.Event()
        polled = [rollouts[number % len(rollouts)][0] for number in range(waiting)]
        self._threads = [self._thread(self._poll, rollout) for rollout in polled]
        self._threads += [self._thread(self._ask, str(number)) for number in range(ASKERS)]
        self.times: list[tuple[float, float]] = []  # of each ordinary answer: when it had come, and the seconds it took
        self.refused = 0  # answers other than 200, and connections that broke

    def _thread(self, work: Callable[[LoadConnection, str], None], about: str) -> threading.Thread:
        return threading.Thread(target=self._run, args=(work, about), daemon=True)

    def __enter__(self) -> LoadClients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Those that wait for events are not waited for: they end with the server."""
        self._stopping.set()

    def _run(self, work: Callable[[LoadConnection, str], None], about: str) -> None:
        while not self._stopping.is_set():
            line = LoadConnection(self._address, self._token)
            try:
                work(line, about)
            except (OSError, http.client.HTTPException):
                self._failed()
                self._stopping.wait(PAUSE_SECONDS)
            finally:
                line.close()

    def _failed(self) -> None:
        if not self._stopping.is_set():
            self.refused += 1

    def _poll(self, line: LoadConnection, rollout: str) -> None:
        """Wait for events that come after all that there are; the first time not so long, so that not all ask at once."""
        wait = random.uniform(1.0, WAIT_SECONDS)
        while not self._stopping.is_set():
            if line.get(f"/v1/rollouts/{rollout}/events?after=1000000&wait={wait:.2f}") != 200:
                self._failed()
                self._stopping.wait(PAUSE_SECONDS)
            wait = WAIT_SECONDS

    def _ask(self, line: LoadConnection, seed: str) -> None:
        chance = random.Random(seed)
        for number in itertools.count():
            if self._stopping.wait(PAUSE_SECONDS):
                return
            path = self._question(number, *chance.choice(self._rollouts))
            begun = time.monotonic()
            status = line.get(path)
            self.times.append((time.time(), time.monotonic() - begun))
            if status != 200:
                self._failed()

    def _question(self, number: int, rollout: str, service: str) -> str:
        """What people and pipelines ask, in turn."""
        return (
            f"/v1/rollouts/{rollout}",
            f"/v1/rollouts/{rollout}/events",
            f"/v1/services/{service}",
            f"/v1/rollouts/{rollout}/report",
            "/v1/rollouts?limit=20",
        )[number % 5]
