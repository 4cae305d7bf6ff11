"""Protection against slow clients (Slowloris), so that they cannot occupy all threads.

gunicorn assigns a thread at the first byte of a connection and closes connections in its accept loop, so as many clients
as threads, each with half a request, block the server. Here a request gets a thread only when its head is complete, half of
the threads never wait for a body, bodies and responses have time limits, and a connection is closed without waiting for its
client. When there are too many connections, the one that has waited longest for its client makes room for a new one, so
that clients that send nothing cannot keep others out.
"""

from __future__ import annotations

import errno
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
from gunicorn.http import get_parser
from gunicorn.sock import ssl_context
from gunicorn.workers.gthread import ThreadWorker

HEAD_SECONDS = 10.0  # to receive the request line and headers
BODY_SECONDS = 20.0  # to receive the body
PROMPT_SECONDS = 0.1  # to receive more of the body without counting as slow
SEND_SECONDS = 60.0  # to send the response
LINGER_SECONDS = 2.0  # for the client to close after the response
UNREAD_SECONDS = 0.1  # to discard an unread body
MAX_HEAD_BYTES = 65_536  # gunicorn rejects much shorter heads
CHUNK = 8192
log = structlog.get_logger("tidegate.web")


class TooManySlowBodies(Exception):
    """A body has not arrived yet, and as many threads as allowed wait for other bodies."""


