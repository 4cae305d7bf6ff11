"""Runs hooks as containers: one per job, named after the rollout, so that a job is started only once.

A job has the variables, volumes, user and network of its release. It receives no traffic, is not restarted, and has none of
the labels by which instances are found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import structlog
from docker.api.client import APIClient

from tidegate.core.hooks import Job, JobState
from tidegate.core.model import Release
from tidegate.drivers.platforms.docker import create, labels
from tidegate.drivers.platforms.docker.compose import make_resources
from tidegate.drivers.platforms.docker.hosts import DockerHost
from tidegate.drivers.platforms.docker.images import load_image
from tidegate.drivers.platforms.docker.options import DockerHostOptions, DockerOptions
from tidegate.errors import PlatformError

log = structlog.get_logger("tidegate.docker")

HOOK_LABEL, ROLLOUT_LABEL = labels.PREFIX + "hook", labels.PREFIX + "rollout"
MAX_LOG_LINES = 50
NOT_STARTED = 125  # the exit status of `docker run` if a container cannot be started
GRACE_SECONDS = 10


def job_config(api: APIClient, job: Job, shared: DockerOptions, host: DockerHostOptions) -> dict[str, Any]:
    """The arguments of the SDK's `create_container`."""
    release, hook = job_release(job), job.hook
    wanted = create.container_config(api, release, 0, shared, host)
    environment, _, service = job.service.partition("/")
    own = {labels.ENVIRONMENT: environment, labels.SERVICE: service, HOOK_LABEL: job.name, ROLLOUT_LABEL: job.rollout}
    own |= {labels.COMPOSE_ONEOFF: "True"} if labels.COMPOSE_PROJECT in wanted["labels"] else {}
    mine = {f"{labels.PREFIX}{word}" for word in ("release", "ordinal", "port", "probe", "image", "wants")}
    wanted["host_config"] |= {"RestartPolicy": {"Name": "no"}, "PortBindings": {}}
    if hook.host_network:
        wanted["host_config"]["NetworkMode"] = "host"
        wanted |= {"networking_config": None, "hostname": None, "domainname": None}
    return wanted | {
        "image": hook.image or wanted["image"],
        "name": f"tidegate-{job.rollout}-{job.name.replace('_', '-')}",
        "labels": {name: value for name, value in wanted["labels"].items() if name not in mine} | own,
        "environment": {**release.container.environment, **job.variables, **hook.environment},
        "command": list(hook.command) if hook.container is None else wanted["command"],
        "entrypoint": _entrypoint(job, wanted["entrypoint"]),
        "healthcheck": {"test": ["NONE"]},
        "start_interval": 0.0,
        "ports": None,
        "stop_signal": None,
    }


def job_release(job: Job) -> Release:
    """The release whose configuration the job has: that of the service, or one of its own."""
    return job.release if job.hook.container is None else replace(job.release, container=job.hook.container)


def _entrypoint(job: Job, of_release: list[str] | None) -> list[str] | None:
    """The hook's entrypoint; else the release's, if the hook runs the release's image."""
    if job.hook.entrypoint is not None:
        return list(job.hook.entrypoint)
    return None if job.hook.image and job.hook.container is None else of_release


def run_job(job: Job, hosts: Sequence[DockerHost], pool: Executor) -> JobState:
    """See `ports.Platform`. Jobs start on the first host unless the job is on another host already."""
    matching = _find_containers(job.service, job.rollout, hosts, job.name)
    host, existing = matching[0] if matching else (hosts[0], None)
    if existing is None or existing["State"] == "created":
        try:
            _start_job(job, host, pool, None if existing is None else str(existing["Id"]))
        except PlatformError as error:
            if error.retryable:
                raise
            return JobState(NOT_STARTED, detail=error.message, started=False)
        return JobState(None)
    details = host.inspected(str(existing["Id"]))
    if details is None:
        raise PlatformError(
            f"The container of hook {job.name} on Docker host {host.name} no longer exists; Tidegate retries"
        )
    return _job_state(details, host)


def _start_job(job: Job, host: DockerHost, pool: Executor, container: str | None) -> None:
    """Start the job's container; create it first unless it exists, with the image that its tag means at this moment."""
    release = job_release(job)
    policy = release.container.pull_policy
    if container is None:
        if job.hook.image:
            pinned, _ = load_image(job.hook.image, policy, [host], pool)
            if pinned.warning:
                log.warning(pinned.warning, rollout=job.rollout, hook=job.name)
            job = replace(job, hook=replace(job.hook, image=pinned.digest))
        make_resources(host, release.container)
        what = f"{job.name} of {job.release.id}"
        container = host.create(what, lambda *arguments: job_config(arguments[0], job, *arguments[1:]), policy)
    host.start(container, job.name, _without_networks(release) if job.hook.host_network else release)


def _without_networks(release: Release) -> Release:
    """The release without extra networks: a container in the host's network cannot join others."""
    naming = replace(release.container.naming, networks=())
    return replace(release, container=replace(release.container, naming=naming))


def _job_state(details: Mapping[str, Any], host: DockerHost) -> JobState:
    state = details["State"]
    log = host.tail(str(details["Id"]), MAX_LOG_LINES)
    if state["Status"] in ("running", "restarting", "paused"):
        return JobState(None, log)
    status = int(state.get("ExitCode") or 0)
    detail = "out of memory" if state.get("OOMKilled") else str(state.get("Error") or "")
    return JobState(status if status or not detail else NOT_STARTED, log, detail)


def end_job(job: Job, hosts: Sequence[DockerHost]) -> None:
    """See `ports.Platform`."""
    for host, container in _find_containers(job.service, job.rollout, hosts, job.name):
        host.stop(str(container["Id"]), GRACE_SECONDS)


def clear_jobs(service: str, rollout: str, hosts: Sequence[DockerHost]) -> None:
    """See `ports.Platform`."""
    for host, container in _find_containers(service, rollout, hosts):
        host.remove(str(container["Id"]))


def _find_containers(
    service: str, rollout: str, hosts: Sequence[DockerHost], name: str = ""
) -> list[tuple[DockerHost, dict[str, Any]]]:
    """The containers of the rollout's jobs on all hosts. Raises if any host does not answer."""
    environment, _, own = service.partition("/")
    wanted = {labels.ENVIRONMENT: environment, labels.SERVICE: own, ROLLOUT_LABEL: rollout}
    label_filter = wanted | ({HOOK_LABEL: name} if name else {})
    return [(host, container) for host in hosts for container in host.listed(label_filter)]
