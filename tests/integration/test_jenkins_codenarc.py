"""CodeNarc's rules for what Jenkins transforms (CPS), over the whole shared library."""

from __future__ import annotations

import json
import subprocess

from support.library import LIBRARY, java
from support.prerequisites import program


def test_codenarc_finds_no_violation_and_has_passed_over_no_file() -> None:
    """The script fails, too, when a rule does not find its own mistake in `sample/`."""
    for each in ("npm", "groovyc"):
        program(each)
    check = LIBRARY / "test" / "codenarc" / "check.sh"
    done = subprocess.run(["bash", str(check)], env=java(), capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    sources = [*LIBRARY.glob("vars/*.groovy"), *LIBRARY.glob("src/**/*.groovy")]
    assert f"no violation in {len(sources)} files" in done.stdout


def test_the_lock_has_hashes_and_names_no_registry() -> None:
    """It is used behind any registry."""
    text = (LIBRARY / "test" / "codenarc" / "package-lock.json").read_text()
    packages = {name: each for name, each in json.loads(text)["packages"].items() if name}
    assert all(each["integrity"].startswith("sha512-") for each in packages.values())
    assert "resolved" not in text
