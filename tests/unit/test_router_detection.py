"""The router of an environment that names none: one that is installed, and for good."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate import wiring
from tidegate.drivers import registry, router_detection
from tidegate.errors import InvalidSettings, UnknownDriver
from tidegate.settings import load

MARKS = {
    name: mark for name, (mark, _) in router_detection.DETECTION_ORDER.items() if name in registry.known_drivers("router")
}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The routers that are installed, as far as can be seen; none at first."""
    there: set[str] = set()
    for name in MARKS:
        made = registry.load_driver("router", name)
        monkeypatch.setattr(made, "installed", staticmethod(lambda _, name=name: name in there))
    return there


def test_the_first_that_is_installed(installed: set[str], tmp_path: Path) -> None:
    for name in reversed(MARKS):  # each is before those that are there already
        installed.add(name)
        found = router_detection.detect_router({"directory": str(tmp_path)})
        assert found.driver == name
        assert found.reason.startswith(f"{name}, because it is installed")


@pytest.mark.parametrize("owner", MARKS)
def test_whose_files_are_there_stays(installed: set[str], tmp_path: Path, owner: str) -> None:
    (tmp_path / MARKS[owner]).touch()
    for there in (set(MARKS), set[str](), set(MARKS) - {owner}):
        installed.clear()
        installed.update(there)
        assert router_detection.detect_router({"directory": str(tmp_path)}) == router_detection.DetectedRouter(
            owner, f"{owner}, because its files are in {tmp_path}; set `driver` to choose another"
        )


def test_files_of_two(installed: set[str], tmp_path: Path) -> None:
    for name in ("haproxy", "envoy"):
        (tmp_path / MARKS[name]).touch()
    with pytest.raises(UnknownDriver, match=r"files of haproxy \(.*\) and envoy \(.*\); set `driver` to choose one"):
        router_detection.detect_router({"directory": str(tmp_path)})


def test_none_is_installed(installed: set[str], tmp_path: Path) -> None:
    with pytest.raises(UnknownDriver, match=r"install one of haproxy, .*tidegate\[envoy\]"):
        router_detection.detect_router({"directory": str(tmp_path)})


def test_options_of_one_that_is_not_named(installed: set[str]) -> None:
    installed.update(MARKS)
    with pytest.raises(UnknownDriver, match="set `driver`: exporter, log belong to a driver"):
        router_detection.detect_router({"exporter": "127.0.0.1:1", "log": "/x"})


@pytest.mark.parametrize("text", ["", '[environments.demo.router]\ndirectory = "{home}"\n'])
def test_wiring_chooses_and_says_why(installed: set[str], tmp_path: Path, text: str) -> None:
    file = tmp_path / "tidegate.toml"
    platform = '[environments.demo.platform]\ndriver = "docker"\nhosts = [{ name = "local" }]\n'
    file.write_text(f'database = "sqlite:///{tmp_path}/x.db"\n' + platform + text.format(home=tmp_path / "router"))
    with pytest.raises(InvalidSettings, match=r"environments\.demo\.router: no proxy is installed"):
        wiring.build(load(file, {}))
    installed.add("envoy")
    built = wiring.build(load(file, {}))
    try:
        assert built.detected_routers["demo"].result.startswith("envoy, because it is installed")
        assert type(built.environments["demo"].router).__name__ == "EnvoyRouter"
    finally:
        built.close()


def test_one_that_is_named_is_not_chosen(installed: set[str], tmp_path: Path) -> None:
    file = tmp_path / "tidegate.toml"
    platform = '[environments.demo.platform]\ndriver = "docker"\nhosts = [{ name = "local" }]\n'
    file.write_text(f'database = "sqlite:///{tmp_path}/x.db"\n{platform}[environments.demo.router]\ndriver = "haproxy"\n')
    built = wiring.build(load(file, {}))
    built.close()
    assert built.detected_routers == {}
