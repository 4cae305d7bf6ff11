"""Clients that are slow, by accident or on purpose: none of them takes a thread from the others.

gunicorn gives a connection to a thread with its first byte, and closes it in the loop that accepts all others: as many
clients as there are threads, each with half a request, would be enough to silence it. So a request gets a thread only once
its head is whole, a body and an answer have a time limit each, and a connection is closed without waiting for its client.
"""

from __future__ import annotations

import errno
import selectors
import socket
import ssl
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
from gunicorn.http import get_parser
from gunicorn.sock import ssl_context
from gunicorn.workers.gthread import ThreadWorker

HEAD_SECONDS = 10.0  # for the first line and the headers
BODY_SECONDS = 20.0
SEND_SECONDS = 60.0  # for an answer
LINGER_SECONDS = 2.0  # for a client to see the end of the answer and close its side
UNREAD_SECONDS = 0.1  # for what is left of a body that nobody wanted
MAX_HEAD_BYTES = 65_536  # bytes; gunicorn refuses much shorter ones
CHUNK = 8192
log = structlog.get_logger("tidegate.web")


class ClientConnection(socket.socket):
    """A client's connection. What stands in `came` was read already and is given first."""

    came = bytearray()
    _until: float | None = None  # for the rest of the request

    def begin(self, came: bytes = b"") -> None:
        """Another request begins, perhaps with bytes that came with the one before."""
        self.came, self._until = bytearray(came), None
        self.setblocking(False)

    def is_whole(self) -> bool:
        """Read what there is. Whether the head is whole, or never will be: the client is gone, or goes on and on."""
        try:
            self._shake_hands()
            while b"\r\n\r\n" not in self.came and len(self.came) < MAX_HEAD_BYTES:
                read = super().recv(CHUNK)
                if not read:
                    return True
                self.came += read
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError:
            return True  # the thread meets it again
        return True

    def _shake_hands(self) -> None:
        """What comes before the first byte of a request."""

    def recv(self, buflen: int = CHUNK, flags: int = 0) -> bytes:
        """From what came before, else from the client, until the time is over. Raises `ConnectionResetError` then."""
        if self.came:
            buffered = bytes(self.came[:buflen])
            del self.came[:buflen]
            return buffered
        self._until = self._until or time.monotonic() + BODY_SECONDS
        self.settimeout(max(0.001, self._until - time.monotonic()))
        try:
            return super().recv(buflen, flags)
        except TimeoutError as error:
            raise ConnectionResetError(errno.ECONNRESET, "the request did not come in time") from error

    def hurry(self, seconds: float) -> None:
        """The rest of the request has this much time and no more."""
        self._until = time.monotonic() + seconds

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """All of it in time. Raises `ConnectionResetError`."""
        self.settimeout(SEND_SECONDS)
        try:
            super().sendall(data, flags)
        except TimeoutError as error:
            raise ConnectionResetError(errno.ECONNRESET, "the answer was not taken in time") from error


class TlsClientConnection(ClientConnection, ssl.SSLSocket):
    """The same over TLS, whose handshake is as little waited for as the head."""

    def _shake_hands(self) -> None:
        self.do_handshake(block=False)


def accept(conn: Any) -> ClientConnection:
    """A new connection as a client's. The certificate is read anew for each, so that a renewed one needs no restart.

    Raises `OSError` when it cannot be used, or the client is gone.
    """
    accepted: socket.socket = conn.sock
    if not conn.cfg.is_ssl:
        return ClientConnection(accepted.family, accepted.type, accepted.proto, accepted.detach())
    context = ssl_context(conn.cfg)
    context.sslsocket_class = TlsClientConnection
    secure: TlsClientConnection = context.wrap_socket(
        accepted, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=conn.cfg.suppress_ragged_eofs
    )
    conn.parser = get_parser(conn.cfg, secure, conn.client)  # gunicorn wraps a connection that has none
    return secure


class SlowClientWorker(ThreadWorker):
    """gunicorn's worker with threads, in which no thread and no loop waits for a slow client."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._leaving: deque[Any] = deque()  # answered, and not yet closed by the client

    def enqueue_req(self, conn: Any) -> None:
        """A connection, new or kept, on which a request begins."""
        if not isinstance(conn.sock, ClientConnection):
            try:
                conn.sock = accept(conn)
            except OSError as error:
                log.error("a client is sent away: no TLS with it", error=str(error))
                self._gone(conn)
                return
        conn.sock.begin(conn.parser.unreader.take_buffered() if conn.parser else b"")
        conn.data_ready = True
        if conn.sock.is_whole():
            super().enqueue_req(conn)
            return
        conn.timeout = time.monotonic() + HEAD_SECONDS
        self.pending_conns.append(conn)
        self._watch(conn, self.on_pending_socket_readable)

    def on_pending_socket_readable(self, conn: Any, client: Any) -> None:
        """More of the head."""
        if conn.sock.is_whole():
            self.poller.unregister(client)
            self.pending_conns.remove(conn)
            super().enqueue_req(conn)

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Keep the connection for the next request, or let it end."""
        if not fs.cancelled() and fs.exception() is None and fs.result():
            super().finish_request(conn, fs)
            return
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
        except OSError:  # the client was first
            self._gone(conn)
            return
        conn.timeout = time.monotonic() + LINGER_SECONDS
        self._leaving.append(conn)
        self._watch(conn, self._still_there)

    def murder_pending(self) -> None:
        """End those whose time is over: no whole head, or not closed."""
        super().murder_pending()
        while self._leaving and self._leaving[0].timeout <= time.monotonic():
            self._let_go(self._leaving[0])

    def _watch(self, conn: Any, callback: Any) -> None:
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(callback, conn))

    def _still_there(self, conn: Any, client: Any) -> None:
        """What a client sends after its answer is thrown away."""
        with suppress(OSError):
            if socket.socket.recv(client, MAX_HEAD_BYTES):
                return
        self._let_go(conn)

    def _let_go(self, conn: Any) -> None:
        self._leaving.remove(conn)
        self.poller.unregister(conn.sock)
        self._gone(conn)

    def _gone(self, conn: Any) -> None:
        self.nr_conns -= 1
        conn.close()

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        """Whether another request may follow: what was not read of a body is hardly waited for."""
        conn.sock.hurry(UNREAD_SECONDS)
        return bool(super()._keepalive_after(conn, keepalive))
