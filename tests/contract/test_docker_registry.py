"""Images from a registry: which one a tag means, how long Tidegate waits for an answer, and whose credentials it sends."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import ImageNotFound

from processes import unique_name
from support.docker_contract import PREFIX, SOCKET, DemoReleases, local_engine, make_release, platform_on
from support.registry import USER, Registry, registry
from support.wait import at_most
from tidegate.core.container import PullPolicy
from tidegate.core.model import Release
from tidegate.drivers.platforms.docker import registries
from tidegate.errors import PlatformError
from tidegate.testing.platform_contract import ENVIRONMENT, a_job, pin_release, run_to_end, start_and_wait

LOCAL = {"name": "local", "url": SOCKET}
SERVICE = f"{ENVIRONMENT}/shop"


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    with local_engine() as client:
        yield client


@pytest.fixture(scope="module")
def open_registry() -> Iterator[Registry]:
    """One that needs no login."""
    with registry() as started:
        yield started


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Docker configuration of the user that runs Tidegate, which does not exist yet."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


@contextmanager
def image_at(client: docker.DockerClient, source: Registry) -> Iterator[str]:
    """The name of an image at the registry. The engine forgets everything it has pulled by that name afterwards."""
    name = unique_name("tgexam")
    repository = f"{source.address}/{name}"
    try:
        yield repository
    finally:
        for image in client.api.images(repository):
            for reference in (*(image["RepoTags"] or ()), *(image["RepoDigests"] or ())):
                with suppress(ImageNotFound):  # the last tag takes the digests with it
                    if reference.startswith(repository):
                        client.api.remove_image(reference, force=True)


def release_of(repository: str, tag: str, policy: PullPolicy = PullPolicy.RESOLVE) -> Release:
    return replace(make_release(SERVICE, "good", pull_policy=policy), image=f"{repository}:{tag}")


# -- which image a tag means ----------------------------------------------------------------------------------------------


def test_a_tag_is_resolved_by_each_rollout(client: docker.DockerClient, open_registry: Registry) -> None:
    with image_at(client, open_registry) as repository, platform_on(LOCAL) as platform:
        name = repository.rpartition("/")[2]

        def push(version: str, *tags: str) -> str:
            (digest,) = {open_registry.push(client, f"{PREFIX}:{version}", name, tag) for tag in tags}
            return f"{repository}@{digest}"

        def pinned(tag: str, policy: PullPolicy) -> str:
            found = platform.pin(release_of(repository, tag, policy))
            assert found.warning == ""
            return found.digest

        old = push("good", "latest", "v1")
        with pytest.raises(PlatformError, match=r"not found on Docker host local\..*remove `pull_policy: never`") as caught:
            pinned("v1", PullPolicy.NEVER)
        assert not caught.value.retryable
        for tag in ("latest", "v1"):
            assert {pinned(tag, policy) for policy in PullPolicy} == {old}
        new = push("unready", "latest", "v1")
        assert new != old
        assert {pinned("v1", policy) for policy in (PullPolicy.MISSING, PullPolicy.NEVER)} == {old}
        assert pinned("latest", PullPolicy.NEVER) == old
        for tag, policies in (("latest", "resolve missing"), ("v1", "always")):
            assert {pinned(tag, PullPolicy(policy)) for policy in policies.split()} == {new}
        again = replace(release_of(repository, "latest"), digest=old)
        assert platform.pin(again).digest == old, "a release keeps its digest"


def test_the_image_of_a_hook_is_resolved_too(client: docker.DockerClient, open_registry: Registry) -> None:
    releases = DemoReleases()
    with image_at(client, open_registry) as repository, platform_on(LOCAL) as platform:
        name = repository.rpartition("/")[2]
        good = pin_release(platform, releases.good(SERVICE, "v1-1"))
        used = []
        for version in ("good", "unready"):
            open_registry.push(client, f"{PREFIX}:{version}", name, "latest")
            job = a_job(good, replace(releases.hook(0, 0), image=f"{repository}:latest", entrypoint=("/app",)))
            assert run_to_end(platform, job).status == 0
            (container,) = client.api.containers(all=True, filters={"label": f"tidegate.rollout={job.rollout}"})
            used.append(container["ImageID"])
            platform.remove_jobs(SERVICE, job.rollout)
        assert used == [client.images.get(f"{PREFIX}:{version}").id for version in ("good", "unready")]


def test_a_registry_that_does_not_answer(client: docker.DockerClient) -> None:
    with registry() as source, image_at(client, source) as repository, platform_on(LOCAL) as platform:
        source.push(client, f"{PREFIX}:good", repository.rpartition("/")[2], "latest")
        known = platform.pin(release_of(repository, "latest"))
        source.stop()
        found = platform.pin(release_of(repository, "latest"))
        assert found.digest == known.digest
        unanswered = f"Cannot resolve {repository}:latest at registry {source.address}: its registry does not answer"
        assert found.warning.startswith(unanswered)
        assert found.warning.endswith("Using the image that the Docker hosts have, which may be older.")
        for policy, tag in ((PullPolicy.ALWAYS, "latest"), (PullPolicy.RESOLVE, "v2"), (PullPolicy.MISSING, "v2")):
            with pytest.raises(PlatformError, match=r"registry does not answer\. Make the registry reachable") as caught:
                platform.pin(release_of(repository, tag, policy))
            assert not caught.value.retryable
        assert platform.pin(release_of(repository, "latest", PullPolicy.NEVER)).warning == ""


def test_an_image_built_on_the_host_is_used_as_it_is(client: docker.DockerClient) -> None:
    """Nobody else's image is deployed because it has the same name on Docker Hub."""
    with platform_on(LOCAL) as platform:
        found = platform.pin(make_release(SERVICE, "good"))
        assert (found.digest, found.warning) == (client.images.get(f"{PREFIX}:good").id, "")


