"""A small world to try the engine on: instances, a proxy and a metrics source in memory, all of which can be made to fail.

The store beside it is the real one, on SQLite.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tidegate.analysis.queries import Series
from tidegate.clock import Time, Window
from tidegate.core import planner
from tidegate.core.compose import Adoption, ComposeContainer
from tidegate.core.container import Container
from tidegate.core.hooks import Job, JobState
from tidegate.core.image_reference import PinnedImage
from tidegate.core.logs import InstanceLog, LogLine
from tidegate.core.model import (
    DEFAULT_MAX_RESTARTS,
    Check,
    CheckKind,
    Event,
    Instance,
    InstanceState,
    Policy,
    Release,
    Rollout,
    Service,
)
from tidegate.core.phases import Phase
from tidegate.core.records import Claim, Idempotency
from tidegate.core.rollout_state import member_of
from tidegate.core.routing import Backend, Member, RouterState, Traffic
from tidegate.errors import MetricsError, RouterError
from tidegate.ports import Clock, Diagnosis, Drivers, PlatformHost
from tidegate.store.store import SqlStore

GONE_IDS = "a proxy member's instance was stopped"


def digest(image: str) -> str:
    """What an image is resolved to in the small world."""
    return f"sha256:{hashlib.sha256(image.encode()).hexdigest()}"


class SimulatedCrash(BaseException):
    """The engine dies here. Not an `Exception`, so that nothing catches it."""


class Interposed:
    """Any port, with something that is called before each of its verbs."""

    def __init__(self, target: object, before: Callable[[str], None]) -> None:
        self._target, self._before = target, before

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._target, name)

        def call(*args: object, **named: object) -> object:
            self._before(name)
            return verb(*args, **named)

        return call


@dataclass
class FakeEnvironment:
    """Containers and a proxy. `faults` are raised by the next calls of a verb, one each; `always` by all of them."""

    clock: Clock
    ready_after: float = 0.05
    never_ready: set[str] = field(default_factory=set)  # releases
    crashing: set[str] = field(default_factory=set)  # releases whose instances end at once
    sick: set[str] = field(default_factory=set)  # instances that are not ready any more
    seen_ready: set[str] = field(default_factory=set)  # instances that were, whatever the clock does
    faults: dict[str, list[Exception]] = field(default_factory=dict)
    always: dict[str, Exception] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    started: dict[str, tuple[Instance, Time]] = field(default_factory=dict)
    routed: dict[str, tuple[Member, ...]] = field(default_factory=dict)  # backend
    draining: dict[str, int | None] = field(default_factory=dict)
    proxy_ended: bool = False  # the next look starts it
    in_flight: dict[str, int] = field(default_factory=dict)  # by release: what a member has when it leaves the route
    fences: dict[str, int] = field(default_factory=dict)
    adopted: dict[str, Adoption | None] = field(default_factory=dict)  # by service
    requests: int = 0
    answer: Callable[[str, Window], tuple[Series, ...]] = lambda query, window: ()
    count: int = 0
    documents: dict[str, Mapping[str, object]] = field(default_factory=dict)  # by release: what its instances serve
    statuses: dict[str, int] = field(default_factory=dict)  # by hook: how it ends; 0 unless said otherwise
    compose: dict[tuple[str, str], Sequence[ComposeContainer]] = field(default_factory=dict)  # by project and service
    polls: int = 2  # after so many looks a hook has ended
    jobs: dict[tuple[str, str], int] = field(default_factory=dict)  # rollout and hook: looks left
    begun: list[str] = field(default_factory=list)  # hooks, as they were begun
    pinned: dict[str, PinnedImage] = field(default_factory=dict)  # by image, where it is not `digest` of it
    removed: list[str] = field(default_factory=list)  # backends
    removed_images: list[str] = field(default_factory=list)  # digests
    logs: dict[str, list[LogLine]] = field(default_factory=dict)  # by instance
    unreadable: dict[str, str] = field(default_factory=dict)  # by instance: why its log cannot be read
    pause: Callable[[str], None] = lambda verb: None
    lock: threading.RLock = field(default_factory=threading.RLock)

    def did(self, verb: str) -> None:
        """Record the call; fail if told to."""
        with self.lock:
            self.calls.append(verb)
            waiting = self.faults.get(verb)
            fault = waiting.pop(0) if waiting else self.always.get(verb)
        self.pause(verb)
        if fault is not None:
            raise fault

    def parts(self, *, metrics: bool = True) -> Drivers:
        """It as an environment's drivers."""
        return Drivers(FakePlatform(self), FakeRouter(self), FakeMetrics(self) if metrics else None, FakeDocuments(self))

    def present(self, release: str | None = None) -> list[Instance]:
        """What exists, of one release or at all."""
        with self.lock:
            found = [self._now(*each) for each in self.started.values()]
        return [each for each in found if release in (None, each.release)]

    def serving(self, backend: str = "shop") -> list[str]:
        """The releases of the proxy's members."""
        return sorted(each.release for each in self.routed.get(backend, ()))

    def _now(self, instance: Instance, since: Time) -> Instance:
        if instance.release in self.crashing:
            return replace(instance, state=InstanceState.FAILED, restarts=3, detail="exited with 1")
        if self.clock() - since >= self.ready_after and instance.release not in self.never_ready:
            self.seen_ready.add(instance.id)
        if instance.id in self.sick:
            return replace(instance, state=InstanceState.STARTING, detail="GET /health answered 503")
        ready = instance.id in self.seen_ready
        return replace(instance, state=InstanceState.READY if ready else InstanceState.STARTING)


