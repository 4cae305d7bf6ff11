"""A key is added to the text of a YAML file, and nothing else in it changes."""

from __future__ import annotations

import difflib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tidegate.cli.compose_init import add, ask, find
from tidegate.cli.yaml_insert import insert

TEXTS = {
    "comments": "# top\nservices:\n  web:  # the web\n    image: 'x'   # quoted\n    # last\n\n  # db\n  db: {image: y}\n",
    "a sequence at the end": "services:\n  web:\n    ports:\n    - '80'\n    - \"8001:8080\" # public\n  db: {image: y}\n",
    "a sequence of mappings": "services:\n  web:\n    secrets:\n      - source: a\n        target: b\n  db: {image: y}\n",
    "a literal with a comment sign": "services:\n  web:\n    command: |\n      run\n      # text\n\n  db: {image: y}\n",
    "a folded text": "services:\n  web:\n    command: >-\n      run\n      on\n  db: {image: y}\n",
    "a flow mapping": "services:\n  web: {image: x, expose: ['80']}  # short\n  db: {image: y}\n",
    "a flow mapping with a comma": "services:\n  web: {image: x, }\n",
    "a flow mapping of several lines": "services:\n  web: {\n    image: x\n    }\n  db: {image: y}\n",
    "an alias": "x: &a {A: 1}\nservices:\n  web:\n    image: x\n    environment: *a\n  db: {image: y}\n",
    "an anchor and a merge": "x: &a\n  image: x\nservices:\n  web:\n    <<: *a\n  db: {image: y}\n",
    "an empty value": "services:\n  web:\n    image: x\n    environment:\n  db: {image: y}\n",
    "nothing behind it": "services:\n  web:\n    image: x",
    "a deep indentation": "services:\n    web:\n          image: x\n    db: {image: y}\n",
    "a document of its own": "---\nservices:\n  web:\n    image: x\n...\n",
    "a nested mapping": "services:\n  web:\n    deploy:\n      resources:\n        limits: {pids: 1}\n  db: {image: y}\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("lines", [["listen: 8001", "health: {path: /health}"], ["{listen: 8001}"]], ids=["block", "line"])
def test_only_the_key_is_added(text: str, lines: list[str]) -> None:
    changed = insert(text, ("services", "web"), "x-tidegate", lines)
    wanted = yaml.safe_load(text)
    wanted["services"]["web"]["x-tidegate"] = yaml.safe_load("\n".join(lines))
    assert yaml.safe_load(changed) == wanted
    removed = [line for line in difflib.ndiff(text.splitlines(), changed.splitlines()) if line.startswith("- ")]
    assert len(removed) == ("{image: x" in text or "image: x\n    }" in text), "only a line of a flow mapping changes"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    body=st.dictionaries(st.text("abc_", min_size=1, max_size=6), VALUES, min_size=1, max_size=4),
    other=VALUES,
    flow=st.sampled_from([False, None]),
)
def test_whatever_the_service_has(body: dict[str, object], other: object, flow: bool | None) -> None:
    document = {"services": {"web": body, "zoo": other}}
    text = yaml.safe_dump(document, default_flow_style=flow, sort_keys=False, allow_unicode=True)
    wanted = yaml.safe_load(text)  # not the document: PyYAML reads a line break of Unicode back as a space
    wanted["services"]["web"]["x-tidegate"] = {"listen": 8001}
    changed = insert(text, ("services", "web"), "x-tidegate", ["{listen: 8001}"])
    assert yaml.safe_load(changed) == wanted


@pytest.mark.parametrize("path", [("services", "shop"), ("services", "web", "image"), ("services", "none")])
def test_what_is_no_mapping_is_refused(path: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"shop|web|none"):
        insert("services:\n  web:\n    image: x\n  none: {}\n", path, "x-tidegate", ["{}"])


# -- what init finds ----------------------------------------------------------------------------------------------------

WEB = """\
services:
  web:
    image: shop
    ports: ["127.0.0.1:8001:8080"]
    healthcheck:
      test: ["CMD", "curl", "-f", "http://localhost:8080/health"]
    deploy:
      replicas: 3
  db: {image: postgres}
"""
NOTHING = {"port": None, "listen": None, "health": None, "replicas": None, "worker": False}


