"""Listen addresses of backends: whether two conflict, and whether one is free on this machine."""

from __future__ import annotations

import socket

from tidegate.core.routing import Backend
from tidegate.drivers.routers.members import bind_address
from tidegate.errors import RouterError


def addresses_overlap(one: str, other: str) -> bool:
    """Whether a process that listens on one address prevents another from listening on the other."""
    (host, _, port), (other_host, _, other_port) = (bind_address(listen).rpartition(":") for listen in (one, other))
    return port == other_port and (host == other_host or "*" in (host, other_host))


def require_free(backend: Backend, proxy: str, *, shared: bool = False) -> None:
    """Raise `RouterError` if another process has the listen address, before the proxy is changed.

    A proxy's own check of its configuration does not find this, and while a proxy retries an address it may listen nowhere.
    `shared`: the proxy has the address already and shares its ports (SO_REUSEPORT), so the test socket shares it too.
    """
    host, _, port = bind_address(backend.listen).rpartition(":")
    with socket.socket() as test_socket:
        test_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR, 1)
        try:
            test_socket.bind((host.removeprefix("*"), int(port)))
        except OSError as error:
            raise RouterError(
                f"{proxy} cannot listen on {backend.listen} for {backend.name}: {error.strerror}. "
                "Choose another `listen`, or stop the process that uses it.",
                retryable=False,
            ) from error