# -- how long it may take --------------------------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a registry that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_silent_registry_is_not_waited_for_without_a_limit(client: docker.DockerClient, silent: str) -> None:
    repository = f"{silent}/{unique_name('tgexam')}"
    client.api.tag(f"{PREFIX}:good", repository, "latest")
    try:
        with platform_on(LOCAL, registry_seconds=0.5, pull_seconds=0.5) as platform, at_most(60, "both answers"):
            found = platform.pin(release_of(repository, "latest"))
            assert f"registry {silent} did not answer within 0.5 s" in found.warning
            with pytest.raises(PlatformError, match=r"Cannot pull image .*: no response in time"):
                platform.pin(release_of(repository, "v2"))
    finally:
        client.api.remove_image(f"{repository}:latest")


# -- credentials -----------------------------------------------------------------------------------------------------------


def test_a_login_is_read_at_each_use(client: docker.DockerClient, login: Path) -> None:
    with registry("first") as source, image_at(client, source) as repository, platform_on(LOCAL) as platform:
        name = repository.rpartition("/")[2]

        def pin(tag: str) -> str:
            return platform.pin(release_of(repository, tag)).digest

        for tag in ("v1", "v2", "v3"):
            source.push(client, f"{PREFIX}:good", name, tag)
        denied = r"the registry denied access.*run docker login as the user that runs Tidegate"
        with pytest.raises(PlatformError, match=f"Cannot pull image {repository}:v1 on Docker host local: {denied}"):
            pin("v1")
        login.write_text(source.docker_config())
        assert pin("v1")
        source.set_password("second")
        with pytest.raises(PlatformError, match=denied) as caught:
            pin("v2")
        assert not caught.value.retryable
        with pytest.raises(PlatformError, match=f"Cannot resolve image {repository}:v1 .*{denied}"):
            pin("v1")  # here since before: an old image is not deployed because a login has expired
        login.write_text(source.docker_config())
        assert pin("v2") == pin("v1")
        client.api.remove_image(f"{repository}:v1", force=True)
        started = start_and_wait(platform, replace(release_of(repository, "v2"), digest=pin("v2")), [0])
        platform.stop(started, 1.0)


