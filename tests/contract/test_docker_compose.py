"""What a Compose file asks for is really there in the container, and its secrets are nowhere else."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

from support.docker_contract import PREFIX, SOCKET, local_engine, platform_on
from support.prerequisites import missing
from support.wait import eventually
from tidegate.compose import loader
from tidegate.core.model import InstanceState, Release
from tidegate.drivers.platforms.docker import driver as platform_module
from tidegate.drivers.platforms.docker.driver import DockerPlatform
from tidegate.errors import PlatformError
from tidegate.testing.platform_contract import ENVIRONMENT, all_ready, pin_release, start_and_wait, wait_for_instances

LOCAL = {"name": "local", "url": SOCKET}
SERVICE = f"{ENVIRONMENT}/shop"
SECRET = "correct-horse-battery"
GRACE_SECONDS = 0  # of a restart: no bound, but how soon the engine kills
BACK = f"{PREFIX}back"

COMPOSE = """\
x-base: &base
  image: IMAGE
  expose: ["8080"]
  x-tidegate: {health: {path: /health}, listen: 8001}
services:
  shop:
    <<: *base
    OPTIONS
secrets:
  db: {file: db.txt}
  token: {environment: TOKEN}
configs:
  conf: {content: "limit: 5\\n"}
volumes:
  kept: {name: PREFIXkept}
  outside: {external: true, name: PREFIXoutside}
networks:
  back: {external: true, name: PREFIXback}
  nowhere: {external: true, name: PREFIXnowhere}
"""


def release(options: str) -> Release:
    """A release of a service with these options, through all of the reading that the API does."""
    text = COMPOSE.replace("OPTIONS", options.strip().replace("\n", "\n    ")).replace("IMAGE", f"{PREFIX}:good")
    files = {"db.txt": f"{SECRET}\n".encode(), "app.env": f"FROM_FILE={SECRET}\n".encode()}
    found = loader.load_service(text.replace("PREFIX", PREFIX), "shop", ENVIRONMENT, {"TOKEN": SECRET}, files)
    return Release("v1-1", found.key, found.image, 1, found.container)


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    with local_engine() as client:
        network = client.networks.create(BACK)
        try:
            yield client
        finally:
            network.remove()
            for volume in client.volumes.list(filters={"name": PREFIX}):
                volume.remove(force=True)


@pytest.fixture
def platform(client: docker.DockerClient) -> Iterator[DockerPlatform]:
    with platform_on(LOCAL) as platform:
        yield platform


@contextmanager
def running(client: docker.DockerClient, platform: DockerPlatform, options: str) -> Iterator[tuple[dict[str, Any], Path]]:
    """What the engine says of the container, and its file system as its process sees it."""
    instance = start_and_wait(platform, pin_release(platform, release(options)), [0])[0]
    if os.geteuid() != 0:
        missing("the right to look into a container (root)")
    looked = client.api.inspect_container(instance.id)
    yield looked, Path(f"/proc/{looked['State']['Pid']}/root")
    platform.stop([instance], 0.0)
    wait_for_instances(platform, SERVICE, lambda seen: seen == ())


FILES = """\
secrets: [db, {source: token, target: /etc/shop/token, mode: 0400, uid: "1000", gid: "1001"}]
configs: [{source: conf, target: /etc/shop/conf.yml}]
"""
SHAPES = {
    "plain": "",
    "read-only": "read_only: true\n",
    "tmpfs over it": "tmpfs: [/run, /etc]\n",
    "long tmpfs over it": "volumes: [{type: tmpfs, target: /run}]\n",
    "read-only, tmpfs over it": "read_only: true\ntmpfs: /run:size=4m\n",
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_secrets_and_configs_are_files_of_the_container(
    client: docker.DockerClient, platform: DockerPlatform, shape: str
) -> None:
    with running(client, platform, shape + FILES) as (looked, root):
        secret, token, conf = root / "run/secrets/db", root / "etc/shop/token", root / "etc/shop/conf.yml"
        assert secret.read_text() == f"{SECRET}\n"
        assert (token.read_text(), conf.read_text()) == (SECRET, "limit: 5\n")
        modes = [
            (stat.S_IMODE(each.stat().st_mode), each.stat().st_uid, each.stat().st_gid) for each in (secret, token, conf)
        ]
        assert modes == [(0o444, 0, 0), (0o400, 1000, 1001), (0o444, 0, 0)]
        assert stat.S_IMODE(secret.parent.stat().st_mode) & 0o022 == 0
        assert SECRET not in json.dumps(looked)
        assert SECRET not in json.dumps(client.api.containers(filters={"id": looked["Id"]}))
        process = Path(f"/proc/{looked['State']['Pid']}")
        assert SECRET.encode() not in (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        volumes = [mount["Name"] for mount in looked["Mounts"] if mount["Type"] == "volume"]
    assert bool(volumes) == bool(shape)
    eventually("its volumes are gone", lambda: not {each.name for each in client.volumes.list()} & set(volumes))


def test_files_survive_a_restart(client: docker.DockerClient, platform: DockerPlatform) -> None:
    """The engine starts it again by itself; nobody puts them in anew."""
    with running(client, platform, "read_only: true\n" + FILES) as (looked, _):
        client.api.restart(looked["Id"], timeout=GRACE_SECONDS)
        wait_for_instances(platform, SERVICE, all_ready(1))
        pid = client.api.inspect_container(looked["Id"])["State"]["Pid"]
        assert Path(f"/proc/{pid}/root/run/secrets/db").read_text() == f"{SECRET}\n"


ALL = """\
environment: {PLAIN: x}
env_file: app.env
volumes:
  - kept:/kept
  - {type: volume, source: outside, target: /outside, read_only: true, volume: {nocopy: true}}
  - /etc:/host-etc:ro
  - {type: bind, source: /usr, target: /host-usr, read_only: true, bind: {create_host_path: false}}
  - {type: tmpfs, target: /cache, tmpfs: {size: 1m, mode: 0o700}}
  - /anonymous
