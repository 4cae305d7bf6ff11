"""Translates Docker's errors into `PlatformError`s that name the host, the action, the problem and the fix."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import requests
from docker.errors import APIError, DockerException, TLSParameterError
from urllib3.exceptions import HTTPError

from tidegate.drivers.error_translation import MALFORMED, root_cause
from tidegate.errors import PlatformError


class DockerHostError(PlatformError):
    """A Docker host did not do something. `problem`: what is wrong; `fix`: what to do, empty if unknown."""

    def __init__(self, host: str, action: str, problem: str, fix: str, *, retryable: bool) -> None:
        message = f"Cannot {action} on Docker host {host}: {problem}"
        super().__init__(f"{message}. {fix[0].upper()}{fix[1:]}" if fix else message, retryable=retryable)
        self.problem, self.fix = problem, fix


class PortInUse(DockerHostError):
    """A port that a container is published on is in use."""


class AccessDenied(DockerHostError):
    """A registry denied access."""


PORT_IN_USE = "the port is in use"
ACCESS_DENIED = "the registry denied access"

KINDS: Mapping[str, type[DockerHostError]] = {PORT_IN_USE: PortInUse, ACCESS_DENIED: AccessDenied}

#: (pattern of Docker's message, problem and fix separated by ": ", retryable). The first match applies.
KNOWN_ERRORS: tuple[tuple[str, str, bool], ...] = (
    (r"no space left on device", "the disk is full: free space there (docker system df shows what uses it)", False),
    (
        r"port is already allocated|all ports are allocated|address already in use",
        f"{PORT_IN_USE}: stop what uses it (docker ps, ss -ltnp), or widen `ports` in the settings",
        False,
    ),
    (r"no such image", "image not found: pull, load or build it on this host, or push it to a registry", False),
    (
        r"network .* not found|no such network",
        "network not found: run docker network create on this host, or correct `network` in the settings",
        False,
    ),
    (
        r"error (?:while )?mounting|invalid (?:mount|mode|volume)|bind source path|mount (?:source )?path",
        "a mount failed: correct `volumes`, or create the source on this host",
        False,
    ),
    (
        r"exec: .*(?:no such file|not found|permission denied|is a directory)|exec format error",
        "the command cannot be executed: correct `command`, `entrypoint` or the image (file missing, not executable, "
        "or built for another platform)",
        False,
    ),
    (r"unable to find (?:user|group)", "the image does not have this user: correct `user`", False),
    (r"logger|logging driver|log opt", "the log driver failed: correct log_driver and log_options in the settings", False),
    (r"no such container", "the container has been removed meanwhile: Tidegate retries", True),
    (r"name .* is already in use", "a container with this name exists already: Tidegate retries", True),
    (
        r"removal of container .* is already in progress|marked for removal|is dead",
        "the container is being removed: Tidegate retries",
        True,
    ),
    (
        r"conflicting options|only available for user-?defined networks|network-scoped alias",
        "options of the service conflict: correct the Compose file",
        False,
    ),
    (r"HTTP request to an HTTPS server", "the host requires TLS: set hosts[].tls", False),
    (r"client version .* is too (?:new|old)", "Docker is too old: it must support API 1.24 or later", False),
)

#: The same for pulling an image.
KNOWN_PULL_ERRORS: tuple[tuple[str, str, bool], ...] = (
    KNOWN_ERRORS[0],
    (
        r"unauthorized|no basic auth credentials|authentication required|denied",
        f"{ACCESS_DENIED}: check the name, run docker login as the user that runs Tidegate, or set username and "
        "password_file in platform.registries",
        False,
    ),
    (r"manifest unknown|not found|does not exist", "not found in the registry: push it, or correct `image`", False),
    (r"invalid reference|invalid tag|repository name", "not a valid image name: correct `image`", False),
    (
        r"no matching manifest",
        "the registry has it for other platforms only: images must match the host's platform",
        False,
    ),
    (
        r"no such host|connection refused|timeout|timed out|deadline exceeded|unreachable|connection reset|\beof\b",
        "its registry does not answer: make the registry reachable from this host, or build or load the image here",
        False,
    ),
    (r"toomanyrequests|too many requests|rate limit", "the registry limits requests: Tidegate retries", True),
)


#: (cause, problem, fix, retryable) of a failed connection to a Docker host. The first match applies.
CONNECTION_ERRORS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str, str, bool], ...] = (
    (
        PermissionError,
        "permission denied at Docker's socket",
        "give the user that runs Tidegate access to it (group docker)",
        False,
    ),
    (FileNotFoundError, "Docker's socket or program not found", "start dockerd, or correct hosts[].url", True),
    (ConnectionRefusedError, "connection refused", "start dockerd, or correct hosts[].url", True),
    (socket.gaierror, "cannot resolve the host name ({response})", "correct hosts[].url, or its entry in the DNS", True),
    (ssl.SSLError, "TLS failed ({response})", "correct hosts[].tls, or renew the certificates", False),
    (TLSParameterError, "a file of hosts[].tls is missing or invalid", "correct hosts[].tls", False),
    (TimeoutError, "no response in time", "check Docker's log and the load of its machine", True),
    (MALFORMED, "unexpected response ({response})", "check that hosts[].url is a Docker host", True),
)


@contextmanager
def translate_errors(host: str, action: str, known: tuple[tuple[str, str, bool], ...] = KNOWN_ERRORS) -> Iterator[None]:
    """Turn every error of the SDK and its transports into a `PlatformError`. `action`: what Tidegate does, as a verb."""
    try:
        yield
    except APIError as error:
        raise refusal_error(host, action, error, known) from error
    except (DockerException, requests.RequestException, HTTPError, OSError, *MALFORMED) as error:
        raise unreachable_error(host, action, error) from error


def refusal_error(
    host: str, action: str, error: APIError, known: tuple[tuple[str, str, bool], ...] = KNOWN_ERRORS
) -> PlatformError:
    """The error of a request that Docker answered with an error status."""
    response = str(error.explanation or error).strip()
    for pattern, meaning, retryable in known:
        if re.search(pattern, response, re.IGNORECASE):
            problem, _, fix = meaning.partition(": ")
            kind = KINDS.get(problem, DockerHostError)
            return kind(host, action, problem, f"{fix} (Docker's message: {response})", retryable=retryable)
    status = error.response.status_code if error.response is not None else 500
    retryable = status >= 500 or status == 409
    return DockerHostError(host, action, f"Docker answered {status}: {response}", "", retryable=retryable)


def unreachable_error(host: str, action: str, error: BaseException) -> PlatformError:
    """The error of a request without a valid response."""
    cause = root_cause(error)
    response = str(cause) or type(cause).__name__
    for kind, problem, fix, retryable in CONNECTION_ERRORS:
        if isinstance(cause, kind):
            return DockerHostError(host, action, problem.format(response=response), fix, retryable=retryable)
    fix = "check that Docker runs there, and hosts[].url"
    return DockerHostError(host, action, f"no response ({response})", fix, retryable=True)


def raise_combined(errors: Sequence[BaseException]) -> None:
    """Raise one error for all failures of a parallel call, each message once; retryable only if all of them are."""
    if not errors:
        return
    retryable = True
    for error in errors:
        if not isinstance(error, PlatformError):
            raise error
        retryable = retryable and error.retryable
    raise PlatformError("; ".join(dict.fromkeys(str(error) for error in errors)), retryable=retryable) from errors[0]
