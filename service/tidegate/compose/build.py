"""Reading the `build` of a service, for the command that builds its image. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tidegate.compose.document import EXTENSION, NOWHERE, Location, extract_service, require_project
from tidegate.compose.interpolation import Variables, interpolate
from tidegate.compose.reader import (
    Findings,
    Reader,
    boolean,
    image,
    named_values,
    pairs,
    string_list,
    string_or_list,
    text,
)
from tidegate.errors import InvalidSpec, Problem


@dataclass(frozen=True, slots=True)
class BuildDefinition:
    """How an image is built.

    `context`: a folder, relative to the Compose file's, or a URL. `image`: the name that the file gives it; empty if none.
    `project_image`: the name that Compose gives it then. An argument without a value is one of the process.
    """

    context: str
    image: str
    project_image: str
    dockerfile: str = ""
    inline: str = field(default="", repr=False)  # the text of the Dockerfile itself
    target: str = ""
    arguments: Mapping[str, str | None] = field(default_factory=dict, repr=False)  # values may be secrets
    labels: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()  # further ones of `docker build`


def read_build(
    document: object, service: str, variables: Mapping[str, str], location: Location = NOWHERE
) -> BuildDefinition:
    """The build of the service. Raises `InvalidSpec` with all mistakes, also if there is none."""
    findings = Findings()
    variables = Variables.of(variables)
    extracted = extract_service(document, service, variables, findings, location)
    place = f"services.{service}"
    findings.problems[:] = [problem for problem in findings.problems if problem.path.startswith(f"{place}.image")]
    root = Reader(extracted.body, place, findings, extensible=True)
    if "build" not in root:
        raise InvalidSpec([Problem(f"{place}.build", "is required by --build")])
    written = interpolate(root.values["build"], variables, findings.problems, f"{place}.build")
    root.values = {**root.values, "build": {"context": written} if isinstance(written, str) else written}
    own, reader = root.inner(EXTENSION), root.inner("build")
    reader.refuse(dict.fromkeys(("secrets", "ssh", "entitlements", "privileged", "ulimits", "isolation"), ADVICE))
    reader.tolerate("tags", "provenance", "sbom")
    chosen = own.take("image", image, "") or root.take("image", image, "")
    definition = BuildDefinition(
        context=reader.take("context", text, "."),
        image=chosen,
        project_image="" if chosen else f"{require_project(extracted, findings)}-{service.lower()}",
        dockerfile=reader.take("dockerfile", text, ""),
        inline=reader.take("dockerfile_inline", text, ""),
        target=reader.take("target", text, ""),
        arguments=reader.take("args", named_values, {}, secret=True),
        labels=reader.take("labels", pairs, {}),
        options=_options(reader),
    )
    reader.finish()
    if findings.problems:
        raise InvalidSpec(findings.problems)
    return definition


ADVICE = "tidegate deploy --build does not pass it on; build the image yourself, and pass --image"


def _options(reader: Reader) -> tuple[str, ...]:
    """The options of `docker build` for the keys that it has in the same words."""
    none = tuple[str, ...]()
    words = ["--no-cache"] if reader.take("no_cache", boolean, False) else []
    words += ["--pull"] if reader.take("pull", boolean, False) else []
    words += [f"--network={value}" for value in (reader.take("network", text, ""),) if value]
    words += [f"--shm-size={value}" for value in (reader.take("shm_size", text, ""),) if value]
    for key, option in (("cache_from", "cache-from"), ("cache_to", "cache-to"), ("platforms", "platform")):
        words += [f"--{option}={value}" for value in reader.take(key, string_list, none)]
    words += [f"--add-host={value.replace('=', ':', 1)}" for value in reader.take("extra_hosts", string_or_list, none)]
    contexts = reader.take("additional_contexts", pairs, dict[str, str]())
    return (*words, *(f"--build-context={name}={path}" for name, path in contexts.items()))
