"""Small values and a hand-set clock, for the exam of a store."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import TypeVar

from tidegate.analysis.verdict import Finding, Outcome, Reason, Verdict
from tidegate.clock import Time, Window
from tidegate.core import planner
from tidegate.core.container import Container, Health
from tidegate.core.model import Approval, Check, CheckKind, Event, Policy, Release, Rollout, Service
from tidegate.core.phases import Phase
from tidegate.core.records import Claim, Idempotency
from tidegate.core.routing import Backend, BackendOptions
from tidegate.store_port import Store

T = TypeVar("T")


class ManualClock:
    """Stands still until it is set forward."""

    def __init__(self, now: Time = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> Time:
        return self.now

    def forward(self, seconds: float) -> Time:
        """Returns the new time."""
        self.now += seconds
        return self.now


def a_service(name: str = "shop", *, environment: str = "demo", route: str = "", replicas: int = 2) -> Service:
    """Its route is its name unless given."""
    return Service(
        environment,
        name,
        image=f"{name}:v1",
        replicas=replicas,
        container=Container(8080, environment={"COLOUR": "blau", "EMPTY": ""}, volumes=("data:/data:ro",)),
        backend=Backend(
            route or name, listen=str(8001 + sum(name.encode())), options=BackendOptions(health=Health("/health"))
        ),
        bake_seconds=2.5,
        checks=(Check("errors", CheckKind.ERRORS, margin=0.005), Check("slow", CheckKind.QUERY, "q", maximum=0.25)),
        policy=Policy(drain_timeout_seconds=7.0, approval=Approval(after=(1,))),
    )


def with_approval(service: Service, *after: int) -> Service:
    """The same, with rollouts that wait for approval after these batches."""
    return replace(service, policy=replace(service.policy, approval=replace(service.policy.approval, after=after)))


def a_release(service: Service, number: int) -> Release:
    """`v1-1`, `v2-2`, …"""
    return Release(f"v{number}-{number}", service.key, f"{service.name}:v{number}", service.replicas, service.container)


def a_rollout(service: Service, number: int, old: Release | None = None, *, at: Time = 1_000_000.0) -> Rollout:
    """To the release of this number."""
    new = a_release(service, number)
    return Rollout(
        id=f"{service.name}-{number}",
        service=service.key,
        old=None if old is None else old.id,
        new=new.id,
        plan=planner.make_plan(service, old, new),
        backend=service.backend,
        created=at,
        old_replicas=0 if old is None else old.replicas,
        checks=service.checks,
        policy=service.policy,
        requested_by="jenkins",
    )


def an_event(kind: str = "moved", **data: object) -> Event:
    """Some event."""
    return Event(kind, f"it {kind}", 1_000_001.5, data=data)


def a_key(key: str, digest: str = "body") -> Idempotency:
    """Of one client and one path."""
    return Idempotency("jenkins POST /v1/services/demo/shop/rollouts", key, digest, 202, f'{{"answer": "{key}"}}')


def a_verdict(outcome: Outcome, at: Time = 1_000_003.0) -> Verdict:
    """With one finding."""
    window = Window(1_000_000.0, at)
    finding = Finding(
        "errors", outcome, Reason.OK, "2 of 100", 0.01, 0.02, limit=float("inf"), queries=("up",), window=window
    )
    return Verdict(outcome, at, window, (finding,), f"judged {outcome}", final=True)


def begin(store: Store, service: Service, number: int = 1, old: Release | None = None) -> Rollout:
    """Create the rollout to the service's release of this number."""
    rollout = a_rollout(service, number, old)
    assert store.create(rollout, service, a_release(service, number), a_key(rollout.id), an_event("created")) is None
    return rollout


def claim_due(store: Store, owner: str = "anna", ttl_seconds: float = 10.0) -> Claim:
    """A claim that must be there to be had."""
    claim = store.claim(owner, ttl_seconds)
    assert claim is not None, "nothing was due"
    return claim


def finish(store: Store, rollout: Rollout, *phases: Phase) -> Rollout:
    """Claim it and lead it through these phases; the last is a final one."""
    claim = claim_due(store)
    assert claim.rollout == rollout.id
    for phase in phases:
        rollout = store.save(replace(rollout, phase=phase), (an_event(phase.value),), claim.fence)
    store.release(claim, None)
    return rollout


def run_concurrently(*works: Callable[[], T]) -> list[T | Exception]:
    """Run these in threads that start together; what each returned or raised, in order."""
    barrier = Barrier(len(works))

    def run(work: Callable[[], T]) -> T | Exception:
        barrier.wait(timeout=60)
        try:
            return work()
        except Exception as error:  # handed to the caller, who looks at it
            return error

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))
