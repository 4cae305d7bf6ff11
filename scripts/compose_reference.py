"""Writes what Docker Compose makes of the Compose files of the tests: `python scripts/compose_reference.py`.

Needs `docker compose`. Two files of tests get their reference:

- `tests/unit/compose/merged.json`: the merge cases. `texts` are the files given with -f, `files` those that they name. Add
  a case there, then run this.
- `tests/contract/stored/compose-files.json`: what becomes of the web service of each file of `support/compose_corpus.py`.

Read the differences before committing them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tidegate.compose.assemble import Assembly, assemble
from tidegate.compose.interpolation import Variables
from tidegate.compose.units import parse_duration, parse_size

TESTS = Path(__file__).parents[1] / "tests"
CASES = TESTS / "unit" / "compose" / "merged.json"
CORPUS = TESTS / "contract" / "stored" / "compose-files.json"


def configured(texts: Mapping[str, str], files: Mapping[str, str], folder: Path, *options: str) -> Any:
    """The document that `docker compose config` prints for the texts, with the folder replaced by a dot. In YAML, since its
    JSON leaves out extensions."""
    for name, text in {**texts, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    words = [word for name in texts for word in ("-f", str(folder / name))]
    command = ["docker", "compose", *options, *words, "--profile", "*", "config"]
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{texts}: {done.stderr}")
    return yaml.safe_load(done.stdout.replace(str(folder), ".").replace("$$", "$"))


def write_cases() -> None:
    """The merge cases; those in which Tidegate's merge differs are named."""
    cases = json.loads(CASES.read_text())
    for name, case in cases.items():
        texts = {f"{number}.yaml": text for number, text in enumerate(case["texts"])}
        assembly = Assembly("web", {path: text.encode() for path, text in case["files"].items()}, Variables({}))
        case["document"] = assemble(case["texts"], assembly)
        inner = {path: text for path, text in case["files"].items() if not path.endswith(".yaml")}
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            case["compose_of_files"] = configured(texts, case["files"], Path(one), "-p", "cases")
            document = {"0.yaml": json.dumps(case["document"])}
            case["compose_of_document"] = configured(document, inner, Path(other), "-p", "cases")
        if case["compose_of_document"] != case["compose_of_files"]:
            print(f"{name}: differs from docker compose", file=sys.stderr)
    CASES.write_text(json.dumps(cases, indent=1) + "\n")


def write_corpus() -> None:
    """What Docker Compose would run for the web service of each file that Tidegate accepts."""
    sys.path.insert(0, str(TESTS))
    from support.compose_corpus import FILES, PROJECT

    found = {}
    for name, files in FILES.items():
        if name.startswith("refused, "):
            continue
        texts = {file: text for file, text in files.items() if "/" not in file and file.endswith(".yaml")}
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent, PROJECT)
            folder.mkdir()
            document = configured(texts, {file: text for file, text in files.items() if file not in texts}, folder)
        service = "web_app" if "web_app" in document["services"] else "web"
        found[name] = summary_of(document, document["services"][service])
    CORPUS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def summary_of(document: Mapping[str, Any], service: Mapping[str, Any]) -> dict[str, Any]:
    """What matters of a service, with the names that volumes and networks have on the Docker host."""
    limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
    own = service["x-tidegate"]
    return {
        "image": service.get("image"),
        "command": service.get("command"),
        "environment": service.get("environment", {}),
        "labels": service.get("labels", {}),
        "mounts": sorted(
            [
                document["volumes"][mount["source"]]["name"] if mount["type"] == "volume" else mount["source"],
                mount["target"],
                mount.get("read_only", False),
            ]
            for mount in service.get("volumes", ())
        ),
        "networks": sorted(document["networks"][name]["name"] for name in service.get("networks", ())),
        "replicas": service.get("scale") or service.get("deploy", {}).get("replicas") or 1,
        "memory": parse_size(str(limits.get("memory") or service.get("mem_limit") or 0)),
        "cpus": float(limits.get("cpus") or service.get("cpus") or 0),
        "user": service.get("user", ""),
        "grace": parse_duration(service.get("stop_grace_period", "10s")),
        "files": sorted(entry["target"] for kind in ("secrets", "configs") for entry in service.get(kind, ())),
        "healthcheck": service.get("healthcheck", {}).get("test"),
        "published": str(own.get("listen") or published(service.get("ports", ()), own.get("port"))),
    }


def published(ports: Iterable[Mapping[str, Any]], port: int | None) -> str:
    """Where Compose publishes the port that takes traffic."""
    for entry in ports:
        if entry.get("published") and port in (None, entry["target"]):
            address = f"{entry['host_ip']}:" if entry.get("host_ip") else ""
            return f"{address}{entry['published']}"
    return ""


if __name__ == "__main__":
    write_cases()
    write_corpus()
