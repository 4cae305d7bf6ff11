"""What `tidegate init` finds in a Compose file, asks, and adds to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import typer
import yaml

from tidegate.cli.yaml_insert import insert
from tidegate.compose.interpolation import Variables
from tidegate.compose.ports import named_ports

EXTENSION = "x-tidegate"
REQUEST_OPTIONS = ("port", "listen", "health")  # about requests, which a worker does not take
URL_PATH = re.compile(r"https?://[^\s/'\"]+(/[A-Za-z0-9_./-]*)")


@dataclass(frozen=True, slots=True)
class Setup:
    """What `x-tidegate` needs.

    `ports`: those that the file names. `published`: the host's address that the only port is published on, or empty.
    `follows`: that address depends on variables. `unread`: what names ports, but none could be read.
    """

    service: str
    ports: tuple[int, ...]
    published: str
    health: str
    has_healthcheck: bool
    replicas: int
    follows: bool = False
    unread: str = ""
    is_built: bool = False  # has `build`, and no image
    port: int | None = None
    listen: str = ""
    is_worker: bool = False  # takes no requests


def find(text: str, service: str, variables: Mapping[str, str]) -> Setup:
    """What the file says about a service, or about its only one with a port. Raises `ValueError`."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML: {str(error).splitlines()[0]}") from error
    services = document.get("services") if isinstance(document, dict) else None
    bodies: dict[str, Any] = services if isinstance(services, dict) else {}
    if not service:
        candidates = [
            name
            for name, body in bodies.items()
            if isinstance(body, dict) and (body.get("ports") or body.get("expose")) and EXTENSION not in body
        ]
        if len(candidates) != 1:
            known = ", ".join(candidates or bodies) or "none"
            raise ValueError(f"name the service to add {EXTENSION} to; the file has: {known}")
        service = candidates[0]
    body = bodies.get(service)
    if not isinstance(body, dict):
        raise ValueError(f"there is no service {service}; the file has: {', '.join(bodies) or 'none'}")
    if EXTENSION in body:
        raise ValueError(f"{service} has {EXTENSION} already")
    ports = named_ports(body, Variables.of(variables))
    named = [key for key in ("ports", "expose") if body.get(key)]
    published = next((address for port, address in ports.items() if address), "") if len(ports) == 1 else ""
    deploy = body.get("deploy")
    replicas = deploy.get("replicas") if isinstance(deploy, dict) else body.get("scale")
    check = body.get("healthcheck")
    test = check.get("test", "") if isinstance(check, dict) else ""
    path = URL_PATH.search(" ".join(map(str, test)) if isinstance(test, list) else str(test))
    return Setup(
        service,
        tuple(ports),
        published,
        path[1] if path else "",
        bool(test),
        replicas if isinstance(replicas, int) else 1,
        follows="$" in str(body.get("ports")),
        unread="" if ports else " and ".join(f"{key} {body[key]}" for key in named),
        is_built="build" in body and not body.get("image"),
    )


def ask(present: Setup, given: Mapping[str, Any], *, ask: bool) -> Setup:
    """The answers: those `given` as options, then those of the person, then what was found. Raises `ValueError` for what
    is neither given nor present."""

    def answer(name: str, question: str, default: Any, kind: type) -> Any:
        if given[name] is not None:
            return given[name]
        return typer.prompt(question, default=default, type=kind, err=True) if ask else default

    if _is_worker(present, given, ask=ask):
        replicas = answer("replicas", "Number of instances", present.replicas, int)
        return replace(present, is_worker=True, replicas=replicas)
    port = answer(
        "port", "Port of the container that takes requests", present.ports[0] if len(present.ports) == 1 else None, int
    )
    if port is None:
        known = f"the file names {', '.join(map(str, present.ports)) or present.unread or 'none'}"
        raise ValueError(f"which port takes requests? {known}: add --port")
    otherwise = present.published or (
        "" if present.unread or present.follows else str(port)
    )  # empty: what `ports` will say
    listen = answer("listen", "Address for the proxy to listen on", otherwise, str)
    health = answer("health", "Health path (empty: HEALTHCHECK)", present.health, str)
    replicas = answer("replicas", "Number of instances", present.replicas, int)
    if health and not health.startswith("/"):
        raise ValueError(f"the health path must start with /; found {health}")
    if not health and not present.has_healthcheck and not ask and given["health"] is None:
        raise ValueError(
            "how is an instance known to be ready? Add --health PATH, or --health '' if its image has a HEALTHCHECK"
        )
    return replace(present, port=port, listen=listen, health=health, replicas=replicas)


def _is_worker(present: Setup, given: Mapping[str, Any], *, ask: bool) -> bool:
    """Whether the service takes no requests. Without a port in the file nobody can know but the person."""
    about_requests = [f"--{name}" for name in REQUEST_OPTIONS if given[name] is not None]
    if given["worker"] and about_requests:
        raise ValueError(
            f"--worker says that {present.service} takes no requests: remove it, or {', '.join(about_requests)}"
        )
    if given["worker"] or present.ports or present.unread or about_requests:
        return bool(given["worker"])
    if not ask:
        raise ValueError(f"{present.service} names no port: add --port if it takes requests, or --worker if it takes none")
    return typer.confirm(
        f"{present.service} names no port. Is it a worker, which takes no requests?", default=None, err=True
    )


def add(text: str, setup: Setup) -> str:
    """The text with `x-tidegate` in the service, and with the number of instances if that changes."""
    place = ("services", setup.service)
    body = yaml.safe_load(text)["services"][setup.service]
    deploy = body.get("deploy")
    present = deploy.get("replicas") if isinstance(deploy, dict) else None
    if present is None and setup.replicas != 1:
        if isinstance(deploy, dict) and deploy:
            text = insert(text, (*place, "deploy"), "replicas", [str(setup.replicas)])
        else:
            text = insert(text, place, "deploy", [f"{{replicas: {setup.replicas}}}"])
    elif present not in (None, setup.replicas):
        raise ValueError(f"services.{setup.service}.deploy.replicas is {present}: change it in the file")
    if setup.is_worker:
        return insert(text, place, EXTENSION, ["{worker: true}"])
    keys = [] if setup.ports == (setup.port,) else [f"port: {setup.port}"]
    is_followed = not setup.listen or (setup.follows and setup.listen == setup.published)  # it stays what `ports` says
    keys += [] if is_followed else [f"listen: {_quoted(setup.listen)}"]
    keys += [f"health: {{path: {_quoted(setup.health)}}}"] if setup.health else []
    return insert(text, place, EXTENSION, keys if len(keys) > 1 else [f"{{{''.join(keys)}}}"])


def _quoted(value: str) -> str:
    """The value as YAML reads it back: an address has colons, which may mean a number in base 60."""
    return value if re.fullmatch(r"\d+|/[A-Za-z0-9_./-]*", value) else f'"{value}"'
