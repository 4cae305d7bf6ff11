"""The table of docs/compose.md: each row is read, and its outcome and message are what Tidegate says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tidegate.compose.document import Location
from tidegate.compose.loader import ComposeInput, read_service
from tidegate.errors import InvalidSpec

PAGE = (Path(__file__).parents[2] / "docs" / "compose.md").read_text()
TABLE = PAGE.partition("## Case by case")[2].partition("\n## ")[0]
BASE = re.findall(r"```yaml\n(.*?)```", TABLE, re.DOTALL)[0]
ROWS = re.findall(r"^\| `(.*)` \| (accepted|note|refused) \| (.*) \|$", TABLE, re.MULTILINE)
HERE = Location(folder="/srv/shop", home="/root", is_local=True)


def test_the_table_has_every_outcome_and_no_row_is_overlooked() -> None:
    assert {outcome for _, outcome, _ in ROWS} == {"accepted", "note", "refused"}
    assert len(ROWS) == sum(line.startswith("| `") for line in TABLE.splitlines())


@pytest.mark.parametrize(("line", "outcome", "message"), ROWS, ids=[line for line, _, _ in ROWS])
def test_a_row(line: str, outcome: str, message: str) -> None:
    body = line if line.startswith("{") else f"{{{line}}}"
    given = ComposeInput(BASE, overrides=(f"services: {{web: {body}}}",), location=HERE)
    key, _, text = message.replace("`", "").partition(": ")
    try:
        service = read_service(given, "web", "prod")
    except InvalidSpec as refused:
        problems = {problem.path.removeprefix("services.web."): problem.message for problem in refused.problems}
        assert (outcome, text) == ("refused", problems.get(key)), json.dumps(problems)
        return
    notes = [(note.field.removeprefix("services.web."), note.message) for note in service.source.notes]
    others = [note for note in notes if note[0] != "profiles" or "profiles" in line]
    assert outcome == ("note" if others else "accepted"), json.dumps(others)
    if outcome == "note":
        assert others == [(key, text)], "this is all that is said"


def test_the_first_example_is_accepted_as_it_stands() -> None:
    example = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0]
    service = read_service(ComposeInput(example, {"TAG": "1"}, location=HERE), "web", "production")
    assert (service.image, service.backend and service.backend.listen) == ("example/web:1", "8000")
    assert [(needed.project, needed.service) for needed in service.source.depends_on] == [("shop", "db")]
    assert {note.field for note in service.source.notes} == {"services.web.ports"}
