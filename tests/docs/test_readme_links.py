"""README.md keeps relative links; the build turns them into links to the tag, for the page of the package index."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINK = re.compile(r'(?:\]\(|<img [^>]*src=")([^)\s"]+)')
ADDRESS = re.compile(r"https://(?:github\.com|raw\.githubusercontent\.com)/tidegate/tidegate/(?:blob/)?v1\.2\.3/([^#]+)")


def published_readme(text: str) -> str:
    """`text` as hatch-fancy-pypi-readme publishes it for version 1.2.3."""
    hooks = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]["hooks"]
    for substitution in hooks["fancy-pypi-readme"]["substitutions"]:
        replacement = substitution["replacement"].replace("$HFPR_VERSION", "1.2.3")
        text = re.sub(substitution["pattern"], replacement, text)
    return text


def test_published_links_lead_to_files_of_the_tag() -> None:
    readme = (ROOT / "README.md").read_text()
    links = LINK.findall(published_readme(readme))
    assert len(links) == len(LINK.findall(readme))
    paths = [match[1] for link in links if (match := ADDRESS.match(link))]
    assert paths, "README.md has no link into the repository"
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_images_are_published_as_raw_files_and_other_links_as_pages() -> None:
    text = (
        '![states](docs/images/a.svg) <img alt="b" src="docs/images/b.svg"> [cli](docs/cli.md#exit-codes) [top](#top) '
        "[x](https://x.example)"
    )
    assert LINK.findall(published_readme(text)) == [
        "https://raw.githubusercontent.com/tidegate/tidegate/v1.2.3/docs/images/a.svg",
        "https://raw.githubusercontent.com/tidegate/tidegate/v1.2.3/docs/images/b.svg",
        "https://github.com/tidegate/tidegate/blob/v1.2.3/docs/cli.md#exit-codes",
        "#top",
        "https://x.example",
    ]