class FakePlatform:
    """`ports.Platform` on a small world. What is stopped is gone at once."""

    def __init__(self, world: FakeEnvironment) -> None:
        self._world = world
        self._services: dict[str, str] = {}

    def pin(self, release: Release) -> PinnedImage:
        self._world.did("pin")
        return self._world.pinned.get(release.image, PinnedImage(digest(release.image)))

    def find_digest(self, release: Release) -> str:
        self._world.did("find_digest")
        return self._world.pinned.get(release.image, PinnedImage(digest(release.image))).digest

    def adopt(self, service: str, adopted: Adoption | None) -> None:
        self._world.adopted[service] = adopted

    def instances(self, service: str, max_restarts: int = DEFAULT_MAX_RESTARTS) -> tuple[Instance, ...]:
        self._world.did("instances")
        return tuple(each for each in self._world.present() if each.host == service)

    def start(self, release: Release, ordinals: Collection[int]) -> None:
        world = self._world
        world.did("start")
        assert release.digest == digest(release.image) or not world.count, "started before it was pinned"
        with world.lock:
            there = {each.ordinal for each in world.present(release.id) if each.host == release.service}
            for ordinal in set(ordinals) - there:
                world.count += 1
                made = Instance(
                    f"i{world.count:04}",
                    release.id,
                    ordinal,
                    f"10.0.0.{world.count}:80",
                    InstanceState.STARTING,
                    host=release.service,
                )
                world.started[made.id] = (made, world.clock())

    def stop(self, instances: Collection[Instance], grace_seconds: float) -> None:
        world = self._world
        world.did("stop")
        with world.lock:
            routed = {member.instance for members in world.routed.values() for member in members}
            for instance in instances:
                assert instance.id not in routed, GONE_IDS
                world.started.pop(instance.id, None)

    def run_job(self, job: Job) -> JobState:
        world, key = self._world, (job.rollout, job.name)
        world.did("run")
        with world.lock:
            if key not in world.jobs:
                world.begun.append(job.name)
                world.jobs[key] = world.polls
            world.jobs[key] -= 1
            over = world.jobs[key] <= 0
        return JobState(world.statuses.get(job.name, 0) if over else None, f"{job.name} says hello")

    def stop_job(self, job: Job) -> None:
        self._world.did("end")
        self._world.jobs[job.rollout, job.name] = 0

    def remove_jobs(self, service: str, rollout: str) -> None:
        self._world.did("clear")
        for key in [key for key in self._world.jobs if key[0] == rollout]:
            del self._world.jobs[key]

    def hosts(self) -> Sequence[PlatformHost]:
        return [PlatformHost("local", is_local=True)]

    def compose_containers(self, project: str, service: str) -> Sequence[ComposeContainer]:
        return self._world.compose.get((project, service), ())

    def tail_logs(self, instance: Instance, lines: int) -> str:
        self._world.did("tail")
        assert instance.id in self._world.started, "asked for the log of what is gone"
        return f"{instance.release} says no\n" * min(lines, 2)

    def remove_images(self, releases: Collection[Release]) -> Sequence[str]:
        self._world.did("remove images")
        self._world.removed_images += [release.digest for release in releases]
        return [release.digest for release in releases]

    def read_logs(self, instances: Collection[Instance], after_ns: Mapping[str, int], lines: int) -> Sequence[InstanceLog]:
        self._world.did("logs")
        read = []
        for each in instances:
            after, written = after_ns.get(each.id, 0), self._world.logs.get(each.id, [])
            found = [line for line in written if line.at_ns > after]
            skipped = bool(after) and len(found) > lines
            read.append(InstanceLog(each.id, tuple(found[-lines:]), skipped, self._world.unreadable.get(each.id, "")))
        return read

    def check(self) -> Sequence[Diagnosis]:
        return ()

    def close(self) -> None: ...


