"""CodeNarc's rules for code that Jenkins transforms (CPS), on the whole shared library."""

from __future__ import annotations

import json
import subprocess

from support.library import LIBRARY, java
from support.prerequisites import program


def test_codenarc_finds_no_violation_and_skips_no_file() -> None:
    """The script also fails when a rule does not find its mistake in `sample/`."""
    for name in ("npm", "groovyc"):
        program(name)
    check = LIBRARY / "test" / "codenarc" / "check.sh"
    done = subprocess.run(["bash", str(check)], env=java(), capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    sources = [*LIBRARY.glob("vars/*.groovy"), *LIBRARY.glob("src/**/*.groovy")]
    assert f"no violation in {len(sources)} files" in done.stdout


def test_the_lock_has_hashes_and_names_no_registry() -> None:
    """So that it works with any registry."""
    text = (LIBRARY / "test" / "codenarc" / "package-lock.json").read_text()
    packages = {name: package for name, package in json.loads(text)["packages"].items() if name}
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert "resolved" not in text
