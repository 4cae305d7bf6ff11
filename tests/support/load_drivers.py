"""A world of files that several engine processes share: instances and routes, one file for each service, never slow.

Nothing of it is held in the engines' own memory, so that their size is their own. Whoever holds the claim of a service is
the only one who writes its files, so that no lock is needed.
"""

from __future__ import annotations

import pickle
import threading
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from support.fake_drivers import digest
from tidegate.analysis.queries import Series
from tidegate.clock import Time, Window
from tidegate.core.compose import ComposeContainer
from tidegate.core.hooks import Job, JobState
from tidegate.core.image_reference import PinnedImage
from tidegate.core.model import DEFAULT_MAX_RESTARTS, Instance, InstanceState, Release, Service
from tidegate.core.rollout_state import member_of
from tidegate.core.routing import Backend, Member, RouterState, Traffic
from tidegate.drivers import registry
from tidegate.errors import RouterError
from tidegate.ports import Diagnosis, PlatformHost

DRIVER = "load"  # what the settings of a measured server name
MEASURED = 0.1  # what every query is answered with
Made = tuple[Instance, Time]  # and when it was started


class LoadOptions(BaseModel):
    """Where the files are, and after how many seconds an instance is ready."""

    directory: Path
    ready_seconds: float = 0.5


class ValueFiles:
    """Values by name in one folder, each replaced as a whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, default: Any) -> Any:
        """What was put last."""
        try:
            return pickle.loads((self._folder / name.replace("/", ".")).read_bytes())
        except FileNotFoundError:
            return default

    def put(self, name: str, value: object) -> None:
        """Seen whole or not at all by those who read meanwhile."""
        place = self._folder / name.replace("/", ".")
        new = place.with_name(f"{place.name}.{threading.get_native_id()}")
        new.write_bytes(pickle.dumps(value))
        new.replace(place)


class LoadPlatform:
    """`ports.Platform` on files. What is stopped is gone at once."""

    Options = LoadOptions

    def __init__(self, options: LoadOptions, environment: str) -> None:
        self._made = ValueFiles(options.directory / environment / "instances")
        self._ready_seconds = options.ready_seconds

    def settle(self, service: Service, release: str) -> list[Instance]:
        """These run, and have for long."""
        made = [_instance(release, ordinal, service.key) for ordinal in range(service.replicas)]
        self._made.put(service.key, [(each, 0.0) for each in made])
        return made

    def pin(self, release: Release) -> PinnedImage:
        return PinnedImage(digest(release.image))

    def find_digest(self, release: Release) -> str:
        return digest(release.image)

    def instances(self, service: str, max_restarts: int = DEFAULT_MAX_RESTARTS) -> tuple[Instance, ...]:
        ready = time.time() - self._ready_seconds
        found: list[Made] = self._made.get(service, [])
        return tuple(replace(each, state=InstanceState.READY) if since <= ready else each for each, since in found)

    def start(self, release: Release, ordinals: Collection[int]) -> None:
        found: list[Made] = self._made.get(release.service, [])
        there = {each.ordinal for each, _ in found if each.release == release.id}
        new = [(_instance(release.id, ordinal, release.service), time.time()) for ordinal in set(ordinals) - there]
        self._made.put(release.service, found + new)

    def stop(self, instances: Collection[Instance], grace_seconds: float) -> None:
        gone = {instance.id for instance in instances}
        for service in {instance.host for instance in instances}:
            self._made.put(service, [made for made in self._made.get(service, []) if made[0].id not in gone])

    def run_job(self, job: Job) -> JobState:
        return JobState(0)

    def stop_job(self, job: Job) -> None: ...

    def remove_jobs(self, service: str, rollout: str) -> None: ...

    def hosts(self) -> Sequence[PlatformHost]:
        return [PlatformHost("local", is_local=True)]

    def compose_containers(self, project: str, service: str) -> Sequence[ComposeContainer]:
        return ()

    def tail_logs(self, instance: Instance, lines: int) -> str:
        return ""

    def check(self) -> Sequence[Diagnosis]:
        return ()

    def close(self) -> None: ...


def _instance(release: str, ordinal: int, service: str) -> Instance:
    return Instance(uuid.uuid4().hex[:12], release, ordinal, "10.0.0.1:80", InstanceState.STARTING, host=service)


class LoadRouter:
    """`ports.Router` on files: nothing is ever in flight."""

    Options = LoadOptions

    def __init__(self, options: LoadOptions, environment: str) -> None:
        self._routes = ValueFiles(options.directory / environment / "routes")

    def settle(self, service: Service, instances: Sequence[Instance], fence: int) -> None:
        """These serve."""
        self.write(service.backend, [member_of(instance) for instance in instances], fence)

    def unsupported(self, backend: Backend) -> Mapping[str, str]:
        return {}

    def read(self, backend: Backend) -> RouterState:
        members, fence = self._routes.get(backend.name, ((), 0))
        return RouterState(members, fence=fence, traffic=Traffic(0, 0, 0))

    def write(self, backend: Backend, members: Collection[Member], fence: int) -> None:
        last = self.read(backend).fence
        if fence < last:
            raise RouterError(f"fence {fence} is older than {last}", retryable=False)
        self._routes.put(backend.name, (tuple(members), fence))

    def check(self) -> Sequence[Diagnosis]:
        return ()


class LoadMetrics:
    """`ports.Metrics`: every query has one series with one value, always the same."""

    Options = LoadOptions

    def __init__(self, options: LoadOptions, environment: str) -> None: ...

    def fetch(self, query: str, window: Window, step_seconds: float = 0.0) -> tuple[Series, ...]:
        return (Series({}, ((window.end, MEASURED),)),)

    def check(self) -> Sequence[Diagnosis]:
        return ()


def register() -> None:
    """Make the drivers known to this process, under one name."""
    for kind, made in (("platform", LoadPlatform), ("router", LoadRouter), ("metrics", LoadMetrics)):
        registry.BUILT_IN_DRIVERS[kind][DRIVER] = f"{made.__module__}:{made.__name__}"
