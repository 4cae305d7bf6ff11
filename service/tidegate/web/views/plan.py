"""Views of plans: what a deployment would do."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from tidegate.app import plans
from tidegate.core.changes import Change, ChangeKind, find_changes
from tidegate.core.model import Release, Service
from tidegate.core.plan_preview import step_changes
from tidegate.core.records import ServiceRow
from tidegate.errors import InvalidSpec, Refused
from tidegate.web.errors import PROBLEM_TYPES
from tidegate.web.views.rollout import FieldNoteView, StepView
from tidegate.web.views.timestamps import Timestamp, View


class ChangeView(View):
    """A difference between the live release and the new one, or between two definitions."""

    path: str = Field(description="What differs, such as `image`, `environment.DB_URL` or `bake_seconds`.")
    kind: ChangeKind
    old: str = Field(description="Empty if there is none, or if it may be a secret.")
    new: str = Field(description="Empty if there is none, or if it may be a secret.")
    message: str = Field(description="The same as one line for people.")


class PlannedStepView(StepView):
    """A step, and the instances that it starts and stops, by release; `new` is the release that would be created."""

    start: dict[str, int]
    stop: dict[str, int]


class ServicePlanView(View):
    """What the deployment would do to one service."""

    service: str = Field(description="environment/service")
    live: str | None = Field(description="The live release.")
    image: str = Field(description="The image of the new release.")
    changes: list[ChangeView] = Field(
        description="How the new release and the definition differ from the live release and the stored definition; empty"
        " for a first deployment."
    )
    steps: list[PlannedStepView]
    warnings: list[str] = Field(description="What is allowed, but needs attention.")
    notes: list[FieldNoteView] = Field(description="How the Compose file is honoured otherwise than by `docker compose`.")


class RefusalView(View):
    """One reason for which the deployment would be refused."""

    code: str = Field(description="The code of the problem that a deployment would get.")
    path: str = Field(description="The location inside the Compose file; empty if it is not about the file.")
    detail: str


class PlanView(View):
    """What a deployment would do."""

    id: str | None = Field(
        description="Send it as `plan` with the deployment, which is then refused unless it is exactly this one. Valid"
        " for a week. Null if the deployment would be refused."
    )
    service: str = Field(description="environment/service")
    created: Timestamp
    refusals: list[RefusalView] = Field(description="Every reason for which the deployment would be refused now.")
    services: list[ServicePlanView] = Field(description="The service, then the others of its group.")


class ValidationView(View):
    """Whether a Compose file can be used for a service."""

    valid: bool
    problems: list[RefusalView] = Field(description="Every mistake of the Compose file; empty if it is valid.")
    warnings: list[str] = Field(description="What is allowed, but needs attention.")
    notes: list[FieldNoteView] = Field(description="How the Compose file is honoured otherwise than by `docker compose`.")


def refusal_views(refusals: Sequence[Refused]) -> list[RefusalView]:
    """The views of refusals; each mistake of a Compose file is one of its own."""
    views: list[RefusalView] = []
    for refusal in refusals:
        code = PROBLEM_TYPES[type(refusal)].code
        if isinstance(refusal, InvalidSpec):
            views += [RefusalView(code=code, path=problem.path, detail=problem.message) for problem in refusal.problems]
        else:
            views.append(RefusalView(code=code, path="", detail=refusal.message))
    return views


def service_plan_view(
    service: Service, row: ServiceRow | None, live: Release | None, warnings: Sequence[str]
) -> ServicePlanView:
    """The view of what the deployment would do to a service."""
    before, steps = plans.live_definition(row, live), plans.plan_steps(service, live)
    changes = () if before is None else find_changes(before, service)
    parts = step_changes(steps, {} if live is None else {live.id: live.replicas})
    return ServicePlanView(
        service=service.key,
        live=None if live is None else live.id,
        image=service.image,
        changes=[_change_view(change) for change in changes],
        steps=[
            PlannedStepView(**dict(StepView.model_validate(step)), start=dict(part.start), stop=dict(part.stop))
            for step, part in zip(steps, parts, strict=True)
        ],
        warnings=list(warnings),
        notes=[FieldNoteView.model_validate(note) for note in service.source.notes],
    )


def _change_view(change: Change) -> ChangeView:
    return ChangeView(path=change.path, kind=change.kind, old=change.old, new=change.new, message=str(change))
