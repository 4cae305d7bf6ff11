"""The check of one instance, against small servers that misbehave as ordered, and what its results in a row mean."""

from __future__ import annotations

import itertools
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from support.wait import at_most, eventually, pause
from tidegate.core.container import Health
from tidegate.drivers.platforms import readiness
from tidegate.drivers.platforms.readiness import ReadinessProbe, ReadinessProber, Streak, check_instance

Behaviour = Callable[[socket.socket], None]
OK = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
#: A key that protects nothing, and its own certificate for the name "other".
KEY_OF_OTHER = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgtsMooXJH1N/T6vL8
Z+QYr8ezVqE7L5/sbogRZrcegBGhRANCAARHqAZpc0I5+r2LdtKe7zhnOyi025no
fs2MartYNC/tiKCByUFjlPwu6dxRM/MhHCRjrPWVlLjAHexktakPFwYU
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBeDCCAR2gAwIBAgIUGGxHVY4uaof8O1n8YKCGO6+5sfMwCgYIKoZIzj0EAwIw
EDEOMAwGA1UEAwwFb3RoZXIwIBcNMjYxMjAxMDIzMDAwWhgPMjEyNjExMDcwMjMw
MDBaMBAxDjAMBgNVBAMMBW90aGVyMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
R6gGaXNCOfq9i3bSnu84ZzsotNuZ6H7NjGq7WDQv7YiggclBY5T8LuncUTPzIRwk
Y6z1lZS4wB3sZLWpDxcGFKNTMFEwHQYDVR0OBBYEFGVuNDrvx3sUTaSDMzL49WQR
UlwNMB8GA1UdIwQYMBaAFGVuNDrvx3sUTaSDMzL49WQRUlwNMA8GA1UdEwEB/wQF
MAMBAf8wCgYIKoZIzj0EAwIDSQAwRgIhALdJgCZEPRkN3ANQ2CtOkrRwso+ctjOQ
WnItAeTsbOzxAiEAyE/81LbkvEAf9AUcGewtvOkIzVcGDIXI3MKlhlTZBPg=
-----END CERTIFICATE-----
"""
SETTINGS = struct.pack(">BHBBL", 0, 0, 4, 0, 0)


@contextmanager
def server(behave: Behaviour, tls: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """Accepts one connection after the other and lets `behave` answer; gives its port and what was asked."""
    asked: list[bytes] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                with plain:
                    try:
                        line = tls.wrap_socket(plain, server_side=True) if tls else plain
                        asked.append(line.recv(4096))
                        behave(line)
                        line.close()
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(listener.getsockname()[1]), asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port on which nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


def probe(port: int, health: Health | None = None, key: str = "a", **more: bool) -> ReadinessProbe:
    address = ("127.0.0.1", port)
    return ReadinessProbe(key, address, address, health or Health("/health?deep=1", timeout_seconds=60.0), **more)


def says(*texts: str | bytes) -> Behaviour:
    """One answer for each connection; the last one for all that follow."""
    rest = iter([*texts, *itertools.repeat(texts[-1], 10_000)])
    return lambda line: line.sendall(text.encode() if isinstance(text := next(rest), str) else text)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (OK, ""),
        ("HTTP/1.0 204\r\n\r\n", ""),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n", ""),
        ("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", ""),
        ("HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1/x\r\n\r\n", ""),
        ("HTTP/1.1 302 Found\r\nLocation: //login.example.com/\r\n\r\n", "answered 302: a redirect to another host, "),
        ("HTTP/1.1 404 Not Found\r\n\r\n", "answered 404"),
        ("HTTP/1.1 503 Wait\r\n\r\n", "answered 503"),
        ("HTTP/1.1 101 Switching\r\n\r\n", "answered 101"),
        ("SSH-2.0-OpenSSH\r\n", "failed: the response is not HTTP"),
        ("HTTP/1.1 fine\r\n", "failed: the response is not HTTP"),
        (f"HTTP/1.1 200 {'x' * 70_000}\r\n\r\n", "failed: the response is not HTTP"),
        ("", "failed: connection closed without a response"),
    ],
)
def test_what_the_answer_means(answer: str, problem: str) -> None:
    with server(says(answer)) as (port, asked):
        result = check_instance(probe(port))
        assert result.startswith(f"GET /health?deep=1 {problem}") if problem else not result
        head = asked[0].lower()
        assert head.startswith(b"get /health?deep=1 http/1.1\r\n")
        assert f"\r\nhost: 127.0.0.1:{port}\r\n".encode() in head
        assert b"\r\nconnection: close\r\n" in head


def test_the_keys_of_health_are_sent_and_obeyed() -> None:
    health = Health("/", host="shop.example.com:8443", headers=(("User-Agent", "probe"),), expect=((200, 299), (401, 401)))
    redirect = "HTTP/1.1 401 x\r\n\r\n", "HTTP/1.1 302 x\r\nLocation: https://shop.example.com/\r\n\r\n"
    with server(says(*redirect)) as (port, asked):
        assert check_instance(probe(port, health)) == ""
        assert b"\r\nhost: shop.example.com:8443\r\n" in asked[0]
        assert asked[0].lower().count(b"user-agent") == 1
        assert b"\r\nuser-agent: probe\r\n" in asked[0]
        assert check_instance(probe(port, health)) == "GET / answered 302"
        assert check_instance(probe(port, replace(health, expect=((300, 399),)))) == "", "to its own name"
        assert check_instance(probe(port, Health("/"))).endswith("a redirect to another host, shop.example.com")


def test_https_without_verification(tmp_path: Path) -> None:
    (tmp_path / "other.pem").write_text(KEY_OF_OTHER)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "other.pem")
    names: list[str | None] = []
    tls.sni_callback = lambda _, name, __: names.append(name)
    health = Health("/health", scheme="https", host="shop.example.com", timeout_seconds=60.0)
    with server(says(OK), tls) as (port, _):
        assert check_instance(probe(port, health)) == ""
        assert names == ["shop.example.com"]
    with server(says("HTTP/1.1 400 plain\r\n\r\n")) as (port, _):
        assert check_instance(probe(port, health)).startswith("GET /health failed: ")


@pytest.mark.parametrize("health", [Health("/health"), Health()], ids=["request", "connection"])
def test_a_refused_connection_names_the_address(health: Health) -> None:
    with refusing_port() as port:
        assert check_instance(probe(port, health)) == f"nothing answers at 127.0.0.1:{port}: connection refused"


def test_a_health_port_of_its_own_does_not_replace_the_address_of_the_proxy() -> None:
    with server(says(OK)) as (port, asked), refusing_port() as other:
        wrong = replace(probe(port), address=("127.0.0.1", other))
        assert check_instance(wrong) == f"nothing answers at 127.0.0.1:{other}: connection refused"
        assert not asked
        assert check_instance(replace(wrong, address=("127.0.0.1", port), health_address=("127.0.0.1", other)))


@pytest.mark.parametrize(("published", "ready"), [(True, False), (False, True)])
def test_a_published_port_on_which_nothing_listens(published: bool, ready: bool) -> None:
    """Docker's own proxy accepts the connection, finds nothing, and closes it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        closer = threading.Thread(target=lambda: listener.accept()[0].close())
        closer.start()
        problem = check_instance(probe(listener.getsockname()[1], Health(timeout_seconds=60.0), published=published))
        closer.join()
    assert (not problem) == ready
    assert ready or problem.endswith("the connection is closed at once")


