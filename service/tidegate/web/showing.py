"""From the core's values to the shapes of answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from tidegate.core.hooks import TaskRun
from tidegate.core.model import Event, Instance, Rollout, Signal, Step
from tidegate.core.phases import Phase
from tidegate.core.records import ReleaseRow, ServiceRow, Token
from tidegate.core.routing import RouterState
from tidegate.web.drifting import drift_view
from tidegate.web.held import BuildView, hold_view
from tidegate.web.times import when, when_known
from tidegate.web.views import (
    CheckView,
    EventView,
    GateView,
    InstancesView,
    InstanceView,
    MarksView,
    PreviewView,
    ReleaseView,
    RolloutView,
    ServiceView,
    StepView,
    TaskView,
    TokenView,
    TrafficView,
    VerdictView,
)


def rollout_view(rollout: Rollout, signals: Sequence[Signal] = ()) -> RolloutView:
    """`signals` are needed only while the rollout is held: an approval that was given is not waited for."""
    hold = hold_view(rollout, signals)
    batch, batches = _batches(rollout)
    here = f"/v1/rollouts/{rollout.id}"
    return RolloutView(
        id=rollout.id,
        service=rollout.service,
        old=rollout.old,
        new=rollout.new,
        kind=rollout.kind,
        phase=rollout.phase,
        reason=rollout.reason,
        paused=rollout.paused,
        cursor=rollout.cursor,
        steps=[_step(each) for each in rollout.plan],
        batch=batch,
        batches=batches,
        waiting_for=hold and hold.kind,
        hold=hold,
        forced=rollout.forced,
        image=rollout.image,
        digest=rollout.digest,
        build=rollout.build and BuildView(**asdict(rollout.build)),
        tasks=[_task(each) for each in rollout.tasks],
        preview=rollout.backend.preview and PreviewView(**asdict(rollout.backend.preview)),
        group=rollout.group,
        marks=MarksView(
            entered=when_known(rollout.entered),
            shifted=when_known(rollout.shifted),
            settled=when_known(rollout.settled),
            held=when_known(rollout.held),
        ),
        extensions=rollout.extensions,
        verdict=rollout.verdict and VerdictView.of(rollout.verdict),
        created=when(rollout.created),
        finished=when_known(rollout.finished),
        requested_by=rollout.requested_by,
        requested_via=rollout.requested_via,
        version=rollout.version,
        links={
            "self": here,
            "events": f"{here}/events",
            "report": f"{here}/report",
            "service": f"/v1/services/{rollout.service}",
        },
    )


def _task(run: TaskRun) -> TaskView:
    return TaskView(name=run.name, state=run.state, begun=when(run.begun), ended=when_known(run.ended), message=run.message)


def _step(step: Step) -> StepView:
    gate = GateView(**asdict(step.gate))
    preview, share = dict(step.preview), step.share
    return StepView(fleet=dict(step.fleet), route=dict(step.route), gate=gate, preview=preview, share=share)


def _batches(rollout: Rollout) -> tuple[int | None, int | None]:
    """The present batch and how many there are. Steps that only clear up, or make room, bring none."""
    if rollout.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK):
        return None, None
    bring = [
        number
        for number, step in enumerate(rollout.plan)
        if step.route.get(rollout.new) and (not step.gate.cleared or number == 0)
    ]
    return sum(1 for number in bring if number <= rollout.cursor), len(bring)


def event_view(event: Event) -> EventView:
    """From the value."""
    return EventView(number=event.number, kind=event.kind, message=event.message, at=when(event.at), data=dict(event.data))


def service_fields(row: ServiceRow) -> ServiceView:
    """A service without its releases."""
    service = row.service
    here = f"/v1/services/{service.key}"
    return ServiceView(
        environment=service.environment,
        name=service.name,
        image=service.image,
        replicas=service.replicas,
        strategy=service.strategy,
        order=service.order,
        batch=service.batch,
        bake_seconds=service.bake_seconds,
        holds=list(service.holds),
        checks=[CheckView(**asdict(each)) for each in service.checks],
        port=service.container.port,
        variables=sorted(service.container.environment),
        route=service.backend.name,
        listen=service.backend.listen,
        version=row.version,
        live=row.live,
        rollout=row.rollout,
        repair=service.repair,
        drift=row.drift and drift_view(row.drift),
        links={"self": here, "rollouts": f"{here}/rollouts", "instances": f"{here}/instances"},
    )


def release_view(row: ReleaseRow) -> ReleaseView:
    """A release with its history."""
    release = row.release
    return ReleaseView(
        id=release.id,
        number=row.number,
        image=release.image,
        digest=release.digest,
        replicas=release.replicas,
        created=when(row.created),
        good_at=when_known(row.good_at),
        quarantined_at=when_known(row.quarantined_at),
    )


def instances_view(instances: Sequence[Instance], routed: RouterState) -> InstancesView:
    """The world as just read."""
    traffic = routed.traffic
    return InstancesView(
        instances=[_instance(each, routed) for each in instances],
        traffic=traffic and TrafficView(**asdict(traffic)),
        problem=None,
    )


def _instance(instance: Instance, routed: RouterState) -> InstanceView:
    member = any(each.instance == instance.id for each in routed.members)
    return InstanceView(
        id=instance.id,
        release=instance.release,
        ordinal=instance.ordinal,
        host=instance.host,
        address=instance.address,
        state=instance.state.value,
        restarts=instance.restarts,
        detail=instance.detail,
        routed=member,
        draining=instance.id in routed.draining,
        in_flight=routed.busy.get(instance.id) if member else routed.draining.get(instance.id),
    )


def token_view(token: Token) -> TokenView:
    """A token without its secret."""
    return TokenView(
        id=token.id,
        name=token.name,
        scopes=list(token.scopes),
        services=list(token.services),
        created=when(token.created),
        expires=when_known(token.expires),
        last_used=when_known(token.last_used),
    )