class FakeRouter:
    """`ports.Router` on a small world: refuses old fences, strikes out idle ones."""

    def __init__(self, world: FakeEnvironment) -> None:
        self._world = world

    def unsupported(self, backend: Backend) -> Mapping[str, str]:
        return {}

    def read(self, backend: Backend) -> RouterState:
        world = self._world
        world.did("read")
        with world.lock:
            members = world.routed.get(backend.name, ())
            world.requests += 10
            traffic = Traffic(world.requests, 0, 0)
            draining = {} if backend.name.endswith("_preview") else dict(world.draining)
            revived, world.proxy_ended = world.proxy_ended, False
            return RouterState(members, draining, {}, world.fences.get(backend.name, 0), traffic, restarted=revived)

    def write(self, backend: Backend, members: Collection[Member], fence: int) -> None:
        world = self._world
        world.did("write")
        with world.lock:
            if fence < world.fences.get(backend.name, 0):
                raise RouterError(f"fence {fence} is too old", retryable=False)
            world.fences[backend.name] = fence
            wanted = tuple(members)
            for each in world.routed.get(backend.name, ()):
                if each not in wanted and world.in_flight.get(each.release):
                    world.draining[each.instance] = world.in_flight[each.release]
            for instance in [name for name, count in world.draining.items() if count == 0]:
                del world.draining[instance]
            world.routed[backend.name] = wanted

    def remove(self, backend: Backend, fence: int) -> None:
        world = self._world
        world.did("remove")
        with world.lock:
            assert not world.routed.get(backend.name), "removed a backend that has members"
            world.routed.pop(backend.name, None)
            world.removed.append(backend.name)

    def check(self) -> Sequence[Diagnosis]:
        return ()


class FakeMetrics:
    """`ports.Metrics` on a small world."""

    def __init__(self, world: FakeEnvironment) -> None:
        self._world = world

    def fetch(self, query: str, window: Window, step_seconds: float = 0.0) -> tuple[Series, ...]:
        self._world.did("fetch")
        return self._world.answer(query, window)

    def check(self) -> Sequence[Diagnosis]:
        return ()


class FakeDocuments:
    """`ports.Documents` on a small world."""

    def __init__(self, world: FakeEnvironment) -> None:
        self._world = world

    def fetch(self, address: str, path: str, timeout_seconds: float) -> Mapping[str, object] | None:
        self._world.did("document")
        (release,) = (each.release for each in self._world.present() if each.address == address)
        return self._world.documents.get(release)


