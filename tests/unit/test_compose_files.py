"""Compose files as teams have them: what becomes of each, and what is told of what cannot be honoured."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.wait import at_most
from tidegate.compose import loader
from tidegate.compose import schema as compose_schema
from tidegate.compose.loader import ComposeInput
from tidegate.core.compose import ComposeDependency, Condition
from tidegate.core.container import File, Log, Mount, MountKind, Network, NetworkOrigin, Ulimit
from tidegate.core.model import Service
from tidegate.errors import InvalidSpec

FOLDER = Path(__file__).with_name("compose")
FILES = {
    ".env": b"SECRET_KEY=abc\n",
    "secrets/db_password.txt": b"pw\n",
    "a.env": b"A=1\nNAME=lost\n",
    "raw.env": b"R=$x 'y'\n",
    "config/shop.yml": b"\xff\x00binary",
}
VARIABLES = {"VERSION": "v7", "TLS_KEY": "key", "REPLICAS": "2", "FROM_OUTSIDE": "here", "ONE": "1", "A": "a"}
VARIABLES |= {"QUOTED": "q", "EMPTY": ""}


def read(name: str, service: str = "shop") -> Service:
    return loader.load_service((FOLDER / f"{name}.yaml").read_text(), service, "demo", VARIABLES, FILES)


def mistakes(name: str) -> dict[str, str]:
    with pytest.raises(InvalidSpec) as refused:
        read(name)
    told = [(each.path, each.message) for each in refused.value.problems]
    assert len(dict(told)) == len(told), "the same place is told once"
    return {path.removeprefix("services.shop."): message for path, message in told}


# -- what is honoured -----------------------------------------------------------------------------------------------------


def test_a_web_application_with_its_worker() -> None:
    web = read("web-worker-db", "web")
    container = web.container
    assert (web.image, web.replicas, web.depends_on) == ("registry.example/bookshop:v7", 3, ())
    assert web.source.project == "bookshop"
    assert web.source.depends_on == (
        ComposeDependency("bookshop", "db", Condition.HEALTHY),
        ComposeDependency("bookshop", "cache"),
    )
    assert container.command == ("gunicorn", "--bind", ":8000", "bookshop.wsgi:application")
    assert dict(container.environment) == {
        "SECRET_KEY": "abc",
        "DATABASE_URL": "postgres://shop@db/shop",
        "REDIS_URL": "redis://cache:6379/0",
        "WEB_CONCURRENCY": "4",
    }
    password, gunicorn = container.files
    assert (password.target, password.data, password.mode) == ("/run/secrets/db_password", b"pw\n", 0o444)
    assert (gunicorn.target, gunicorn.data) == ("/etc/bookshop/gunicorn.py", b'workers = 4\naccesslog = "-"\n')
    assert container.volumes == ("bookshop_media:/srv/media",)
    assert container.naming.networks == (Network("bookshop_backend", ("web",), NetworkOrigin.PROJECT),)
    assert container.log == Log("json-file", {"max-size": "10m", "max-file": "3"})
    assert (container.cpus, container.memory_bytes) == (1.5, 512 * 2**20)
    assert (container.limits.pids, container.limits.memory_reservation_bytes) == (200, 128 * 2**20)


def test_a_hardened_service() -> None:
    container = read("hardened", "api").container
    assert (container.read_only, container.init, container.user) == (True, True, "10001:10001")
    assert (container.rights.cap_drop, container.rights.cap_add) == (("ALL",), ("NET_BIND_SERVICE",))
    assert container.rights.security_opt == ("no-new-privileges:true",)
    assert container.rights.sysctls == {"net.core.somaxconn": "1024"}
    assert container.tmpfs == {"/tmp": "size=64m,mode=1777", "/run": ""}
    assert (container.limits.pids, container.memory_bytes, container.cpus) == (100, 256 * 2**20, 0.5)
    assert container.limits.ulimits == (Ulimit("nofile", 20000, 40000), Ulimit("nproc", 512, 512))
    (key,) = container.files
    assert (key.target, key.data, key.mode, key.uid) == ("/run/secrets/server.key", b"key", 0o400, 10001)


def test_every_long_form() -> None:
    shop = read("long-forms")
    container = shop.container
    assert (shop.replicas, container.port) == (2, 8080)
    assert dict(container.environment) == {"A": "1", "NAME": "value", "R": "$x 'y'", "EMPTY": "", "FROM_OUTSIDE": "here"}
    assert container.labels == {"com.example.team": "web", "com.example.flag": ""}
    assert container.volumes == ("/srv/more:/more:z", "shop-data:/data:nocopy", "/srv/short:/short:ro,z")
    assert container.external_volumes == ("shop-data",)
    assert container.mounts == (
        Mount(MountKind.BIND, "/files", "/srv/files", True, "rslave"),
        Mount(MountKind.VOLUME, "/scratch"),
        Mount(MountKind.TMPFS, "/cache", size_bytes=32 * 2**20, mode=0o700),
    )
    assert container.naming.networks == (Network("public", ("shop", "till", "checkout")), Network("back", ("shop",)))
    assert container.naming.extra_hosts == (
        "printer:192.0.2.7",
        "both:192.0.2.8",
        "both:2001:db8::8",
        "here:host-gateway",
    )
    assert container.rights.devices == ("/dev/fuse:/dev/fuse:rwm", "/dev/zero:/dev/nothing:r")
    assert container.rights.group_add == ("docker", "1234")
    (conf,) = container.files
    assert (conf.target, conf.data, conf.mode, conf.gid) == ("/conf/shop.yml", b"\xff\x00binary", 0o440, 33)


def test_anchors_and_scalars_are_read_as_compose_reads_them() -> None:
    shop = read("anchors")
    assert (shop.image, shop.container.stop_grace_seconds, shop.container.health.path) == ("shop:v2", 60.0, "/health")
    assert dict(shop.container.environment) == {
        "COUNTRY": "no",
        "SINCE": "2026-01-01",
        "TIME": "12:30",
        "MODE": "420",
        "RATIO": "1.1",
        "BIG": "1000",
        "ON": "true",
    }


def test_variables_and_their_defaults() -> None:
    shop = read("defaults")
    container = shop.container
    assert shop.image == "registry.example/shop:v7"
    assert container.command == ("echo", "$HOME", "yes", "", "abc")
    assert (container.port, container.read_only, container.cpus, container.memory_bytes) == (8080, True, 0.5, 64 * 2**20)
    assert shop.checks[0].query == 'rate(x{release="$release"}[1m])'


# -- what is refused ------------------------------------------------------------------------------------------------------

TOLD: dict[str, dict[str, str]] = {
    "development": {
        "services.migrate.image": "is required",
        "image": "is required",
        "network_mode": "settings of the environment define the proxy's network",
        "pid": "access to the host",
        "x-tidegate.port": "is required: which of 8080, 9229 takes the traffic",
        "privileged": "access to the host",
        "volumes[0].source": "is not on the machine of all Docker hosts",
        "volumes[1].source": "is not on the machine of all Docker hosts",
        "volumes[2]": "no volume node_modules in the file's top-level volumes",
    },
    "swarm": {
        "configs.stored.external": "has no secret store",
        "secrets.stored.external": "has no secret store",
        "deploy.mode": "found 'global'; allowed: replicated",
        "deploy.resources.reservations.devices": "not supported",
    },
    "mistakes": {
        "cap_add": "no duplicates",
        "cap_drop": "a list of text",
        "comand": "did you mean command?",
        "cpus": "found 'lots'",
        "depends_on": "has a cycle: shop → shop",
        "depends_on.ghost": "no service ghost",
        "deploy.replicas": "found 'many'",
        "deploy.update_config.order": "start-first, stop-first",
        "environment": "allowed: a mapping of text",
        "healthcheck.intervall": "did you mean interval?",
        "imag": "did you mean image?",
        "image": "is required",
        "init": "true or false",
        "mem_limit": "a size such as 64M",
        "networks.nowhere": "declare it there",
        "secrets[0]": "nothing is not in the file's top-level secrets",
        "ulimits": "soft and hard",
        "volumes[0]": "no volume data in the file's top-level volumes",
        "volumes[1]": "found 'data:data'",
        "volumes[2]": "found 7",
        "volumes[3].source": "an absolute path",
        "volumes[4].type": "cluster is not supported: only for Swarm",
        "x-tidegat": "did you mean x-tidegate?",
    },
    "includes": {
        "include[0]": "found ../common/compose.yaml; allowed: the relative path",
        "name": "found 'Not Allowed'",
        "servces": "did you mean services?",
        "extends.file": "the file base.yaml is required; send it in `files`",
    },
    "hidden": {
        "read_only": "/conf must be in a folder",
        "secrets[4].target": "found '../key'",
        "secrets[5].target": "not below /proc",
        "secrets[6]": "duplicate target /run/secrets/one",
        "volumes": "/cache/key would be hidden by the mount at /cache",
    },
    "outside": {
        "secrets.one.file": "found '/run/one'",
        "secrets.two.file": "found '../two'",
        "secrets.three": "one of file, environment is required",
        **{f"env_file[{number}]": "relative path" for number in range(4)},
    },
    "circle": {"depends_on": "shop → stock → prices → shop"},
}


@pytest.mark.parametrize("name", TOLD)
def test_all_that_is_wrong_is_told_at_once_and_by_name(name: str) -> None:
    found = mistakes(name)
    assert set(found) == set(TOLD[name])
    assert [path for path, said in TOLD[name].items() if said not in found[path]] == []


def test_every_file_of_the_folder_is_examined() -> None:
    honoured = {"noted", "web-worker-db", "hardened", "long-forms", "anchors", "defaults"}
    assert {each.stem for each in FOLDER.glob("*.yaml")} == honoured | set(TOLD)


def test_harmless_keys_are_ignored_with_a_note() -> None:
    notes = {note.field.removeprefix("services.shop."): note.message for note in read("noted").source.notes}
    assert {field: text.partition(":")[0] for field, text in notes.items()} == dict.fromkeys(
        (
            "annotations",
            "container_name",
            "deploy.endpoint_mode",
            "deploy.labels",
            "deploy.placement",
            "deploy.resources.reservations.cpus",
            "deploy.restart_policy",
            "deploy.rollback_config",
            "external_links",
            "links",
            "mac_address",
            "platform",
            "restart",
        ),
        "ignored",
    )
    assert notes["container_name"] == "ignored: a name belongs to one container; Tidegate names each instance"
    assert read("noted").replicas == 3, "scale means deploy.replicas"


# -- files beside the Compose file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "service", "needed"),
    [
        ("web-worker-db", "web", {".env": True, ".env.local": False, "secrets/db_password.txt": True}),
        ("web-worker-db", "db", {"secrets/db_password.txt": True}),
        ("long-forms", "shop", {"a.env": True, "raw.env": True, "config/shop.yml": True}),
        ("outside", "shop", {"a.txt": True}),
        ("mistakes", "shop", {}),
        ("web-worker-db", "nobody", {}),
    ],
)
def test_which_files_are_needed(name: str, service: str, needed: dict[str, bool]) -> None:
    text = (FOLDER / f"{name}.yaml").read_text()
    found = loader.find_referenced_files(ComposeInput(text, VARIABLES), service)
    assert {each.name: each.required for each in found} == needed


def test_a_file_that_did_not_come() -> None:
    text = (FOLDER / "web-worker-db.yaml").read_text()
    with pytest.raises(InvalidSpec) as refused:
        loader.load_service(text, "web", "demo", VARIABLES)
    told = {each.path: each.message for each in refused.value.problems}
    assert set(told) == {"services.web.env_file[0]", "secrets.db_password.file"}
    assert "the file .env is required; send it in `files`" in told["services.web.env_file[0]"]


def test_contents_are_not_in_what_is_printed() -> None:
    container = read("web-worker-db", "web").container
    said = repr(container) + repr(container.files) + repr(File("/x", "c2VjcmV0"))
    assert "c2VjcmV0" not in said
    assert "abc" not in said
    assert container.files[0].content not in said


# -- the schema -----------------------------------------------------------------------------------------------------------


def schema() -> dict[str, Any]:
    text = (resources.files("tidegate.compose") / compose_schema.FILE).read_bytes()
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_schema_is_the_one_that_was_taken() -> None:
    text = (resources.files("tidegate.compose") / compose_schema.FILE).read_bytes()
    assert hashlib.sha256(text).hexdigest() == compose_schema.SHA256
    assert "Apache License" in (resources.files("tidegate.compose") / "compose-spec.LICENSE").read_text()


def words(*definitions: str) -> list[str]:
    return sorted({key for each in definitions for key in schema()["$defs"][each]["properties"]})


def told_of(body: dict[str, Any]) -> str:
    """The problems, or the notes of a service that has none."""
    try:
        shop = loader.load_service(json.dumps({"services": {"shop": body}}), "shop", "demo", {})
    except InvalidSpec as refused:
        return str(refused)
    return "\n".join(f"{note.field}: {note.message}" for note in shop.source.notes)


@pytest.mark.parametrize("word", words("service", "container_spec", "workload_spec"))
def test_every_word_of_compose_is_honoured_or_refused_by_name(word: str) -> None:
    said = told_of({"image": "shop:v1", "expose": ["80"], "x-tidegate": {}, word: [{"such": "x"}]})
    assert f"services.shop.{word}: unknown key" not in said + told_of({"image": "shop:v1", "x-tidegate": {}, word: None})
    assert f"services.shop.{word}" in said or word in ("attach", "develop", "profiles")


@pytest.mark.parametrize("word", words("deployment"))
def test_every_word_of_deploy_is_honoured_or_refused_by_name(word: str) -> None:
    said = told_of({"image": "shop:v1", "expose": ["80"], "x-tidegate": {}, "deploy": {word: 5}})
    assert f"services.shop.deploy.{word}: unknown key" not in said
    assert f"services.shop.deploy.{word}" in said or word == "replicas"


def test_what_only_the_schema_knows_is_told_too() -> None:
    said = told_of(
        {"image": "shop:v1", "expose": ["80"], "dns_opt": ["a", "a"], "healthcheck": {"retries": True, "test": "x"}}
    )
    assert "services.shop.dns_opt: found ['a', 'a']; allowed: no duplicates" in said


# -- whatever stands in it ------------------------------------------------------------------------------------------------

INNER = [
    "type",
    "source",
    "target",
    "bind",
    "volume",
    "tmpfs",
    "mode",
    "uid",
    "soft",
    "hard",
    "aliases",
    "path",
    "required",
]
INNER += ["condition", "file", "environment", "content", "external", "name", "limits", "memory", "driver", "options", "x-a"]

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
scalars |= st.sampled_from(
    ["${A}", "${A:-", "$", "1g", "/x:/y", "10s", "a=b", "0440", "x" * 300, "a:b:c:d", "-1", "/", ".."]
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.sampled_from(INNER), inner, max_size=4)
    ),
    max_leaves=10,
)
SERVICE = words("service", "container_spec", "workload_spec")
bodies = st.dictionaries(st.sampled_from([*SERVICE, "x-tidegate", "x-other"]), anything, max_size=5)
documents = st.fixed_dictionaries(
    {"services": st.fixed_dictionaries({"shop": bodies | anything})},
    optional={
        kind: st.dictionaries(st.sampled_from(["a", "b", "a=b"]), anything, max_size=2) | anything
        for kind in ("volumes", "networks", "secrets", "configs", "name", "version", "include", "x-any")
    },
)


def outcome(text: str) -> Service | InvalidSpec:
    with at_most(60, "reading it"):
        try:
            return loader.load_service(text, "shop", "demo", {"A": "1", "VERSION": "v1"}, {"a": b"A=1", "b": b"\xff"})
        except InvalidSpec as refused:
            return refused


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(documents, st.booleans())
def test_any_document_is_a_service_or_a_list_of_mistakes(document: dict[str, Any], sound: bool) -> None:
    body = document["services"]["shop"]
    if sound and isinstance(body, dict):
        body.setdefault("image", "shop:v1")
        body.setdefault("expose", ["80"])
    found = outcome(json.dumps(document, allow_nan=True))
    if isinstance(found, Service):
        assert all(each.target.startswith("/") for each in found.container.files)
        assert all(":" in each for each in found.container.volumes)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=60) | st.text("{}[]&*<:>-, \n!ax'\"|#%", max_size=80))
def test_any_text_is_a_service_or_a_list_of_mistakes(text: str) -> None:
    outcome(text)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text("AB=$\\{}:-'\"# \n\r\x00\té", max_size=60), st.booleans())
def test_any_env_file_is_variables_or_one_mistake_without_a_value(text: str, raw: bool) -> None:
    entry = {"path": "a.env", **({"format": "raw"} if raw else {})}
    body = {"image": "shop:v1", "expose": ["80"], "env_file": [entry]}
    secret = "hunter2"
    content = f"{text}\nSECRET={secret}${{NOWHERE}}\n".encode()
    said = ""
    try:
        loader.load_service(json.dumps({"services": {"shop": body}}), "shop", "demo", {}, {"a.env": content})
    except InvalidSpec as refused:
        said = str(refused)
    assert secret not in said
    assert "services.shop.env_file[0]: a.env: line" in said or raw
