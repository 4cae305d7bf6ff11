"""What a line of the log says of the rollout that it is about."""

from __future__ import annotations

from tidegate.core.model import Build, Rollout


def build_label(build: Build | None) -> str:
    """The build that asked for it, as people read it; empty where none did."""
    return f"{build.job} #{build.number}" if build else ""


def log_fields(rollout: Rollout) -> dict[str, str]:
    """To be bound to the log. Names and numbers only: whatever else a rollout has may be secret."""
    environment, _, service = rollout.service.partition("/")
    about = {"rollout": rollout.id, "environment": environment, "service": service}
    return about | ({"build": build_label(rollout.build)} if rollout.build else {})
