"""Directories in which a proxy could not create its sockets are refused when the settings are read."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from tidegate.drivers.routers.envoy.driver import EnvoyOptions
from tidegate.drivers.routers.haproxy.options import HAProxyOptions
from tidegate.settings import to_problems

ADOPTED = {"mode": "adopted", "socket": "/run/haproxy.sock", "config": "/etc/haproxy.cfg"}


def directory(length: int, character: str = "d") -> str:
    """A path of this many characters."""
    return "/".ljust(length, character)


@pytest.mark.parametrize(
    ("options", "socket", "limit"),
    [(HAProxyOptions, "/master.sock", 97), (EnvoyOptions, "/barrier.sock", 107)],
)
def test_the_directory_has_room_for_the_longest_socket_path(options: type[BaseModel], socket: str, limit: int) -> None:
    longest = limit - len(socket)
    assert str(options.model_validate({"directory": directory(longest)}).directory) == directory(longest)  # type: ignore[attr-defined]
    with pytest.raises(ValidationError) as caught:
        options.model_validate({"directory": directory(longest + 1)})
    (problem,) = to_problems(caught.value, "environments.demo.router")
    assert problem.path == "environments.demo.router.directory"
    assert repr(directory(longest + 1)) in problem.message
    assert f"{limit + 1} bytes long" in problem.message
    assert f"at most {longest} bytes" in problem.message


def test_socket_paths_are_measured_in_bytes() -> None:
    with pytest.raises(ValidationError, match="accepts at most 97"):
        HAProxyOptions.model_validate({"directory": directory(60, "é")})


def test_the_directory_of_an_adopted_haproxy_has_no_sockets() -> None:
    HAProxyOptions.model_validate({**ADOPTED, "directory": directory(120)})


@pytest.mark.parametrize("log", [directory(98, "s"), "/with space", "host"])
def test_a_log_that_haproxy_cannot_use_is_refused(log: str) -> None:
    HAProxyOptions.model_validate({**ADOPTED, "log": directory(97, "s")})
    with pytest.raises(ValidationError, match="at most 97 characters"):
        HAProxyOptions.model_validate({**ADOPTED, "log": log})


def test_an_adopted_haproxy_has_no_options_that_its_own_file_decides() -> None:
    with pytest.raises(
        ValidationError, match="hard_stop_after_seconds, max_header_bytes, trusted_proxies require mode own"
    ):
        HAProxyOptions.model_validate(
            {**ADOPTED, "trusted_proxies": ["10.0.0.0/8"], "max_header_bytes": 65536, "hard_stop_after_seconds": 60}
        )
