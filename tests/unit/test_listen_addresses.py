"""Listen addresses: which conflict, how they are written, and whether they are free."""

from __future__ import annotations

import socket

import pytest

from tidegate.core.routing import Backend, addresses_overlap
from tidegate.drivers.routers.listen_addresses import require_free
from tidegate.drivers.routers.members import bind_address
from tidegate.errors import RouterError


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("8001", "8002", False),
        ("8001", "127.0.0.1:8001", True),
        ("*:8001", "0.0.0.0:8001", True),
        ("8001", "[::1]:8001", False),
        ("8001", "[::]:8001", True),
        ("127.0.0.1:8001", "[::]:8001", True),
        ("127.0.0.1:8001", "127.0.0.2:8001", False),
        ("127.0.0.1:8001", "[::1]:8001", False),
        ("[::1]:8001", "[0:0::1]:8001", True),
        ("[::1]:8001", "[::2]:8001", False),
        ("[::]:8001", "[::2]:8001", True),
    ],
)
def test_addresses_that_conflict(one: str, other: str, overlap: bool) -> None:
    assert addresses_overlap(one, other) is addresses_overlap(other, one) is overlap


@pytest.mark.parametrize(
    ("listen", "text"),
    [
        ("8001", "*:8001"),
        ("0.0.0.0:8001", "*:8001"),
        ("127.0.0.1:8001", "127.0.0.1:8001"),
        ("[0:0::1]:8001", "[::1]:8001"),
        ("[::]:8001", "[::]:8001"),
    ],
)
def test_addresses_have_one_form(listen: str, text: str) -> None:
    assert bind_address(listen) == text


@pytest.mark.parametrize(("taken", "listen"), [("::1", "[::1]:{}"), ("::1", "[::]:{}"), ("127.0.0.1", "[::]:{}")])
def test_a_taken_address(taken: str, listen: str) -> None:
    family = socket.AF_INET6 if ":" in taken else socket.AF_INET
    with (
        socket.create_server((taken, 0), family=family) as server,
        pytest.raises(RouterError, match="Choose another `listen`"),
    ):
        require_free(Backend("shop", listen.format(server.getsockname()[1])), "HAProxy")
