"""Compiling the demo's C programs: once for each state of their source."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "demo"


def compile_c(source: Path, *flags: str) -> Path:
    """The program made of `source` with `gcc -O2` and these flags; from the cache when nothing changed.

    Raises `SystemExit` with what to do when there is no compiler or the source does not compile.
    """
    digest = hashlib.sha256(source.read_bytes() + " ".join(flags).encode()).hexdigest()[:16]
    CACHE.mkdir(parents=True, exist_ok=True)
    program = CACHE / f"{source.stem}-{digest}"
    if program.exists():
        return program
    compiler = shutil.which("gcc")
    if compiler is None:
        raise SystemExit("gcc is missing: apt-get install gcc libc6-dev")
    with tempfile.NamedTemporaryFile(dir=CACHE, delete=False) as making:
        unfinished = Path(making.name)
    done = subprocess.run(
        [compiler, "-O2", "-Wall", "-o", str(unfinished), str(source), *flags], capture_output=True, text=True, check=False
    )
    if done.returncode:
        unfinished.unlink()
        raise SystemExit(f"{source.name} does not compile:\n{done.stderr}")
    unfinished.chmod(0o755)
    unfinished.rename(program)
    return program
