"""`docs/events.md` tells every kind of event, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from tidegate.core.event_kinds import EventKind

PAGE = Path(__file__).parents[2] / "docs" / "events.md"


def test_every_kind_is_documented_and_nothing_else() -> None:
    documented = re.findall(r"^\| `([a-z_]+)`", PAGE.read_text(), re.M)
    assert sorted(documented) == sorted(EventKind)
