"""HTTP connections to Docker through a Unix socket or SSH.

The SDK's own transports leave sockets open after failed connections, require paramiko for SSH, and have no SSH timeouts.
Here an SSH connection is one process `ssh HOST docker system dial-stdio` of the system's client, whose standard input and
output are a socket, so that keys, `~/.ssh/config` and jump hosts work as usual.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from typing import IO, Any
from urllib.parse import urlsplit

import urllib3.connection
import urllib3.connectionpool
from requests.adapters import HTTPAdapter

from tidegate.drivers.http_client import read_limited

MAX_RESPONSE_BYTES = 64 * 1_048_576  # such as the list of all containers of a service, with their labels
MAX_STDERR_CHARS = 400  # of the standard error of ssh
MAX_UNIX_CONNECTIONS = 64
MAX_SSH_CONNECTIONS = 8  # kept open, one process each; sshd allows ten sessions per shared connection by default


def ssh_command(url: str, connect_seconds: float) -> list[str]:
    """The command that connects to Docker; it never asks for a password."""
    parts = urlsplit(url)
    words = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={max(1, round(connect_seconds))}"]
    words += ["-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"]
    words += ["-l", parts.username] if parts.username else []
    words += ["-p", str(parts.port)] if parts.port else []
    return [*words, "--", str(parts.hostname), "docker system dial-stdio"]


class UnixConnection(urllib3.connection.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path, self._seconds = path, seconds

    def connect(self) -> None:
        """Connect; close the socket if that fails."""
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connected.settimeout(self._seconds)
            connected.connect(self._path)
        except OSError:
            connected.close()
            raise
        self.sock = connected


class SshConnection(urllib3.connection.HTTPConnection):
    """HTTP over the standard input and output of a process."""

    def __init__(self, words: list[str], stderr: IO[bytes], seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._words, self._stderr, self._seconds = words, stderr, seconds
        self._program: subprocess.Popen[bytes] | None = None

    def connect(self) -> None:
        """Start the process with a socket as its standard input and output."""
        ours, theirs = socket.socketpair()
        try:
            self._program = subprocess.Popen(
                self._words, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=self._stderr, start_new_session=True
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.settimeout(self._seconds)
        self.sock = ours

    def close(self) -> None:
        """Close the connection and terminate the process."""
        super().close()
        program, self._program = self._program, None
        if program is not None:
            program.terminate()
            program.wait()


class ConnectionPool(urllib3.connectionpool.HTTPConnectionPool):
    """Reusable connections to one Docker host."""

    def __init__(self, new: Callable[[], urllib3.connection.HTTPConnection], seconds: float, size: int) -> None:
        super().__init__("localhost", timeout=seconds, maxsize=size)
        self._new = new

    def _new_conn(self) -> urllib3.connection.HTTPConnection:
        return self._new()


class BoundedAdapter(HTTPAdapter):
    """An adapter that waits at most `seconds` for data, and reads at most `MAX_RESPONSE_BYTES` of a response that is not a
    stream. The SDK would pull images without any limit."""

    def __init__(self, seconds: float, connections: int) -> None:
        super().__init__(pool_connections=connections, pool_maxsize=connections)
        self._seconds = seconds

    def send(self, request: Any, stream: bool = False, timeout: Any = None, *arguments: Any, **options: Any) -> Any:
        """Send the request, with a timeout even if it has none."""
        seconds = self._seconds if timeout is None else timeout
        response = super().send(request, stream, seconds, *arguments, **options)
        if not stream:
            read_limited(response, MAX_RESPONSE_BYTES)
        return response


class EngineAdapter(BoundedAdapter):
    """An adapter for `unix://` and `ssh://` URLs, to be mounted for `http+docker://` on the SDK's client.

    `stderr`: the file for the standard error of ssh processes.
    """

    def __init__(self, url: str, seconds: float, stderr: IO[bytes]) -> None:
        super().__init__(seconds, MAX_UNIX_CONNECTIONS)
        if url.startswith("ssh://"):
            words = ssh_command(url, seconds)
            self._pool = ConnectionPool(lambda: SshConnection(words, stderr, seconds), seconds, MAX_SSH_CONNECTIONS)
        else:
            path = urlsplit(url).path
            self._pool = ConnectionPool(lambda: UnixConnection(path, seconds), seconds, MAX_UNIX_CONNECTIONS)

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> ConnectionPool:
        """The pool, for any URL."""
        return self._pool

    def request_url(self, request: Any, proxies: Any) -> str:
        """The path only: no HTTP proxy is used."""
        return str(request.path_url)

    def close(self) -> None:
        """Close all connections and their processes."""
        self._pool.close()
        super().close()


def last_stderr_line(stderr: IO[bytes]) -> str:
    """The last line that ssh wrote to its standard error; empty if none."""
    stderr.seek(0)
    lines = stderr.read().decode(errors="replace")[-MAX_STDERR_CHARS:].strip().splitlines()
    return lines[-1].strip() if lines else ""