class ClientConnection(socket.socket):
    """A client's connection. `buffered` holds bytes that were received and not yet read; `waiting_slots` counts the threads
    that may wait for bodies at the same time."""

    buffered = bytearray()
    waiting_slots = threading.Semaphore(1)
    _deadline: float | None = None  # of the rest of the request, on the monotonic clock

    def start_request(self, received: bytes = b"") -> None:
        """Start the next request; `received` are bytes that arrived with the previous one."""
        self.buffered, self._deadline = bytearray(received), None
        self.setblocking(False)

    def is_head_complete(self) -> bool:
        """Read without blocking. True when the head is complete or never will be: the client left or exceeds the limit."""
        try:
            self._handshake()
            while b"\r\n\r\n" not in self.buffered and len(self.buffered) < MAX_HEAD_BYTES:
                data = super().recv(CHUNK)
                if not data:
                    return True
                self.buffered += data
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError:
            return True  # the thread that reads next gets the same error
        return True

    def _handshake(self) -> None:
        """Continue the TLS handshake; nothing to do for plain HTTP."""

    def recv(self, buflen: int = CHUNK, flags: int = 0) -> bytes:
        """Buffered bytes, else bytes of the client. Raises `TooManySlowBodies`, `ConnectionResetError` at the deadline."""
        if self.buffered:
            data = bytes(self.buffered[:buflen])
            del self.buffered[:buflen]
            return data
        self._deadline = self._deadline or time.monotonic() + BODY_SECONDS
        self.settimeout(min(PROMPT_SECONDS, max(0.001, self._deadline - time.monotonic())))
        with suppress(TimeoutError):
            return super().recv(buflen, flags)
        if not self.waiting_slots.acquire(blocking=False):
            raise TooManySlowBodies
        try:
            self.settimeout(max(0.001, self._deadline - time.monotonic()))
            return super().recv(buflen, flags)
        except TimeoutError as error:
            raise ConnectionResetError(errno.ECONNRESET, "timed out while receiving the request") from error
        finally:
            self.waiting_slots.release()

    def set_deadline(self, seconds: float) -> None:
        """Allow at most `seconds` for the rest of the request."""
        self._deadline = time.monotonic() + seconds

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send all data. Raises `ConnectionResetError` after `SEND_SECONDS`."""
        self.settimeout(SEND_SECONDS)
        try:
            super().sendall(data, flags)
        except TimeoutError as error:
            raise ConnectionResetError(errno.ECONNRESET, "timed out while sending the response") from error


class TlsClientConnection(ClientConnection, ssl.SSLSocket):
    """The same over TLS, with a handshake that does not block."""

    def _handshake(self) -> None:
        self.do_handshake(block=False)


def accept(conn: Any) -> ClientConnection:
    """Wrap an accepted connection. The certificate is loaded each time, so that a renewed one needs no restart.

    Raises `OSError` when the certificate cannot be loaded or the client has left.
    """
    accepted: socket.socket = conn.sock
    if not conn.cfg.is_ssl:
        return ClientConnection(accepted.family, accepted.type, accepted.proto, accepted.detach())
    context = ssl_context(conn.cfg)
    context.sslsocket_class = TlsClientConnection
    secure: TlsClientConnection = context.wrap_socket(
        accepted, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=conn.cfg.suppress_ragged_eofs
    )
    conn.parser = get_parser(conn.cfg, secure, conn.client)  # without one, gunicorn would wrap the socket itself
    return secure


class SlowClientWorker(ThreadWorker):
    """gunicorn's threaded worker, in which neither a thread nor the accept loop waits for a slow client."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        ClientConnection.waiting_slots = threading.Semaphore(max(1, self.cfg.threads // 2))
        self._closing: deque[Any] = deque()  # answered, and not yet closed by the client

    def enqueue_req(self, conn: Any) -> None:
        """Handle a request that starts on a new or kept-alive connection."""
        if not isinstance(conn.sock, ClientConnection):
            try:
                conn.sock = accept(conn)
            except OSError as error:
                log.error("TLS connection refused", error=str(error))
                self._drop(conn)
                return
        conn.sock.start_request(conn.parser.unreader.take_buffered() if conn.parser else b"")
        conn.data_ready = True
        if conn.sock.is_head_complete():
            super().enqueue_req(conn)
            return
        conn.timeout = time.monotonic() + HEAD_SECONDS
        self.pending_conns.append(conn)
        self._watch(conn, self.on_pending_socket_readable)

    def on_pending_socket_readable(self, conn: Any, client: Any) -> None:
        """Read more of a request head."""
        if conn.sock.is_head_complete():
            self.poller.unregister(client)
            self.pending_conns.remove(conn)
            super().enqueue_req(conn)

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Keep the connection for the next request, or close it."""
        if not fs.cancelled() and fs.exception() is None and fs.result():
            super().finish_request(conn, fs)
            return
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
        except OSError:  # the client closed first
            self._drop(conn)
            return
        conn.timeout = time.monotonic() + LINGER_SECONDS
        self._closing.append(conn)
        self._watch(conn, self._discard_input)

    def murder_pending(self) -> None:
        """Close connections whose time is over: without a complete head, or not closed by the client. Keep the last place
        free, since gunicorn accepts nothing when none is left.

        Runs between two rounds of events: within one, an event may be left for a connection that was just closed.
        """
        super().murder_pending()
        while self._closing and self._closing[0].timeout <= time.monotonic():
            self._close_now(self._closing[0])
        while self.nr_conns >= self.worker_connections and self._make_room():
            pass

    def _make_room(self) -> bool:
        """Close the connection that has waited longest for its client: to close, to send the rest of a request head, or to
        send the next request. Whether there was one."""
        if self._closing:
            self._close_now(self._closing[0])
            return True
        waiting = self.pending_conns or self.keepalived_conns
        if not waiting:
            return False
        conn = waiting.popleft()
        self.poller.unregister(conn.sock)
        self._drop(conn)
        return True

    def _watch(self, conn: Any, callback: Any) -> None:
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(callback, conn))

    def _discard_input(self, conn: Any, client: Any) -> None:
        """Discard what a client sends after its response; close once it has closed."""
        with suppress(OSError):
            if socket.socket.recv(client, MAX_HEAD_BYTES):
                return
        self._close_now(conn)

    def _close_now(self, conn: Any) -> None:
        self._closing.remove(conn)
        self.poller.unregister(conn.sock)
        self._drop(conn)

    def _drop(self, conn: Any) -> None:
        self.nr_conns -= 1
        conn.close()

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        """Whether to keep the connection. Waits at most `UNREAD_SECONDS` for the unread rest of a body."""
        conn.sock.set_deadline(UNREAD_SECONDS)
        try:
            return bool(super()._keepalive_after(conn, keepalive))
        except TooManySlowBodies:
            return False
