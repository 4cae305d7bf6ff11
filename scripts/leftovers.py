#!/usr/bin/env python3
"""Find, report and remove what a run of `make demo` or `make test` has left on the machine.

    leftovers.py sweep             remove what runs have left whose own process is gone; kept demos stay
    leftovers.py sweep --kept      and kept demos, too
    leftovers.py end RUN           say what this run has left, and remove it

A run owns a folder, `/tmp/tg-RUN`, which is the TMPDIR of all its processes, and its name is in TIDEGATE_RUN in their
environment. So everything can be found again without a list that a crash could lose:

- processes: TIDEGATE_RUN in their environment, or the folder in their command line; and their descendants;
- containers, networks, volumes of an engine that the run did not start: the label `tidegate.environment`, which ends in
  the name of the run and four more digits, or is `demo` for the demo;
- network namespaces and interfaces: their names begin with `tgRUN`;
- mounts and files: they are in the folder.

Only the standard library, and Docker's SDK where it is there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RUNS = Path(os.environ.get("TIDEGATE_RUNS", "/tmp"))
TERM_SECONDS = 30.0  # dockerd stops its containers in this time
KILL_SECONDS = 10.0
DOCKER_SECONDS = 60.0
DOCKER = ("dockerd", "containerd")


@dataclass(frozen=True)
class ScriptRun:
    """One call of `make demo` or `make test`."""

    folder: Path

    @property
    def id(self) -> str:
        """As in TIDEGATE_RUN: five hexadecimal digits."""
        return self.folder.name.removeprefix("tg-")

    @property
    def kept(self) -> bool:
        """Whether `make demo KEEP=1` left it running on purpose."""
        return (self.folder / "kept").exists()

    @property
    def name(self) -> str:
        """`demo`, `test`, …; empty where the run was killed before it wrote that."""
        return self._owner()[2]

    @property
    def alive(self) -> bool:
        """Whether the script that began the run still runs: the same process, not another one with its number."""
        pid, started, _ = self._owner()
        return bool(pid) and start_time(int(pid)) == started

    def _owner(self) -> tuple[str, str, str]:
        try:
            pid, started, name = (self.folder / "owner").read_text().split()
        except (OSError, ValueError):
            return "", "", ""
        return pid, started, name


def runs() -> list[ScriptRun]:
    """All that have a folder."""
    return [ScriptRun(path) for path in sorted(RUNS.glob("tg-?????")) if re.fullmatch(r"tg-[0-9a-f]{5}", path.name)]


# -- processes --------------------------------------------------------------------------------------------------------


def start_time(pid: int) -> str:
    """In ticks since the machine started; empty when there is no such process, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def parents() -> dict[int, int]:
    """The parent of every process that is not a zombie."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                found[int(path.parent.name)] = int(parent)
    return found


def ancestors(pid: int, parent_of: dict[int, int]) -> Iterator[int]:
    """The process itself, its parent, and so on."""
    while pid:
        yield pid
        pid = parent_of.get(pid, 0)


def processes(run: ScriptRun, *, engines: bool = True) -> dict[int, str]:
    """What the run has left: process id to command line. Never this script and those that called it.

    `engines`: also Docker engines and what runs in their containers.
    """
    parent_of = parents()
    ours = set(ancestors(os.getpid(), parent_of))
    marked = {pid for pid in parent_of if pid not in ours and belongs(pid, run)}
    found = {pid for pid in parent_of if pid not in ours and marked.intersection(ancestors(pid, parent_of))}
    if not engines:
        docker = {pid for pid in found if Path(command(pid).partition(" ")[0]).name.startswith(DOCKER)}
        found = {pid for pid in found if not docker.intersection(ancestors(pid, parent_of))}
    return {pid: command(pid) for pid in sorted(found)}


def belongs(pid: int, run: ScriptRun) -> bool:
    """Whether the process says that it is of this run."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return f"TIDEGATE_RUN={run.id}".encode() in environment.split(b"\0") or f"{run.folder}/".encode() in words