def test_port_address_health_and_replicas_are_found() -> None:
    found = find(WEB, "", {})
    assert (found.service, found.ports, found.published) == ("web", (8080,), "127.0.0.1:8001")
    assert (found.health, found.replicas) == ("/health", 3)
    changed = yaml.safe_load(add(WEB, ask(found, NOTHING, ask=False)))["services"]["web"]
    assert changed["x-tidegate"] == {"listen": "127.0.0.1:8001", "health": {"path": "/health"}}


@pytest.mark.parametrize("deploy", ["", "    deploy: {resources: {}}\n"])
def test_the_number_of_instances_is_added(deploy: str) -> None:
    text = WEB.replace("    deploy:\n      replicas: 3\n", deploy)
    changed = yaml.safe_load(add(text, ask(find(text, "web", {}), NOTHING | {"replicas": 4}, ask=False)))
    assert changed["services"]["web"]["deploy"]["replicas"] == 4


@pytest.mark.parametrize(
    ("text", "service", "message"),
    [
        (WEB, "shop", "there is no service shop; the file has: web, db"),
        (WEB.replace("{image: postgres}", "{image: postgres, expose: [5432]}"), "", "name the service .*: web, db"),
        (WEB.replace("image: shop", "x-tidegate: {}"), "web", "web has x-tidegate already"),
        ("a: [", "", "is not YAML"),
        ("- a", "web", "there is no service web; the file has: none"),
    ],
)
def test_what_cannot_be_found_is_said(text: str, service: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find(text, service, {})


def test_a_port_that_is_not_clear_must_be_named() -> None:
    text = WEB.replace('["127.0.0.1:8001:8080"]', '["8001:8080", "9001:9090"]')
    with pytest.raises(ValueError, match="the file names 8080, 9090: add --port"):
        ask(find(text, "web", {}), NOTHING, ask=False)
    setup = ask(find(text, "web", {}), NOTHING | {"port": 9090, "listen": "8001"}, ask=False)
    assert yaml.safe_load(add(text, setup))["services"]["web"]["x-tidegate"]["port"] == 9090


@pytest.mark.parametrize(
    ("ports", "wanted"),
    [
        ('["${WEB_PORT:-8001}:8080"]', {}),
        ('["127.0.0.1:${WEB_PORT}:8080"]', {}),
        ('["${BIND:-127.0.0.1}:${WEB_PORT}:${INNER:-8080}"]', {}),
        ('[{target: 8080, published: "${WEB_PORT}"}]', {}),
        ('["0.0.0.0:8001:8080"]', {"listen": 8001}),
        ('["8001:8080/tcp", "8002:8080/udp"]', {"listen": 8001}),
    ],
)
def test_a_published_port_with_variables_stays_what_ports_says(ports: str, wanted: dict[str, object]) -> None:
    text = WEB.replace('["127.0.0.1:8001:8080"]', ports)
    found = find(text, "", {"WEB_PORT": "8001"})
    assert (found.service, found.ports, found.published.endswith("8001")) == ("web", (8080,), True)
    changed = yaml.safe_load(add(text, ask(found, NOTHING, ask=False)))["services"]["web"]
    assert changed["x-tidegate"] == wanted | {"health": {"path": "/health"}}


@pytest.mark.parametrize("ports", ['["${A}:8080"]', '["127.0.0.1:${A}:8080/tcp"]', '[{target: 8080, published: "${A}"}]'])
def test_the_port_is_found_where_only_the_address_is_unknown(ports: str) -> None:
    text = WEB.replace('["127.0.0.1:8001:8080"]', ports)
    changed = yaml.safe_load(add(text, ask(find(text, "web", {}), NOTHING, ask=False)))["services"]["web"]
    assert changed["x-tidegate"] == {"health": {"path": "/health"}}


@pytest.mark.parametrize("ports", ['["${A}:${B}"]', '[{target: "${B}"}]', '["8001:none"]'])
def test_ports_that_cannot_be_read_make_no_worker(ports: str) -> None:
    text = WEB.replace('["127.0.0.1:8001:8080"]', ports)
    with pytest.raises(ValueError, match=r"which port takes requests\? the file names ports .*: add --port"):
        ask(find(text, "web", {}), NOTHING, ask=False)
    setup = ask(find(text, "web", {}), NOTHING | {"port": 8080}, ask=False)
    changed = yaml.safe_load(add(text, setup))["services"]["web"]
    assert changed["x-tidegate"] == {"port": 8080, "health": {"path": "/health"}}, "where it listens, ports will say"
