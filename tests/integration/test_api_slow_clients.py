"""`tidegate serve` and clients that keep to no rules: each is answered with a 4xx or cut off, and no other suffers."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from processes import free_port
from support.api import SHOP
from support.wait import at_most, eventually, exit_status
from tidegate.store.store import SqlStore
from tidegate.web.auth import new_token

THREADS = 4
CONNECTIONS = 200
PROGRAM = """
import sys
from pathlib import Path
from tidegate.settings import load
from tidegate.web import server, slow_clients
server.MAX_CONNECTIONS = int(sys.argv[3])
slow_clients.HEAD_SECONDS = slow_clients.BODY_SECONDS = float(sys.argv[2])
server.run(load(Path(sys.argv[1]), {}))
"""


@dataclass
class SlowClientServer:
    """A running `serve` with few threads."""

    port: int
    secret: str
    log: Path

    @property
    def head(self) -> bytes:
        """The headers that every request needs."""
        return f"Host: tidegate\r\nAuthorization: Bearer {self.secret}\r\n".encode()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def say(self, request: bytes) -> bytes:
        """All that comes back on a connection of its own, until the server ends it."""
        with self.connect() as line:
            with suppress(ConnectionError):  # cut off while we were still speaking
                line.sendall(request)
            with suppress(ConnectionError):
                return b"".join(iter(lambda: line.recv(65536), b""))
        return b""

    def ask(self, path: str = "/v1/services") -> requests.Response:
        headers = {"Authorization": f"Bearer {self.secret}", "Connection": "close"}
        return requests.get(f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=60)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlowClientServer]:
    """It waits ten minutes for a request: whoever is answered before is not held up by those who send nothing."""
    with running(tmp_path_factory.mktemp("serving"), 600.0) as made:
        yield made


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlowClientServer]:
    """It waits three seconds for a request."""
    with running(tmp_path_factory.mktemp("impatient"), 3.0) as made:
        yield made


@contextmanager
def running(folder: Path, request_seconds: float) -> Iterator[SlowClientServer]:
    database = f"sqlite:///{folder}/tidegate.db"
    store = SqlStore(database)
    store.migrate()
    secret, token = new_token("admin", ["admin"], ["*"], time.time())
    store.add_token(token)
    store.close()
    port, settings = free_port(), folder / "settings.toml"
    settings.write_text(f'database = "{database}"\nlisten = "127.0.0.1:{port}"\nweb.threads = {THREADS}\n')
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-c", PROGRAM, str(settings), str(request_seconds), str(CONNECTIONS)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    made = SlowClientServer(port, secret, folder / "log")
    try:
        eventually("it answers", lambda: _answers(made), process=process)
        yield made
        assert process.poll() is None, "it is still there"
    finally:
        process.terminate()
        exit_status(process)


def _answers(serving: SlowClientServer) -> bool:
    with suppress(requests.ConnectionError):
        return serving.ask().status_code == 200
    return False


def status(answer: bytes) -> int:
    """Of the first answer; 0 where there was none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


BODY = b'{"reason": "x"}'
JSON = b"Content-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
WISH = b"POST /v1/rollouts/none/pause HTTP/1.1\r\n"
LIST = b"GET /v1/services HTTP/1.1\r\n"

