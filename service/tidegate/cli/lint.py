"""`tidegate lint` and `init`: check Compose files without a server, and add `x-tidegate` to one."""

from __future__ import annotations

import base64
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.context import ComposeOptions, Context, Env, EnvFile, Output, ProjectName, Variables
from tidegate.cli.exit_codes import CommandError, ExitCode, Json
from tidegate.cli.rollouts import compose_body, compose_options
from tidegate.errors import Problem

if TYPE_CHECKING:
    from tidegate.compose.loader import ComposeInput

EXTENSION = "x-tidegate"
NOT_BUILT = "not-built"  # the image of a service whose `build` has mistakes, so that all others are found
ENVIRONMENT = "lint"  # of the services while they are checked: a file does not say where it is deployed


def lint(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="The Compose files; each is checked by itself.")],
    sets: Variables = None,
    env_file: EnvFile = None,
    env: Env = None,
    project: ProjectName = "",
    build: Annotated[
        bool, typer.Option("--build", help="Check for `tidegate deploy --build`: a service with `build` needs no image.")
    ] = False,
    output: Output = None,
) -> None:
    """Check every service with `x-tidegate` in Compose files, without a server. Exits 1 if any has a mistake.

    What depends on the environment (its metrics, its proxy, what it allows) is checked by `tidegate plan`.
    """
    context: Context = ctx.obj
    options = [compose_options([file], sets, env_file, env, project) for file in files]
    results = [result for each in options for result in _check_file(each, build=build)]
    if context.as_json(output):
        context.print_json(results)
    else:
        for result in results:
            _print(context, result)
    raise typer.Exit(ExitCode.REFUSED if any(result["problems"] for result in results) else ExitCode.DONE)


def _print(context: Context, result: Json) -> None:
    place = f"{result['file']}: {result['service']}: " if result["service"] else f"{result['file']}: "
    for problem in result["problems"]:
        path = f"{problem['path']}: " if problem["path"] else ""
        context.line(f"{place}{path}{problem['message']}", "red")
    for note in result["notes"]:
        context.line(f"{place}note: {note['path']}: {note['message']}")
    for warning in result["warnings"]:
        context.line(f"{place}warning: {warning}", "yellow")
    if not result["problems"]:
        context.line(f"{place}ok", "green")


def _check_file(options: ComposeOptions, *, build: bool) -> list[Json]:
    """The result for each service with `x-tidegate`, or one for the whole file."""
    from tidegate.compose import yaml
    from tidegate.errors import InvalidSpec

    file = options.files[0]
    try:
        document = yaml.load(read_text(file))
    except InvalidSpec as error:
        return [_result(file, "", error.problems)]
    services = document.get("services") if isinstance(document, dict) else None
    bodies: dict[str, Any] = services if isinstance(services, dict) else {}
    names = [name for name, body in bodies.items() if isinstance(body, dict) and EXTENSION in body]
    if not names:
        missing = Problem("services", f"no service has {EXTENSION}; add it with `tidegate init {file}`")
        return [_result(file, "", [missing])]
    return [_check_service(options, name, build=build and "build" in bodies[name]) for name in names]


def _check_service(options: ComposeOptions, name: str, *, build: bool) -> Json:
    from tidegate.compose import loader
    from tidegate.compose.document import Location
    from tidegate.errors import InvalidSpec

    try:
        body = compose_body(options, name)
    except CommandError as error:  # a variable or a file that cannot be read: the other services and files are checked
        what, *each = map(str.strip, str(error).splitlines())
        return _result(options.files[0], name, [Problem("", " ".join([what, "; ".join(each)]).strip())])
    source = body["source"]
    given = loader.ComposeInput(
        body["compose"],
        body["variables"],
        {path: _bytes(content) for path, content in body["files"].items()},
        location=Location(source["project"], source["folder"], source["home"], is_local=True),
    )
    try:
        image = _built_image(given, name) if build else ""
        service = loader.read_service(replace(given, image=image), name, ENVIRONMENT)
    except InvalidSpec as error:
        return _result(options.files[0], name, error.problems)
    notes = [{"path": note.field, "message": note.message} for note in service.source.notes]
    return _result(options.files[0], name, ()) | {"notes": notes, "warnings": list(service.warnings)}


