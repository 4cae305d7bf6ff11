"""Docker's errors as `PlatformError`s: which host, what was tried, what is wrong, what to do."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from docker.errors import APIError, DockerException, TLSParameterError
from urllib3.exceptions import HTTPError

from tidegate.drivers.error_translation import MALFORMED
from tidegate.errors import PlatformError


class DockerHostError(PlatformError):
    """What an engine did not do: `problem` says what is wrong, `fix` what to do (empty where it is not known)."""

    def __init__(self, host: str, doing: str, problem: str, fix: str, *, retryable: bool) -> None:
        super().__init__(": ".join(part for part in (f"docker {host}", doing, problem, fix) if part), retryable=retryable)
        self.problem, self.fix = problem, fix


class PortInUse(DockerHostError):
    """A port that a container is to be published on is taken."""


PORT_IN_USE = "the port is taken"

#: What an engine says, what it means with what to do, and whether waiting can help. The first that fits is taken.
KNOWN_ERRORS: tuple[tuple[str, str, bool], ...] = (
    (r"no space left on device", "the disk is full: make room there (docker system df shows what takes it)", False),
    (
        r"port is already allocated|all ports are allocated|address already in use",
        f"{PORT_IN_USE}: end what holds it (docker ps, ss -ltnp), or widen `ports` in the settings",
        False,
    ),
    (r"no such image", "the image is not there: pull, load or build it on this host, or push it to a registry", False),
    (
        r"network .* not found|no such network",
        "the network does not exist: docker network create it on this host, or correct `network` in the settings",
        False,
    ),
    (
        r"error (?:while )?mounting|invalid (?:mount|mode|volume)|bind source path|mount (?:source )?path",
        "a mount cannot be made: correct `volumes`, or make the source on this host",
        False,
    ),
    (
        r"exec: .*(?:no such file|not found|permission denied|is a directory)|exec format error",
        "the command cannot be run: correct `command` or `entrypoint`, or the image (file missing, not executable, "
        "or built for another processor)",
        False,
    ),
    (r"unable to find (?:user|group)", "the image has no such user: correct `user`", False),
    (r"logger|logging driver|log opt", "the log driver refuses: correct log_driver and log_options in the settings", False),
    (r"no such container", "it was removed meanwhile, and is looked for again", True),
    (r"name .* is already in use", "a container with this name exists already; it is looked at again", True),
    (r"removal of container .* is already in progress|marked for removal|is dead", "it is being removed", True),
    (
        r"conflicting options|only available for user-?defined networks|network-scoped alias",
        "what the service asks for does not go together: correct it in the Compose file",
        False,
    ),
    (r"HTTP request to an HTTPS server", "the engine wants TLS: set hosts[].tls", False),
    (r"client version .* is too (?:new|old)", "the engine is too old: it must speak API 1.24 or later", False),
)

#: What is said while an image is pulled.
KNOWN_PULL_ERRORS: tuple[tuple[str, str, bool], ...] = (
    KNOWN_ERRORS[0],
    (
        r"unauthorized|no basic auth credentials|authentication required|denied",
        "the registry does not let us: is the name right? docker login there as the user that runs Tidegate",
        False,
    ),
    (r"manifest unknown|not found|does not exist", "the registry does not have it: push it, or correct `image`", False),
    (r"invalid reference|invalid tag|repository name", "it is not an image name: correct `image`", False),
    (r"no matching manifest", "the registry has it for other processors only: build it for this host's", False),
    (
        r"no such host|connection refused|timeout|timed out|deadline exceeded|unreachable|connection reset|\beof\b",
        "it is not on this host, and its registry does not answer: build or load it on this host, or let the host "
        "reach the registry",
        False,
    ),
    (r"toomanyrequests|too many requests|rate limit", "the registry asks to wait", True),
)


#: What broke on the way to an engine, what it means, what to do, whether waiting can help. The first that fits is taken.
CONNECTION_ERRORS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str, str, bool], ...] = (
    (
        PermissionError,
        "permission denied on the engine's socket",
        "let the user that runs Tidegate use it (group docker)",
        False,
    ),
    (FileNotFoundError, "no engine, its socket or program is not there", "start dockerd, or correct hosts[].url", True),
    (ConnectionRefusedError, "the engine refuses connections", "start dockerd, or correct hosts[].url", True),
    (socket.gaierror, "the engine's name is unknown ({said})", "correct hosts[].url, or its entry in the DNS", True),
    (ssl.SSLError, "TLS failed ({said})", "correct hosts[].tls, or renew the certificates", False),
    (TLSParameterError, "a file of hosts[].tls is not there or not what it should be", "correct hosts[].tls", False),
    (TimeoutError, "the engine did not answer in time", "see its log, and the load of its machine", True),
    (MALFORMED, "the answer makes no sense ({said})", "is hosts[].url a Docker engine?", True),
)


@contextmanager
def translate_errors(host: str, doing: str, known: tuple[tuple[str, str, bool], ...] = KNOWN_ERRORS) -> Iterator[None]:
    """Whatever the SDK and its transports raise inside becomes a `PlatformError`."""
    try:
        yield
    except APIError as error:
        raise refusal_error(host, doing, error, known) from error
    except (DockerException, requests.RequestException, HTTPError, OSError, *MALFORMED) as error:
        raise unreachable_error(host, doing, error) from error


def refusal_error(
    host: str, doing: str, error: APIError, known: tuple[tuple[str, str, bool], ...] = KNOWN_ERRORS
) -> PlatformError:
    """The engine answered, and said no."""
    response = str(error.explanation or error).strip()
    for pattern, meaning, retryable in known:
        if re.search(pattern, response, re.IGNORECASE):
            problem, _, fix = meaning.partition(": ")
            kind = PortInUse if problem == PORT_IN_USE else DockerHostError
            return kind(host, doing, problem, f"{fix} (it said: {response})" if fix else response, retryable=retryable)
    status = error.response.status_code if error.response is not None else 500
    retryable = status >= 500 or status == 409
    return DockerHostError(host, doing, f"the engine refused it with status {status}: {response}", "", retryable=retryable)


def unreachable_error(host: str, doing: str, error: BaseException) -> PlatformError:
    """The engine did not answer, or not in its own language."""
    cause = root_cause(error)
    response = str(cause) or type(cause).__name__
    for kind, problem, fix, retryable in CONNECTION_ERRORS:
        if isinstance(cause, kind):
            return DockerHostError(host, doing, problem.format(said=response), fix, retryable=retryable)
    return DockerHostError(
        host, doing, f"no answer ({response})", "is the engine running, and is hosts[].url right?", retryable=True
    )


def root_cause(error: BaseException) -> BaseException:
    """What really happened, below the layers that wrapped it."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return error
