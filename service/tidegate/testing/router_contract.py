"""The contract of every router. A driver's test subclasses `RouterContract` and provides the fixtures.

The members of these tests need no listener: the tests read where the proxy would send traffic. `RouterTrafficContract`
sends requests.
"""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from tidegate.core.routing import Backend, Member, Preview, split_listen
from tidegate.errors import RouterError
from tidegate.ports import Router
from tidegate.testing.wait import wait_until


def member(number: int, release: str = "v1-1", port: int = 0) -> Member:
    """The n-th instance of a release, with its own address."""
    return Member(f"{number:012x}", release, number, f"127.0.0.1:{port or 30_000 + number}")


def ids(members: object) -> set[str]:
    """The instances of members."""
    assert isinstance(members, tuple | list)
    return {member.instance for member in members}


def is_free(listen: str) -> bool:
    """Whether a program could listen on this address."""
    host, port = split_listen(listen)
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError:
        return False
    return True


class RouterContract:
    """The route, read back from the proxy."""

    @pytest.fixture
    def router(self) -> Router:
        """The router under test, with nothing routed."""
        raise NotImplementedError

    @pytest.fixture
    def backend(self) -> Backend:
        """A backend that the proxy can serve."""
        raise NotImplementedError

    def test_an_unknown_backend_has_nothing(self, router: Router) -> None:
        assert router.read(Backend("never-written", "127.0.0.1:1")).members == ()

    def test_what_is_written_is_read_back(self, router: Router, backend: Backend) -> None:
        members = (member(0), member(1), member(2, "v2-2"))
        router.write(backend, members, 1)
        assert set(router.read(backend).members) == set(members)

    def test_writing_twice_changes_nothing(self, router: Router, backend: Backend) -> None:
        members = (member(0), member(1))
        router.write(backend, members, 1)
        before = router.read(backend)
        router.write(backend, members, 1)
        assert replace(router.read(backend), down=before.down) == before

    def test_those_left_out_take_nothing_new(self, router: Router, backend: Backend) -> None:
        router.write(backend, (member(0), member(1)), 1)
        router.write(backend, (member(1), member(2, "v2-2")), 1)
        assert ids(router.read(backend).members) == ids([member(1), member(2)])

    def test_an_idle_one_is_struck_out(self, router: Router, backend: Backend) -> None:
        router.write(backend, (member(0), member(1)), 1)
        router.write(backend, (member(1),), 1)
        assert router.read(backend).draining == {}

    def test_one_may_come_back(self, router: Router, backend: Backend) -> None:
        router.write(backend, (member(0), member(1)), 1)
        router.write(backend, (member(1),), 1)
        router.write(backend, (member(0), member(1)), 1)
        assert ids(router.read(backend).members) == ids([member(0), member(1)])

    def test_a_restarted_instance_keeps_its_place_at_its_new_address(self, router: Router, backend: Backend) -> None:
        router.write(backend, (member(0), member(1)), 1)
        moved = replace(member(0), address="127.0.0.1:30999")
        router.write(backend, (moved, member(1)), 1)
        assert set(router.read(backend).members) == {moved, member(1)}

    def test_weights_are_read_back_and_may_change(self, router: Router, backend: Backend) -> None:
        canary = (replace(member(0), weight=230), replace(member(1, "v2-2"), weight=26))
        even = tuple(replace(each, weight=128) for each in canary)
        for weighted in (canary, even, canary[:1], canary):
            router.write(backend, weighted, 1)
            assert set(router.read(backend).members) == set(weighted)

    @pytest.mark.parametrize("weight", [0, -1, 257])
    def test_a_weight_that_is_none_leaves_the_route_as_it_is(self, router: Router, backend: Backend, weight: int) -> None:
        router.write(backend, (member(0),), 1)
        with pytest.raises(RouterError, match="weight") as refused:
            router.write(backend, (member(0), replace(member(1), weight=weight)), 1)
        assert not refused.value.retryable
        assert ids(router.read(backend).members) == ids([member(0)])

    @pytest.fixture
    def previewing(self, backend: Backend) -> Backend:
        """The backend with a preview."""
        return replace(backend, preview=Preview(header="X-Shop-Preview: blue"))

    @pytest.mark.parametrize("first", ["the route", "the preview"])
    def test_a_preview_is_a_place_of_its_own(self, router: Router, previewing: Backend, first: str) -> None:
        preview = previewing.preview_backend
        assert preview is not None
        if first == "the preview":
            router.write(preview, (member(5, "v2-2"),), 1)
        router.write(previewing, (member(0), member(1)), 1)
        router.write(preview, (member(5, "v2-2"), member(6, "v2-2")), 1)
        router.write(previewing, (member(1),), 1)
        assert ids(router.read(previewing).members) == ids([member(1)])
        assert ids(router.read(preview).members) == ids([member(5), member(6)])
        router.write(preview, (), 1)
        assert router.read(preview).members == ()
        assert ids(router.read(previewing).members) == ids([member(1)])

    @pytest.mark.parametrize("header", ["X-Shop-Preview", "X Shop: blue", "X-Shop: a\n  b", "X-Shop: a } b", ": blue"])
    def test_a_header_that_is_none(self, router: Router, backend: Backend, header: str) -> None:
        router.write(backend, (member(0),), 1)
        with pytest.raises(RouterError, match="header") as refused:
            router.write(replace(backend, preview=Preview(header=header)), (member(1),), 1)
        assert not refused.value.retryable
        assert ids(router.read(backend).members) == ids([member(0)])

    def test_an_empty_route(self, router: Router, backend: Backend) -> None:
        router.write(backend, (member(0),), 1)
        router.write(backend, (), 1)
        assert router.read(backend).members == ()

    def test_an_older_fence_is_refused_and_changes_nothing(self, router: Router, backend: Backend) -> None:
        router.write(backend, (member(0),), 7)
        with pytest.raises(RouterError, match="fence") as refused:
            router.write(backend, (member(1),), 6)
        assert not refused.value.retryable
        assert ids(router.read(backend).members) == ids([member(0)])
        assert router.read(backend).fence == 7

    def test_backends_do_not_disturb_each_other(self, router: Router, backend: Backend, other: Backend) -> None:
        router.write(backend, (member(0),), 1)
        router.write(other, (member(5),), 1)
        router.write(backend, (member(1),), 1)
        assert ids(router.read(other).members) == ids([member(5)])

    def test_a_removed_backend_leaves_nothing_behind(self, router: Router, previewing: Backend, other: Backend) -> None:
        """Its address is free for other programs, the other backends stay, and it may come back."""
        preview = previewing.preview_backend
        assert preview is not None
        router.write(other, (member(5),), 1)
        for number in (2, 3):
            router.write(previewing, (member(0),), number)
            router.write(preview, (member(1, "v2-2"),), number)
            router.write(preview, (), number)
            router.write(previewing, (), number)
            for _ in range(2):
                router.remove(previewing, number)
            assert router.read(previewing).members == router.read(preview).members == ()
            assert ids(router.read(other).members) == ids([member(5)])
            if previewing.listen:
                wait_until(lambda: is_free(previewing.listen))
        with pytest.raises(RouterError, match="fence"):
            router.remove(previewing, 1)

    @pytest.fixture
    def other(self) -> Backend:
        """A second backend."""
        raise NotImplementedError

    def test_a_member_without_an_address_leaves_the_route_as_it_is(self, router: Router, backend: Backend) -> None:
        router.write(backend, (member(0),), 1)
        with pytest.raises(RouterError):
            router.write(backend, (replace(member(1), address=""),), 1)
        assert ids(router.read(backend).members) == ids([member(0)])
