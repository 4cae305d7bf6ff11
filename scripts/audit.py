#!/usr/bin/env python3
"""Look up locked packages in an export of the OSV database, without a network.

    audit.py EXPORT REQUIREMENTS...

EXPORT is the zip file that osv.dev publishes for the ecosystem PyPI: one JSON document per advisory, in the OSV schema
(https://ossf.github.io/osv-schema/). Exit status 1: a package has a known vulnerability, or the export is too old to say.
Needs the package `packaging`.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

MAX_AGE = timedelta(days=14)
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.M)


class AuditError(Exception):
    """The audit has no result; the message says why."""


@dataclass(frozen=True, order=True)
class Vulnerability:
    """One advisory that concerns a locked package. `fixed`: the versions without it, empty if there is none."""

    package: str
    version: str
    advisory: str
    fixed: tuple[str, ...]
    summary: str


def locked_packages(paths: Sequence[Path]) -> dict[str, set[str]]:
    """The versions of each package in these requirements files. Raises `AuditError` if a file pins none."""
    found: dict[str, set[str]] = {}
    for path in paths:
        pins = PIN.findall(path.read_text())
        if not pins:
            raise AuditError(f"{path} pins no package with `==`; give a file that `make lock` writes.")
        for name, version in pins:
            found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def read_advisories(path: Path, now: datetime) -> list[dict[str, Any]]:
    """All advisories of the export. Raises `AuditError` if there are none, or if the newest is older than `MAX_AGE`."""
    try:
        with zipfile.ZipFile(path) as export:
            names = [name for name in export.namelist() if name.endswith(".json")]
            advisories = [json.loads(export.read(name)) for name in names]
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise AuditError(f"Cannot read {path} as an OSV export (a zip file of JSON documents): {error}") from error
    if not advisories:
        raise AuditError(f"{path} has no advisories. Expected a zip file of JSON documents.")
    newest = max(datetime.fromisoformat(each["modified"]) for each in advisories)
    if now - newest > MAX_AGE:
        raise AuditError(
            f"The newest advisory in {path} is of {newest:%F}; at most {MAX_AGE.days} days are allowed. Get a newer export."
        )
    return advisories


def find(advisories: Sequence[dict[str, Any]], packages: dict[str, set[str]]) -> Iterator[Vulnerability]:
    """What is known of these packages. A withdrawn advisory counts for nothing."""
    for advisory in advisories:
        if "withdrawn" in advisory:
            continue
        for affected in advisory.get("affected", ()):
            package = affected.get("package", {})
            name = canonicalize_name(package.get("name", ""))
            if package.get("ecosystem") != "PyPI" or name not in packages:
                continue
            for version in packages[name]:
                if _is_affected(version, affected):
                    yield Vulnerability(name, version, advisory["id"], _fixes(affected), advisory.get("summary", ""))


def _is_affected(version: str, affected: dict[str, Any]) -> bool:
    if version in affected.get("versions", ()):
        return True
    return any(_is_within(version, each["events"]) for each in affected.get("ranges", ()) if each["type"] == "ECOSYSTEM")


def _is_within(version: str, events: Sequence[dict[str, str]]) -> bool:
    """The rule of the OSV schema, "Evaluation": the last event at or before the version decides."""
    at, inside = Version(version), False
    limits = [(limit, kind) for event in events for kind, text in event.items() if (limit := _limit(kind, text))]
    for limit, kind in sorted(limits, key=lambda each: each[0]):
        if kind == "introduced" and at >= limit:
            inside = True
        elif (kind in ("fixed", "limit") and at >= limit) or (kind == "last_affected" and at > limit):
            inside = False
    return inside


def _limit(kind: str, text: str) -> Version | None:
    """The version of an event. "0" is before every other one. What is no version cannot show that a package is safe: as a
    beginning it counts as "0", and as an end it does not count."""
    try:
        return Version("0.dev0" if text == "0" else text)
    except InvalidVersion:
        return Version("0.dev0") if kind == "introduced" else None


def _fixes(affected: dict[str, Any]) -> tuple[str, ...]:
    events = (event for each in affected.get("ranges", ()) if each["type"] == "ECOSYSTEM" for event in each["events"])
    return tuple(event["fixed"] for event in events if "fixed" in event)


def main(words: list[str]) -> int:
    """Exit status 0: nothing is known of any package; 1: something is, or there is no result; 2: a wrong command line."""
    if len(words) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    export, *files = map(Path, words)
    try:
        packages = locked_packages(files)
        found = sorted(set(find(read_advisories(export, datetime.now(UTC)), packages)))
    except (AuditError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for each in found:
        fixed = f"fixed in {', '.join(each.fixed)}" if each.fixed else "no fixed version"
        print(f"{each.package} {each.version}: {each.advisory}, {fixed}: {each.summary}")
    print(
        f"{len(packages)} packages, {len(found)} known {'vulnerability' if len(found) == 1 else 'vulnerabilities'}",
        file=sys.stderr,
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
