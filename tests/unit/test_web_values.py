"""Small values of the API: ids, slugs, cursors, times, rate of failures, batches."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_network

import pytest

from support.store_fixtures import ManualClock, a_release, a_rollout, a_service, with_approval
from tidegate.app.deployments import new_id, slug
from tidegate.core import planner
from tidegate.core.image_reference import IMAGE_PATTERN, ImageReference
from tidegate.core.model import Order, Signal, SignalKind, Strategy
from tidegate.core.phases import Phase
from tidegate.web.auth import new_token
from tidegate.web.auth_throttle import ADDRESSES, AuthThrottle
from tidegate.web.client_address import find_client_address, is_allowed_host
from tidegate.web.pagination import decode_cursor, encode_cursor
from tidegate.web.server import long_poll_slots
from tidegate.web.views.rollout import RolloutView, rollout_view
from tidegate.web.views.timestamps import timestamp

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("shop:v2", "v2"),
        ("registry.example:5000/team/shop:V2.1_rc.1", "v2-1-rc-1"),
        ("registry.example:5000/shop", "latest"),
        ("shop", "latest"),
        ("shop:v2@sha256:" + "ab" * 32, "v2"),
        ("shop@sha256:" + "ab" * 32, "abababababab"),
        ("sha256:" + "cd" * 32, "cdcdcdcdcdcd"),
        ("shop:feature-a-very-long-branch-name", "feature-a-very-long"),
        ("shop:___", "latest"),
    ],
)
def test_a_releases_id_begins_with_the_images_tag(image: str, expected: str) -> None:
    assert slug(image) == expected
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", slug(image))
    assert len(slug(image)) <= 20


@pytest.mark.parametrize(
    ("image", "name", "tag", "digest", "registry", "repository"),
    [
        ("shop", "shop", "", "", "docker.io", "shop"),
        ("team/shop:V2_rc.1", "team/shop", "V2_rc.1", "", "docker.io", "team/shop"),
        ("docker.io/library/shop:v1", "docker.io/library/shop", "v1", "", "docker.io", "shop"),
        ("index.docker.io/team/shop", "index.docker.io/team/shop", "", "", "docker.io", "team/shop"),
        ("localhost/shop", "localhost/shop", "", "", "localhost", "localhost/shop"),
        ("host:5000/team/shop:v1", "host:5000/team/shop", "v1", "", "host:5000", "host:5000/team/shop"),
        ("a.example/b__c--d@" + DIGEST, "a.example/b__c--d", "", DIGEST, "a.example", "a.example/b__c--d"),
        ("host:5000/shop:v1@" + DIGEST, "host:5000/shop", "v1", DIGEST, "host:5000", "host:5000/shop"),
        (DIGEST, "", "", DIGEST, "docker.io", ""),
    ],
)
def test_the_parts_of_an_image(image: str, name: str, tag: str, digest: str, registry: str, repository: str) -> None:
    found = ImageReference.parse(image)
    assert (found.name, found.tag, found.digest) == (name, tag, digest)
    assert (found.registry, found.repository, str(found)) == (registry, repository, image)
    assert re.fullmatch(IMAGE_PATTERN, image)


@pytest.mark.parametrize(
    "image",
    ["", ":v1", "Shop", "host/Shop:v1", "shop:", "shop@sha256:aa", "shop:v 1", "-shop", "a//b", "a/b_", "x" * 256, "é:v1"],
)
def test_other_text_is_no_image(image: str) -> None:
    with pytest.raises(ValueError, match="an image such as registry:5000/shop:v2 with a lowercase name"):
        ImageReference.parse(image)


def test_ids_sort_by_age_and_are_short() -> None:
    ids = [new_id(1_790_000_000.0 + 0.1 * number) for number in range(200)]
    assert ids == sorted(ids)
    assert {len(each) for each in ids} == {14}
    assert len({new_id(1_790_000_000.0) for _ in range(200)}) > 190


def test_cursors_go_there_and_back() -> None:
    for last in ("demo/shop", "6b046be0bab7f3", "ä"):
        assert decode_cursor(encode_cursor(last)) == last
    assert decode_cursor("") is None


def test_times_are_rfc_3339_in_utc() -> None:
    assert timestamp(1_790_000_000.5) == "2026-09-21T14:13:20.500Z"
    assert timestamp(0.0) == "1970-01-01T00:00:00.000Z"


def test_failures_are_forgotten_in_time_and_bounded_in_number() -> None:
    clock = ManualClock()
    failures = AuthThrottle(clock, tuple, free=2)
    assert [failures.count("a") for _ in range(5)] == [0.0, 0.0, 1.0, 2.0, 4.0]
    assert (failures.count("b"), failures.wait_seconds("a"), failures.wait_seconds("b")) == (0.0, 4.0, 0.0)
    clock.forward(4)
    assert failures.wait_seconds("a") == 0.0
    assert failures.count("a") == 8.0
    assert [failures.count("a") for _ in range(20)][-1] == 60.0, "never longer"
    clock.forward(300)
    assert failures.count("a") == 0.0, "forgotten"
    for number in range(2 * ADDRESSES):
        failures.count(str(number))
    assert len(failures._records) == ADDRESSES
    assert failures.total == 28 + 2 * ADDRESSES


def test_valid_tokens_are_read_at_most_once_a_second() -> None:
    clock, reads = ManualClock(), list[float]()
    stored = {name: replace(new_token(name, ["read"], ["*"], clock())[1], digest=name) for name in ("early", "late", "old")}
    stored["old"] = replace(stored["old"], expires=clock() - 1)
    present = [stored["early"], stored["old"]]
    failures = AuthThrottle(clock, lambda: reads.append(clock()) or present)
    assert [failures.is_valid(name) for name in ("early", "old", "unknown", "late") for _ in range(9)] == [True] * 9 + [
        False
    ] * 27
    assert len(reads) == 1
    present.append(stored["late"])
    clock.forward(1)
    assert (failures.is_valid("late"), failures.is_valid("unknown"), len(reads)) == (True, False, 2)
    clock.now -= 86_400
    present.remove(stored["early"])
    assert (failures.is_valid("unknown"), failures.is_valid("early"), len(reads)) == (False, False, 3)


def test_a_clock_that_is_put_back_locks_nobody_out() -> None:
    clock = ManualClock()
    failures = AuthThrottle(clock, tuple, free=0)
    for _ in range(10):
        failures.count("a")
    clock.now -= 86_400
    assert failures.wait_seconds("a") <= 60.0
    assert failures.count("a") == 1.0


def test_the_addresses_of_one_ipv6_network_are_one() -> None:
    failures = AuthThrottle(ManualClock(), tuple, free=1)
    assert [failures.count(f"2001:db8::{number}") for number in (1, 2)] == [0.0, 1.0]
    assert failures.count("2001:db8:0:1::1") == 0.0


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # no proxy of ours: what it says of others counts for nothing
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "made-up, 192.0.2.7, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, <script>", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "2001:DB8::1", "2001:db8::1"),
        ("unknown", "198.51.100.1", "unknown"),
    ],
)
def test_a_source_is_what_trusted_proxies_say(peer: str, forwarded: str, found: str) -> None:
    assert find_client_address(peer, forwarded, [ip_network("10.0.0.0/8")]) == found
    assert find_client_address(peer, forwarded, []) == peer


def test_fewer_requests_wait_than_there_are_threads() -> None:
    assert all(0 < long_poll_slots(threads) < threads for threads in range(4, 257))


def batches(service_order: Order, strategy: Strategy, old: bool = True) -> list[tuple[int | None, int | None]]:
    service = with_approval(replace(a_service(replicas=3), order=service_order, strategy=strategy))
    new = a_release(service, 2)
    rollout = a_rollout(service, 2, a_release(service, 1) if old else None)
    assert rollout.new == new.id
    views = [rollout_view(replace(rollout, phase=Phase.RUNNING, cursor=step)) for step in range(len(rollout.plan))]
    return [(each.batch, each.batches) for each in views]


def test_batches_are_counted_as_people_count_them() -> None:
    assert batches(Order.START_FIRST, Strategy.ROLLING) == [(1, 3), (2, 3), (3, 3), (3, 3)]
    assert batches(Order.STOP_FIRST, Strategy.ROLLING) == [(0, 3), (1, 3), (1, 3), (2, 3), (2, 3), (3, 3), (3, 3)]
    assert batches(Order.START_FIRST, Strategy.BLUE_GREEN) == [(0, 1), (1, 1), (1, 1)]
    assert batches(Order.START_FIRST, Strategy.ROLLING, old=False) == [(1, 1)]


def test_on_the_way_back_there_are_no_batches() -> None:
    service = a_service()
    rollout = replace(
        a_rollout(service, 2, a_release(service, 1)),
        phase=Phase.ROLLING_BACK,
        plan=planner.rollback_plan("v1-1", 2),
    )
    view = rollout_view(rollout)
    assert (view.batch, view.batches, view.waiting_for) == (None, None, None)


def waiting_kind(view: RolloutView) -> str | None:
    return view.waiting_for and view.waiting_for.kind.value


def test_an_approval_that_was_given_is_not_waited_for() -> None:
    service = a_service()
    rollout = replace(a_rollout(service, 2, a_release(service, 1)), phase=Phase.RUNNING, approval_since=1_000_000.0)
    given = Signal(SignalKind.PROMOTE, 1_000_001.0, "eva", step=0)
    assert waiting_kind(rollout_view(rollout)) == "approval"
    assert rollout_view(rollout, [given]).waiting_for is None
    assert rollout_view(rollout, [replace(given, step=None)]).waiting_for is None
    assert waiting_kind(rollout_view(rollout, [replace(given, step=1)])) == "approval"
    assert rollout_view(replace(rollout, approval_since=None)).waiting_for is None


@pytest.mark.parametrize(
    "host", ["127.0.0.1:7070", "10.0.0.1", "[::1]:7070", "[2001:db8::1]", "localhost:7070", "tidegate", "shop.example:443",
             "SHOP.example.", "a.internal.example", "internal.example:1"],
)  # fmt: skip
def test_hosts_of_this_server(host: str) -> None:
    assert is_allowed_host(host, ("shop.example", ".internal.example"))


@pytest.mark.parametrize(
    "host", ["", ":7070", "attacker.example:7070", "a.shop.example", "shop.example.attacker.example",
             "127.0.0.1.nip.example", "shop.example@attacker.example", "internal.example:x", "127.0.0.1:80:80",
             "1.2.3", "."],
)  # fmt: skip
def test_hosts_of_others(host: str) -> None:
    assert not is_allowed_host(host, ("shop.example", ".internal.example"))
    assert not is_allowed_host(host, ())
    assert is_allowed_host(host, ("*",))
