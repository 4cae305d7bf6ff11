"""An engine behind SSH: each connection is one `ssh HOST docker system dial-stdio` of the system's own client.

The SDK's own way needs paramiko even to import it, and gives connections without time limits. Here the program's standard
input and output are one socket, so that keys, `~/.ssh/config`, jump hosts and time limits all work as they do elsewhere.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
from typing import Any
from urllib.parse import urlsplit

import urllib3.connection
import urllib3.connectionpool
from requests.adapters import HTTPAdapter

LAST_WORDS = 400  # characters of what ssh said


def command(url: str, connect_seconds: float) -> list[str]:
    """The program that speaks with the engine; it never asks for a password."""
    parts = urlsplit(url)
    words = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={max(1, round(connect_seconds))}"]
    words += ["-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"]
    words += ["-l", parts.username] if parts.username else []
    words += ["-p", str(parts.port)] if parts.port else []
    return [*words, "--", str(parts.hostname), "docker system dial-stdio"]


class SshConnection(urllib3.connection.HTTPConnection):
    """HTTP over the standard input and output of a program."""

    def __init__(self, words: list[str], said: Any, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._words, self._said = words, said
        self._program: subprocess.Popen[bytes] | None = None

    def connect(self) -> None:
        """Start the program and speak through its standard input and output."""
        ours, theirs = socket.socketpair()
        try:
            self._program = subprocess.Popen(
                self._words, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=self._said, start_new_session=True
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.settimeout(float(self.timeout or 60))
        self.sock = ours

    def close(self) -> None:
        """End the program with the connection."""
        super().close()
        program, self._program = self._program, None
        if program is not None:
            program.terminate()
            program.wait()


class SshPool(urllib3.connectionpool.HTTPConnectionPool):
    """Connections to one engine, kept for the next request."""

    def __init__(self, words: list[str], said: Any, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout, maxsize=8)
        self._words, self._said, self._seconds = words, said, timeout

    def _new_conn(self) -> SshConnection:
        return SshConnection(self._words, self._said, self._seconds)


class SshAdapter(HTTPAdapter):
    """To be mounted for `http+docker://` on the SDK's client."""

    def __init__(self, url: str, timeout: float) -> None:
        super().__init__()
        self._said = tempfile.TemporaryFile(mode="a+b")  # noqa: SIM115 - open as long as the adapter, closed by close()
        self._pool = SshPool(command(url, timeout), self._said, timeout)

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> SshPool:
        """The one pool, whatever the address."""
        return self._pool

    def request_url(self, request: Any, proxies: Any) -> str:
        """The path alone: no proxy is ever between."""
        return str(request.path_url)

    def last_words(self) -> str:
        """What ssh said last on its standard error."""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace")[-LAST_WORDS:].strip().splitlines()
        return lines[-1].strip() if lines else ""

    def close(self) -> None:
        """End the programs."""
        self._pool.close()
        self._said.close()
        super().close()
