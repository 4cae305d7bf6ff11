"""`tidegate deploy --build`: builds a service's image with `docker build`, and brings it to the Docker hosts."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tidegate.cli import compose_files
from tidegate.cli.context import ComposeOptions, Context
from tidegate.cli.exit_codes import CommandError, ExitCode, Json
from tidegate.compose.build import BuildDefinition, read_build
from tidegate.core.image_reference import ImageReference
from tidegate.errors import InvalidSpec
from tidegate.web.machine import machine_fingerprint

MAX_BUILD_SECONDS = 7200.0
MAX_PUSH_SECONDS = 3600.0
TAG_CHARS = 12  # of the image's ID, in the tag of an image that the file does not name


def build_image(context: Context, options: ComposeOptions, name: str, environment: Json) -> str:
    """Build the image of `environment/service` and return its name. One with a registry is pushed there; without one, the
    environment must have one Docker host, on this machine. Raises `CommandError`, before anything is built if it can."""
    service = name.rpartition("/")[2]
    gathered = compose_files.gather(options, service)
    try:
        document, _ = gathered.compose.document(service)
        definition = read_build(document, service, gathered.compose.variables, gathered.compose.location)
    except InvalidSpec as error:
        raise CommandError(f"Cannot build the image of {name}: {error}", ExitCode.USAGE) from error
    has_registry = bool(definition.image) and ImageReference.parse(definition.image).has_registry
    if not has_registry:
        _require_one_local_host(definition, environment)
    image = _build(context, definition, gathered.folder)
    if has_registry:
        context.notice(f"Pushing {image}")
        _run(["push", image], MAX_PUSH_SECONDS, f"push {image}")
    return image


def _require_one_local_host(definition: BuildDefinition, environment: Json) -> None:
    """Raise `CommandError` unless the image is where it is needed as soon as it is built here."""
    named = definition.image or definition.project_image
    advice = "Name the image with its registry in `image` or x-tidegate.image, such as registry.example/shop"
    hosts = environment["hosts"]
    if len(hosts) > 1:
        names = ", ".join(host["name"] for host in hosts)
        text = f"Cannot build {named} without a registry: {environment['name']} has {len(hosts)} Docker hosts ({names})"
        raise CommandError(f"{text}. {advice}.", ExitCode.REFUSED)
    own = machine_fingerprint()
    if not own or hosts[0]["machine"] != own:
        text = f"Cannot build {named} without a registry: the Docker host {hosts[0]['name']} is not this machine"
        raise CommandError(f"{text}. {advice}.", ExitCode.REFUSED)


def _build(context: Context, definition: BuildDefinition, folder: Path) -> str:
    """Run `docker build`, with BuildKit where the Docker CLI has it; returns the name of the image."""
    with tempfile.TemporaryDirectory(prefix="tidegate-build-") as place:
        result = Path(place, "id")
        inline = Path(place, "Dockerfile")
        if definition.inline:
            inline.write_text(definition.inline)
        words = ["build", f"--iidfile={result}", *definition.options]
        words += [f"--target={definition.target}"] if definition.target else []
        words += [f"--label={name}={value}" for name, value in definition.labels.items()]
        words += [f"--build-arg={name}" for name in definition.arguments]  # values in the environment: others see commands
        local = "://" not in definition.context and not definition.context.startswith("git@")
        where = str((folder / definition.context).resolve()) if local else definition.context
        if definition.inline or definition.dockerfile:
            path = inline if definition.inline else Path(where, definition.dockerfile) if local else definition.dockerfile
            words.append(f"--file={path}")
        context.notice(f"Building {definition.image or definition.project_image} from {where}")
        values = {name: value for name, value in definition.arguments.items() if value is not None}
        _run([*words, where], MAX_BUILD_SECONDS, "build the image", values)
        built = result.read_text().strip()
    tag = built.partition(":")[2][:TAG_CHARS]
    image = definition.image or str(replace(ImageReference.parse(definition.project_image), tag=tag))
    _run(["tag", built, image], MAX_BUILD_SECONDS, f"name the image {image}")
    return image


def _run(words: Sequence[str], seconds: float, action: str, environment: dict[str, str] | None = None) -> None:
    """Run `docker`, whose output goes to standard error. Raises `CommandError`."""
    try:
        done = subprocess.run(
            ["docker", *words], env=os.environ | (environment or {}), stdout=2, check=False, timeout=seconds
        )
    except FileNotFoundError as error:
        raise CommandError(f"Cannot {action}: the command docker is not installed here.", ExitCode.USAGE) from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"Cannot {action}: not done after {seconds / 60:g} min.", ExitCode.REFUSED) from error
    if done.returncode:
        raise CommandError(f"Cannot {action}: docker {words[0]} ended with status {done.returncode}.", ExitCode.REFUSED)