@pytest.mark.parametrize("drip", ["HTTP/1.1 200 " + "x" * 10_000, "HTTP/1.1 100 Continue\r\n\r\n" * 1000])
def test_the_time_limit_is_for_the_whole_answer(drip: str) -> None:
    def behave(line: socket.socket) -> None:
        for letter in drip.encode():
            line.sendall(bytes([letter]))
            pause(0.05, "a byte comes now and then")

    with server(behave) as (port, _), at_most(20, "giving up"):
        assert check_instance(probe(port, Health("/", timeout_seconds=0.2))) == "GET / timed out after 0.2 s"


@pytest.mark.parametrize(
    ("answer", "ready"),
    [
        (SETTINGS, True),
        (struct.pack(">BHBBL", 0, 6, 4, 0, 0) + bytes(6), True),
        (struct.pack(">BHBBL", 0, 0, 4, 1, 0), False),  # the acknowledgement of settings may not come first
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False),
        (SETTINGS[:5], False),
        (b"", False),
    ],
)
def test_http2_in_clear_text(answer: bytes, ready: bool) -> None:
    with server(says(answer)) as (port, asked):
        problem = check_instance(probe(port, Health(timeout_seconds=60.0), h2c=True))
        assert problem == ("" if ready else f"127.0.0.1:{port} does not speak HTTP/2 in clear text (protocol: h2c)")
        assert asked[0].startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


def test_a_request_to_the_port_that_speaks_http2_only() -> None:
    with server(says(SETTINGS)) as (port, _):
        problem = check_instance(probe(port, h2c=True))
        assert problem == (
            "GET /health?deep=1 failed: the response is not HTTP; set health.port to a port that speaks HTTP/1, or remove "
            "health.path"
        )


# -- results in a row ------------------------------------------------------------------------------------------------------


def states(health: Health, results: str, *, settled: bool = False) -> str:
    """What is known after each result, `.` for a success and `x` for a failure: `R` for ready, `-` for not, `?`."""
    streak, answers = Streak(health, settled=settled), ""
    for second, result in enumerate(results):
        streak.add("" if result == "." else "sick", float(second))
        answers += ("R" if not streak.message else "-") if streak.decided else "?"
    return answers


