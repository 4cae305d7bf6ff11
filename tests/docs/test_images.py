"""Diagrams are readable in both colour schemes and described for people who cannot see them."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

IMAGES = sorted((Path(__file__).parents[2] / "docs" / "images").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"
RULE = re.compile(r"^\s*([.\w-]+) \{([^}]*)\}", re.M)


def coloured(rules: str) -> set[str]:
    """The selectors that set a colour."""
    return {selector for selector, body in RULE.findall(rules) if re.search(r"(?:fill|stroke): #", body)}


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_every_colour_has_a_dark_counterpart(image: Path) -> None:
    root = ElementTree.parse(image).getroot()
    assert root.findtext(f"{SVG}title")
    assert root.findtext(f"{SVG}desc")
    light, dark = (root.findtext(f"{SVG}style") or "").split("@media (prefers-color-scheme: dark) {")
    assert coloured(light)
    assert coloured(light) == coloured(dark)
