"""An nginx that somebody runs already is given to Tidegate, step by step as docs/nginx.md says, with traffic on it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from processes import free_port
from support.backends import Backends
from support.nginx import end, open_folder, workers
from support.prerequisites import program
from support.wait import eventually
from tidegate.core.routing import Backend, Member
from tidegate.drivers.routers.nginx.driver import NginxOptions, NginxRouter
from tidegate.errors import RouterError
from tidegate.testing.router_contract import ids, member
from tidegate.testing.router_traffic_contract import remove_and_drain, send_request
from traffic import Load

DOCS = (Path(__file__).parents[2] / "docs" / "nginx.md").read_text()
STEPS = DOCS[DOCS.index("## Adopt an nginx that you run") : DOCS.index('### Options of `mode = "adopted"`')]
ROUTE = Backend("shop_tidegate")


def blocks(language: str) -> list[str]:
    """The pieces of the steps to paste."""
    return [re.sub(r"^ {3}", "", text, flags=re.M) for text in re.findall(rf"```{language}\n(.*?)```", STEPS, re.S)]


@dataclass
class TheirNginx:
    """The nginx of the documented example, before Tidegate comes."""

    home: Path
    listen: str
    servers: tuple[str, ...]
    balancing: str = ""

    def __post_init__(self) -> None:
        self.config, self.include = self.home / "nginx.conf", self.home / "tidegate.conf"
        (example,) = blocks("nginx")
        text = example.replace("upstream shop {", f"upstream shop {{ {self.balancing}").replace(
            "listen 80", f"listen {self.listen}"
        )
        for number, server in enumerate(self.servers, start=5):
            text = text.replace(f"10.0.0.{number}:8080", server)
        frame = f"pid {self.home}/theirs.pid;\nevents {{ worker_connections 512; }}\n"
        self.config.write_text(frame + text.replace("http {", "http {\n    access_log off;"))
        self.paste("nginx")
        options = {"config": self.config, "include": self.include, "pid": self.home / "theirs.pid"}
        self.options = {
            "mode": "adopted",
            "directory": self.home / "nginx",
            "status": f"127.0.0.1:{free_port()}",
            **options,
        }
        self.router = NginxRouter(NginxOptions(**self.options), "test")
        eventually("nginx runs", lambda: self.router.pid)

    def paste(self, commands: str) -> None:
        """Run commands of the documentation with this nginx's folder."""
        self._before = self._children()
        own = f"{program('nginx')} -c {self.config} -e {self.home}/error.log"
        text = re.sub(r"(?m)(^|&& )nginx\b", rf"\1{own}", commands).replace("/etc/nginx", str(self.home))
        subprocess.run(["sh", "-ec", text], check=True, capture_output=True, timeout=60)

    def _children(self) -> set[str]:
        """Its workers. (The kernel's own list of children may lack some while one of them ends.)"""
        file = self.home / "theirs.pid"
        master = file.read_text().strip() if file.exists() else "none"
        return {folder.name for folder in Path("/proc").iterdir() if folder.name.isdigit() and _parent(folder) == master}

    def is_settled(self) -> bool:
        """Whether new workers have replaced those that were there before the last commands."""
        return bool(children := self._children()) and not children & self._before

    def results(self) -> str:
        """What `tidegate check` says."""
        return "\n".join(f"{each.status}: {each.result}; {each.fix}" for each in self.router.check())