def down(query: str, window: Window) -> tuple[Series, ...]:
    """A metrics source that does not answer."""
    raise MetricsError("Prometheus refused the connection", reason="source-down")


def constant(value: float) -> Callable[[str, Window], tuple[Series, ...]]:
    """A metrics source that always says this, with a sample a second."""

    def answer(query: str, window: Window) -> tuple[Series, ...]:
        times = [window.end - back for back in range(int(window.seconds) + 1)]
        return (Series({}, tuple((at, value) for at in sorted(times))),)

    return answer


LIMIT = Check("slow", CheckKind.QUERY, "slow_seconds", maximum=0.5, min_samples=1)


def a_service(name: str = "shop", **changes: Any) -> Service:
    """Two replicas, one at a time, no bake, no checks, unless changed."""
    policy = Policy(drain_timeout_seconds=5.0, healthy_deadline_seconds=20.0, interval_seconds=1.0)
    plain = Service("demo", name, f"{name}:1", 2, Container(80), Backend(name), policy=policy)
    return replace(plain, **changes)


def a_release(service: Service, number: int) -> Release:
    """`v1-1`, `v2-2`, …"""
    image = f"{service.name}:{number}"
    return Release(f"v{number}-{number}", service.key, image, service.replicas, service.container)


def request_rollout(
    store: SqlStore, service: Service, number: int, clock: Clock, old: int | None = None, group: str = ""
) -> str:
    """Record a rollout to the release of this number; its id."""
    new = a_release(service, number)
    before = None if old is None else a_release(service, old)
    rollout = Rollout(
        id=f"{service.name}-{number}",
        service=service.key,
        old=before.id if before else None,
        new=new.id,
        plan=planner.make_plan(service, before, new),
        backend=service.backend,
        created=clock(),
        old_replicas=before.replicas if before else 0,
        batch=service.batch,
        checks=service.checks,
        policy=service.policy,
        hooks=service.hooks,
        compare=service.compare,
        requested_by="jenkins",
        group=group,
    )
    event = Event("created", "asked for by jenkins", clock())
    store.create(rollout, service, new, Idempotency("", "", ""), event)
    return rollout.id


def record_old(store: SqlStore, service: Service, clock: Clock) -> Claim:
    """Release 1 serves, as far as the store knows, as if a rollout had brought it about: cheaper than to drive one."""
    rollout = request_rollout(store, service, 1, clock)
    claim = claimed(store)
    store.set_digest(service.key, "v1-1", digest(service.image), claim.fence, rollout)
    loaded, _ = store.load(rollout)
    loaded = store.save(replace(loaded, phase=Phase.RUNNING), (), claim.fence)
    store.save(replace(loaded, phase=Phase.SUCCEEDED, finished=clock()), (), claim.fence)
    store.release(claim, None)
    return claim


def settle_old(store: SqlStore, world: FakeEnvironment, service: Service, clock: Clock) -> None:
    """Release 1 serves: the store knows it, and the world has it."""
    claim = record_old(store, service, clock)
    members = []
    for ordinal in range(service.replicas):
        world.count += 1
        made = Instance(
            f"i{world.count:04}", "v1-1", ordinal, f"10.0.0.{world.count}:80", InstanceState.READY, host=service.key
        )
        world.started[made.id] = (made, clock() - 3600)
        members.append(member_of(made))
    world.routed[service.backend.name] = tuple(members)
    world.fences[service.backend.name] = claim.fence


def claimed(store: SqlStore, owner: str = "anna", seconds: float = 15.0) -> Claim:
    """A claim that must be there to be had."""
    claim = store.claim(owner, seconds)
    assert claim is not None, "nothing was due"
    return claim


@contextmanager
def sqlite(folder: Path, clock: Clock) -> Iterator[SqlStore]:
    """A new store, closed afterwards."""
    store = SqlStore(f"sqlite:///{folder}/tidegate.db", clock)
    store.migrate()
    try:
        yield store
    finally:
        store.close()
