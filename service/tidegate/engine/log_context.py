"""The fields that identify a rollout in log lines."""

from __future__ import annotations

from tidegate.core.model import Build, Rollout


def build_label(build: Build | None) -> str:
    """The CI build that requested a rollout, as `job #number`; empty when no build did."""
    return f"{build.job} #{build.number}" if build else ""


def log_fields(rollout: Rollout) -> dict[str, str]:
    """Fields to bind to the logger. Names and numbers only, since other fields of a rollout may contain secrets."""
    environment, _, service = rollout.service.partition("/")
    about = {"rollout": rollout.id, "environment": environment, "service": service}
    return about | ({"build": build_label(rollout.build)} if rollout.build else {})
