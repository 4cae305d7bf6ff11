"""What an environment lets Compose files ask of its hosts, over the API."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.api import SHOP, running
from tidegate.compose import loader
from tidegate.compose.host_access import HostAccess, find_denied
from tidegate.errors import InvalidSettings
from tidegate.settings import DriverSettings, EnvironmentSettings, HostAccessSettings, RouterSettings, Settings, load

COMPOSE = """\
services:
  shop:
    image: shop:v1
    expose: ["8080"]
    x-tidegate: {listen: 8001, health: {path: /health}%s}
%s
"""


def text(keys: str = "", options: str = "") -> str:
    return COMPOSE % (options, "".join(f"    {line}\n" for line in keys.splitlines()))


def problems(keys: str, allowed: HostAccess, options: str = "") -> list[str]:
    service = loader.load_service(text(keys, options), "shop", "demo", {})
    return [str(each) for each in find_denied(service, allowed)]


DANGEROUS: dict[str, tuple[str, HostAccess]] = {
    "volumes: ['/etc:/host:ro']": ("volumes: the host's /etc", HostAccess(host_mounts=("/etc",))),
    "volumes: ['/var/run/docker.sock:/s']": ("the host's /var/run/docker.sock", HostAccess(host_mounts=("/var/run",))),
    "volumes: [{type: bind, source: /srv/a, target: /a}]": ("the host's /srv/a", HostAccess(host_mounts=("/srv/*",))),
    "cap_add: [SYS_ADMIN]": ("the capability SYS_ADMIN", HostAccess(capabilities=("cap_sys_admin",))),
    "cap_add: [ALL]": ("the capability ALL", HostAccess(capabilities=("ALL",))),
    "devices: ['/dev/sda:/dev/sda']": ("devices of the host", HostAccess(devices=True)),
    "security_opt: ['apparmor=wide']": ("apparmor=wide", HostAccess(security_options=("apparmor=*",))),
}


@pytest.mark.parametrize("keys", DANGEROUS)
def test_what_reaches_beyond_is_refused_unless_it_is_named(keys: str) -> None:
    said, enough = DANGEROUS[keys]
    (found,) = problems(keys, HostAccess())
    assert said in found
    assert found.startswith("services.shop.")
    assert "is not allowed in this environment; allow." in found
    assert problems(keys, enough) == []


def test_a_hook_needs_leave_for_the_hosts_network() -> None:
    hook = ", hooks: {pre_deploy: {command: [x], network: host}}"
    (found,) = problems("", HostAccess(), hook)
    assert found.startswith("services.shop.x-tidegate.hooks.pre_deploy: the host's network")
    assert problems("", HostAccess(host_network=True), hook) == []


@pytest.mark.parametrize(
    "source", ["/srv/../etc", "/srv/data/../../etc", "/srvx", "//etc", "/", "/srv/data/../..", "/SRV/data"]
)
def test_there_is_no_way_round_a_folder(source: str) -> None:
    assert problems(f"volumes: ['{source}:/x']", HostAccess(host_mounts=("/srv/data", "/srv/logs/*")))


def test_what_stays_in_the_container_needs_no_leave() -> None:
    keys = "volumes: ['/cache']\ncap_drop: [ALL]\nsecurity_opt: ['no-new-privileges:true']\nipc: private\n"
    assert problems(keys + "tmpfs: /tmp", HostAccess()) == []


@pytest.fixture
def settings() -> Callable[[HostAccessSettings | None], Settings]:
    def made(allow: HostAccessSettings | None) -> Settings:
        driver = DriverSettings(driver="docker")
        return Settings(
            environments={
                "demo": EnvironmentSettings(platform=driver, router=RouterSettings(driver="haproxy"), allow=allow)
            }
        )

    return made


def test_all_mistakes_are_told_and_nothing_is_recorded(
    tmp_path: Path, settings: Callable[[HostAccessSettings | None], Settings]
) -> None:
    body = {"compose": text("volumes: ['/etc:/host']\ncap_add: [SYS_ADMIN]"), "variables": {}}
    with running(tmp_path, settings=settings(HostAccessSettings())) as api:
        for answer in (api.call("PUT", SHOP, body), api.post(f"{SHOP}/rollouts", body)):
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid-spec")
            assert [each["path"] for each in answer.json()["errors"]] == ["services.shop.volumes", "services.shop.cap_add"]
        assert api.wiring.store.services() == ()


def test_without_the_table_everything_is_allowed(
    tmp_path: Path, settings: Callable[[HostAccessSettings | None], Settings]
) -> None:
    with running(tmp_path, settings=settings(None)) as api:
        body = {"compose": text("volumes: ['/etc:/host']"), "variables": {}}
        assert api.post(f"{SHOP}/rollouts", body).status_code == 202


def test_a_folder_is_absolute(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[environments.demo]\nplatform = {driver = "docker"}\nallow = {host_mounts = ["data", "/a/../b"]}\n')
    problem = r"allow\.host_mounts: .*absolute paths without \.\. are required; found: data, /a/\.\./b;"
    with pytest.raises(InvalidSettings, match=problem):
        load(file, {})
