"""Settings from a file and the environment; every mistake at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate import wiring
from tidegate.drivers import registry
from tidegate.errors import InvalidSettings
from tidegate.settings import Settings, load

WHOLE = """\
database = "sqlite:////tmp/x.db"
[engine]
threads = 8
[environments.demo.platform]
driver = "docker"
hosts = [{ name = "local" }]
[environments.demo.router]
driver = "haproxy"
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "tidegate.toml"
    file.write_text(text)
    return file


def test_defaults_without_a_file() -> None:
    assert load(None, {}) == Settings()


def test_a_file(tmp_path: Path) -> None:
    result = load(written(tmp_path, WHOLE), {})
    assert (result.engine.threads, result.engine.lease_seconds) == (8, 15.0)
    assert result.environments["demo"].platform.options == {"hosts": [{"name": "local"}]}


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    environ = {"TIDEGATE_ENGINE__LEASE_SECONDS": "30", "TIDEGATE_LISTEN": "127.0.0.1:1", "PATH": "/bin"}
    result = load(written(tmp_path, WHOLE), environ)
    assert (result.engine.lease_seconds, result.engine.threads, result.listen) == (30.0, 8, "127.0.0.1:1")


@pytest.mark.parametrize("listen", ["[::1]:7070", "[::]:7070", "tidegate.example:443", "0.0.0.0:0"])
def test_addresses_to_listen_on(listen: str) -> None:
    result = load(None, {"TIDEGATE_LISTEN": listen, "TIDEGATE_ENGINE__METRICS_LISTEN": listen})
    assert (result.listen, result.engine.metrics_listen) == (listen, listen)


@pytest.mark.parametrize("listen", ["", "::1:7070", "[::1]", "[::1:7070", "127.0.0.1", "localhost:70000", "a b:1"])
def test_addresses_that_cannot_be_listened_on(listen: str) -> None:
    with pytest.raises(InvalidSettings, match="listen: "):
        load(None, {"TIDEGATE_LISTEN": listen})


def test_variables_of_the_command_line_are_no_settings() -> None:
    load(None, {"TIDEGATE_TOKEN": "x", "TIDEGATE_SERVER": "http://x", "TIDEGATE_ENVIRONMENT": "demo"})


def test_every_mistake_at_once(tmp_path: Path) -> None:
    text = 'databas = "x"\nlisten = "nowhere"\n[engine]\nthreads = 0\n[environments.demo.router]\ndriver = "haproxy"\n'
    with pytest.raises(InvalidSettings) as refused:
        load(written(tmp_path, text), {})
    told = {problem.path for problem in refused.value.problems}
    assert told == {"databas", "listen", "engine.threads", "environments.demo.platform"}


@pytest.mark.parametrize(("text", "said"), [("a = [", "is not valid TOML"), ('x = "\udcff"', "is not valid TOML")])
def test_what_is_not_toml(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "tidegate.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InvalidSettings, match=said):
        load(file, {})


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="cannot be read"):
        load(tmp_path / "none.toml", {})


def test_wiring_tells_every_drivers_mistakes(tmp_path: Path) -> None:
    text = WHOLE.replace('driver = "haproxy"', 'driver = "haproxi"').replace("hosts", "host")
    with pytest.raises(InvalidSettings) as refused:
        wiring.build(load(written(tmp_path, text), {}))
    said = str(refused.value)
    known = ", ".join(sorted(registry.known_drivers("router")))
    assert f"environments.demo.router.driver: unknown router driver 'haproxi'; available: {known}" in said
    assert "environments.demo.platform.host: unknown setting" in said


def test_wiring_builds_what_is_asked(tmp_path: Path) -> None:
    built = wiring.build(load(written(tmp_path, WHOLE), {}))
    try:
        assert list(built.environments) == ["demo"]
        assert built.environments["demo"].metrics is None
    finally:
        built.close()
