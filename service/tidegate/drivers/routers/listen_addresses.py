"""Listen addresses of backends: whether two conflict, and whether one is free on this machine."""

from __future__ import annotations

import socket

from tidegate.core.routing import EVERY_ADDRESS, Backend, split_listen
from tidegate.errors import RouterError


def require_free(backend: Backend, proxy: str, *, shared: bool = False) -> None:
    """Raise `RouterError` if another process has the listen address, before the proxy is changed.

    A proxy's own check of its configuration does not find this, and while a proxy retries an address it may listen nowhere.
    `shared`: the proxy has the address already and shares its ports (SO_REUSEPORT), so the test socket shares it too.
    """
    host, port = split_listen(backend.listen)
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as test_socket:
            test_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR, 1)
            if host == EVERY_ADDRESS:
                test_socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            test_socket.bind((host, port))
    except OSError as error:
        raise RouterError(
            f"{proxy} cannot listen on {backend.listen} for {backend.name}: {error.strerror}. "
            "Choose another `listen`, or stop the process that uses it.",
            retryable=False,
        ) from error