def helper(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A credential helper `docker-credential-tgexam`."""
    program = folder / "docker-credential-tgexam"
    program.write_text(f"#!/bin/sh\nread -r server\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.parametrize("key", ["credHelpers", "credsStore"])
def test_a_credential_helper_is_asked_at_each_use(
    client: docker.DockerClient, login: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    with registry("first") as source, image_at(client, source) as repository, platform_on(LOCAL) as platform:
        for tag in ("v1", "v2"):
            source.push(client, f"{PREFIX}:good", repository.rpartition("/")[2], tag)
        login.write_text(json.dumps({key: {source.address: "tgexam"} if key == "credHelpers" else "tgexam"}))
        secret = tmp_path / "secret"
        helper(
            tmp_path,
            monkeypatch,
            f"""[ "$server" = {source.address} ] && echo '{{"Username": "{USER}", "Secret": "'$(cat {secret})'"}}'""",
        )
        secret.write_text("first")
        assert platform.pin(release_of(repository, "v1")).digest
        source.set_password("second")
        secret.write_text("second")
        assert platform.pin(release_of(repository, "v2")).digest


def test_credentials_of_the_settings_are_read_at_each_use(client: docker.DockerClient, login: Path, tmp_path: Path) -> None:
    with registry("first") as source, image_at(client, source) as repository:
        for tag in ("v1", "v2"):
            source.push(client, f"{PREFIX}:good", repository.rpartition("/")[2], tag)
        login.write_text(source.docker_config("second"))  # wrong, and not used
        file = tmp_path / "password"
        own = {"name": source.address, "username": USER, "password_file": str(file)}
        with platform_on(LOCAL, registries=[own]) as platform:
            with pytest.raises(PlatformError, match=f"registry {source.address}: cannot read password_file {file}"):
                platform.pin(release_of(repository, "v1"))
            assert [line.status for line in platform.check() if line.part == f"docker registry {source.address}"] == [
                "wrong"
            ]
            file.write_text("first\n")
            assert platform.pin(release_of(repository, "v1")).digest
            assert [line.status for line in platform.check() if line.part == f"docker registry {source.address}"] == ["ok"]
            source.set_password("second")
            file.write_text("second\n")
            assert platform.pin(release_of(repository, "v2")).digest


@pytest.mark.parametrize(
    ("config", "script", "problem"),
    [
        ({"credsStore": "tgexam"}, "echo 'vault is locked'; exit 1", "docker-credential-tgexam failed: vault is locked"),
        ({"credsStore": "tgexam"}, "echo '[]'", "docker-credential-tgexam sent an unexpected response"),
        ({"credsStore": "tgexam"}, "exec sleep 600", "docker-credential-tgexam did not answer within 0.5 s"),
        ({"credsStore": "tgnone"}, "", "cannot run docker-credential-tgnone: No such file"),
        ({"auths": {"x": 5}}, "", "config.json is not a valid Docker configuration"),
        ({"auths": {"x": {"auth": "!"}}}, "", "config.json is not a valid Docker configuration"),
        ([], "", None),
        ({"credsStore": "tgexam"}, "echo 'credentials not found in native keychain'; exit 1", None),
    ],
)
def test_credentials_that_cannot_be_read(
    login: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Any, script: str, problem: str | None
) -> None:
    monkeypatch.setattr(registries, "HELPER_SECONDS", 0.5)
    login.write_text(json.dumps(config))
    helper(tmp_path, monkeypatch, script)
    if problem is None:
        assert registries.find_credentials("registry.example", ()) == {}
        return
    with pytest.raises(PlatformError, match=f"No credentials for registry registry.example: .*{problem}") as caught:
        registries.find_credentials("registry.example", ())
    assert not caught.value.retryable


def test_docker_hub_is_found_by_the_names_that_docker_login_writes(login: Path) -> None:
    login.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": "YTpi"}}}))
    found = registries.find_credentials("docker.io", ())
    assert (found["username"], found["password"]) == ("a", "b")