tmpfs: /scratch:size=2m
mem_reservation: 16m
memswap_limit: 64m
mem_limit: 64m
cpus: 0.5
pids_limit: 50
shm_size: 8m
cpu_shares: 512
oom_score_adj: 100
ulimits: {nofile: 2048, core: {soft: 0, hard: 0}}
cap_drop: [ALL]
cap_add: [NET_BIND_SERVICE]
security_opt: ["no-new-privileges:true"]
sysctls: {net.ipv4.ip_unprivileged_port_start: "80"}
group_add: ["1234"]
devices: ["/dev/zero:/dev/other:r"]
ipc: private
extra_hosts: {elsewhere: 192.0.2.1}
dns: 192.0.2.53
dns_search: [example.test]
dns_opt: ["ndots:2"]
hostname: till
domainname: example.test
tty: true
stdin_open: true
logging: {driver: local, options: {max-size: 1m}}
restart: unless-stopped
"""


def test_all_that_is_honoured_is_there(client: docker.DockerClient, platform: DockerPlatform) -> None:
    client.volumes.create(f"{PREFIX}outside")
    with running(client, platform, ALL) as (looked, root):
        host, config = looked["HostConfig"], looked["Config"]
        expected = {
            "MemoryReservation": 16 * 2**20,
            "MemorySwap": 64 * 2**20,
            "Memory": 64 * 2**20,
            "NanoCpus": 5 * 10**8,
            "PidsLimit": 50,
            "ShmSize": 8 * 2**20,
            "CpuShares": 512,
            "OomScoreAdj": 100,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],
            "Sysctls": {"net.ipv4.ip_unprivileged_port_start": "80"},
            "GroupAdd": ["1234"],
            "IpcMode": "private",
            "ExtraHosts": ["elsewhere:192.0.2.1"],
            "Dns": ["192.0.2.53"],
            "DnsSearch": ["example.test"],
            "DnsOptions": ["ndots:2"],
            "LogConfig": {"Type": "local", "Config": {"max-size": "1m"}},
            "Tmpfs": {"/scratch": "size=2m"},
        }
        assert {key: host[key] for key in expected} == expected
        assert [each.removeprefix("CAP_") for each in host["CapAdd"]] == ["NET_BIND_SERVICE"]
        assert {ulimit["Name"]: (ulimit["Soft"], ulimit["Hard"]) for ulimit in host["Ulimits"]} == {
            "nofile": (2048, 2048),
            "core": (0, 0),
        }
        assert (config["Hostname"], config["Domainname"], config["Tty"], config["OpenStdin"]) == (
            "till",
            "example.test",
            True,
            True,
        )
        assert {f"FROM_FILE={SECRET}", "PLAIN=x"} <= set(config["Env"])
        there = {mount["Destination"]: (mount["Type"], mount["RW"], mount.get("Name", "")) for mount in looked["Mounts"]}
        assert there["/kept"] == ("volume", True, f"{PREFIX}kept")
        assert there["/outside"] == ("volume", False, f"{PREFIX}outside")
        assert (there["/host-etc"][:2], there["/host-usr"][:2]) == (("bind", False), ("bind", False))
        assert (there["/cache"][0], there["/anonymous"][0]) == ("tmpfs", "volume")
        assert stat.S_IMODE((root / "cache").stat().st_mode) == 0o700
        assert (root / "dev/other").is_char_device()
        assert "elsewhere" in (root / "etc/hosts").read_text()
        limits = Path(f"/proc/{looked['State']['Pid']}/limits").read_text()
        assert [line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open")] == [["2048", "2048"]]


@pytest.mark.parametrize("network", ["bridge", BACK], ids=["bridge", "one of its own"])
def test_networks(client: docker.DockerClient, network: str) -> None:
    """The proxy's is the one of the settings, whatever the service joins besides."""
    with platform_on(LOCAL, network=network) as platform:
        options = "networks: {default: , back: {aliases: [till]}}"
        with running(client, platform, options) as (looked, _):
            found = looked["NetworkSettings"]["Networks"]
            assert set(found) == {network, BACK}
            assert {"shop", "till"} <= set(found[BACK]["Aliases"])
            instance = platform.instances(SERVICE)[0]
            assert instance.address == f"{found[network]['IPAddress']}:8080"


