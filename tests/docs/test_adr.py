"""Each architecture decision is in the index, has every section, and links to pages that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "adr"
RECORDS = sorted(FOLDER.glob("[0-9]*.md"))
SECTIONS = ["## Context", "## Decision", "## Consequences", "## Alternatives rejected"]
STATUS = re.compile(r"Status: (?:proposed|accepted|superseded by ADR \d+)")


@pytest.mark.parametrize("page", [*RECORDS, FOLDER / "template.md"], ids=lambda page: page.stem)
def test_a_record_has_every_section(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert [line for line in lines if line.startswith("## ")] == SECTIONS
    assert STATUS.match(lines[2])
    if page.stem != "template":
        assert lines[0].startswith(f"# {int(page.stem[:4])}. ")


@pytest.mark.parametrize("page", [*RECORDS, FOLDER / "README.md"], ids=lambda page: page.stem)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_index_lists_every_record_once_with_its_title() -> None:
    listed = re.findall(r"^\| (\d+) \| \[(.+)\]\((\S+)\) \|$", (FOLDER / "README.md").read_text(), re.M)
    records = [(page.read_text().splitlines()[0], page.name) for page in RECORDS]
    assert [(f"# {number}. {title}", name) for number, title, name in listed] == records
