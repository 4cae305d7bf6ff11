"""Credentials for image registries. Everything is read again at each use, since logins expire and are renewed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from docker.auth import INDEX_NAME, INDEX_URL, TOKEN_USERNAME, AuthConfig
from docker.errors import DockerException
from docker.utils.config import find_config_file

from tidegate.drivers.platforms.docker.options import RegistryOptions
from tidegate.errors import PlatformError

HELPER_SECONDS = 20.0  # the SDK would wait for a credential helper without a limit
NOT_FOUND = "credentials not found"  # what helpers answer if they have none for a registry
MAX_HELPER_CHARS = 200


def find_credentials(registry: str, registries: Sequence[RegistryOptions]) -> Mapping[str, Any]:
    """The credentials to send to Docker for a registry such as `registry.example:5000`; empty if there are none.

    Those of the settings come first, then the Docker configuration of the user that runs Tidegate: its credential helper
    for the registry, its credential store, its `auths`. Raises `PlatformError`, without secrets, if they cannot be read.
    """
    configured = next((one for one in registries if one.name == registry), None)
    if configured is not None:
        password = read_password(configured)
        return {"username": configured.username, "password": password, "serveraddress": registry}
    file = find_config_file()
    if file is None:
        return {}
    config = _parse(registry, Path(str(file)))
    helper = config.get_credential_store(registry)
    found = _ask_helper(registry, helper) if helper else None
    if found is not None:
        return found
    config.update({"credsStore": None, "credHelpers": {}})  # only `auths` are left
    return config.resolve_authconfig(registry) or {}


def read_password(registry: RegistryOptions) -> str:
    """The password in the registry's file. Raises `PlatformError`, which never contains it."""
    file = registry.password_file
    try:
        password = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not text"
        raise _unusable(registry.name, f"cannot read password_file {file}: {problem}") from None
    if not password or not password.isprintable():
        raise _unusable(registry.name, f"password_file {file} must contain exactly one line")
    return password


def _parse(registry: str, file: Path) -> AuthConfig:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        return AuthConfig.load_config(None, document) if document else AuthConfig({})
    except OSError as error:
        raise _unusable(registry, f"cannot read {file}: {error.strerror}") from None
    except (DockerException, ValueError, AttributeError, TypeError):
        raise _unusable(registry, f"{file} is not a valid Docker configuration") from None


def _ask_helper(registry: str, name: str) -> Mapping[str, Any] | None:
    """The credentials from `docker-credential-NAME`; None if it has none for the registry."""
    program = f"docker-credential-{name}"
    server = INDEX_URL if registry == INDEX_NAME else registry
    try:
        done = subprocess.run([program, "get"], input=server, capture_output=True, text=True, timeout=HELPER_SECONDS)
    except OSError as error:
        raise _unusable(registry, f"cannot run {program}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise _unusable(registry, f"{program} did not answer within {HELPER_SECONDS:g} s") from None
    if done.returncode:
        message = (done.stdout.strip() or done.stderr.strip() or f"status {done.returncode}").splitlines()[0]
        if NOT_FOUND in message:
            return None
        raise _unusable(registry, f"{program} failed: {message[:MAX_HELPER_CHARS]}")
    try:
        answer = json.loads(done.stdout)
        username, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, LookupError, TypeError):
        raise _unusable(registry, f"{program} sent an unexpected response") from None
    if not username and not secret:
        return None
    if username == TOKEN_USERNAME:
        return {"identitytoken": secret, "serveraddress": server}
    return {"username": username, "password": secret, "serveraddress": server}


def _unusable(registry: str, problem: str) -> PlatformError:
    fix = "Correct it, or set username and password_file in platform.registries"
    return PlatformError(f"No credentials for registry {registry}: {problem}. {fix}", retryable=False)
