"""Words of the Compose specification that Tidegate does not honour, each with what to do instead. Pure."""

from __future__ import annotations

from tidegate.compose.reader import Reader, one_of

HOST = "it opens the host to the container"
NETWORK = "the environment's settings name the network that the proxy uses; others are named in networks"
LIMIT = "cpus can be honoured"
NO_CONTAINER_HOOKS = "hooks of containers are not run: what is to run before a release is a hook of x-tidegate"

UNSUPPORTED = {
    "ports": "the proxy publishes the service: name the container's port in expose, and the proxy's in x-tidegate.listen",
    "build": "build the image before, and name it in image",
    "network_mode": NETWORK,
    "container_name": "Tidegate names its containers",
    "scale": "use deploy.replicas",
    "extends": "send what docker compose config prints, which is one whole file",
    "links": "name the services' network in networks",
    "external_links": "name the services' network in networks",
    "volumes_from": "name the volumes in volumes",
    "label_file": "give them in labels",
    "annotations": "give them in labels",
    "privileged": f"{HOST}: cap_add and devices can be honoured",
    "pid": HOST,
    "uts": HOST,
    "userns_mode": HOST,
    "cgroup": HOST,
    "cgroup_parent": HOST,
    "use_api_socket": HOST,
    "device_cgroup_rules": "name the devices in devices",
    "gpus": "not offered",
    "models": "not offered",
    "provider": "not offered",
    "credential_spec": "Windows containers are not offered",
    "isolation": "Windows containers are not offered",
    "runtime": "set the engine's own default",
    "storage_opt": "set the engine's own default",
    "blkio_config": "not offered",
    "cpu_count": LIMIT,
    "cpu_percent": LIMIT,
    "cpu_period": LIMIT,
    "cpu_quota": LIMIT,
    "cpu_rt_period": LIMIT,
    "cpu_rt_runtime": LIMIT,
    "mem_swappiness": "memswap_limit can be honoured",
    "oom_kill_disable": "a container out of memory would hang for ever",
    "mac_address": "each instance has one of its own",
    "platform": "the hosts run what is theirs: name an image that is built for them",
    "umask": "no engine can set it: set it in the entrypoint",
    "pull_refresh_after": "an image that is there is not pulled again: give each version a tag of its own",
    "pre_start": NO_CONTAINER_HOOKS,
    "post_start": NO_CONTAINER_HOOKS,
    "pre_stop": NO_CONTAINER_HOOKS,
}
UNSUPPORTED_DEPLOY = {
    "labels": "give them in the service's labels",
    "endpoint_mode": "the proxy balances",
    "placement": "instances are spread over the hosts of the environment's settings",
    "restart_policy": "the environment's settings say it, for all its containers",
    "rollback_config": "the way back is one switch of the proxy, without batches",
}


def reject_unsupported(root: Reader, deploy: Reader) -> None:
    """Take what may only have one value, and refuse the rest with its reason."""
    root.take("restart", _restart, "")
    root.take("pull_policy", _pull_policy, "")
    deploy.take("mode", one_of(str, ("replicated",)), "")
    root.tolerate("profiles", "attach", "develop")  # who is deployed is named; the others are for work at a desk
    root.refuse(UNSUPPORTED)
    deploy.refuse(UNSUPPORTED_DEPLOY)


def _restart(value: object) -> str:
    if isinstance(value, str) and value in ("always", "unless-stopped"):
        return value
    raise ValueError("always or unless-stopped, which are what the environment's settings say for all its containers")


def _pull_policy(value: object) -> str:
    if isinstance(value, str) and value in ("missing", "if_not_present"):
        return value
    raise ValueError("missing: an image is pulled where it is not there, and pinned; give each version a tag of its own")
