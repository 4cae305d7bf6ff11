"""The API behind TLS: a real handshake between the server's process and the command line."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from processes import free_port
from support.prerequisites import program
from support.wait import at_most, eventually, exit_status
from tidegate.cli.exit_codes import ExitCode
from tidegate.errors import InvalidSettings
from tidegate.settings import load
from tidegate.store.store import SqlStore
from tidegate.web.auth import new_token

THREADS = 12
PATIENT = """
from tidegate.cli.main import main
from tidegate.web import slow_clients
slow_clients.HEAD_SECONDS = 600.0
main()
"""
TIDEGATE = Path(sys.executable).with_name("tidegate")


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """One that vouches for itself, for 127.0.0.1, and its key."""
    chain, key = folder / f"{name}.pem", folder / f"{name}.key"
    asked = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1", "-nodes"]
    made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", str(key), "-out", str(chain)]
    subprocess.run([program("openssl"), "req", "-x509", *made, *asked], check=True, capture_output=True, timeout=30)
    return chain, key


@dataclass
class Secured:
    """A running `tidegate serve` with a certificate."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    secret: str

    def command(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """The command line against it."""
        own = {"TIDEGATE_SERVER": f"https://127.0.0.1:{self.port}", "TIDEGATE_TOKEN": self.secret}
        kept = {name: each for name, each in os.environ.items() if not name.startswith("TIDEGATE_")}
        told = kept | own | {"TIDEGATE_PATIENCE_SECONDS": "1"} | variables
        return subprocess.run([str(TIDEGATE), *words], env=told, capture_output=True, text=True, timeout=60, check=False)

    def subject(self) -> str:
        """Whom the certificate names that is served now."""
        pem = ssl.get_server_certificate(("127.0.0.1", self.port), timeout=60)
        (self.folder / "served.pem").write_text(pem)
        asked = [program("openssl"), "x509", "-noout", "-subject", "-in", str(self.folder / "served.pem")]
        return subprocess.run(asked, check=True, capture_output=True, text=True, timeout=30).stdout


def settings(folder: Path, port: int, chain: Path, key: Path) -> Path:
    written = folder / "settings.toml"
    web = f'[web]\nthreads = {THREADS}\ncertificate = "{chain}"\nkey = "{key}"\n'
    written.write_text(f'database = "sqlite:///{folder}/tidegate.db"\nlisten = "127.0.0.1:{port}"\n{web}')
    return written


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("tls")
    store = SqlStore(f"sqlite:///{folder}/tidegate.db")
    store.migrate()
    secret, token = new_token("admin", ["admin"], ["*"], time.time())
    store.add_token(token)
    store.close()
    port = free_port()
    with (folder / "log").open("wb") as log:
        words = ["serve", "--settings", str(settings(folder, port, *certificate(folder, "first")))]
        command = [sys.executable, "-c", PATIENT, *words]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    made = Secured(folder, port, process, secret)
    try:
        eventually("it answers", lambda: _answers(made))
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            exit_status(process)
        finally:
            process.kill()


def _answers(secured: Secured) -> bool:
    assert secured.process.poll() is None, (secured.folder / "log").read_text()
    with suppress(requests.ConnectionError, requests.Timeout):
        return requests.get(f"https://127.0.0.1:{secured.port}/readyz", timeout=60, verify=secured.folder / "first.pem").ok
    return False


def test_handshakes_that_are_never_finished_take_no_thread(secured: Secured) -> None:
    half_a_hello = bytes.fromhex("1603010200010001fc0303")
    with ExitStack() as lines:
        for number in range(3 * THREADS):
            line = lines.enter_context(socket.create_connection(("127.0.0.1", secured.port), timeout=60))
            line.sendall((b"", half_a_hello, b"GET / HTTP/1.1\r\n")[number % 3])
        with at_most(60, "an answer while handshakes take ten minutes"):
            assert _answers(secured)


def test_the_command_line_trusts_whom_it_is_told_to_trust(secured: Secured) -> None:
    known = secured.command("services", TIDEGATE_CA_FILE=str(secured.folder / "first.pem"))
    assert known.returncode == 0, known.stderr
    unknown = secured.command("services")
    assert unknown.returncode == ExitCode.UNREACHABLE
    assert "certificate verify failed" in unknown.stderr
    missing = secured.command("--ca-file", "/no/such.pem", "services")
    assert missing.returncode == ExitCode.USAGE
    assert "Cannot read the CA file /no/such.pem: no such file" in missing.stderr


def test_a_token_is_never_asked_for_in_the_clear(secured: Secured) -> None:
    with socket.create_connection(("127.0.0.1", secured.port), timeout=60) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        with suppress(ConnectionResetError):
            assert b"alive" not in line.recv(4096)


def test_versions_that_are_broken_are_refused(secured: Secured) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", secured.port), timeout=60) as line,
        pytest.raises(ssl.SSLError, match="alert protocol version"),
    ):
        context.wrap_socket(line)


def test_a_renewed_certificate_needs_no_restart(secured: Secured) -> None:
    assert "first" in secured.subject()
    chain, key = certificate(secured.folder, "second")
    kept = [(secured.folder / f"first.{end}").read_bytes() for end in ("pem", "key")]
    try:
        (secured.folder / "first.key").write_bytes(key.read_bytes())
        (secured.folder / "first.pem").write_bytes(chain.read_bytes())
        assert "second" in secured.subject()
    finally:
        for end, was in zip(("pem", "key"), kept, strict=True):
            (secured.folder / f"first.{end}").write_bytes(was)


def test_a_certificate_that_cannot_be_used_is_told_before_anything_is_served(tmp_path: Path) -> None:
    chain, _ = certificate(tmp_path, "one")
    _, other = certificate(tmp_path, "other")
    wrong = settings(tmp_path, free_port(), chain, other)
    ended = subprocess.run(
        [str(TIDEGATE), "serve", "--settings", str(wrong)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == ExitCode.REFUSED
    assert f"Error: Cannot load the TLS certificate {chain} and key {other}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_certificate_without_its_key_is_a_mistake() -> None:
    with pytest.raises(InvalidSettings, match=r"web: .*set certificate and key together"):
        load(None, {"TIDEGATE_WEB__CERTIFICATE": "/x.pem"})
