"""Compose keys without effect here: harmless ones are ignored with a note, the others rejected. Pure."""

from __future__ import annotations

import re

from tidegate.compose.document import ServiceDocument
from tidegate.compose.reader import Reader, one_of
from tidegate.core.container import Container

HOST = "it gives the container access to the host"
NETWORK = "the settings of the environment define the proxy's network; name others in networks"
LIMIT = "use cpus"
NO_CONTAINER_HOOKS = "container hooks are not run; use an x-tidegate hook"

UNSUPPORTED = {
    "network_mode": NETWORK,
    "volumes_from": "name the volumes in volumes",
    "label_file": "use labels",
    "privileged": f"{HOST}; use cap_add and devices",
    "pid": HOST,
    "uts": HOST,
    "userns_mode": HOST,
    "cgroup": HOST,
    "cgroup_parent": HOST,
    "use_api_socket": HOST,
    "device_cgroup_rules": "use devices",
    "gpus": "there is no alternative",
    "models": "there is no alternative",
    "provider": "there is no alternative",
    "credential_spec": "Windows containers are not supported",
    "isolation": "Windows containers are not supported",
    "runtime": "set Docker's default",
    "storage_opt": "set Docker's default",
    "blkio_config": "there is no alternative",
    "cpu_count": LIMIT,
    "cpu_percent": LIMIT,
    "cpu_period": LIMIT,
    "cpu_quota": LIMIT,
    "cpu_rt_period": LIMIT,
    "cpu_rt_runtime": LIMIT,
    "mem_swappiness": "use memswap_limit",
    "oom_kill_disable": "a container out of memory would hang",
    "umask": "Docker cannot set it; set it in the entrypoint",
    "pre_start": NO_CONTAINER_HOOKS,
    "post_start": NO_CONTAINER_HOOKS,
    "pre_stop": NO_CONTAINER_HOOKS,
}
SETTINGS_RESTART = "containers are restarted as the settings of the environment say"
NO_PROFILE = (
    "is not set: docker compose up and down, without names of services, also replace or remove Tidegate's containers; "
    "add profiles: [tidegate]"
)
BYPASS = "one that is not ready or is being stopped; use the address of Tidegate's proxy instead"
IGNORED = {
    "container_name": "a name belongs to one container; Tidegate names each instance",
    "links": "services are reached by their names on the networks that they share",
    "external_links": "containers are reached by their names on the networks that they share",
    "annotations": "no container runtime that Tidegate supports reads them",
    "platform": "an image must match the platform of the Docker host",
    "pull_refresh_after": "a tag is resolved at its registry by each rollout",
    "mac_address": "each instance needs a different one",
}
IGNORED_DEPLOY = {
    "labels": "they are for Swarm's services; container labels belong in labels",
    "endpoint_mode": "the proxy balances the load",
    "placement": "instances are spread over the hosts of the environment's settings",
    "restart_policy": SETTINGS_RESTART,
    "rollback_config": "a rollback is one switch of the proxy, without batches",
}

ROUND = "leads another proxy to every instance, also to {}"
OTHER_PROXIES = re.compile(r"traefik\.(?!enable$|docker\.).*|caddy([._].*)?")  # labels
OTHER_PROXY_VARIABLES = ("VIRTUAL_HOST",)  # of nginx-proxy
WATCHTOWER = "com.centurylinklabs.watchtower.enable"


def note_other_programs(root: Reader, container: Container) -> None:
    """Say which labels and variables let programs that watch Docker act on the instances, past Tidegate."""
    labels, environment = container.labels, container.environment
    leading = [name for name in labels if OTHER_PROXIES.fullmatch(name)]
    if labels.get("traefik.enable", "").lower() == "false":
        leading = [name for name in leading if not name.startswith("traefik.")]
    elif "traefik.enable" in labels:
        leading.insert(0, "traefik.enable")
    if leading:
        root.note("labels", f"{leading[0]} {ROUND.format(BYPASS)}")
    for name in OTHER_PROXY_VARIABLES:
        if environment.get(name):
            root.note("environment", f"{name} {ROUND.format(BYPASS)}")
    if labels.get(WATCHTOWER, "").lower() == "true":
        root.note("labels", f"{WATCHTOWER} lets Watchtower replace instances outside a rollout; remove it")


def note_neighbours(root: Reader, document: ServiceDocument) -> None:
    """Say what the services that `docker compose` runs mean for this one, and what its commands do to it."""
    names = [name for name, after in document.after.items() if document.service in after and name not in document.ours]
    callers = " and ".join(names)
    if document.project and not root.values.get("profiles"):
        fix = f", and required: false to depends_on of {callers}" if callers else ""
        root.note("profiles", f"{NO_PROFILE}{fix}, to keep them apart")
    if callers:
        root.note("networks", f"{callers} may reach instances by the name {document.service}, also {BYPASS}")


def reject_unsupported(root: Reader, deploy: Reader) -> None:
    """Ignore or reject what has no effect here, each with a reason."""
    if root.take("restart", _restart, "") not in ("", "always", "unless-stopped"):
        root.note("restart", f"ignored: {SETTINGS_RESTART}")
    deploy.take("mode", one_of(str, ("replicated",)), "")
    root.tolerate("profiles", "attach", "develop", "extends")  # read before, or without a meaning for a deployment
    root.refuse(UNSUPPORTED)
    root.ignore(IGNORED)
    deploy.ignore(IGNORED_DEPLOY)


def _restart(value: object) -> str:
    if value is False:
        return "no"  # YAML 1.1 reads an unquoted no as false; so do files that other programs wrote
    if isinstance(value, str) and re.fullmatch(r"no|always|unless-stopped|on-failure(:\d+)?", value):
        return value
    raise ValueError("no, always, unless-stopped or on-failure")
