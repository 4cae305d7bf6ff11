"""HAProxy for tests: one that Tidegate owns, one that stands there already, and a crash at any of Tidegate's steps."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from support.backends import free_port
from support.crash_points import CrashPoints
from support.prerequisites import program
from support.wait import eventually, exit_status
from tidegate.drivers.routers.haproxy import runtime_api
from tidegate.drivers.routers.haproxy.driver import HAProxyRouter
from tidegate.drivers.routers.haproxy.options import HAProxyOptions

ADOPTED = """\
global
    stats socket {home}/admin.sock mode 600 level {level} expose-fd listeners
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server {timeout}
    option idle-close-on-response
frontend in
    bind 127.0.0.1:{port}
    use_backend shop_preview if {{ req.hdr(x-shop-preview) -m str blue }}
    default_backend shop
backend shop
    balance {balance}
{servers}
backend shop_preview
    balance roundrobin
backend other
    balance roundrobin
"""


def ended(pid: int) -> bool:
    """Whether the process is gone, or only its remains are there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short name: a unix socket's path has at most about 100 characters."""
    with tempfile.TemporaryDirectory(prefix="tg") as folder:
        yield Path(folder)


@contextmanager
def owned_router(home: Path, **options: Any) -> Iterator[HAProxyRouter]:
    """A router with these options that starts its own HAProxy; ended at the end."""
    program("haproxy")
    options = {"directory": home / "haproxy", "exporter": f"127.0.0.1:{free_port()}", **options}
    router = HAProxyRouter(HAProxyOptions(**options), "test")
    try:
        yield router
    finally:
        pid = router.pid
        router.stop_process()
        if pid is not None:
            eventually("HAProxy has ended", lambda: ended(pid))


def kill(router: HAProxyRouter) -> None:
    """SIGKILL to an owned HAProxy, master and workers."""
    pid = router.pid
    assert pid is not None
    eventually("the master answers", router.workers)  # just after a reload the master does not answer
    every = (pid, *router.workers())
    for each in every:
        os.kill(each, signal.SIGKILL)
    eventually("master and workers have ended", lambda: all(ended(each) for each in every))


def reload(router: HAProxyRouter) -> None:
    """As a person would reload an owned one; returns when the new worker serves."""
    before, pid = router.workers(), router.pid
    assert pid is not None
    os.kill(pid, signal.SIGUSR2)
    eventually("a new worker serves", lambda: set(router.workers()) - set(before))


def hears(master: int) -> bool:
    """Whether its worker runs and it heeds SIGUSR2, which is lost before."""
    folder = Path(f"/proc/{master}")
    caught = next(line.split()[1] for line in (folder / "status").read_text().splitlines() if line.startswith("SigCgt"))
    started = b"HAPROXY_MWORKER_WAIT_ONLY" in (folder / "environ").read_bytes()
    return started and bool(int(caught, 16) >> (signal.SIGUSR2 - 1) & 1)


class ExternalHAProxy:
    """A HAProxy that somebody else runs."""

    def __init__(self, home: Path, *, master: bool = False, **options: str) -> None:
        self.port, self.config, self.socket = free_port(), home / "haproxy.cfg", home / "admin.sock"
        values = {"level": "admin", "balance": "roundrobin", "servers": "", "timeout": "30s", **options}
        text = ADOPTED.format(home=home, port=self.port, **values)
        self.config.write_bytes(text.encode(errors="surrogateescape"))
        socket = home / "master.sock"
        words = ["-S", str(socket)] if master else []
        self._command = [program("haproxy"), "-W", *words, "-f", str(self.config)]
        self._start()
        places = {"socket": self.socket, "config": self.config, "master": socket if master else None}
        self.router = HAProxyRouter(HAProxyOptions(mode="adopted", directory=home / "kept", **places), "test")

    def _start(self) -> None:
        self.process = subprocess.Popen(self._command)
        try:
            eventually("HAProxy listens", lambda: hears(self.process.pid) and self.socket.exists(), process=self.process)
        except BaseException:
            self.process.kill()
            raise

    def kill(self) -> None:
        """SIGKILL to it, master and worker, as its supervisor sees; it is started again."""
        worker = self.worker()
        for each in (self.process.pid, worker):
            os.kill(each, signal.SIGKILL)
        exit_status(self.process)
        eventually("the worker has ended", lambda: ended(worker))
        self.socket.unlink()
        self._start()

    def ask(self, command: str) -> str:
        """What it answers to a command."""
        return runtime_api.send_command(self.socket, command)

    def worker(self) -> int:
        """The present worker's process id."""
        return int(runtime_api.process_info(self.ask)["Pid"])

    def reload(self) -> int:
        """As its owner would do it; returns the old worker when the new one alone serves.

        For a moment both accept on the same listening socket, so one answer of the new one is not enough.
        """
        old = self.worker()
        self.begin_reload()
        eventually("the new worker alone answers", lambda: all(self.worker() != old for _ in range(20)))
        return old

    def begin_reload(self) -> None:
        """Without waiting for the new worker."""
        eventually("HAProxy heeds SIGUSR2", lambda: hears(self.process.pid))
        self.process.send_signal(signal.SIGUSR2)

    def stop(self) -> None:
        """End it, old workers too."""
        self.process.terminate()
        exit_status(self.process)


@contextmanager
def external_haproxies(home: Path) -> Iterator[Callable[..., ExternalHAProxy]]:
    """Makes them; ended at the end."""
    with ExitStack() as stack:

        def make(**options: Any) -> ExternalHAProxy:
            made = ExternalHAProxy(home, **options)
            stack.callback(made.stop)
            return made

        yield make


#: Commands, files put in place, signals.
STEPS = CrashPoints(((runtime_api, "_send_once"), (runtime_api, "_read_response"), (Path, "rename"), (os, "kill")))
before_step, killed_before_step = STEPS.before, STEPS.killed_before
