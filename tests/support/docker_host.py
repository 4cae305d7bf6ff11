"""Docker engines of the test's own: each a daemon with its data, socket and bridge, that leaves the machine's alone."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import docker
from docker.errors import DockerException

from processes import unique_name
from support.prerequisites import missing, program, run
from support.wait import eventually, exit_status


class RemoteMachine:
    """A network namespace, as another machine would be: one cable leads there, which can be cut."""

    def __init__(self) -> None:
        self.name = unique_name("tg")
        self.network = free_network()
        self.address = f"{self.network}.2"

    def make(self) -> None:
        """With our end of the cable at `.1` and its own at `.2`."""
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", self.name, "type", "veth", "peer", "name", "cable", "netns", self.name)
        run("ip", "address", "add", f"{self.network}.1/24", "dev", self.name)
        run("ip", "link", "set", self.name, "up")
        run("ip", "-n", self.name, "address", "add", f"{self.address}/24", "dev", "cable")
        for device in ("lo", "cable"):
            run("ip", "-n", self.name, "link", "set", device, "up")

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Nothing comes through, in this block."""
        run("ip", "-n", self.name, "link", "set", "cable", "down")
        try:
            yield
        finally:
            run("ip", "-n", self.name, "link", "set", "cable", "up")

    @contextmanager
    def muted(self) -> Iterator[None]:
        """What is sent to it arrives, and none of its answers, in this block."""
        away = ("route", "add", "blackhole", f"{self.network}.1/32")
        run("ip", "-n", self.name, *away)
        try:
            yield
        finally:
            run("ip", "-n", self.name, "route", "delete", *away[2:])

    def remove(self) -> None:
        """What runs in it has to be ended before."""
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)


def free_network() -> str:
    """The first three numbers of one that no interface of ours has."""
    for _ in range(20):
        network = f"10.{random.randint(200, 250)}.{random.randint(0, 255)}"
        if f" {network}." not in run("ip", "-o", "address"):
            break
    return network


class Engine:
    """A private daemon. `url` is where it listens; its containers are reached at addresses of its own bridge.

    `machine`: where its network is, and theirs; left out, ours.
    """

    def __init__(self, directory: Path, flags: Sequence[str] = (), machine: RemoteMachine | None = None) -> None:
        self.directory = directory
        self.url = f"unix://{directory}/docker.sock"
        self.bridge = unique_name("tg")
        self._flags = flags
        self._ip = ("ip",) if machine is None else ("ip", "-n", machine.name)
        self._within = () if machine is None else ("nsenter", f"--net=/run/netns/{machine.name}")
        self._process: subprocess.Popen[bytes] | None = None

    def make_bridge(self) -> None:
        """An interface of its own; without one, several daemons would fight for docker0."""
        run(*self._ip, "link", "add", self.bridge, "type", "bridge")
        run(*self._ip, "address", "add", f"{free_network()}.1/24", "dev", self.bridge)
        run(*self._ip, "link", "set", self.bridge, "up")

    def start(self) -> None:
        """Start it, and come back when it answers."""
        command = [
            *self._within,
            program("dockerd"),
            *("--host", self.url, "--bridge", self.bridge, "--iptables=false", "--ip-masq=false"),
            *("--data-root", f"{self.directory}/data", "--exec-root", f"{self.directory}/exec"),
            *("--pidfile", f"{self.directory}/pid", *self._flags),
        ]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            eventually("dockerd answers", self._answers, process=self._process, poll_seconds=0.05)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{(self.directory / 'log').read_text()[-2000:]}") from None

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as line:  # the SDK leaves its socket open where nothing listens
            try:
                line.connect(self.url.removeprefix("unix://"))
            except OSError:
                return False
        try:
            with self.client() as client:
                return bool(client.ping())
        except DockerException:
            return False

    def stop(self) -> None:
        """End the daemon, and with it every container."""
        if self._process is not None:
            self._process.terminate()
            try:
                exit_status(self._process)
            finally:
                self._process.kill()
                self._process = None

    def restart(self) -> None:
        """What a reboot or an update does."""
        self.stop()
        self.start()

    @contextmanager
    def client(self) -> Iterator[docker.DockerClient]:
        """The SDK's client of it."""
        client = docker.DockerClient(base_url=self.url)
        try:
            yield client
        finally:
            client.close()

    def clear(self) -> None:
        """Remove every container, then end the daemon and take its bridge away."""
        try:
            if self._process is not None and self._process.poll() is None:
                with self.client() as client:
                    for container in client.containers.list(all=True):
                        container.remove(force=True)
        finally:
            self.stop()
            subprocess.run([*self._ip, "link", "delete", self.bridge], check=False, capture_output=True)


@contextmanager
def running_engine(*flags: str, data_megabytes: int = 0, machine: RemoteMachine | None = None) -> Iterator[Engine]:
    """A private engine, perhaps on another machine; with `data_megabytes` on a file system of that size, which can be
    filled."""
    for name in ("dockerd", "containerd", "ip"):
        program(name)
    if os.geteuid() != 0:
        missing("the right to start a Docker engine (root)")
    directory = Path(tempfile.mkdtemp(prefix="tg"))
    engine = Engine(directory, flags, machine)
    data = directory / "data"
    data.mkdir()
    try:
        if data_megabytes:
            run("mount", "-t", "tmpfs", "-o", f"size={data_megabytes}m", "tmpfs", str(data))
        engine.make_bridge()
        engine.start()
        yield engine
    finally:
        try:
            engine.clear()
        finally:
            _unmount(data)
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def remote_machine() -> Iterator[RemoteMachine]:
    """One more machine."""
    if os.geteuid() != 0:
        missing("the right to make a network namespace (root)")
    machine = RemoteMachine()
    try:
        machine.make()
        yield machine
    finally:
        machine.remove()


def _unmount(path: Path) -> None:
    """The daemon may have left mounts of its own below; one whose containers outlive it leaves this very folder mounted."""
    subprocess.run(["umount", "--recursive", "--lazy", str(path)], check=False, capture_output=True)


def certificates(directory: Path) -> None:
    """An authority with a certificate for 127.0.0.1 (server.pem) and one for a client (client.pem), by openssl."""
    openssl = program("openssl")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

    def make(name: str, *more: str) -> None:
        files = ("-keyout", f"{directory}/{name}.key", "-out", f"{directory}/{name}.pem")
        run(openssl, "req", "-x509", *key, *files, "-days", "2", "-subj", f"/CN={name}", *more)

    make("ca")
    signed = ("-CA", f"{directory}/ca.pem", "-CAkey", f"{directory}/ca.key", "-addext", "basicConstraints=CA:FALSE")
    make("server", *signed, "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "extendedKeyUsage=serverAuth")
    make("client", *signed, "-addext", "extendedKeyUsage=clientAuth")
