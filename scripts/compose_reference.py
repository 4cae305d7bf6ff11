"""Writes what Docker Compose makes of the merge cases of the tests: `python scripts/compose_reference.py`.

Needs `docker compose`. The cases are in `tests/unit/compose/merged.json`: `texts` are the files given with -f, `files`
those that they name. Run it after adding a case there, and read the differences before committing them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tidegate.compose.assemble import Assembly, assemble
from tidegate.compose.interpolation import Variables

CASES = Path(__file__).parents[1] / "tests" / "unit" / "compose" / "merged.json"


def configured(texts: list[str], files: dict[str, str]) -> Any:
    """The document that `docker compose config` prints, with the folder replaced by a dot."""
    with tempfile.TemporaryDirectory() as folder:
        names = [f"{folder}/{number}.yaml" for number in range(len(texts))]
        for name, text in {**dict(zip(names, texts, strict=True)), **files}.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        options = [word for name in names for word in ("-f", name)]
        words = ["docker", "compose", "-p", "cases", *options, "--profile", "*", "config", "--format", "json"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.replace(folder, "."))


def main() -> None:
    """Write the file anew, and name the cases in which Tidegate's merge differs."""
    cases = json.loads(CASES.read_text())
    for name, case in cases.items():
        assembly = Assembly("web", {path: text.encode() for path, text in case["files"].items()}, Variables({}))
        case["document"] = assemble(case["texts"], assembly)
        case["compose_of_files"] = configured(case["texts"], case["files"])
        inner = {path: text for path, text in case["files"].items() if not path.endswith(".yaml")}
        case["compose_of_document"] = configured([json.dumps(case["document"])], inner)
        if case["compose_of_document"] != case["compose_of_files"]:
            print(f"{name}: differs from docker compose", file=sys.stderr)
    CASES.write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
