"""`tidegate serve` as a process: it answers, ends cleanly, and leaves nothing behind, however it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from processes import free_port
from support.store_fixtures import a_service, begin
from support.wait import at_most, eventually, exit_status
from tidegate.core.model import Signal, SignalKind
from tidegate.store.store import SqlStore
from tidegate.web.auth import new_token

PACE_SECONDS = 0.1  # between two requests of a client that keeps asking
PROGRAM = """
import sys
from pathlib import Path
from tidegate.settings import load
from tidegate.web import server
server.STOP_SECONDS = 300
server.run(load(Path(sys.argv[1]), {}), sys.argv[2] or None)
"""


@dataclass
class ServedApi:
    """A running `serve`."""

    process: subprocess.Popen[bytes]
    port: int
    store: SqlStore
    secret: str
    log: Path
    address: str = "127.0.0.1"

    def get(self, path: str) -> requests.Response:
        """With the admin's token, on a connection of its own."""
        headers = {"Authorization": f"Bearer {self.secret}", "Connection": "close"}
        return requests.get(f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=60)

    def worker(self) -> int:
        """The process that does the work."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        assert len(children) == 1
        return int(children[0])

    def lines(self) -> list[dict[str, object]]:
        """The log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


def start(folder: Path, engine: str = "", address: str = "127.0.0.1") -> ServedApi:
    store = SqlStore(f"sqlite:///{folder}/tidegate.db")
    store.migrate()
    secret, token = new_token("admin", ["admin"], ["*"], time.time())
    store.add_token(token)
    port = free_port()
    settings = folder / "settings.toml"
    settings.write_text(f'database = "sqlite:///{folder}/tidegate.db"\nlisten = "{address}:{port}"\n')
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-c", PROGRAM, str(settings), engine]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    made = ServedApi(process, port, store, secret, folder / "log", address)
    try:
        eventually("it is ready", lambda: answers(made), process=process)
    except BaseException:
        stop(made)
        raise
    return made


def stop(serving: ServedApi) -> None:
    """Whatever is left of it."""
    worker = None
    with suppress(OSError, AssertionError):
        worker = serving.worker()
    serving.process.kill()
    exit_status(serving.process)
    if worker is not None:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    serving.store.close()


def answers(serving: ServedApi) -> bool:
    with suppress(requests.ConnectionError):
        return requests.get(f"http://{serving.address}:{serving.port}/readyz", timeout=60).status_code == 200
    return False


@pytest.fixture(params=["", "engine-a"], ids=["api", "with-engine"])
def serving(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServedApi]:
    made = start(tmp_path, request.param)
    try:
        yield made
    finally:
        stop(made)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


def test_sigterm_ends_it_cleanly_and_lets_no_poll_hang(serving: ServedApi) -> None:
    rollout = begin(serving.store, a_service())
    after = 10  # beyond anything that happens here
    head = f"GET /v1/rollouts/{rollout.id}/events?after={after}&wait=25 HTTP/1.1\r\nHost: tidegate\r\n"
    with socket.create_connection(("127.0.0.1", serving.port), timeout=60) as poll:
        poll.sendall(f"{head}Authorization: Bearer {serving.secret}\r\nConnection: close\r\n\r\n".encode())
        eventually("the server has read it", lambda: unread(serving.port) == [0])
        with at_most(20, "the end of a server with a poll of 25 s"):
            serving.process.terminate()
            assert exit_status(serving.process) == 0, serving.log.read_text()
        answer, _, body = b"".join(iter(lambda: poll.recv(65536), b"")).partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 "), "answered, not cut"
    assert json.loads(body)["events"] == []
    assert is_free(serving.port)
    assert [line for line in serving.lines() if line["level"] in ("error", "critical")] == []


def test_it_listens_on_ipv6_and_the_command_line_talks_to_it(tmp_path: Path) -> None:
    serving = start(tmp_path, address="[::1]")
    environment = {"TIDEGATE_SERVER": f"http://[::1]:{serving.port}", "TIDEGATE_TOKEN": serving.secret}
    command = [str(Path(sys.executable).with_name("tidegate")), "-o", "json", "services"]
    try:
        done = subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
        )
    finally:
        stop(serving)
    assert (done.returncode, json.loads(done.stdout)) == (0, []), done.stderr
    assert {line["source"] for line in serving.lines() if line["event"] == "request"} == {"::1"}


