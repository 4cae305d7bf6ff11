"""The probe from outside, against small servers that misbehave as ordered."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from support.wait import at_most, pause
from tidegate.drivers.platforms.readiness import ReadinessProbe, ReadinessProber, probe_instance

Behaviour = Callable[[socket.socket], None]


@contextmanager
def server(behave: Behaviour) -> Iterator[tuple[int, list[bytes]]]:
    """Accepts one connection after the other and lets `behave` answer; gives its port and what was asked."""
    asked: list[bytes] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    line, _ = listener.accept()
                except OSError:
                    return
                with line:
                    asked.append(line.recv(4096))
                    try:
                        behave(line)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(listener.getsockname()[1]), asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def probe(port: int, seconds: float = 60.0, key: str = "a") -> ReadinessProbe:
    return ReadinessProbe(key, "127.0.0.1", port, "/health?deep=1", seconds)


def says(text: str) -> Behaviour:
    return lambda line: line.sendall(text.encode())


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
        ("HTTP/1.0 204\r\n\r\n", ""),
        ("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", ""),
        ("HTTP/1.1 404 Not Found\r\n\r\n", "GET /health?deep=1 answered 404"),
        ("HTTP/1.1 503 Wait\r\n\r\n", "GET /health?deep=1 answered 503"),
        ("HTTP/1.1 101 Switching\r\n\r\n", "GET /health?deep=1 answered 101"),
        ("SSH-2.0-OpenSSH\r\n", "GET /health?deep=1 failed: the response is not HTTP"),
        ("HTTP/1.1 fine\r\n", "GET /health?deep=1 failed: the response is not HTTP"),
        ("", "GET /health?deep=1 failed: connection closed without a response"),
    ],
)
def test_what_the_answer_means(answer: str, seen: str) -> None:
    with server(says(answer)) as (port, asked):
        assert probe_instance(probe(port)) == seen
        assert asked[0].startswith(b"GET /health?deep=1 HTTP/1.1\r\nHost: 127.0.0.1:")
        assert b"\r\nConnection: close\r\n" in asked[0]


def test_a_refused_connection_is_told() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        assert probe_instance(probe(port)) == f"connection refused on port {port}"


def test_the_time_limit_is_for_the_whole_answer() -> None:
    """Its first line has no end."""

    def drip(line: socket.socket) -> None:
        for letter in itertools.chain(b"HTTP/1.1 200 ", itertools.repeat(ord("x"))):
            line.sendall(bytes([letter]))
            pause(0.05, "a byte comes now and then")

    with server(drip) as (port, _), at_most(20, "giving up"):
        assert probe_instance(probe(port, 0.2)) == "GET /health?deep=1 timed out after 0.2 s"


@pytest.fixture
def now() -> list[float]:
    """A clock that the test turns."""
    return [100.0]


@pytest.fixture
def prober(now: list[float]) -> Iterator[ReadinessProber]:
    prober = ReadinessProber(lambda: now[0])
    yield prober
    prober.close()


def test_one_that_was_ready_is_asked_once_a_second(prober: ReadinessProber, now: list[float]) -> None:
    with server(says("HTTP/1.1 200 OK\r\n\r\n")) as (port, asked):
        for later in (0.0, 0.5, 0.4):
            now[0] += later
            assert prober.ask("s", [probe(port)]) == {"a": ""}
            assert len(asked) == 1
        now[0] += 0.2
        assert prober.ask("s", [probe(port)]) == {"a": ""}
        assert len(asked) == 2


def test_one_that_was_not_ready_is_asked_each_time(prober: ReadinessProber) -> None:
    with server(says("HTTP/1.1 503 No\r\n\r\n")) as (port, asked):
        for count in (1, 2, 3):
            assert prober.ask("s", [probe(port)])["a"]
            assert len(asked) == count


def test_another_start_of_it_is_asked_anew(prober: ReadinessProber) -> None:
    with server(says("HTTP/1.1 200 OK\r\n\r\n")) as (port, asked):
        prober.ask("s", [probe(port, key="a 1")])
        prober.ask("s", [probe(port, key="a 2")])
        assert len(asked) == 2


def test_services_do_not_forget_each_other(prober: ReadinessProber) -> None:
    with server(says("HTTP/1.1 200 OK\r\n\r\n")) as (port, asked):
        prober.ask("s", [probe(port)])
        prober.ask("other", [])
        prober.ask("s", [probe(port)])
        assert len(asked) == 1


def test_many_are_asked_side_by_side(prober: ReadinessProber) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        with at_most(20, "twenty probes of 2 s"):
            said = prober.ask("s", [probe(silent.getsockname()[1], 2.0, str(number)) for number in range(20)])
        assert len(said) == 20
        assert all(said.values())
