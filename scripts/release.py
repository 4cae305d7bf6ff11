#!/usr/bin/env python3
"""Edit and check the files of a release: the version, CHANGELOG.md and the published README.

    release.py prepare VERSION DATE     set the version; move the changelog's "Unreleased" entries under VERSION
    release.py notes VERSION            print the changelog entries of VERSION
    release.py check-wheel WHEEL        check that the README in the wheel links to files of its own tag

`scripts/release.sh` calls it. Only the standard library.
"""

from __future__ import annotations

import re
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHANGELOG = ROOT / "CHANGELOG.md"
VERSION_FILE = ROOT / "service" / "tidegate" / "__init__.py"
REPOSITORY = "https://github.com/tidegate/tidegate"
RAW_FILES = "https://raw.githubusercontent.com/tidegate/tidegate"
HEADING = re.compile(r"^## (?P<name>\S+).*$", re.M)
LINK = re.compile(r'(?:\]\(|<img [^>]*src=")([^)\s"]+)')


class ReleaseError(Exception):
    """The release cannot be made; the message says why."""


def section(changelog: str, name: str) -> str:
    """The entries below the heading `name`, without the heading. Raises `ReleaseError` if there is no such heading."""
    headings = list(HEADING.finditer(changelog))
    for index, heading in enumerate(headings):
        if heading["name"] == name:
            end = headings[index + 1].start() if index + 1 < len(headings) else len(changelog)
            return changelog[heading.end() : end].strip()
    raise ReleaseError(f'CHANGELOG.md has no section "## {name}".')


def cut(changelog: str, version: str, date: str) -> str:
    """The changelog with the "Unreleased" entries under `version`, and an empty "Unreleased" section above them."""
    if not section(changelog, "Unreleased"):
        raise ReleaseError('CHANGELOG.md has no entries under "Unreleased": there is nothing to release.')
    if version in (heading["name"] for heading in HEADING.finditer(changelog)):
        raise ReleaseError(f"CHANGELOG.md already has a section for {version}. Choose the next version.")
    return re.sub(r"^## Unreleased$", f"## Unreleased\n\n## {version} - {date}", changelog, count=1, flags=re.M)


def with_version(source: str, version: str) -> str:
    """The text of `tidegate/__init__.py` with `version` as its `__version__`."""
    changed, count = re.subn(r'^__version__ = "[^"]*"$', f'__version__ = "{version}"', source, flags=re.M)
    if count != 1:
        raise ReleaseError(f'{VERSION_FILE.name} needs exactly one line `__version__ = "…"`; found {count}.')
    return changed


def wrong_links(readme: str, version: str, root: Path = ROOT) -> list[str]:
    """Links of a published README that lead nowhere: relative ones, and ones to another tag or to no file of `root`."""
    prefixes = (f"{REPOSITORY}/blob/v{version}/", f"{RAW_FILES}/v{version}/")
    wrong = []
    for link in LINK.findall(readme):
        prefix = next((prefix for prefix in prefixes if link.startswith(prefix)), None)
        if prefix is not None:
            path = link.removeprefix(prefix).partition("#")[0]
            if not (root / path).exists():
                wrong.append(link)
        elif not link.startswith(("https://", "#")) or link.startswith((f"{REPOSITORY}/blob/v", f"{RAW_FILES}/v")):
            wrong.append(link)
    return wrong


def prepare(version: str, date: str) -> None:
    """Write the version and the changelog. Writes neither file if one of them cannot be changed."""
    changelog = cut(CHANGELOG.read_text(), version, date)
    source = with_version(VERSION_FILE.read_text(), version)
    CHANGELOG.write_text(changelog)
    VERSION_FILE.write_text(source)


def check_wheel(path: Path) -> None:
    """Raise `ReleaseError` if the README in the wheel's metadata has a link that leads nowhere."""
    with zipfile.ZipFile(path) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(wheel.read(name))
    readme = metadata.get_payload(decode=True)
    assert isinstance(readme, bytes)
    if wrong := wrong_links(readme.decode(), metadata["Version"]):
        raise ReleaseError("The published README has links that lead nowhere: " + ", ".join(wrong))


def main(words: list[str]) -> int:
    """Exit status 1 and one message when the release cannot be made, 2 for a wrong command line."""
    try:
        match words:
            case ["prepare", version, date]:
                prepare(version, date)
            case ["notes", version]:
                print(section(CHANGELOG.read_text(), version))
            case ["check-wheel", wheel]:
                check_wheel(Path(wheel))
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except ReleaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
