"""`tidegate logs` and `exec`: what instances write, and a command in one of them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from typing import Annotated

import typer

from tidegate.cli.console import json_text
from tidegate.cli.context import Context, Output, ServiceName
from tidegate.cli.exit_codes import CommandError, ExitCode, Json

FOLLOW_SECONDS = 20  # how long a request waits for lines
Release = Annotated[str, typer.Option("--release", help="Only instances of this release, such as v2-4.")]


def logs(
    ctx: typer.Context,
    service: ServiceName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print lines as they come, until Ctrl-C.")] = False,
    release: Release = "",
    instance: Annotated[str, typer.Option("--instance", help="Only the instance with this ID.")] = "",
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=1, max=2000, help="How many of the last lines of each instance.")
    ] = 100,
    output: Output = None,
) -> None:
    """Print the logs of all instances of a service, merged by time. Needs the scope `logs`.

    With --follow, instances that start later are included. With JSON output, one document per line.
    """
    context: Context = ctx.obj
    client, path = context.client() if follow else context.reader(), f"/v1/services/{context.service(service)}/logs"
    query: Json = {"lines": lines, "release": release, "instance": instance}
    machine, reported = context.as_json(output), set[str]()
    page = client.get(path, **query)
    try:
        while True:
            _print(context, page, reported, machine=machine)
            if not follow:
                return
            page = client.get(path, **query, after=page["next"], wait=FOLLOW_SECONDS)
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _print(context: Context, page: Json, reported: set[str], *, machine: bool) -> None:
    """Print the lines, and once what is missing of each log."""
    for note in page["missing"]:
        text = f"{note['release']}/{note['ordinal']}: {note['message']}"
        if text not in reported:
            context.notice(f"Log of {text}")
            reported.add(text)
    for line in page["lines"]:
        if machine:
            sys.stdout.write(json_text(line) + "\n")
        else:
            context.line(f"{line['at'][11:23]}  {line['release']}/{line['ordinal']}  {line['text']}")
    sys.stdout.flush()


def exec_(
    ctx: typer.Context,
    service: ServiceName,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="The command and its arguments.")],
    release: Release = "",
    instance: Annotated[str, typer.Option("--instance", help="The ID of the instance. Default: the first ready one.")] = "",
) -> None:
    """Run a command in an instance, by `docker exec` on this machine, and exit with its exit code.

    Needs the program `docker` and access to the Docker engine that runs the instance. Where that engine is another one,
    the command to run there is printed.
    """
    context: Context = ctx.obj
    name = context.service(service)
    chosen = _choose(context, name, release, instance)
    words = ["docker", "exec", *(["-it"] if sys.stdin.isatty() and context.is_terminal else ["-i"]), chosen["id"], *command]
    place = f"{chosen['release']}/{chosen['ordinal']} of {name}"
    if not _is_here(chosen["id"]):
        text = f"The Docker engine of this machine does not run {place}. Run on Docker host {chosen['host']}"
        raise CommandError(f"{text}: {shlex.join(words)}", ExitCode.REFUSED)
    sys.stdout.flush()
    os.execvp(words[0], words)


def _choose(context: Context, service: str, release: str, instance: str) -> Json:
    """The instance with this ID, or the first ready one, of this release if one is named."""
    page = context.reader().get(f"/v1/services/{service}/instances")
    if page["instances"] is None:
        raise CommandError(f"Cannot list the instances of {service}: {page['problem']}", ExitCode.REFUSED)
    found = [one for one in page["instances"] if release in ("", one["release"]) and instance in ("", one["id"])]
    chosen: Json | None = next((one for one in found if one["state"] == "ready" or instance), None)
    if chosen is None:
        which = f" {instance}" * bool(instance) + f" of release {release}" * bool(release)
        raise CommandError(f"{service} has no ready instance{which}. See `tidegate status {service}`.", ExitCode.REFUSED)
    return chosen


def _is_here(container: str) -> bool:
    """Whether the Docker engine that the program `docker` talks to has this container."""
    if shutil.which("docker") is None:
        return False
    inspected = subprocess.run(
        ["docker", "inspect", "--type", "container", container], capture_output=True, check=False, timeout=30
    )
    return inspected.returncode == 0
