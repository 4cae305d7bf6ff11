"""An HAProxy of somebody else is adopted: without an outage, and nothing that it had is lost silently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from support.backends import Backends
from support.haproxy import ExternalHAProxy
from support.wait import eventually
from tidegate.core.container import Health
from tidegate.core.routing import Backend, BackendOptions
from tidegate.errors import RouterError
from tidegate.ports import CheckStatus
from tidegate.testing.router_client_contract import get
from tidegate.testing.router_contract import ids, member
from tidegate.testing.router_traffic_contract import remove_and_drain
from tidegate.testing.sample_instance import HEALTH_PATH, SampleInstance
from traffic import Load

Standing = Callable[..., ExternalHAProxy]
NEXT = Backend("Shop_Next.v2")
SECOND = f"""
backend {NEXT.name}
    balance leastconn
    option allbackups
    option httpchk GET {HEALTH_PATH}
"""


def test_a_backend_is_adopted_under_load_without_an_outage(
    standing: Standing, apps: Backends, load: Callable[..., Load]
) -> None:
    """As docs/haproxy.md says, beginning with the mistake that its first step avoids."""
    own = [apps.start("own") for _ in range(2)]
    lines = "\n".join(f"    server old{app.ordinal} {app.address} check" for app in own)
    there = standing(servers=lines)
    traffic = load(f"127.0.0.1:{there.port}", get_ka=60, get=40, post=20, slow_gets=2, slow_get_ms=300)
    eventually("traffic flows", lambda: traffic.counts.requests > 50)
    new = [apps.start("v1-1") for _ in range(2)]
    before = there.config.read_bytes()
    with pytest.raises(RouterError, match=r"servers of its own \(old1, old2\), which keep its traffic") as refused:
        there.router.write(Backend("shop"), new, 1)
    assert not refused.value.retryable
    assert there.config.read_bytes() == before

    there.config.write_text(before.decode() + SECOND)
    there.reload()
    there.router.write(NEXT, new, 1)
    assert ids(there.router.read(NEXT).members) == ids(new)
    there.config.write_text(there.config.read_text().replace("default_backend shop\n", f"default_backend {NEXT.name}\n"))
    there.reload()
    counted = traffic.counts.requests
    eventually("the new ones have traffic", lambda: traffic.counts.requests > counted + 100)
    late = apps.start("v2-2")
    remove_and_drain(there.router, NEXT, [new[0], late], new[1])
    apps.kill(new[1])
    eventually("the members answer", lambda: min(map(apps.answered, [new[0], late])) > 20)
    seen = traffic.finish()
    assert seen.by_outcome == {"ok": seen.requests}, dict(seen.by_outcome)


@pytest.mark.parametrize(
    ("line", "said"),
    [("cookie SRV insert indirect", "`cookie` of `backend shop`"), ("stick on src", "`stick on` of `backend shop`")],
)
def test_stickiness_is_refused(standing: Standing, line: str, said: str) -> None:
    there = standing(servers=f"    stick-table type ip size 1k\n    {line}")
    before = there.config.read_text()
    with pytest.raises(RouterError, match=said) as refused:
        there.router.write(Backend("shop"), (member(0),), 1)
    assert not refused.value.retryable
    assert there.config.read_text() == before


def test_what_all_servers_have_is_kept_at_run_time_and_in_the_file(standing: Standing) -> None:
    there = standing(servers="    default-server maxconn 7 check inter 1234ms")
    there.router.write(Backend("shop"), (member(0),), 1)
    wanted = "maxconn 7 check inter 1234ms weight 1"
    assert f"{member(0).address} {wanted}" in there.config.read_text()
    assert ",7," in there.ask("show stat shop 4 -1"), "the limit of the running server"


def test_what_haproxy_accepts_only_in_its_file_is_refused(standing: Standing) -> None:
    there = standing(servers="    default-server init-addr last,libc,none")
    before = there.config.read_text()
    with pytest.raises(RouterError, match="init-addr"):
        there.router.write(Backend("shop"), (member(0),), 1)
    assert there.config.read_text() == before


def test_checks_of_the_backend_are_used(standing: Standing) -> None:
    there = standing(servers=f"    option allbackups\n    option httpchk GET {HEALTH_PATH}")
    shop = replace(Backend("shop"), options=BackendOptions(Health(interval_seconds=0.2)))
    with SampleInstance(1) as one, SampleInstance(2) as other:
        there.router.write(shop, (one.member, other.member), 1)
        one.become_sick()
        eventually("it is down", lambda: there.router.read(shop).down == ids([one.member]))
        other.become_sick()
        eventually("both are down", lambda: there.router.read(shop).down == ids([one.member, other.member]))
        assert {get(f"127.0.0.1:{there.port}") for _ in range(10)} == {200}, "traffic stays as it is"


def found(there: ExternalHAProxy) -> dict[CheckStatus, str]:
    """The results of `tidegate check` by status."""
    results: dict[CheckStatus, str] = {}
    for each in there.router.check():
        results[each.status] = f"{results.get(each.status, '')}{each.part}: {each.result}. {each.fix}\n"
    return results


@pytest.mark.parametrize("options", [{}, {"level": "user"}])
def test_check_examines_the_file(standing: Standing, options: dict[str, Any]) -> None:
    there = standing(servers="    server old 127.0.0.1:9", **options)
    there.config.write_text(there.config.read_text() + "backend sticky\n    balance source\n    cookie A insert\n")
    results = found(there)
    assert "can be routed: shop_preview, other; not as they are" in results[CheckStatus.OK]
    assert "shop (servers of its own: old)" in results[CheckStatus.OK]
    assert "sticky (balance source; cookie)" in results[CheckStatus.OK]
    assert "`hard-stop-after 1d`" in results[CheckStatus.WARNING]
    assert ("level admin" in results.get(CheckStatus.WRONG, "")) is bool(options)
