"""nginx for tests: one that Tidegate owns, and one that stands there already."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import stamina

from support.backends import free_port
from support.haproxy import ended, short_folder
from support.prerequisites import program
from support.wait import eventually
from tidegate.core.routing import Backend, Member
from tidegate.drivers.routers.nginx.driver import NginxOptions, NginxRouter
from tidegate.drivers.routers.nginx.generations import GenerationFiles
from tidegate.errors import RouterError
from tidegate.testing.router_contract import member

ADOPTED = """\
worker_processes 2;
worker_shutdown_timeout 1h;
pid {home}/theirs.pid;
error_log {home}/error.log crit;
events {{ worker_connections 512; }}
http {{
    access_log off;
    include {include};
    {more}
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://shop; }} }}
    server {{ listen 127.0.0.1:{other}; location / {{ proxy_pass http://other; }} }}
}}
"""


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that nginx's workers may enter, whoever they run as."""
    with short_folder() as folder:
        folder.chmod(0o755)
        yield folder


def generations(home: Path) -> GenerationFiles:
    """What the nginx of this folder serves, owned or adopted."""
    include = home / "tidegate.conf"
    return GenerationFiles(home / "nginx", include if include.exists() else home / "nginx" / "nginx.conf")


def workers(home: Path) -> set[int]:
    """The processes that serve one of the generations in this folder."""
    return {worker.pid for worker in generations(home).workers(None)}


def end(pids: Collection[int | None], how: signal.Signals = signal.SIGTERM) -> None:
    """Returns when all are gone."""
    every = {pid for pid in pids if pid is not None}
    for pid in every:
        with suppress(ProcessLookupError):
            os.kill(pid, how)
    eventually("nginx's processes have ended", lambda: all(ended(pid) for pid in every))


@contextmanager
def owned_router(home: Path, **options: Any) -> Iterator[NginxRouter]:
    """A router that starts its own nginx; ended at the end."""
    program("nginx")
    settings = {"directory": home / "nginx", "status": f"127.0.0.1:{free_port()}", **options}
    router = NginxRouter(NginxOptions(**settings), "test")
    try:
        yield router
    finally:
        end({router.pid})
        end(workers(home))


def kill(router: NginxRouter, home: Path, *, workers_too: bool = True) -> None:
    """SIGKILL to an owned nginx.

    The master is stopped first, so that it starts no worker meanwhile. The kernel says who its children are: a worker that
    was just started does not call itself one yet, and would go on listening.
    """
    master = router.pid
    assert master is not None
    os.kill(master, signal.SIGSTOP)
    children = map(int, Path(f"/proc/{master}/task/{master}/children").read_text().split())
    end({master, *([*children, *workers(home)] if workers_too else ())}, signal.SIGKILL)


def reload(router: NginxRouter, home: Path) -> None:
    """As a person would do it; returns when new workers alone are left."""
    before, pid = workers(home), router.pid
    assert pid is not None
    os.kill(pid, signal.SIGHUP)
    eventually("new workers alone serve", lambda: bool(now := workers(home)) and not now & before)


class ExternalNginx:
    """A nginx that somebody else runs, and that leads to Tidegate's upstreams once it has begun."""

    def __init__(self, home: Path, *, more: str = "keepalive_timeout 0;", include: str = "", **options: Any) -> None:
        self.home, self.port, self.other = home, free_port(), free_port()
        self.config, self.include = home / "nginx.conf", home / "tidegate.conf"
        values = {"home": home, "port": self.port, "other": self.other, "more": more, "include": include or self.include}
        self.text = ADOPTED.format(**values)
        first = ADOPTED.format(**{**values, "more": ""})
        self.config.write_text("".join(line for line in first.splitlines(True) if "proxy_pass" not in line))
        self.include.touch()
        self._binary = program("nginx")
        subprocess.run([self._binary, "-c", str(self.config), "-e", str(home / "error.log")], check=True)
        places = {"config": self.config, "include": self.include, "pid": home / "theirs.pid", "directory": home / "nginx"}
        settings = {"mode": "adopted", "status": f"127.0.0.1:{free_port()}", **places, **options}
        self.router = NginxRouter(NginxOptions(**settings), "test")

    def begin(self) -> None:
        """Write the first routes, have theirs use them, and leave them empty."""
        eventually("nginx has written its process id", lambda: self.router.pid is not None)
        for name in ("shop", "other"):
            for attempt in stamina.retry_context(lambda error: getattr(error, "retryable", False), attempts=3):
                with attempt:  # as an engine would
                    self._write(Backend(name), member(99))
        self.config.write_text(self.text)
        self.reload()
        for name in ("shop", "other"):
            self._write(Backend(name))

    def _write(self, backend: Backend, *members: Member) -> None:
        try:
            self.router.write(backend, members, 0)
        except RouterError as error:
            error.add_note((self.home / "error.log").read_text())
            raise

    @property
    def pid(self) -> int:
        """Its master process."""
        assert self.router.pid is not None
        return self.router.pid

    def reload(self) -> None:
        """As its owner would do it."""
        reload(self.router, self.home)

    def stop(self) -> None:
        """End it."""
        end({self.router.pid})
        end(workers(self.home))


@contextmanager
def external_nginxes(home: Path) -> Iterator[Callable[..., ExternalNginx]]:
    """Makes them; ended at the end."""
    made: list[ExternalNginx] = []

    def make(**options: Any) -> ExternalNginx:
        made.append(there := ExternalNginx(home, **options))
        there.begin()
        return there

    try:
        yield make
    finally:
        for each in made:
            each.stop()


def get(address: str, path: str, method: str = "GET") -> int | None:
    """The status; None when the answer broke off. It stays to the end of what is no answer: who leaves lost nothing."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (http.client.HTTPException, OSError):
        with suppress(OSError):
            while connection.sock is not None and connection.sock.recv(4096):
                pass
        return None
    finally:
        connection.close()
