"""What an environment lets Compose files ask of hosts, other services and addresses, over the API."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.api import SHOP, RunningApi, running
from tidegate.compose import loader
from tidegate.compose.host_access import HostAccess, find_denied, without_denied_default
from tidegate.errors import InvalidSettings
from tidegate.settings import (
    DriverSettings,
    EnvironmentSettings,
    HostAccessSettings,
    MetricsSettings,
    RouterSettings,
    Settings,
    load,
)

COMPOSE = """\
name: team
services:
  shop:
    image: shop:v1
    expose: ["8080"]
    x-tidegate: {%shealth: {path: /health}%s}
%s
volumes: {data: {}, theirs: {name: billing_data, external: true}}
networks: {other: {name: billing, external: true}}
"""


def text(keys: str = "", options: str = "", listen: str = "") -> str:
    return COMPOSE % (f"listen: '{listen}', " if listen else "", options, "".join(f"    {x}\n" for x in keys.splitlines()))


def problems(keys: str, allowed: HostAccess, options: str = "", listen: str = "") -> list[str]:
    service = loader.load_service(text(keys, options, listen), "shop", "demo", {})
    return [str(each) for each in find_denied(service, allowed)]


DANGEROUS: dict[str, tuple[str, HostAccess]] = {
    "volumes: ['/etc:/host:ro']": ("volumes: the host's /etc", HostAccess(host_mounts=("/etc",))),
    "volumes: ['/etc/ssl/certs/x:/c:ro']": ("the host's /etc/ssl/certs/x", HostAccess(host_mounts=("/etc/ssl/certs:ro",))),
    "volumes: [{type: bind, source: /c, target: /c, read_only: true}]": (
        "the host's /c",
        HostAccess(host_mounts=("/c:ro",)),
    ),
    "volumes: ['/var/run/docker.sock:/s']": ("the host's /var/run/docker.sock", HostAccess(host_mounts=("/var/run",))),
    "volumes: [{type: bind, source: /srv/a, target: /a}]": ("the host's /srv/a", HostAccess(host_mounts=("/srv/*",))),
    "cap_add: [SYS_ADMIN]": ("the capability SYS_ADMIN", HostAccess(capabilities=("cap_sys_admin",))),
    "cap_add: [ALL]": ("the capability ALL", HostAccess(capabilities=("ALL",))),
    "devices: ['/dev/sda:/dev/sda']": ("devices of the host", HostAccess(devices=True)),
    "security_opt: ['apparmor=wide']": ("apparmor=wide", HostAccess(security_options=("apparmor=*",))),
    "volumes: ['theirs:/theirs']": ("volumes: the volume billing_data", HostAccess(volumes=("billing_*",))),
    "volumes: ['data:/data:ro']": ("volumes: the volume team_data", HostAccess(volumes=("team_data",))),
    "volumes: [{type: volume, source: data, target: /a}]": ("the volume team_data", HostAccess(volumes=("team_*",))),
    "networks: [other]": ("networks: the network billing", HostAccess(networks=("billing",))),
    "logging: {driver: journald}": ("logging.driver: the log driver journald", HostAccess(log_drivers=("journald",))),
    "logging: {driver: local, options: {syslog-tls-ca-cert: /etc/shadow}}": (
        "logging.options: the option syslog-tls-ca-cert=/etc/shadow",
        HostAccess(log_options=("syslog-tls-ca-cert=/etc/*",)),
    ),
    "oom_score_adj: -999": ("oom_score_adj: -999", HostAccess(min_oom_score_adj=-999)),
    "ulimits: {rtprio: 99}": ("ulimits: the limit rtprio", HostAccess(priority_ulimits=True)),
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


def test_the_release_of_a_hook_needs_no_leave_and_another_image_does() -> None:
    own, other = ", hooks: {pre_deploy: {command: [x]}}", ", hooks: {pre_deploy: {command: [x], image: 'tools:9/spy:v1'}}"
    assert problems("", HostAccess(), own) == []
    for globs in ((), ("tools:*",), ("tools:9/*/*",)):  # a glob for tags does not match another registry
        (found,) = problems("", HostAccess(hook_images=globs), other)
        assert found.startswith("services.shop.x-tidegate.hooks.pre_deploy.image: the image tools:9/spy:v1 is not allowed")
    assert problems("", HostAccess(hook_images=("tools:9/*",)), other) == []


@pytest.mark.parametrize(
    ("listen", "allowed", "denied"),
    [
        ("8001", (), True),
        ("8001", ("127.0.0.1:8000-8999",), True),
        ("8001", ("[::1]:8001",), True),
        ("22", ("8000-8999", "[::]:8000-8999"), True),
        ("[::]:8001", ("8000-8999",), True),
        ("127.0.0.1:8001", ("127.0.0.1:8000-8999",), False),
        ("127.0.0.1:8001", ("*:8001",), False),
        ("[::1]:8001", ("9000", "[::]:8000-8001"), False),
        ("8001", ("[::]:8001",), False),
    ],
)
def test_addresses_to_listen_on_need_leave(listen: str, allowed: tuple[str, ...], denied: bool) -> None:
    access = HostAccess(listen=allowed)
    own, preview = problems("", access, listen=listen), problems("", access, f", preview: {{listen: '{listen}'}}")
    assert [bool(own), bool(preview)] == [denied, denied]
    if denied:
        assert own[0].startswith(f"services.shop.x-tidegate.listen: {listen} is not allowed in this environment")
        assert preview[0].startswith(f"services.shop.x-tidegate.preview.listen: {listen} is not allowed")


@pytest.mark.parametrize(
    ("url", "globs", "denied"),
    [
        ("http://127.0.0.1:8001/health", (), False),
        ("http://127.0.0.1:80019/health", (), True),
        ("http://10.0.0.5:8001/health", (), True),
        ("http://10.0.0.5:8001/health", ("http://10.0.0.5:8001",), False),
        ("http://10.0.0.5:8001/health", ("http://10.0.0.5:8001/status/*",), True),
        ("http://shop.example/a", ("http://$service.example/*",), False),
        ("http://evil.test/.example/a", ("http://*.example/*",), True),
        ("http://other.example:9090/a", ("http://*.example/*",), True),
    ],
)
def test_addresses_to_probe_need_leave(url: str, globs: tuple[str, ...], denied: bool) -> None:
    allowed = HostAccess(listen=("8001",), probe_urls=globs)
    found = problems("", allowed, f", probe: {{url: '{url}'}}", listen="127.0.0.1:8001")
    assert bool(found) is denied
    said = f"x-tidegate.probe.url: {url} is not allowed in this environment; allow.probe_urls"
    assert all(said in each for each in found)


def answer(api: RunningApi, keys: str = "", options: str = "") -> tuple[int, str]:
    """What a definition is answered."""
    found = api.call("PUT", SHOP, {"compose": text(keys, options), "variables": {}})
    return found.status_code, found.text


@pytest.mark.parametrize(("allow", "enough", "long"), [(None, "15m", "16m"), ("30s", "30s", "31s"), ("2h", "1h", "3h")])
def test_how_long_a_stop_may_take(
    tmp_path: Path,
    settings: Callable[[HostAccessSettings | None], Settings],
    allow: str | None,
    enough: str,
    long: str,
) -> None:
    access = None if allow is None else HostAccessSettings(max_stop_grace=allow)
    with running(tmp_path, settings=settings(access)) as api:
        assert answer(api, f"stop_grace_period: {enough}")[0] == 201
        status, said = answer(api, f"stop_grace_period: {long}")
    assert status == 422
    assert "services.shop.stop_grace_period" in said
    assert "see allow.max_stop_grace" in said


def test_the_api_itself_is_not_probed(tmp_path: Path, settings: Callable[[HostAccessSettings | None], Settings]) -> None:
    named = settings(None).model_copy(update={"address": "http://tidegate.example"})
    with running(tmp_path, settings=named) as api:
        for url in (f"http://{named.listen}/v1/tokens", "http://tidegate.example:80/metrics"):
            status, said = answer(api, "", f", probe: {{url: '{url}'}}")
            assert (status, "not that of Tidegate's API" in said) == (422, True)


def test_queries_are_confined_to_the_service(
    tmp_path: Path, settings: Callable[[HostAccessSettings | None], Settings]
) -> None:
    wanted = settings(None)
    metrics = MetricsSettings(driver="prometheus", enforce={"service": "$service"})
    wanted.environments["demo"] = wanted.environments["demo"].model_copy(update={"metrics": metrics})
    with running(tmp_path, settings=wanted) as api:
        for query, said in (
            ('max(depth{service="$service"})', ""),
            ("max(secret)", "a: the selector secret has no matchers"),
        ):
            found = answer(api, "", f", bake: 60s, checks: [{{name: a, max: 1, query: '{query}'}}]")
            assert found[0] == (422 if said else 201), found[1]
            assert said in found[1]


def test_a_glob_can_contain_the_name_of_the_service() -> None:
    keys = "volumes: ['data:/data', '/srv/shop/x:/x']"
    assert problems(keys, HostAccess(volumes=("team_*",), host_mounts=("/srv/$service",))) == []
    assert len(problems(keys, HostAccess(volumes=("$service_*",), host_mounts=("/srv/$service-2",)))) == 2


@pytest.mark.parametrize(
    "volume",
    ["/c:/c", "/c:/c:rw", "/c:/c:ro,z", "/c:/c:Z", "{type: bind, source: /c, target: /c}"],
)
def test_a_folder_that_may_be_read_is_neither_written_nor_relabelled(volume: str) -> None:
    (problem,) = problems(
        f"volumes: ['{volume}']" if volume[0] == "/" else f"volumes: [{volume}]", HostAccess(host_mounts=("/c:ro",))
    )
    assert "the host's /c, writable or relabelled, is not allowed" in problem


@pytest.mark.parametrize(
    "source", ["/srv/../etc", "/srv/data/../../etc", "/srvx", "//etc", "/", "/srv/data/../..", "/SRV/data"]
)
def test_there_is_no_way_round_a_folder(source: str) -> None:
    assert problems(f"volumes: ['{source}:/x']", HostAccess(host_mounts=("/srv/data", "/srv/logs/*")))


def test_the_default_network_is_left_out_where_it_may_not_be_joined() -> None:
    """Nobody asked for it, so it is no reason to refuse the file; a network that the file names is."""
    job = "  migrate: {image: 'shop:v1', command: x}\nvolumes:"
    keys = "depends_on: {migrate: {condition: service_completed_successfully}}"
    service = loader.load_service(text(keys).replace("volumes:", job, 1), "shop", "demo", {})
    assert [network.name for network in service.container.naming.networks] == ["team_default"]
    assert find_denied(service, HostAccess()) == []
    left = without_denied_default(service, HostAccess())
    (hook,) = left.hooks.values()
    assert hook.container is not None
    assert (left.container.naming.networks, hook.container.naming.networks) == ((), ())
    assert left.source.notes[-1].field == "services.shop.networks"
    assert "joining team_default is not allowed in this environment" in left.source.notes[-1].message
    assert without_denied_default(service, HostAccess(networks=("team_*",))) == service


def test_what_stays_in_the_container_needs_no_leave() -> None:
    keys = "volumes: ['/cache']\ncap_drop: [ALL]\nsecurity_opt: ['no-new-privileges:true']\nipc: private\n"
    keys += (
        "ulimits: {nofile: 9}\noom_score_adj: 100\nlogging: {driver: local, options: {max-size: 1m}}\nnetworks: [default]\n"
    )
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


def test_folders_and_addresses_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    allow = 'host_mounts = ["data", "/a/../b"], listen = ["8000-8999", "127.0.0.1:9-8"]'
    file.write_text(f'[environments.demo]\nplatform = {{driver = "docker"}}\nallow = {{{allow}}}\n')
    with pytest.raises(InvalidSettings) as raised:
        load(file, {})
    folders, addresses = (str(problem) for problem in raised.value.problems)
    assert "allow.host_mounts: " in folders
    assert "absolute paths without .. and : are required, :ro may follow; found: data, /a/../b;" in folders
    assert "allow.listen: " in addresses
    assert "found: 127.0.0.1:9-8;" in addresses
