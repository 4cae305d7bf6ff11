"""Compose keys that Tidegate does not support, each with what to do instead. Pure."""

from __future__ import annotations

from tidegate.compose.reader import Reader, one_of

HOST = "it gives the container access to the host"
NETWORK = "the settings of the environment define the proxy's network; name others in networks"
LIMIT = "use cpus"
NO_CONTAINER_HOOKS = "container hooks are not run; use an x-tidegate hook"

UNSUPPORTED = {
    "ports": "the proxy publishes the service; set the container's port in expose and the proxy's in x-tidegate.listen",
    "build": "build the image first and set it in image",
    "network_mode": NETWORK,
    "container_name": "Tidegate names its containers",
    "scale": "use deploy.replicas",
    "extends": "send the output of docker compose config, which is a single file",
    "links": "name the services' network in networks",
    "external_links": "name the services' network in networks",
    "volumes_from": "name the volumes in volumes",
    "label_file": "use labels",
    "annotations": "use labels",
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
    "mac_address": "each instance needs a different one",
    "platform": "images must match the host's platform",
    "umask": "Docker cannot set it; set it in the entrypoint",
    "pull_refresh_after": "a tag is resolved at the registry with each rollout; see pull_policy",
    "pre_start": NO_CONTAINER_HOOKS,
    "post_start": NO_CONTAINER_HOOKS,
    "pre_stop": NO_CONTAINER_HOOKS,
}
UNSUPPORTED_DEPLOY = {
    "labels": "use the service's labels",
    "endpoint_mode": "the proxy balances the load",
    "placement": "instances are spread over the hosts of the environment's settings",
    "restart_policy": "the settings of the environment define it for all containers",
    "rollback_config": "a rollback is one switch of the proxy, without batches",
}


def reject_unsupported(root: Reader, deploy: Reader) -> None:
    """Read the keys that allow only one value, and reject the others with a reason."""
    root.take("restart", _restart, "")
    deploy.take("mode", one_of(str, ("replicated",)), "")
    root.tolerate(
        "profiles", "attach", "develop"
    )  # `profiles`: the request names the services; the others are for development
    root.refuse(UNSUPPORTED)
    deploy.refuse(UNSUPPORTED_DEPLOY)


def _restart(value: object) -> str:
    if isinstance(value, str) and value in ("always", "unless-stopped"):
        return value
    raise ValueError("always or unless-stopped, as the settings of the environment define it for all containers")
