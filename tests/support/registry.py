"""Debian's registry, on a port of its own, perhaps with a password that can be changed."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import requests

from processes import free_port
from support.prerequisites import program
from support.wait import eventually, exit_status

USER = "deploy"
#: bcrypt, which is all that the registry accepts, of passwords with these names.
HASHES = {
    "first": "$2b$04$T79EKb9sYvSw0TnfLlZ3a.KehtyGuulub0xWMqHeE3xZ6KJJ5ZI.W",
    "second": "$2b$04$/5uQzq4FSr8MruFGp9rPlu7i9bgGUIVBmv8pGejZmS6sDzmCzo6jK",
}


class Registry:
    """A running registry. `address` is what its images' names begin with."""

    def __init__(self, directory: Path, password: str = "") -> None:
        self._port = free_port()
        self._password = password
        self._users = directory / "htpasswd"
        self._log = directory / "log"
        config = {
            "version": "0.1",
            "log": {"accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
            "http": {"addr": f"127.0.0.1:{self._port}"},
        }
        if password:
            self.set_password(password)
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(self._users)}}
        self._config = directory / "config.yml"
        self._config.write_text(json.dumps(config))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._port}"

    def set_password(self, password: str) -> None:
        """Accept this password, and no other, from now on."""
        self._password = password
        self._users.write_text(f"{USER}:{HASHES[password]}\n")

    def docker_config(self, password: str = "") -> str:
        """The text of a Docker configuration with a login, as `docker login` writes it."""
        login = base64.b64encode(f"{USER}:{password or self._password}".encode()).decode()
        return json.dumps({"auths": {self.address: {"auth": login}}})

    def push(self, client: docker.DockerClient, image: str, name: str, tag: str) -> str:
        """Push an engine's image as another machine would: the engine does not know it by this name afterwards. Returns its
        digest."""
        repository = f"localhost:{self._port}/{name}"  # the same registry under another name
        client.api.tag(image, repository, tag)
        auth = {"username": USER, "password": self._password} if self._password else {}
        try:
            for line in client.api.push(repository, tag, stream=True, decode=True, auth_config=auth):
                assert "error" not in line, line
                if "Digest" in line.get("aux", {}):
                    return str(line["aux"]["Digest"])
        finally:
            client.api.remove_image(f"{repository}:{tag}")
        raise AssertionError("no digest in the response")

    def start(self) -> None:
        """Start it, and return when it answers."""
        with self._log.open("ab") as log:
            command = [program("docker-registry"), "serve", str(self._config)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        eventually("the registry answers", self._answers, process=self._process)

    def _answers(self) -> bool:
        try:
            return requests.get(f"http://{self.address}/v2/", timeout=60).status_code in (200, 401)
        except requests.ConnectionError:
            return False

    def stop(self) -> None:
        """Stop it; what was pushed is kept."""
        if self._process is not None:
            self._process.terminate()
            exit_status(self._process)
            self._process = None


@contextmanager
def registry(password: str = "") -> Iterator[Registry]:
    """A registry until the end of the block; with a password, it denies access without it."""
    directory = Path(tempfile.mkdtemp(prefix="tg"))
    started = Registry(directory, password)
    try:
        started.start()
        yield started
    finally:
        started.stop()
        shutil.rmtree(directory)
