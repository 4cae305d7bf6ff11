"""A scene of a load measurement: a database full of live rollouts, engines and a server in processes of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import TracebackType

from processes import free_port
from support.load_drivers import DRIVER, LoadOptions
from support.load_rollouts import ENDED_BEFORE, RolloutRequesters, environments, is_moving, request_next, service_of, settle
from support.wait import eventually, exit_status
from tidegate.core.model import Service
from tidegate.core.phases import Phase
from tidegate.store.store import SqlStore
from tidegate.web.auth import new_token

ROOT = Path(__file__).resolve().parents[2]
SERVER_THREADS = 256  # so that 200 may wait for events
SETTLE_SECONDS = 180.0  # at most, until all rollouts are where they wait; then they are measured as they are
TICKS = re.compile(r"^tidegate_ticks_total\{.*\} ([0-9.e+]+)$", re.MULTILINE)


def resident_mib(pid: int) -> float:
    """The memory of a process and of those that it started, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024 + sum(resident_mib(int(child)) for child in children)


class LoadProcess:
    """One engine, or the server."""

    def __init__(self, role: str, settings: Path, listen: str, *notes: str) -> None:
        self.address = f"http://{listen}"
        paths = os.pathsep.join([str(ROOT / "service"), str(ROOT / "tests")])
        told = {"engine": "TIDEGATE_ENGINE__METRICS_LISTEN", "serve": "TIDEGATE_LISTEN"}[role]
        command = [sys.executable, str(ROOT / "tests/support/load_process.py"), role, str(settings), *notes]
        self._running = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths, told: listen})

    def await_answer(self, path: str) -> None:
        """It listens."""
        eventually(f"{self.address}{path} answers", lambda: self._answers(path), process=self._running, poll_seconds=0.2)

    def _answers(self, path: str) -> bool:
        try:
            urllib.request.urlopen(self.address + path, timeout=60).close()
        except OSError:
            return False
        return True

    def ticks(self) -> float:
        """How many an engine has made so far."""
        with urllib.request.urlopen(f"{self.address}/metrics", timeout=60) as answer:
            return sum(map(float, TICKS.findall(answer.read().decode())))

    def resident_mib(self) -> float:
        """What it holds now."""
        return resident_mib(self._running.pid)

    def end(self) -> None:
        """Returns once it has ended."""
        self._running.send_signal(signal.SIGTERM)
        exit_status(self._running)


class LoadSetup:
    """While it is entered: so many live rollouts in the database at `url`, driven by so many engines."""

    def __init__(self, url: str, home: Path, memory: Path, rollouts: int, engines: int) -> None:
        self._url, self._home, self._engines = url, home, engines
        self._services = [service_of(number) for number in range(rollouts)]
        self._world = LoadOptions(directory=memory)
        self._settings = home / "settings.toml"
        self._held = ExitStack()
        self._store = SqlStore(url)
        self.token = ""
        self.engines: list[LoadProcess] = []
        self.settle_seconds = 0.0  # from the start of the engines until all stood where they wait

    def __enter__(self) -> LoadSetup:
        with ExitStack() as held:  # so that nothing is left over when something does not start
            held.enter_context(closing(self._store))
            self._fill()
            begun = time.monotonic()
            for number in range(self._engines):
                engine = LoadProcess("engine", self._settings, f"127.0.0.1:{free_port()}", str(self._notes(number)))
                held.callback(engine.end)
                self.engines.append(engine)
            for engine in self.engines:
                engine.await_answer("/metrics")
            with suppress(AssertionError):
                eventually("all rollouts wait", self._is_settled, SETTLE_SECONDS, poll_seconds=0.5)
            self.settle_seconds = time.monotonic() - begun
            held.enter_context(RolloutRequesters(self._store, self._moving()))
            self._held = held.pop_all()
        return self

    def _fill(self) -> None:
        """The settings, and a database with every service and its live rollout."""
        self._settings.write_text(self._told())
        self._store.migrate()
        self.token, token = new_token("load", ("admin",), ("*",), time.time())
        self._store.add_token(token)
        settle(self._store, self._services, self._world, time.time)
        for service in self._services:
            request_next(self._store, service, ENDED_BEFORE, time.time)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._held.close()

    def serve(self) -> LoadProcess:
        """The server; it ends with the scene."""
        server = LoadProcess("serve", self._settings, f"127.0.0.1:{free_port()}")
        self._held.callback(server.end)
        server.await_answer("/healthz")
        return server

    def waiting(self) -> list[tuple[str, str]]:
        """The rollouts that stand still, with their services."""
        still = [service for number, service in enumerate(self._services) if not is_moving(number)]
        return [(f"{service.name}-{ENDED_BEFORE + 1}", service.key) for service in still]

    def lateness(self, begin: float, end: float) -> list[float]:
        """Seconds from due until decided, of all that was decided between these moments; once the engines have ended."""
        lines = [line.split() for n in range(self._engines) for line in self._notes(n).read_text().splitlines()]
        return [float(late) for at, late in lines if begin <= float(at) < end]

    def _notes(self, number: int) -> Path:
        return self._home / f"notes-{number}"

    def _moving(self) -> list[Service]:
        return [service for number, service in enumerate(self._services) if is_moving(number)]

    def _is_settled(self) -> bool:
        """Nothing is pending any more, and what waits stands settled in the step where it waits."""
        if any(phase == Phase.PENDING.value for _, phase in self._store.stats().live):
            return False
        newest = (self._store.rollouts(service, limit=1)[0] for _, service in self.waiting())
        return all(rollout.step_ready_at is not None for rollout in newest)

    def _told(self) -> str:
        """The settings of the engines and of the server."""
        lines = [f'database = "{self._url}"', "[web]", f"threads = {SERVER_THREADS}", "[log]", 'level = "warning"']
        for environment in environments():
            for part in ("platform", "router", "metrics"):
                head = f"[environments.{environment}.{part}]"
                lines += [head, f'driver = "{DRIVER}"', f'directory = "{self._world.directory}"']
        return "\n".join(lines) + "\n"
