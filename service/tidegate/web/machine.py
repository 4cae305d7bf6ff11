"""Recognises the machine on which a process runs."""

from __future__ import annotations

import hashlib
from pathlib import Path

MACHINE_ID = Path("/etc/machine-id")  # the same for all processes of a machine, another one in each container


def machine_fingerprint() -> str:
    """A value that only processes of this machine have; empty if the machine has no ID. The ID itself is confidential."""
    try:
        return hashlib.sha256(b"tidegate" + MACHINE_ID.read_bytes().strip()).hexdigest()
    except OSError:
        return ""
