"""A service, two releases of it, and plans as tables: fleet and route of each step, and what its gate asks."""

from __future__ import annotations

from tidegate.core.container import Container
from tidegate.core.model import (
    Check,
    CheckKind,
    Release,
    Service,
)
from tidegate.core.plan import Plan
from tidegate.core.routing import Backend

CHECK = Check("errors", CheckKind.ERRORS)
SERVICE = Service("demo", "shop", "shop:2", 5, Container(80), Backend("shop"), batch=2, bake_seconds=60.0, checks=(CHECK,))
OLD = Release("a", SERVICE.key, "shop:1", 5, SERVICE.container)
NEW = Release("b", SERVICE.key, "shop:2", 5, SERVICE.container)


def format_plan(plan: Plan) -> list[str]:
    """`F a5 b2 R a3 b2 bake judge`."""
    return [
        " ".join(
            ["F", *(f"{release}{count}" for release, count in step.fleet.items())]
            + (["R"] if step.route is not None else [])
            + [f"{release}{count}" for release, count in (step.route or {}).items()]
            + [f"P {release}{count}" for release, count in step.preview.items()]
            + [f"share {share:g}" for share in (step.share,) if share is not None]
            + [f"before {name}" for name in step.gate.tasks_before]
            + ["keep"] * step.gate.keeps_old
            + ["bake"] * bool(step.gate.bake_seconds)
            + ["judge"] * step.gate.analyzed
            + ["hold"] * bool(step.gate.approval)
            + ["cleared"] * step.gate.surplus_gone
            + list(step.gate.tasks)
            + [f"point {step.gate.group_point}"] * bool(step.gate.group_point)
        )
        for step in plan
    ]
