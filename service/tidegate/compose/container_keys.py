"""Reading the Compose keys that define a service's containers. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tidegate.compose import reader as compose_reader
from tidegate.compose.document import ServiceDocument
from tidegate.compose.files import ComposeFiles, read_environment, read_mounted_files, report_mount_conflicts
from tidegate.compose.interpolation import Variables
from tidegate.compose.reader import Reader, boolean, integer, one_of, pairs, string_list, string_or_list, text
from tidegate.compose.units import parse_duration, parse_size
from tidegate.compose.volumes import read_resource, read_volumes
from tidegate.core.container import (
    Container,
    Health,
    HealthCommand,
    Limits,
    Log,
    Naming,
    Network,
    NetworkOrigin,
    PullPolicy,
    Rights,
    Ulimit,
)


def read_container(
    root: Reader,
    deploy: Reader,
    health: Health,
    port: int,
    document: ServiceDocument,
    variables: Variables,
    files: ComposeFiles,
) -> Container:
    """The container of one instance. `port`: where it takes requests; 0: the only port that its image exposes."""
    resources = deploy.inner("resources")
    limits, reservations = resources.inner("limits"), resources.inner("reservations")
    mounts = read_volumes(root, document)
    command, entrypoint = _command(root)
    healthcheck = root.inner("healthcheck")
    container = Container(
        port=port,
        command=command,
        entrypoint=entrypoint,
        environment=read_environment(root, variables, files),
        labels=root.take("labels", _labels, {}),
        project=document.project,
        user=root.take("user", text, ""),
        working_dir=root.take("working_dir", text, ""),
        health=health,
        healthcheck=_healthcheck(healthcheck) if "healthcheck" in root else None,
        stop_signal=root.take("stop_signal", text, ""),
        stop_grace_seconds=root.take("stop_grace_period", parse_duration, 10.0),
        memory_bytes=read_either(root, "mem_limit", limits, "memory", parse_size, 0),
        cpus=read_either(root, "cpus", limits, "cpus", compose_reader.decimal, 0.0),
        volumes=mounts.binds,
        init=root.take("init", boolean, False),
        read_only=root.take("read_only", boolean, False),
        mounts=mounts.mounts,
        tmpfs=mounts.tmpfs or {},
        external_volumes=mounts.external,
        files=read_mounted_files(root, document, variables, files),
        limits=_limits(root, limits, reservations),
        rights=_rights(root),
        naming=_naming(root, document),
        log=_log(root.inner("logging")),
        tty=root.take("tty", boolean, False),
        stdin_open=root.take("stdin_open", boolean, False),
        pull_policy=_read_pull_policy(root),
    )
    report_mount_conflicts(root, container.files, mounts.targets, container.read_only)
    _finish_resources(resources, limits, reservations)
    return container


def _finish_resources(resources: Reader, limits: Reader, reservations: Reader) -> None:
    reservations.ignore({"cpus": "Docker cannot reserve CPUs; cpu_shares sets a weight"})
    reservations.refuse({"devices": "there is no alternative", "generic_resources": "only for Swarm"})
    Reader.finish_all(limits, reservations, resources)


def read_either(root: Reader, key: str, inner: Reader, its_key: str, read: Callable[[object], Any], otherwise: Any) -> Any:
    """A value with two Compose keys; if both are given, they must be equal."""
    old, new = root.take(key, read, otherwise), inner.take(its_key, read, otherwise)
    if key in root and its_key in inner and old != new:
        root.complain(key, f"differs from {inner.at(its_key)}; remove one of them")
    return new or old


# -- command --------------------------------------------------------------------------------------------------------------


def _command(root: Reader) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """`command` and `entrypoint`: null means the image's, empty means none.

    Docker takes an empty command as the image's command unless there is an entrypoint.
    """
    command, entrypoint = (
        root.take("command", compose_reader.command, None),
        root.take("entrypoint", compose_reader.command, None),
    )
    if command == () and entrypoint is None:
        root.complain("command", "Docker runs the image's command if it is empty; remove it, or set an entrypoint")
    if entrypoint == () and not command:
        root.complain("entrypoint", "is empty, so a command is required")
    return command, entrypoint


def _labels(value: object) -> dict[str, str]:
    labels = pairs(value)
    if any(name.startswith("tidegate.") for name in labels):
        raise ValueError("labels that do not begin with tidegate.")
    return labels


def _read_pull_policy(root: Reader) -> PullPolicy:
    policy = root.take("pull_policy", _pull_policy, PullPolicy.RESOLVE)
    if policy is PullPolicy.RESOLVE and "pull_policy" in root:
        root.note("pull_policy", "ignored: a tag is resolved at its registry by each rollout")
    return policy


def _pull_policy(value: object) -> PullPolicy:
    if value == "if_not_present":
        return PullPolicy.MISSING
    if isinstance(value, str) and re.fullmatch(r"build|daily|weekly|refresh|every_\w+", value):
        return PullPolicy.RESOLVE
    for policy in (PullPolicy.ALWAYS, PullPolicy.MISSING, PullPolicy.NEVER):
        if value == policy:
            return policy
    raise ValueError("always, missing or never; without it each rollout resolves the tag at the registry")


# -- health ---------------------------------------------------------------------------------------------------------------


def _healthcheck(reader: Reader) -> HealthCommand | None:
    disabled = reader.take("disable", boolean, False)
    test: tuple[str, ...] = reader.take("test", _test, tuple[str, ...]())
    command = HealthCommand(
        test=("NONE",) if disabled else test,
        interval_seconds=reader.take("interval", parse_duration, 30.0),
        timeout_seconds=reader.take("timeout", parse_duration, 30.0),
        retries=reader.take("retries", integer(1, 1000), 3),
        start_period_seconds=reader.take("start_period", parse_duration, 0.0),
        start_interval_seconds=reader.take("start_interval", parse_duration, 0.0),
    )
    reader.finish()
    if not disabled and not test:
        reader.complain("test", "is required")
    return command if command.test else None


def _test(value: object) -> tuple[str, ...]:
    if isinstance(value, str) and value.strip():
        return ("CMD-SHELL", value)
    words = value if isinstance(value, list) and all(isinstance(word, str) for word in value) else []
    if words == ["NONE"] or words[:1] in (["CMD"], ["CMD-SHELL"]):
        return tuple(words)
    raise ValueError("text, or a list that begins with CMD, CMD-SHELL or NONE")


# -- limits and rights ----------------------------------------------------------------------------------------------------


def _limits(root: Reader, limits: Reader, reservations: Reader) -> Limits:
    return Limits(
        memory_reservation_bytes=read_either(root, "mem_reservation", reservations, "memory", parse_size, 0),
        memory_swap_bytes=root.take("memswap_limit", _or_none(parse_size), 0),
        pids=read_either(root, "pids_limit", limits, "pids", _or_none(integer(0, 2**22)), 0),
        shm_bytes=root.take("shm_size", parse_size, 0),
        cpu_shares=root.take("cpu_shares", integer(0, 262_144), 0),
        cpuset=root.take("cpuset", _matching(r"\d+(-\d+)?(,\d+(-\d+)?)*", "processors such as 0-2,4"), ""),
        oom_score_adj=root.take("oom_score_adj", _score, 0),
        ulimits=root.take("ulimits", _ulimits, ()),
    )


def _or_none(read: Callable[[object], int]) -> Callable[[object], int]:
    """A reader that also accepts -1, which means no limit."""
    return lambda value: -1 if value in (-1, "-1") else read(value)


def _score(value: object) -> int:
    score = int(value) if isinstance(value, str) and re.fullmatch(r"-?\d{1,4}", value) else value
    if isinstance(score, int) and not isinstance(score, bool) and -1000 <= score <= 1000:
        return score
    raise ValueError("a whole number from -1000 to 1000")


def _ulimits(value: object) -> tuple[Ulimit, ...]:
    allowed = "a mapping such as {nofile: 65536}, or with soft and hard"
    if not isinstance(value, Mapping):
        raise ValueError(allowed)
    read = _or_none(integer(0, 2**40))
    ulimits = []
    for name, limit in value.items():
        both = limit if isinstance(limit, Mapping) else {"soft": limit, "hard": limit}
        if {str(key) for key in both if not str(key).startswith("x-")} != {"soft", "hard"} or not str(name).islower():
            raise ValueError(allowed)
        ulimits.append(Ulimit(str(name), read(both["soft"]), read(both["hard"])))
    return tuple(ulimits)


def _rights(root: Reader) -> Rights:
    return Rights(
        cap_add=root.take("cap_add", string_list, ()),
        cap_drop=root.take("cap_drop", string_list, ()),
        security_opt=root.take("security_opt", _security, ()),
        group_add=root.take("group_add", _groups, ()),
        devices=root.take("devices", _devices, ()),
        sysctls=root.take("sysctls", pairs, {}),
        ipc=root.take("ipc", one_of(str, ("private", "shareable", "none")), ""),
    )


def _security(value: object) -> tuple[str, ...]:
    options = string_list(value)
    if all(
        re.fullmatch(r"no-new-privileges([:=]true)?|(apparmor|label)[:=](?!unconfined|disable)\S+", option)
        for option in options
    ):
        return options
    raise ValueError("no-new-privileges:true, apparmor=PROFILE, label=…; seccomp profiles and unconfined are not supported")


def _groups(value: object) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(group, str | int) and not isinstance(group, bool) for group in value):
        return tuple(map(str, value))
    raise ValueError("a list of groups")


def _devices(value: object) -> tuple[str, ...]:
    devices = tuple(_device(device) for device in value) if isinstance(value, list) else ("",)
    if all(re.fullmatch(r"/[^:]+:/[^:]+:[rwm]{1,3}", device) for device in devices):
        return devices
    raise ValueError("a list of source:target:permissions, such as /dev/fuse:/dev/fuse:rwm")


def _device(value: object) -> str:
    if isinstance(value, Mapping):
        source = value.get("source")
        return f"{source}:{value.get('target') or source}:{value.get('permissions') or 'rwm'}"
    parts = value.split(":") if isinstance(value, str) else []
    return ":".join([*parts, *([parts[0], "rwm"] if len(parts) == 1 else ["rwm"] if len(parts) == 2 else [])])


# -- names ----------------------------------------------------------------------------------------------------------------


def _naming(root: Reader, document: ServiceDocument) -> Naming:
    name = _matching(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?", "letters, digits, . and -")
    return Naming(
        hostname=root.take("hostname", name, ""),
        domainname=root.take("domainname", name, ""),
        extra_hosts=root.take("extra_hosts", _extra_hosts, ()),
        dns=root.take("dns", string_or_list, ()),
        dns_search=root.take("dns_search", string_or_list, ()),
        dns_opt=root.take("dns_opt", string_list, ()),
        networks=_networks(root, document),
    )


def _matching(pattern: str, allowed: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if isinstance(value, str) and re.fullmatch(pattern, value):
            return value
        raise ValueError(allowed)

    return read


def _extra_hosts(value: object) -> tuple[str, ...]:
    allowed = "a list of name=address, or a mapping of them"
    if isinstance(value, Mapping):
        several = {str(name): entry if isinstance(entry, list) else [entry] for name, entry in value.items()}
        entries = [f"{name}={entry}" for name, some in several.items() for entry in some]
    else:
        entries = list(string_list(value))
    split = [re.fullmatch(r"([A-Za-z0-9_.-]+)[=:]\[?(host-gateway|[0-9A-Fa-f.:]+)\]?", entry) for entry in entries]
    if not all(split):
        raise ValueError(allowed)
    return tuple(f"{entry[1]}:{entry[2]}" for entry in split if entry)


def _networks(root: Reader, document: ServiceDocument) -> tuple[Network, ...]:
    """The service's networks, in addition to the one of the settings. As in Compose, a service that names none joins the
    project's default network, here if it exists."""
    implied: dict[str, object] = {"default": None} if document.project and "network_mode" not in root else {}
    networks = root.take("networks", _by_name, implied)
    joined: list[Network] = []
    for key, value in networks.items():
        reader = Reader(value, root.at(f"networks.{key}"), root.findings, extensible=True)
        aliases = reader.take("aliases", string_list, tuple[str, ...]())
        own_name = reader.take("use_service_name_alias", boolean, True)
        one_each = "each instance needs a different one"
        reader.ignore({"ipv4_address": one_each, "ipv6_address": one_each, "mac_address": one_each})
        reader.refuse(dict.fromkeys(("link_local_ips", "driver_opts", "interface_name"), "there is no alternative"))
        reader.ignore(dict.fromkeys(("priority", "gw_priority"), "the network of the settings is always the first"))
        reader.finish()
        names = (document.service, *aliases) if own_name else aliases
        if key in document.shared.get("networks", {}):
            resource = read_resource(document, "networks", key, root.findings)
            origin = NetworkOrigin.OPTIONAL if key == "default" else NetworkOrigin.PROJECT
            is_made = not resource.must_exist and resource.name == f"{document.project}_{key}"
            joined.append(Network(resource.name, names, origin if is_made else NetworkOrigin.EXISTING))
        elif key == "default" and document.project:
            joined.append(Network(f"{document.project}_default", names, NetworkOrigin.OPTIONAL))
        elif key != "default":
            reader.complain("", f"no network {key} in the file's top-level networks; declare it there")
    return tuple(joined)


def _by_name(value: object) -> dict[str, object]:
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return dict.fromkeys(value)
    if isinstance(value, Mapping):
        return {str(name): options for name, options in value.items()}
    raise ValueError("a list of names, or a mapping of them")


def _log(reader: Reader) -> Log | None:
    driver = reader.take("driver", _matching(r"[a-z][a-z0-9_./:-]*", "the name of a log driver"), "")
    options = reader.take("options", pairs, dict[str, str]())
    reader.finish()
    if options and not driver:
        reader.complain("driver", "is required if there are options")
    return Log(driver, options) if driver else None