@pytest.mark.parametrize(
    ("healthy", "unhealthy", "results", "ready"),
    [
        (1, 2, "x.x.xx.", "-RRRR-R"),
        (3, 2, "..x...xx.", "-----RR--"),
        (2, 3, "..xx.xxx.", "-RRRRRR--"),
        (1, 1, ".x.", "R-R"),
    ],
)
def test_thresholds(healthy: int, unhealthy: int, results: str, ready: str) -> None:
    assert states(Health(healthy_threshold=healthy, unhealthy_threshold=unhealthy), results) == ready


@pytest.mark.parametrize(("results", "ready"), [("...", "??R"), ("x...", "???R"), ("xx", "?-")])
def test_one_that_ran_before_it_was_observed_is_unknown_at_first(results: str, ready: str) -> None:
    """An engine that takes over must not report one failed check, or too few successful ones, as not ready."""
    assert states(Health(healthy_threshold=3, unhealthy_threshold=2), results, settled=True) == ready


def test_the_message_says_since_when_it_fails() -> None:
    streak = Streak(Health())
    for at, problem in ((0.0, "a"), (3600.0, ""), (7200.0, "b"), (7260.0, "c")):
        streak.add(problem, at)
    assert streak.message == "c (failing since 02:00:00 UTC)"
    waiting = Streak(Health(healthy_threshold=3))
    waiting.add("", 0.0)
    assert waiting.message == "1 of 3 successful checks in a row"


# -- all instances ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def prober() -> Iterator[ReadinessProber]:
    prober = ReadinessProber()
    yield prober
    prober.close()


FAST = Health("/", interval_seconds=0.05, timeout_seconds=60.0, unhealthy_threshold=3)
RARE = replace(FAST, interval_seconds=3600.0)


def test_a_ready_one_is_checked_at_its_interval_whoever_asks(prober: ReadinessProber) -> None:
    with server(says(OK)) as (port, asked):
        for _ in range(50):
            assert prober.ask("s", [probe(port, RARE)]) == {"a": ""}
        assert len(asked) == 1


def test_one_that_starts_is_checked_each_time_somebody_asks(prober: ReadinessProber) -> None:
    with server(says("HTTP/1.1 503 No\r\n\r\n")) as (port, asked):
        eventually("it was checked", lambda: prober.ask("s", [probe(port, RARE)])["a"] and len(asked) >= 3)


def test_a_ready_one_is_checked_while_nobody_asks(prober: ReadinessProber) -> None:
    sick = "HTTP/1.1 503 No\r\n\r\n"
    with server(says(OK, sick, OK, sick, sick, sick)) as (port, asked):
        assert prober.ask("s", [probe(port, FAST)]) == {"a": ""}
        eventually("the failures were counted", lambda: len(asked) >= 8)
        assert prober.ask("s", [probe(port, FAST)])["a"].startswith("GET / answered 503 (failing since ")


def test_checks_end_when_nobody_observes(prober: ReadinessProber, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "OBSERVED_SECONDS", 0.2)
    with server(says(OK)) as (port, asked):
        prober.ask("s", [probe(port, FAST)])
        eventually("nothing is checked any more", lambda: not prober._targets)
        count = len(asked)
        pause(0.3, "no check may follow")
        assert len(asked) <= count + 1


def test_another_start_and_another_service_are_checked_anew(prober: ReadinessProber) -> None:
    with server(says(OK)) as (port, asked):
        for service, key in (("s", "a 1"), ("s", "a 2"), ("other", "a 2")):
            prober.ask(service, [probe(port, RARE, key=key)])
        prober.ask("s", [probe(port, RARE, key="a 2")])
        assert len(asked) == 3


def test_many_are_checked_side_by_side(prober: ReadinessProber) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        port, health = silent.getsockname()[1], Health("/", timeout_seconds=2.0)
        with at_most(20, "twenty checks of 2 s"):
            probes: Sequence[ReadinessProbe] = [probe(port, health, str(number), settled=True) for number in range(20)]
            answers = prober.ask("s", probes)
        assert len(answers) == 20
        assert all("timed out after 2 s" in answer for answer in answers.values())


def test_instances_that_hang_delay_neither_their_own_callers_again_nor_other_services(prober: ReadinessProber) -> None:
    """With more of them than there are threads for a service."""
    hanging = Health("/", timeout_seconds=60.0)
    with socket.socket() as silent, server(says(OK)) as (port, _):
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        probes = [probe(silent.getsockname()[1], hanging, str(number), settled=True) for number in range(40)]
        with at_most(60, "twenty polls, of which only the first waits 5 s,"):
            for _ in range(20):
                answers = prober.ask("slow", probes)
            assert prober.ask("quick", [probe(port, RARE)]) == {"a": ""}
    assert set(answers.values()) == {"no result of the first check yet"}
    threads = [thread for thread in threading.enumerate() if thread.name == "probe"]
    assert len(threads) <= readiness.MAX_CHECKS_OF_SERVICE + 1, "one of the quick service may not have ended yet"