def _built_image(given: ComposeInput, name: str) -> str:
    """The name of the image that `deploy --build` builds. Raises `InvalidSpec` with all mistakes of the service."""
    from tidegate.compose import loader
    from tidegate.compose.build import read_build
    from tidegate.errors import InvalidSpec

    try:
        definition = read_build(given.document(name)[0], name, given.variables, given.location)
    except InvalidSpec as error:
        problems = list(error.problems)
        try:
            loader.read_service(replace(given, image=given.image or NOT_BUILT), name, ENVIRONMENT)
        except InvalidSpec as others:
            problems += [problem for problem in others.problems if problem not in problems]
        raise InvalidSpec(problems) from error
    return definition.image or definition.project_image


def _bytes(content: str | Json) -> bytes:
    return content.encode() if isinstance(content, str) else base64.b64decode(content["base64"])


def _result(file: Path, service: str, problems: Sequence[Problem]) -> Json:
    views = [{"path": problem.path, "message": problem.message} for problem in problems]
    return {"file": str(file), "service": service, "problems": views, "notes": [], "warnings": []}


def read_text(file: Path) -> str:
    """The text of a file. Raises `CommandError`."""
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or error
        raise CommandError(f"Cannot read the file {file}: {problem}.", ExitCode.USAGE) from error


def init(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The Compose file; it is changed.")],
    service: Annotated[str, typer.Argument(metavar="[SERVICE]", help="Default: the only one with a port.")] = "",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the container that takes requests.")] = None,
    listen: Annotated[str, typer.Option(help="Address for the proxy, such as 127.0.0.1:8001.")] = "",
    health: Annotated[
        str | None, typer.Option(help="Path that answers 2xx or 3xx when an instance is ready; empty: its HEALTHCHECK.")
    ] = None,
    replicas: Annotated[int | None, typer.Option(min=1, max=1000, help="Number of instances.")] = None,
    worker: Annotated[bool, typer.Option("--worker", help="The service takes no requests.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take what was found, and do not ask.")] = False,
) -> None:
    """Add `x-tidegate` to a service of a Compose file, after asking about what was found in it.

    Nothing else in the file changes: comments, quotes and order stay.
    """
    from tidegate.cli import compose_files, compose_init

    context: Context = ctx.obj
    text = read_text(file)
    if not yes and not sys.stdin.isatty():
        raise CommandError("Without a terminal to ask on, add --yes to take what was found.", ExitCode.USAGE)
    try:
        variables = compose_files.read_variables(ComposeOptions((file,)), file.resolve().parent)[0]
        present = compose_init.find(text, service, variables)
        given = {"port": port, "listen": listen or None, "health": health, "replicas": replicas, "worker": worker}
        answers = compose_init.ask(present, given, ask=not yes)
        file.write_text(compose_init.add(text, answers))
    except ValueError as error:
        raise CommandError(f"{file}: {error}", ExitCode.REFUSED) from error
    except OSError as error:
        raise CommandError(f"Cannot write {file}: {error.strerror or error}.", ExitCode.REFUSED) from error
    context.line(f"Added {EXTENSION} to {answers.service} in {file}.")
    context.line(f"  Check:   tidegate lint {file}{' --build' * answers.is_built}")
    image = " --image IMAGE" * answers.is_built
    context.line(f"  Preview: tidegate plan ENVIRONMENT/{answers.service} -f {file}{image}")
    if answers.is_built:
        context.line(f"  Deploy:  tidegate deploy ENVIRONMENT/{answers.service} -f {file} --build")