MALFORMED = {
    "two lengths": WISH + JSON + b"Content-Length: 15\r\nContent-Length: 16\r\n\r\n" + BODY,
    "a length and chunks": WISH + JSON + b"Content-Length: 15\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "chunks twice": WISH + JSON + CHUNKED + CHUNKED + b"\r\n0\r\n\r\n",
    "chunks that are not the last coding": WISH + JSON + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "a coding nobody knows": WISH + JSON + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a length with a sign": WISH + JSON + b"Content-Length: +15\r\n\r\n" + BODY,
    "a length that is none": WISH + JSON + b"Content-Length: 0x0f\r\n\r\n" + BODY,
    "a negative length": WISH + JSON + b"Content-Length: -1\r\n\r\n" + BODY,
    "a chunk's length that is none": WISH + JSON + CHUNKED + b"\r\nzz\r\nx\r\n0\r\n\r\n",
    "a folded header": LIST + b"X-Folded: a\r\n  b\r\n\r\n",
    "a blank before the colon": LIST + b"X-Blank : a\r\n\r\n",
    "a header without a colon": LIST + b"nonsense\r\n\r\n",
    "a header's name with a line break": LIST + b"X-A\nX-B: 1\r\n\r\n",
    "a NUL in a header": LIST + b"X-Request-ID: a\0b\r\n\r\n",
    "a bare line feed in a header": LIST + b"X-Request-ID: a\nX-Injected: b\r\n\r\n",
    "a giant header": LIST + b"X-Giant: " + b"a" * 40_000 + b"\r\n\r\n",
    "a giant head": LIST + b"".join(b"X-%d: a\r\n" % each for each in range(5_000)) + b"\r\n",
    "a giant address": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50 + b"\r\n\r\n",
    "another HTTP": b"GET / HTTP/9.9\r\n\r\n",
}


@pytest.mark.parametrize("request_", MALFORMED.values(), ids=MALFORMED)
def test_what_two_servers_could_read_differently_is_refused(serving: SlowClientServer, request_: bytes) -> None:
    line, _, rest = request_.partition(b"\r\n")
    answer = serving.say(line + b"\r\n" + serving.head + rest)
    assert 400 <= status(answer) < 500 or status(answer) in (501, 505), answer
    assert answer.count(b"HTTP/1.1 ") == 1, "what follows is not taken for another request"
    assert serving.ask().status_code == 200


ODD = {
    "chunks": (WISH + JSON + CHUNKED + b"\r\nf\r\n" + BODY + b"\r\n0\r\n\r\n", 404),
    "more chunks than are allowed": (WISH + JSON + CHUNKED + b"\r\n" + b"8000\r\n" + b"x" * 0x8000 + b"\r\n", 400),
    "less than was promised": (WISH + JSON + b"Content-Length: 500\r\n\r\n" + BODY, 400),
    "more than is allowed": (WISH + JSON + b"Content-Length: 9999999999\r\n\r\n" + BODY, 413),
    "another type": (WISH + b"Content-Type: text/xml\r\nContent-Length: 15\r\n\r\n" + BODY, 415),
    "a type that is none": (WISH + b"Content-Type: ;;;\r\nContent-Length: 15\r\n\r\n" + BODY, 415),
    "an unknown charset": (WISH + JSON[:-2] + b"; charset=klingon\r\nContent-Length: 15\r\n\r\n" + BODY, 404),
    "no method": (b"BREW /v1/services HTTP/1.1\r\n\r\n", 405),
    "HEAD": (b"HEAD /v1/services HTTP/1.1\r\n\r\n", 200),
    "OPTIONS": (b"OPTIONS /v1/services HTTP/1.1\r\n\r\n", 200),
    "TRACE": (b"TRACE /v1/services HTTP/1.1\r\n\r\n", 405),
    "a whole address": (b"GET http://elsewhere/v1/services HTTP/1.1\r\n\r\n", 200),
    "dots": (b"GET /v1/services/../../../etc/passwd HTTP/1.1\r\n\r\n", 404),
    "dots in code": (b"GET /v1/services/%2e%2e%2f%2e%2e/etc%2fpasswd HTTP/1.1\r\n\r\n", 404),
    "a NUL in the address": (b"GET /v1/rollouts/a%00b HTTP/1.1\r\n\r\n", 422),
    "no UTF-8 in the address": (b"GET /v1/rollouts/%ff%fe HTTP/1.1\r\n\r\n", 404),
    "a line break in the address": (b"GET /v1/rollouts/a%0d%0aX-Injected:%20b HTTP/1.1\r\n\r\n", 404),
    "a line break in a query": (b"GET /v1/rollouts?cursor=%0d%0aX:%20b HTTP/1.1\r\n\r\n", 422),
    "two keys": (WISH + JSON + b"Idempotency-Key: a\r\nIdempotency-Key: b\r\nContent-Length: 15\r\n\r\n" + BODY, 404),
    "an underscore for a dash": (LIST + b"Content_Length: 99\r\n\r\n", 200),
}  # fmt: skip


