"""What an environment allows Compose files to request of its hosts, of other services and of the proxy's addresses."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from ipaddress import ip_address
from posixpath import normpath

from tidegate.core.compose import Note
from tidegate.core.container import Container, MountKind, NetworkOrigin
from tidegate.core.hooks import JOB_PREFIX, Hook
from tidegate.core.model import Service
from tidegate.core.probes import public_url
from tidegate.core.routing import EVERY_ADDRESS, EVERY_IPV4, Backend, split_listen
from tidegate.errors import Problem

READ_ONLY = ":ro"  # after a folder of `host_mounts`
SERVICE_PLACEHOLDER = "$service"  # in globs: the name of the service, which has no character that a glob interprets
HARMLESS_OPTIONS = frozenset({"no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"})
#: Log drivers that keep logs in Docker's own folder, and options that read and reach nothing outside the container.
HARMLESS_LOG_DRIVERS = frozenset({"json-file", "local", "none"})
HARMLESS_LOG_OPTIONS = frozenset(
    {"compress", "env", "env-regex", "labels", "labels-regex", "max-buffer-size", "max-file", "max-size", "mode", "tag"}
)
DEFAULT_STOP_GRACE_SECONDS = 900.0  # a container that does not stop takes a thread for so long
PRIORITY_ULIMITS = frozenset({"nice", "rtprio"})  # they let a container take the processors from all others


@dataclass(frozen=True, slots=True)
class HostAccess:
    """What is allowed; everything else is refused. Globs may contain `$service`.

    `host_mounts` are folders or globs, which include all paths below them, read-only where `:ro` follows; symbolic links on
    the host are not resolved.
    `listen` are addresses as in `parse_listen_range`. In `hook_images`, `*` matches no slash.
    """

    host_mounts: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()  # globs over the names on the hosts
    networks: tuple[str, ...] = ()  # globs over the names on the hosts
    listen: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    security_options: tuple[str, ...] = ()  # globs; options that only drop privileges are always allowed
    log_drivers: tuple[str, ...] = ()
    log_options: tuple[str, ...] = ()  # globs over name=value
    priority_ulimits: bool = False
    min_oom_score_adj: int = 0
    devices: bool = False
    host_network: bool = False  # of hooks
    hook_images: tuple[str, ...] = ()  # globs; the image of the release itself is always allowed
    probe_urls: tuple[str, ...] = ()  # as in `matches_url`; the service's own `listen` is always allowed
    max_stop_grace: float = DEFAULT_STOP_GRACE_SECONDS


def parse_listen_range(value: str) -> tuple[str, int, int]:
    """The address and the first and last port of `8001`, `127.0.0.1:8000-8999`, `*:8000-8999` or `[::]:443`.

    `EVERY_IPV4` includes each IPv4 address, `EVERY_ADDRESS` each address. Raises `ValueError`.
    """
    start, _, last = value.partition("-")
    address, first_port = split_listen(start)
    last_port = int(last) if last else first_port
    if not 1 <= first_port <= last_port <= 65535:
        raise ValueError("ports from 1 to 65535 are required, the first of a range not after the last")
    return address, first_port, last_port


def find_denied(service: Service, allowed: HostAccess) -> list[Problem]:
    """A problem for each request of the service that is not allowed; empty when all is."""
    return [
        *_denied_storage(service, allowed),
        *_denied_rights(service, allowed),
        *_denied_reach(service, allowed),
        *(problem for name, hook in service.hooks.items() for problem in _denied_by_hook(service, name, hook, allowed)),
    ]


def without_denied_default(service: Service, allowed: HostAccess) -> Service:
    """The service without its project's default network, and with a note, if it and its jobs may not join that. The file
    does not ask for it, so it is no reason to refuse the file."""
    globs = _globs(service, allowed.networks)
    jobs = {name: hook.container for name, hook in service.hooks.items() if hook.container is not None}
    denied = {
        network.name
        for container in (service.container, *jobs.values())
        for network in container.naming.networks
        if network.origin is NetworkOrigin.OPTIONAL and not _matches(network.name, globs)
    }
    if not denied:
        return service
    place = f"services.{service.name}.networks"
    notes = [Note(place, _denial_message(f"joining {name}", "networks", allowed.networks)) for name in sorted(denied)]
    left = {name: replace(service.hooks[name], container=_outside(job, denied)) for name, job in jobs.items()}
    return replace(
        service,
        container=_outside(service.container, denied),
        hooks={**service.hooks, **left},
        source=replace(service.source, notes=(*service.source.notes, *notes)),
    )


def _outside(container: Container, networks: Collection[str]) -> Container:
    """The container without optional networks of these names."""
    kept = tuple(
        network
        for network in container.naming.networks
        if network.origin is not NetworkOrigin.OPTIONAL or network.name not in networks
    )
    return replace(container, naming=replace(container.naming, networks=kept))


def find_long_stop(service: Service, max_seconds: float) -> list[Problem]:
    """A problem if stopping an instance may take longer than allowed; a limit applies in every environment."""
    seconds = service.container.stop_grace_seconds
    if seconds <= max_seconds:
        return []
    text = f"found {seconds:g} s; allowed: at most {max_seconds:g} s, see allow.max_stop_grace"
    return [Problem(f"services.{service.name}.stop_grace_period", text)]


def matches_url(url: str, glob: str) -> bool:
    """Whether a URL is `glob`, or matches it: host and port by its host and port, the path by its path if it has one."""
    scheme, _, rest = url.partition("://")
    wanted_scheme, _, wanted_rest = glob.partition("://")
    (place, _, path), (wanted_place, slash, wanted_path) = rest.partition("/"), wanted_rest.partition("/")
    same_place = scheme == wanted_scheme and (place == wanted_place or fnmatchcase(place.lower(), wanted_place.lower()))
    return same_place and (not slash or fnmatchcase(path, wanted_path))


def _denied_storage(service: Service, allowed: HostAccess) -> Iterator[Problem]:
    here = f"services.{service.name}.volumes"
    folders = _globs(service, allowed.host_mounts)
    for source, read_only in _host_mounts(service.container):
        usable = [folder.removesuffix(READ_ONLY) for folder in folders if read_only or not folder.endswith(READ_ONLY)]
        if not _is_inside(source, usable):
            what = f"the host's {source}" + ("" if read_only else ", writable or relabelled,")
            yield Problem(here, _denial_message(what, "host_mounts", allowed.host_mounts))
    for name in _named_volumes(service.container):
        if not _matches(name, _globs(service, allowed.volumes)):
            yield Problem(here, _denial_message(f"the volume {name}", "volumes", allowed.volumes))


def _denied_rights(service: Service, allowed: HostAccess) -> Iterator[Problem]:
    here, rights, limits = f"services.{service.name}", service.container.rights, service.container.limits
    known = {_capability(capability) for capability in allowed.capabilities}
    for value in rights.cap_add:
        if _capability(value) not in known:
            text = _denial_message(f"the capability {value}", "capabilities", allowed.capabilities)
            yield Problem(f"{here}.cap_add", text)
    for value in rights.security_opt:
        if value not in HARMLESS_OPTIONS and not _matches(value, _globs(service, allowed.security_options)):
            yield Problem(f"{here}.security_opt", _denial_message(value, "security_options", allowed.security_options))
    if rights.devices and not allowed.devices:
        yield Problem(f"{here}.devices", _denial_message("devices of the host", "devices"))
    if limits.oom_score_adj < allowed.min_oom_score_adj:
        text = f"{limits.oom_score_adj} is not allowed in this environment; allow.min_oom_score_adj allows"
        yield Problem(f"{here}.oom_score_adj", f"{text} {allowed.min_oom_score_adj} or more")
    for ulimit in limits.ulimits:
        if ulimit.name in PRIORITY_ULIMITS and not allowed.priority_ulimits:
            yield Problem(f"{here}.ulimits", _denial_message(f"the limit {ulimit.name}", "priority_ulimits"))


def _denied_reach(service: Service, allowed: HostAccess) -> Iterator[Problem]:
    here, container = f"services.{service.name}", service.container
    for network in container.naming.networks:
        if network.origin is not NetworkOrigin.OPTIONAL and not _matches(network.name, _globs(service, allowed.networks)):
            text = _denial_message(f"the network {network.name}", "networks", allowed.networks)
            yield Problem(f"{here}.networks", text)
    backend = service.backend or Backend("")
    for key, listen in (("listen", backend.listen), ("preview.listen", backend.preview.listen if backend.preview else "")):
        if listen and not any(_includes(one, listen) for one in allowed.listen):
            yield Problem(f"{here}.x-tidegate.{key}", _denial_message(listen, "listen", allowed.listen))
    url = "" if service.probe is None else service.probe.url
    own = backend.listen and url.startswith(public_url(backend.listen, "/"))
    if url and not own and not any(matches_url(url, glob) for glob in _globs(service, allowed.probe_urls)):
        yield Problem(f"{here}.x-tidegate.probe.url", _denial_message(url, "probe_urls", allowed.probe_urls))
    if (log := container.log) is None:
        return
    if log.driver not in HARMLESS_LOG_DRIVERS and log.driver not in allowed.log_drivers:
        text = _denial_message(f"the log driver {log.driver}", "log_drivers", allowed.log_drivers)
        yield Problem(f"{here}.logging.driver", text)
    for name, value in log.options.items():
        option = f"{name}={value}"
        if name not in HARMLESS_LOG_OPTIONS and not _matches(option, _globs(service, allowed.log_options)):
            text = _denial_message(f"the option {option}", "log_options", allowed.log_options)
            yield Problem(f"{here}.logging.options", text)


def _denied_by_hook(service: Service, name: str, hook: Hook, allowed: HostAccess) -> Iterator[Problem]:
    if hook.container is not None:
        job = replace(service, container=hook.container, backend=None, probe=None, hooks={})
        here, there = f"services.{service.name}.", f"services.{name.removeprefix(JOB_PREFIX)}."
        for problem in find_denied(job, allowed):
            yield Problem(problem.path.replace(here, there, 1), problem.message)
        return
    here = f"services.{service.name}.x-tidegate.hooks.{name}"
    if hook.host_network and not allowed.host_network:
        yield Problem(here, _denial_message("the host's network", "host_network"))
    parts = hook.image.split("/")
    globs = [glob.split("/") for glob in _globs(service, allowed.hook_images)]
    if hook.image and not any(len(glob) == len(parts) and all(map(fnmatchcase, parts, glob)) for glob in globs):
        yield Problem(f"{here}.image", _denial_message(f"the image {hook.image}", "hook_images", allowed.hook_images))


def _denial_message(what: str, setting: str, values: Iterable[str] = ()) -> str:
    listed = ", ".join(values)
    return f"{what} is not allowed in this environment; allow.{setting} allows {listed or 'none'}"


def _host_mounts(container: Container) -> Iterator[tuple[str, bool]]:
    """The host paths that the container mounts, and whether it leaves each as it is: read-only, and not relabelled for
    SELinux."""
    for volume in container.volumes:
        source, _, options = (*volume.split(":", 2), "", "")[:3]
        if source.startswith("/"):
            flags = options.split(",")
            yield source, "ro" in flags and not {"z", "Z"} & {*flags}
    yield from ((mount.source, mount.read_only) for mount in container.mounts if mount.kind is MountKind.BIND)


def _named_volumes(container: Container) -> Iterable[str]:
    """The names, on the hosts, of the volumes that outlive a container."""
    sources = (volume.partition(":")[0] for volume in container.volumes)
    return dict.fromkeys(source for source in sources if source and not source.startswith("/"))


def _globs(service: Service, globs: Iterable[str]) -> list[str]:
    return [glob.replace(SERVICE_PLACEHOLDER, service.name) for glob in globs]


def _matches(value: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(value, glob) for glob in globs)


def _is_inside(path: str, folders: Iterable[str]) -> bool:
    """Whether the path is one of the folders or below one."""
    plain = "/" + normpath(path).lstrip("/")
    return any(fnmatchcase(plain, folder) or fnmatchcase(plain, folder.rstrip("/") + "/*") for folder in folders)


def _includes(allowed: str, listen: str) -> bool:
    """Whether an allowed address with its ports includes a `listen` value."""
    (address, first, last), (wanted, port) = parse_listen_range(allowed), split_listen(listen)
    if not first <= port <= last:
        return False
    every_ipv4 = address == EVERY_IPV4 and ip_address(wanted).version == 4
    return address in (EVERY_ADDRESS, wanted) or every_ipv4


def _capability(name: str) -> str:
    return name.upper().removeprefix("CAP_")