@pytest.mark.parametrize(
    ("options", "command", "entrypoint"),
    [
        ("", None, ["/app"]),
        ("entrypoint: /app serve", None, ["/app", "serve"]),
        ("command: [a, 'b c']", ["a", "b c"], ["/app"]),
        ("entrypoint: []\ncommand: [/app, x]", ["/app", "x"], None),
        ("entrypoint: ''\ncommand: /app 'x y'", ["/app", "x y"], None),
        ("entrypoint: [/app]\ncommand: []", None, ["/app"]),
        ("entrypoint:\ncommand:", None, ["/app"]),
    ],
)
def test_command_and_entrypoint(
    client: docker.DockerClient, platform: DockerPlatform, options: str, command: object, entrypoint: object
) -> None:
    with running(client, platform, options) as (looked, _):
        assert (looked["Config"]["Cmd"] or None, looked["Config"]["Entrypoint"] or None) == (command, entrypoint)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("networks: [nowhere]", f"Network {PREFIX}nowhere not found"),
        ("volumes: [outside:/x]", f"Volume {PREFIX}outside not found on Docker host local"),
    ],
    ids=["network", "volume"],
)
def test_what_must_be_there_and_is_not(
    client: docker.DockerClient, platform: DockerPlatform, options: str, said: str
) -> None:
    for volume in client.volumes.list(filters={"name": f"{PREFIX}outside"}):
        volume.remove()
    with pytest.raises(PlatformError, match=said) as refused:
        platform.pin(release(options))
    assert not refused.value.retryable


# -- a crash between creating and starting ---------------------------------------------------------------------------------


def test_what_was_left_without_its_files_gets_them_from_start(
    platform: DockerPlatform, client: docker.DockerClient
) -> None:
    wanted = pin_release(platform, release(FILES + "networks: [back]"))
    left = platform._create(platform._hosts["local"], wanted, 0)
    platform.start(wanted, [0])
    assert [instance.id for instance in wait_for_instances(platform, SERVICE, all_ready(1))] == [left]
    looked = client.api.inspect_container(left)
    assert Path(f"/proc/{looked['State']['Pid']}/root/run/secrets/db").read_text() == f"{SECRET}\n"
    assert BACK in looked["NetworkSettings"]["Networks"]


def test_what_was_left_without_its_files_is_never_started(
    platform: DockerPlatform, client: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asks for it again, and whoever looks has no release at hand: it makes room for a new one."""
    monkeypatch.setattr(platform_module, "INCOMPLETE_ORPHAN_SECONDS", 3600.0)
    wanted = pin_release(platform, release(FILES))
    platform._create(platform._hosts["local"], wanted, 0)
    seen = platform.instances(SERVICE)
    assert [each.state for each in seen] == [InstanceState.STARTING]
    monkeypatch.setattr(platform_module, "INCOMPLETE_ORPHAN_SECONDS", 0.5)
    wait_for_instances(platform, SERVICE, lambda seen: seen == ())
    monkeypatch.setattr(platform_module, "INCOMPLETE_ORPHAN_SECONDS", 3600.0)
    platform.start(wanted, [0])
    wait_for_instances(platform, SERVICE, all_ready(1))


def test_files_that_can_be_put_in_half_way_are_put_in_again(platform: DockerPlatform) -> None:
    """A crash after some of the archives: the next start does all of it once more."""
    wanted = pin_release(platform, release("read_only: true\nnetworks: [back]\n" + FILES))
    host = platform._hosts["local"]
    left = platform._create(host, wanted, 0)
    with host._translating_errors("testing") as api:
        host._finish(api, left, wanted)
    platform.start(wanted, [0])
    wait_for_instances(platform, SERVICE, all_ready(1))


def test_a_removed_one_is_worth_another_try(platform: DockerPlatform) -> None:
    """Another process may have taken it for one that a crash left."""
    wanted = pin_release(platform, release(FILES))
    host = platform._hosts["local"]
    left = platform._create(host, wanted, 0)
    host.remove(left)
    with pytest.raises(PlatformError, match="removed meanwhile") as refused:
        host.start(left, "v1-1", wanted)
    assert refused.value.retryable