def command(pid: int) -> str:
    """For a person, in one line."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:120]
    return ""


def end_processes(run: ScriptRun, *, engines: bool) -> None:
    """SIGTERM to all of them; SIGKILL to those that do not end. dockerd gets its time to stop its containers."""
    for number, seconds in ((signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        deadline = time.monotonic() + seconds
        signalled: set[int] = set()
        while (left := processes(run, engines=engines)) and time.monotonic() < deadline:
            for pid in left.keys() - signalled:  # also what was started meanwhile
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
                    os.kill(pid, number)
            signalled |= left.keys()
            time.sleep(0.1)
        if not left:
            return


# -- Docker -----------------------------------------------------------------------------------------------------------


def docker_objects(run: ScriptRun, *, remove: bool) -> list[str]:
    """Containers, networks and volumes in the engine of the environment; also removes them. Empty where none answers."""
    try:
        import docker
        from docker.errors import DockerException
    except ImportError:
        return []
    try:
        client = docker.from_env(timeout=DOCKER_SECONDS)
    except DockerException:
        return []
    try:
        return [*_labelled(client, run, remove=remove)]
    except (DockerException, OSError) as error:
        return [f"Docker objects: {error}"]
    finally:
        client.close()


def _labelled(client: docker.DockerClient, run: ScriptRun, *, remove: bool) -> Iterator[str]:  # noqa: F821 - imported where used
    by_label = {"label": "tidegate.environment"}
    for container in client.api.containers(all=True, filters=by_label):
        if _is_of(run, container["Labels"]):
            yield f"container {container['Names'][0].lstrip('/')}"
            if remove:
                _gone(lambda key=container["Id"]: client.api.remove_container(key, force=True, v=True))
    for network in client.api.networks(filters=by_label):
        if _is_of(run, network["Labels"]):
            yield f"network {network['Name']}"
            if remove:
                _gone(lambda key=network["Id"]: client.api.remove_network(key))
    for volume in client.api.volumes(filters=by_label)["Volumes"] or []:
        if _is_of(run, volume["Labels"]):
            yield f"volume {volume['Name']}"
            if remove:
                _gone(lambda key=volume["Name"]: client.api.remove_volume(key, force=True))


def _is_of(run: ScriptRun, labels: dict[str, str] | None) -> bool:
    environment = (labels or {}).get("tidegate.environment", "")
    return bool(re.search(rf"{run.id}[0-9a-f]{{4}}$", environment)) or (run.name == "demo" and environment == "demo")


def _gone(remove: object) -> None:
    """Remove it; gone already, or being removed by somebody else, is as good."""
    from docker.errors import APIError

    try:
        remove()  # type: ignore[operator]
    except APIError as error:
        if error.status_code not in (404, 409):
            raise


# -- network, mounts, files -------------------------------------------------------------------------------------------


def ip_json(*words: str) -> list[dict[str, str]]:
    """What `ip -json` answers; empty where there is no such program or nothing to list."""
    try:
        done = subprocess.run(["ip", "-json", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else []


def network_devices(run: ScriptRun) -> list[tuple[str, ...]]:
    """Namespaces and interfaces, each as `ip` names it, without the verb."""
    spaces = [("netns", space["name"]) for space in ip_json("netns", "list")]
    links = [("link", link["ifname"]) for link in ip_json("link", "show")]
    return [(kind, name) for kind, name in (*spaces, *links) if name.startswith(f"tg{run.id}")]


def mounts(run: ScriptRun) -> list[str]:
    """Mount points in the folder, the deepest first."""
    points = (line.split()[1] for line in Path("/proc/mounts").read_text().splitlines())
    unescaped = (re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point) for point in points)
    return sorted((point for point in unescaped if point.startswith(f"{run.folder}/")), reverse=True)


# -- all of it --------------------------------------------------------------------------------------------------------


def left_by(run: ScriptRun) -> list[str]:
    """What is there of the run besides its files."""
    return [
        *(f"process {pid}: {words}" for pid, words in processes(run).items()),
        *docker_objects(run, remove=False),
        *(" ".join(device) for device in network_devices(run)),
        *(f"mount {point}" for point in mounts(run)),
    ]


def remove(run: ScriptRun) -> list[str]:
    """Remove everything; what could not be removed."""
    end_processes(run, engines=False)  # first, for Tidegate would start again what is removed
    docker_objects(run, remove=True)
    end_processes(run, engines=True)
    for device in network_devices(run):
        subprocess.run(["ip", device[0], "delete", device[1]], check=False, capture_output=True)
    for point in mounts(run):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
    left = left_by(run)
    if not mounts(run):
        shutil.rmtree(run.folder, ignore_errors=True)
        if run.folder.exists():
            left.append(f"files in {run.folder}")
    return left


def say(text: str) -> None:
    """As the scripts say things."""
    print(f"==> {text}", file=sys.stderr, flush=True)


def report(heading: str, things: list[str]) -> None:
    """A line for each."""
    if things:
        say(heading)
        for thing in things:
            print(f"      {thing}", file=sys.stderr, flush=True)


def main() -> int:
    """Exit status 1 when something could not be removed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("sweep").add_argument("--kept", action="store_true")
    verbs.add_parser("end").add_argument("run")
    chosen = parser.parse_args()
    failed = False
    if chosen.verb == "end":
        run = ScriptRun(RUNS / f"tg-{chosen.run}")
        report("left by this run, and removed now:", left_by(run))
        failed = bool(still := remove(run))
        report("could not be removed:", still)
        return int(failed)
    for run in runs():
        if run.alive or (run.kept and not chosen.kept):
            continue
        what = "a kept demo" if run.kept else f"an earlier run ({run.name or 'unknown'}) that was killed"
        report(f"removing what {what} has left:", left_by(run) or [f"files in {run.folder}"])
        still = remove(run)
        report("could not be removed:", still)
        failed |= bool(still)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
