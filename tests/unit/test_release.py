"""`scripts/release.py` cuts the changelog, sets the version and finds links of the published README that lead nowhere."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from support.scripts import load_script

ROOT = Path(__file__).parents[2]
CHANGELOG = "# Changelog\n\nFor users.\n\n## Unreleased\n\n### Added\n\n- One.\n\n## 1.0.0 - 2026-01-01\n\n- Zero.\n"


@pytest.fixture(scope="module")
def release() -> ModuleType:
    return load_script("release")


def test_unreleased_entries_move_below_the_version(release: ModuleType) -> None:
    changed = release.cut(CHANGELOG, "1.1.0", "2026-12-01")
    assert changed == CHANGELOG.replace("## Unreleased\n", "## Unreleased\n\n## 1.1.0 - 2026-12-01\n")
    assert release.section(changed, "Unreleased") == ""
    assert release.section(changed, "1.1.0") == "### Added\n\n- One."
    assert release.section(changed, "1.0.0") == "- Zero."


@pytest.mark.parametrize(
    ("changelog", "version", "message"),
    [
        (CHANGELOG.replace("### Added\n\n- One.\n\n", ""), "1.1.0", "nothing to release"),
        (CHANGELOG.replace("## Unreleased", "## Next"), "1.1.0", 'no section "## Unreleased"'),
        (CHANGELOG, "1.0.0", "already has a section for 1.0.0"),
    ],
    ids=["no entries", "no section", "released before"],
)
def test_a_changelog_that_cannot_be_cut_is_refused(release: ModuleType, changelog: str, version: str, message: str) -> None:
    with pytest.raises(release.ReleaseError, match=message):
        release.cut(changelog, version, "2026-12-01")


def test_the_version_is_set_in_the_one_place(release: ModuleType) -> None:
    source = (ROOT / "service" / "tidegate" / "__init__.py").read_text()
    assert '\n__version__ = "12.0.3"\n' in release.with_version(source, "12.0.3")
    with pytest.raises(release.ReleaseError, match="found 0"):
        release.with_version("# empty\n", "12.0.3")


def test_links_that_lead_nowhere_are_found(release: ModuleType) -> None:
    page, raw = release.REPOSITORY + "/blob/v1.1.0/", release.RAW_FILES + "/v1.1.0/"
    good = f"[a]({page}README.md) [b]({page}docs/cli.md#x) [c](#here) [d](https://x.example) ![e]({raw}LICENSE)"
    wrong = ["docs/cli.md", f"{page}docs/none.md", release.REPOSITORY + "/blob/v1.0.0/README.md", "http://x.example"]
    assert release.wrong_links(good, "1.1.0") == []
    assert release.wrong_links(" ".join(f"[x]({link})" for link in wrong), "1.1.0") == wrong