@pytest.mark.parametrize(("request_", "wanted"), ODD.values(), ids=ODD)
def test_what_is_odd_has_one_plain_answer(serving: SlowClientServer, request_: bytes, wanted: int) -> None:
    line, _, rest = request_.partition(b"\r\n")
    with serving.connect() as connection:
        connection.sendall(line + b"\r\n" + serving.head + b"Connection: close\r\n" + rest)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status(answer) == wanted, answer
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"\nx-injected" not in head.lower()
    if wanted >= 400 and not request_.startswith(b"HEAD"):
        assert b"application/problem+json" in head
        assert json.loads(body)["status"] == wanted


def test_two_tokens_are_none(serving: SlowClientServer) -> None:
    answer = serving.say(LIST + serving.head + b"Authorization: Bearer other\r\nConnection: close\r\n\r\n")
    assert status(answer) == 401


def test_what_follows_a_body_is_a_request_of_its_own(serving: SlowClientServer) -> None:
    """And needs a token of its own."""
    first = WISH + serving.head + JSON + b"Content-Length: 15\r\n\r\n" + BODY
    answer = serving.say(first + b"GET /v1/tokens HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert [int(each.split(b" ", 1)[0]) for each in answer.split(b"HTTP/1.1 ")[1:]] == [404, 401]


# -- JSON -----------------------------------------------------------------------------------------------------------------

JSONS = {
    "numbers without end": b'{"reason": ' + b"9" * 100_000 + b"}",
    "a number beyond all": b'{"hours": 1e999, "reason": "x"}',
    "no number": b'{"hours": NaN, "reason": "x"}',
    "infinity": b'{"hours": Infinity, "reason": "x"}',
    "nested deeply": b'{"reason": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "objects nested deeply": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "no UTF-8": b'{"reason": "\xff\xfe"}',
    "half a character": b'{"reason": "\\ud800"}',
    "NUL": b'{"reason": "a\\u0000b"}',
    "an escape sequence": b'{"reason": "\\u001b[2J"}',
    "an escape sequence in one character": b'{"reason": "\\u009b2J"}',
    "line separators": b'{"reason": "a\\u2028b"}',
    "turned writing": b'{"reason": "\\u202egnihton"}',
    "a name twice": b'{"reason": "good", "reason": "bad"}',
    "another encoding": '{"reason": "x"}'.encode("utf-16"),
    "nothing": b"",
    "blanks": b"   ",
}


@pytest.mark.parametrize("body", JSONS.values(), ids=JSONS)
def test_odd_json_is_refused(serving: SlowClientServer, body: bytes) -> None:
    head = b"PUT /v1/environments/demo/freeze HTTP/1.1\r\n" + serving.head + JSON + b"Connection: close\r\n"
    answer = serving.say(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert status(answer) in (400, 422), answer[:500]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["detail"].replace("\n", "").isprintable()


# -- slow ones ------------------------------------------------------------------------------------------------------------


def halves(serving: SlowClientServer, held: ExitStack) -> list[socket.socket]:
    """Three times as many as there are threads, each with the beginning of a request."""
    lines = [held.enter_context(serving.connect()) for _ in range(3 * THREADS)]
    for line in lines:
        line.sendall(LIST + b"X-Slow: ")
    return lines


def test_half_a_request_takes_no_thread(serving: SlowClientServer) -> None:
    """Each sends a little now and then."""
    with ExitStack() as held, at_most(60, "two requests while others take ten minutes"):
        lines = halves(serving, held)
        assert serving.ask().status_code == 200
        for line in lines:
            line.sendall(b"a")
        assert serving.ask().status_code == 200


@pytest.mark.parametrize("sent", [b"", LIST + b"X-Slow: "], ids=["nothing", "half a request"])
def test_more_slow_clients_than_connections_keep_nobody_out(serving: SlowClientServer, sent: bytes) -> None:
    with ExitStack() as held, at_most(60, "requests while other clients take ten minutes"):
        lines = [held.enter_context(serving.connect()) for _ in range(2 * CONNECTIONS)]
        for line in lines:
            with suppress(ConnectionError):
                line.sendall(sent)
        assert [serving.ask().status_code for _ in range(20)] == [200] * 20
        assert is_cut_off(lines[0]), "it has waited longest"


def test_half_a_request_is_cut_off(impatient: SlowClientServer) -> None:
    with ExitStack() as held:
        lines = halves(impatient, held)
        with suppress(ConnectionError):
            for line in lines:
                line.sendall(b"a")
        assert [is_cut_off(line) for line in lines] == [True] * len(lines), "without an answer"


def is_cut_off(line: socket.socket) -> bool:
    """Once something comes, or nothing more can."""
    try:
        return line.recv(100) == b""
    except ConnectionError:
        return True


def test_connections_that_say_nothing_take_no_thread(serving: SlowClientServer) -> None:
    """gunicorn's own wait for a first byte is 5 s: with these, 100 s in all."""
    with ExitStack() as held, at_most(50, "a request while other clients are silent"):
        for _ in range(20 * THREADS):
            held.enter_context(serving.connect())
        assert serving.ask().status_code == 200


def test_clients_that_do_not_hang_up_stop_nothing(serving: SlowClientServer) -> None:
    """The answer has come, the connection is half closed, and they stay. gunicorn waits 2 s for each: 120 s in all."""
    with ExitStack() as held, at_most(60, "60 requests of clients that do not hang up"):
        for _ in range(60):
            line = held.enter_context(serving.connect())
            line.sendall(LIST + serving.head + b"Connection: close\r\n\r\n")
            assert status(line.recv(65536)) == 200
        assert serving.ask().status_code == 200


def test_a_body_that_never_comes_holds_nobody_up_without_a_token(serving: SlowClientServer) -> None:
    """gunicorn itself waits 5 s for each: 150 s in all."""
    with ExitStack() as held, at_most(60, "a request while other bodies never come"):
        lines = [held.enter_context(serving.connect()) for _ in range(30 * THREADS)]
        for line in lines:
            line.sendall(f"PUT {SHOP} HTTP/1.1\r\nHost: x\r\n".encode() + JSON + b"Content-Length: 100000\r\n\r\n")
        assert serving.ask().status_code == 200
        assert [status(line.recv(65536)) in (401, 429) for line in lines] == [True] * len(lines)


def test_bodies_that_never_come_hold_nobody_up_with_one(serving: SlowClientServer) -> None:
    """Half of the threads wait for them, for ten minutes. Whoever sends a body at once is answered, and others get 503."""
    late = f"PUT {SHOP} HTTP/1.1\r\n".encode() + serving.head + JSON + b"Content-Length: 100000\r\n\r\n{"
    with ExitStack() as held, at_most(60, "requests while other bodies never come"):
        lines = [held.enter_context(serving.connect()) for _ in range(5 * THREADS)]
        for line in lines:
            line.sendall(late)
        for _ in range(THREADS):
            assert serving.ask().status_code == 200
            wish = WISH + serving.head + JSON + b"Connection: close\r\nContent-Length: 15\r\n\r\n" + BODY
            assert status(serving.say(wish)) == 404
        readable, _, _ = select.select(lines, [], [], 0)
        assert {status(line.recv(65536)) for line in readable} == {503}
        assert len(lines) - len(readable) == THREADS // 2


def test_a_body_that_never_comes_is_given_up_with_one(impatient: SlowClientServer) -> None:
    with impatient.connect() as line:
        line.sendall(f"PUT {SHOP} HTTP/1.1\r\n".encode() + impatient.head + JSON + b"Content-Length: 100000\r\n\r\n{")
        assert status(line.recv(65536)) == 400


def test_all_of_that_is_one_line_of_json_each_in_the_log(serving: SlowClientServer, impatient: SlowClientServer) -> None:
    """Runs last in this file: nothing above could make a line of its own, or an error of ours."""
    levels = {json.loads(line)["level"] for line in impatient.log.read_text().splitlines()}
    assert not levels & {"error", "critical"}
    lines = [json.loads(line) for line in serving.log.read_text().splitlines()]
    assert len(lines) > 60
    assert [line for line in lines if line["level"] in ("error", "critical")] == []
    assert serving.secret not in serving.log.read_text()
