"""Containers of Docker Compose as instances, and the port that they leave to the proxy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from support.decide_fixtures import A0, B0, ROLLOUT, at, instance, world
from support.plans import SERVICE
from tidegate.core.compose import Adoption
from tidegate.core.container import Health
from tidegate.core.decisions import Shift
from tidegate.core.model import InstanceState, Rollout
from tidegate.core.phases import Phase
from tidegate.core.port_handover import hand_over_port, keep_adopted
from tidegate.core.rollout_state import member_of
from tidegate.core.routing import Backend
from tidegate.drivers.platforms.docker.compose import is_adopted, list_adopted
from tidegate.drivers.platforms.docker.containers import to_instance
from tidegate.drivers.platforms.docker.options import DockerHostOptions

B1 = instance("b", 1)
HERE, WANTED = "127.0.0.1:18080", "8080"
ADOPTED = Adoption("a", "books", "shop", ("a0", "a1"), 80, Health("/"), HERE, WANTED)
MOVING = replace(ROLLOUT, adopted=ADOPTED, backend=Backend("shop", HERE), next_listen=WANTED)


def test_the_proxy_takes_the_port_when_the_last_container_is_gone_and_keeps_its_own() -> None:
    leaving = replace(A0, state=InstanceState.STOPPING)
    assert not (isinstance(before := at(MOVING, world(leaving, B0, routed=(B0,))), Shift) and before.place)
    after = at(MOVING, world(B0, B1, routed=(B0, B1)))
    assert isinstance(after, Shift)
    assert after.place == Backend("shop", WANTED, former_listen=HERE)
    assert set(after.members) == {member_of(B0), member_of(B1)}, "no traffic moves"
    done = replace(MOVING, backend=after.place, next_listen="")
    assert not (isinstance(later := at(done, world(B0, B1, routed=(B0, B1))), Shift) and later.place)


def test_a_rollback_takes_the_port_too() -> None:
    back = at(replace(MOVING, phase=Phase.ROLLING_BACK), world(B0, routed=(B0,)))
    assert isinstance(back, Shift)
    assert back.place is not None


def test_a_deployment_listens_where_the_proxy_is_until_then() -> None:
    wanted = replace(ROLLOUT, adopted=ADOPTED, backend=Backend("shop", WANTED))
    moved = hand_over_port(wanted)
    assert (moved.backend, moved.next_listen) == (Backend("shop", HERE), WANTED)
    elsewhere = replace(wanted, backend=Backend("shop", "9090"))
    assert hand_over_port(elsewhere) == elsewhere, "a file with another address has it at once"
    free = replace(wanted, adopted=replace(ADOPTED, next_listen=""))
    assert hand_over_port(free) == free


def test_adopted_containers_are_forgotten_once_the_proxy_has_their_port() -> None:
    stored, new = replace(SERVICE, adopted=ADOPTED), replace(SERVICE, replicas=3)

    def after(listen: str) -> list[Rollout]:
        return [replace(ROLLOUT, digest="sha256:1", backend=Backend("shop", listen))]

    assert keep_adopted(new, stored, after(HERE)) == replace(new, adopted=ADOPTED)
    assert keep_adopted(new, stored, after(WANTED)) == new
    assert keep_adopted(new, SERVICE, after(HERE)) == new
    worker = replace(stored, backend=None)
    assert keep_adopted(worker, worker, []) == worker, "a worker has no port to wait for"


class FakeHost:
    """A Docker host with these containers."""

    options = DockerHostOptions(name="local")

    def __init__(self, *entries: dict[str, Any]) -> None:
        self._entries = entries

    def listed(self, labels: dict[str, str]) -> list[dict[str, Any]]:
        return [each for each in self._entries if labels.items() <= each["Labels"].items()]


def test_only_the_containers_that_were_imported_count() -> None:
    labels = {"com.docker.compose.project": "books", "com.docker.compose.service": "shop"}
    networks = {"books_default": {"IPAddress": "172.20.0.3", "EndpointID": "e"}}
    entry: dict[str, Any] = {"State": "running", "Status": "Up 2 hours", "NetworkSettings": {"Networks": networks}}
    mine, other = ({**entry, "Id": f"{name}{'0' * 52}", "Labels": labels} for name in ("a" * 12, "b" * 12))
    adopted = replace(ADOPTED, containers=("a" * 12,))
    [container] = list_adopted(FakeHost(mine, other), adopted)  # type: ignore[arg-type]
    instance = to_instance(container, 0, None, "", 2)
    assert (instance.id, instance.release, instance.ordinal, instance.address) == ("a" * 12, "a", 0, "172.20.0.3:80")
    assert instance.state is InstanceState.READY
    details = {"Id": mine["Id"], "Config": {"Labels": labels}}
    assert is_adopted(details, [adopted])
    assert not is_adopted({**details, "Id": other["Id"]}, [adopted])
    assert not is_adopted({**details, "Config": {"Labels": {**labels, "com.docker.compose.project": "x"}}}, [adopted])
