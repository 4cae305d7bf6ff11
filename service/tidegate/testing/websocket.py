"""A WebSocket through a router, which shows whether a connection still leads to where it was opened."""

from __future__ import annotations

import websocket


class WebSocket:
    """One open connection. Leaving it sends a close frame, and waits for the other side's for a few seconds."""

    def __init__(self, address: str, path: str, seconds: float = 60.0) -> None:
        self._connection = websocket.create_connection(f"ws://{address}{path}", timeout=seconds)

    def echo(self, message: bytes) -> bytes:
        """Send a message and return the one that is received."""
        self._connection.send_binary(message)
        received = self._connection.recv()
        assert isinstance(received, bytes), f"a text message: {received!r}"
        return received

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