def unread(port: int) -> list[int]:
    """For each established connection to the port, the bytes that came and that nobody has read yet."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [int(row[4].partition(":")[2], 16) for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"]


@contextmanager
def asking_again_and_again(serving: ServedApi) -> Iterator[None]:
    """On one connection, as Prometheus does, until it ends."""
    over = threading.Event()

    def ask() -> None:
        with requests.Session() as session, suppress(requests.RequestException):
            while not over.wait(PACE_SECONDS):
                session.get(f"http://127.0.0.1:{serving.port}/healthz", timeout=60)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        eventually("it is asked", lambda: unread(serving.port))
        yield
    finally:
        over.set()
        thread.join()


def test_a_killed_master_leaves_no_orphan(serving: ServedApi) -> None:
    worker = serving.worker()
    with asking_again_and_again(serving):
        serving.process.kill()
        exit_status(serving.process)
        eventually("its worker has ended", lambda: not Path(f"/proc/{worker}").exists())
    assert is_free(serving.port)


def test_a_client_that_goes_on_asking_does_not_hold_up_the_end(serving: ServedApi) -> None:
    with asking_again_and_again(serving):
        serving.process.terminate()
        assert exit_status(serving.process) == 0, serving.log.read_text()


def test_a_killed_worker_is_replaced(serving: ServedApi) -> None:
    first = serving.worker()
    os.kill(first, signal.SIGKILL)
    eventually("it is replaced", lambda: answers(serving) and serving.worker() != first, process=serving.process)
    assert serving.get("/v1/services").status_code == 200


def test_signals_that_would_add_processes_are_ignored(serving: ServedApi) -> None:
    first = serving.worker()
    for each in (signal.SIGHUP, signal.SIGUSR2, signal.SIGTTIN):
        serving.process.send_signal(each)
    eventually("it answers", lambda: answers(serving), process=serving.process)
    assert serving.worker() == first


def test_an_engine_that_is_stopped_gives_its_claims_back(tmp_path: Path) -> None:
    serving = start(tmp_path, "engine-a")
    try:
        rollout = begin(serving.store, a_service())
        # There is no environment in the settings, which the engine tells with the rollout in its hands.
        path = f"/v1/rollouts/{rollout.id}/events"
        eventually("the engine has driven it", lambda: '"driver_error"' in serving.get(path).text)
        serving.process.terminate()
        assert exit_status(serving.process) == 0
        assert any(line["event"] == "engine stopped" for line in serving.lines())
        serving.store.signal(rollout.id, Signal(SignalKind.VERIFY, time.time(), "test"))
        claim = serving.store.claim("other", 10.0)
        assert claim is not None, "nobody holds it, long before the lease would have run out"
        assert serving.store.load(rollout.id)[0].takeovers == 0, "it was given back, not lost"
    finally:
        stop(serving)


def test_a_second_engine_and_a_taken_address_are_told_in_a_sentence(tmp_path: Path) -> None:
    serving = start(tmp_path, "engine-a")
    try:
        settings = tmp_path / "settings.toml"
        taken = run(settings, "")
        assert taken.returncode != 0
        assert f"Cannot listen on 127.0.0.1:{serving.port}" in taken.stderr
        settings.write_text(settings.read_text().replace(str(serving.port), str(free_port())))
        second = run(settings, "engine-b")
        assert second.returncode != 0
        assert "Another engine (process" in second.stderr
        assert "Stop it first" in second.stderr
    finally:
        stop(serving)


def run(settings: Path, engine: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(settings), engine]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_log_is_json_with_request_and_principal(serving: ServedApi) -> None:
    assert serving.get("/v1/rollouts/none").status_code == 404
    (line,) = [line for line in serving.lines() if line.get("path") == "/v1/rollouts/none"]
    assert (line["event"], line["status"], line["principal"], line["method"]) == ("request", 404, "admin", "GET")
    assert len(str(line["request_id"])) == 32
    assert serving.secret not in serving.log.read_text()