def _parent(process: Path) -> str:
    """The parent of a process; empty if it has ended."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[1]
    except OSError:
        return ""


@pytest.fixture
def theirs() -> Iterator[Callable[..., TheirNginx]]:
    made: list[TheirNginx] = []
    with open_folder() as home:

        def make(*servers: Member, balancing: str = "") -> TheirNginx:
            addresses = tuple(server.address for server in servers)
            made.append(TheirNginx(home, f"127.0.0.1:{free_port()}", addresses, balancing))
            return made[-1]

        yield make
        for each in made:
            end({each.router.pid})
        end(workers(home))


def test_adopted_as_documented_without_a_lost_request(
    theirs: Callable[..., TheirNginx], apps: Backends, load: Callable[..., Load]
) -> None:
    include, move = (text for text in blocks("sh"))
    old = [apps.start("theirs") for _ in range(2)]
    nginx = theirs(*old)
    assert "does not include Tidegate's file" in nginx.results()
    plain = load(nginx.listen, get=60, post=30, slow_posts=2, slow_post_ms=300)
    eventually("traffic flows", lambda: plain.counts.requests > 50)
    nginx.paste(include)
    eventually("it has reloaded", nginx.is_settled)
    assert "ok: your upstream shop, in use: 2 servers of its own, round_robin" in nginx.results()
    kept = load(nginx.listen, client="naive", get_ka=40, post_ka=20)

    nginx.router.write(ROUTE, (), 1)
    assert nginx.include.read_text() == "", "an upstream without members is not added"
    new = [apps.start(f"v1-{number}") for number in range(2)]
    nginx.router.write(ROUTE, new, 1)
    assert send_request(nginx.listen) == (200, "theirs"), "traffic does not move yet"
    assert "no proxy_pass leads to it; change your proxy_pass to http://shop_tidegate" in nginx.results()
    nginx.paste(move)
    eventually("their servers have no request left", nginx.is_settled)
    for server in old:
        apps.kill(server)
    assert "ok: Tidegate's upstream shop_tidegate: 2 members, round_robin" in nginx.results()
    replaced, new = new[0], [new[1], apps.start("v2-2")]
    remove_and_drain(nginx.router, ROUTE, new, replaced)
    apps.kill(replaced)
    for traffic in (plain, kept):
        counts = traffic.finish()
        assert counts.by_outcome == {"ok": counts.requests}
    assert {send_request(nginx.listen) for _ in range(4)} == {(200, "v1-1"), (200, "v2-2")}


def test_stickiness_is_kept_or_refused(theirs: Callable[..., TheirNginx], apps: Backends) -> None:
    include, move = blocks("sh")
    nginx = theirs(member(0), member(1), balancing="ip_hash;")
    nginx.paste(include)
    new = [apps.start(f"v1-{number}") for number in range(4)]
    with pytest.raises(
        RouterError, match=r'upstreams that choose .* shop \(ip_hash\).*"shop_tidegate" = "ip_hash"'
    ) as refused:
        nginx.router.write(ROUTE, new, 1)
    assert not refused.value.retryable
    assert nginx.include.read_text() == ""
    nginx.router = NginxRouter(NginxOptions(**nginx.options, balance={"shop_tidegate": "ip_hash"}), "test")
    nginx.router.write(ROUTE, new, 1)
    nginx.paste(move)
    eventually("it has reloaded", nginx.is_settled)
    assert len({send_request(nginx.listen) for _ in range(20)}) == 1


def test_a_name_that_their_file_has_is_refused(theirs: Callable[..., TheirNginx]) -> None:
    nginx = theirs(member(0), member(1))
    nginx.paste(blocks("sh")[0])
    with pytest.raises(RouterError, match=r'duplicate upstream "shop" .*Set `x-tidegate.route`.* shop_tidegate'):
        nginx.router.write(Backend("shop"), (member(2),), 1)
    assert nginx.include.read_text() == ""


def test_a_proxy_pass_to_a_route_that_is_not_there_yet(theirs: Callable[..., TheirNginx]) -> None:
    nginx = theirs(member(0), member(1))
    nginx.paste(blocks("sh")[0])
    nginx.config.write_text(nginx.config.read_text().replace("http://shop;", "http://cart_tidegate;"))
    with pytest.raises(RouterError, match=r"leads to cart_tidegate, which has no route yet"):
        nginx.router.write(ROUTE, (member(2),), 1)
    assert "wrong: Cannot read nginx's configuration" in nginx.results()


def test_a_taken_status_address_is_found_before_the_reload(theirs: Callable[..., TheirNginx]) -> None:
    nginx = theirs(member(0), member(1))
    nginx.paste(blocks("sh")[0])
    nginx.router = NginxRouter(NginxOptions(**{**nginx.options, "status": nginx.listen}), "test")
    assert "another router.status" in nginx.results()
    with pytest.raises(RouterError, match=r"another router\.status"):
        nginx.router.write(ROUTE, (member(2),), 1)


@pytest.mark.parametrize("name", ["shop_web", "shop.web", "Shop-Web", "9.shop"])
def test_names_of_upstreams_that_people_have(theirs: Callable[..., TheirNginx], apps: Backends, name: str) -> None:
    nginx, new, route = theirs(member(0), member(1)), apps.start("v1-1"), Backend(name)
    nginx.paste(blocks("sh")[0])
    nginx.router.write(route, (new,), 1)
    nginx.paste(blocks("sh")[1].replace("shop_tidegate", name))
    eventually("it has reloaded", nginx.is_settled)
    assert send_request(nginx.listen) == (200, "v1-1")
    assert ids(nginx.router.read(route).members) == {new.instance}
    with pytest.raises(RouterError, match="names may not differ only in case"):
        nginx.router.write(Backend(re.sub(r"[.-]", "_", name.swapcase())), (member(3),), 1)
