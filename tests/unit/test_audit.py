"""`scripts/audit.py` finds locked packages in an export of the OSV database; without data it has no result."""

from __future__ import annotations

import json
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support.scripts import load_script

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    return load_script("audit")


def advisory(events: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    """One about the package Flask, in the schema of OSV."""
    affected = {
        "package": {"ecosystem": "PyPI", "name": "Flask"},
        "ranges": [{"type": "ECOSYSTEM", "events": events}],
        "versions": more.pop("versions", []),
    }
    return {"id": "PYSEC-1", "modified": "2026-11-30T12:00:00Z", "summary": "Bad", "affected": [affected]} | more


@pytest.mark.parametrize(
    ("events", "version", "known"),
    [
        ([{"introduced": "0"}, {"fixed": "2.0"}], "1.9", True),
        ([{"introduced": "0"}, {"fixed": "2.0"}], "2.0", False),
        ([{"fixed": "2.0"}, {"introduced": "1.0"}], "1.10", True),
        ([{"introduced": "1.10"}], "1.9", False),
        ([{"introduced": "0"}, {"last_affected": "2.0"}], "2.0", True),
        ([{"introduced": "0"}, {"last_affected": "2.0"}], "2.0.1", False),
        ([{"introduced": "0"}, {"fixed": "1.0"}, {"introduced": "2.0"}, {"fixed": "2.1"}], "2.0.5", True),
        ([{"introduced": "0"}, {"fixed": "1.0"}, {"introduced": "2.0"}, {"fixed": "2.1"}], "1.5", False),
        ([{"introduced": "not a version"}, {"fixed": "neither"}], "1.5", True),
    ],
)
def test_the_last_event_at_or_before_the_version_decides(
    audit: ModuleType, events: list[dict[str, str]], version: str, known: bool
) -> None:
    assert bool([*audit.find([advisory(events)], {"flask": {version}})]) is known


def test_listed_versions_count_and_what_is_withdrawn_or_of_others_does_not(audit: ModuleType) -> None:
    listed = advisory([{"introduced": "5.0"}], versions=["1.2"])
    (found,) = audit.find([listed], {"flask": {"1.2"}})
    assert (found.package, found.version, found.advisory, found.fixed) == ("flask", "1.2", "PYSEC-1", ())
    assert not [*audit.find([listed | {"withdrawn": "2026-11-30T12:00:00Z"}], {"flask": {"1.2"}})]
    assert not [*audit.find([listed], {"flask-openapi": {"1.2"}})]


def write_export(path: Path, *advisories: dict[str, Any]) -> Path:
    with zipfile.ZipFile(path, "w") as export:
        for number, each in enumerate(advisories):
            export.writestr(f"PYSEC-{number}.json", json.dumps(each))
    return path


def test_the_command_names_what_it_found(audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    today = (datetime.now(UTC) - timedelta(hours=1)).isoformat().replace("+00:00", "Z")
    export = write_export(tmp_path / "all.zip", advisory([{"introduced": "0"}, {"fixed": "99"}], modified=today))
    lock = ROOT / "requirements" / "run.txt"
    assert audit.main([str(export), str(lock)]) == 1
    out = capsys.readouterr().out
    assert "PYSEC-1, fixed in 99: Bad" in out
    assert out.startswith("flask 3.")
    harmless = write_export(tmp_path / "other.zip", advisory([{"introduced": "99"}], modified=today))
    assert audit.main([str(harmless), str(lock)]) == 0


@pytest.mark.parametrize(
    ("age_days", "lock", "message"),
    [(14, "flask==3.1.3\n", ""), (15, "flask==3.1.3\n", "at most 14 days"), (1, "flask\n", "pins no package")],
)
def test_old_exports_and_unpinned_packages_are_no_result(
    audit: ModuleType, tmp_path: Path, age_days: int, lock: str, message: str
) -> None:
    modified = (NOW - timedelta(days=age_days)).isoformat()
    export = write_export(tmp_path / "all.zip", advisory([], modified=modified))
    (tmp_path / "run.txt").write_text(lock)

    def read() -> None:
        audit.locked_packages([tmp_path / "run.txt"])
        audit.read_advisories(export, NOW)

    if not message:
        read()
        return
    with pytest.raises(audit.AuditError, match=message):
        read()


def test_what_is_no_export_is_an_error(audit: ModuleType, tmp_path: Path) -> None:
    for path, message in ((ROOT / "README.md", "Cannot read"), (write_export(tmp_path / "none.zip"), "no advisories")):
        with pytest.raises(audit.AuditError, match=message):
            audit.read_advisories(path, NOW)
