"""Reading the `volumes` and `tmpfs` of a service. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tidegate.compose.document import Location, ServiceDocument, require_project
from tidegate.compose.reader import Findings, Reader, boolean, format_value, integer, list_of, one_of, string_or_list, text
from tidegate.compose.units import parse_size
from tidegate.core.container import Mount, MountKind

RELATIVE = (
    "the folder of the Compose file is not on the machine of all Docker hosts; use an absolute path on the hosts, "
    "or configs and secrets for single files"
)
OPTIONS = {"ro", "rw", "z", "Z", "nocopy", "rprivate", "private", "rshared", "shared", "rslave", "slave"}
IGNORED = {"cached", "delegated", "consistent"}  # only for Docker Desktop
#: How a volume or network is made; Tidegate makes only those that have none of them.
OWN_OPTIONS = ("driver_opts", "ipam", "internal", "attachable", "enable_ipv4", "enable_ipv6")
TMPFS_OPTION = re.compile(
    r"ro|rw|(no)?exec|(no)?suid|(no)?dev|(no)?atime|size=\d+[kmgKMG]?|mode=[0-7]{3,4}|uid=\d+|gid=\d+"
)
SHORT = "source:target or source:target:ro, the source an absolute path or a volume's name"
UNSUPPORTED_TYPES = {"cluster": "only for Swarm", "npipe": "only for Windows", "image": "needs Docker 28"}


@dataclass(frozen=True, slots=True)
class Volumes:
    """The mounts: Docker's binds, mounts that binds cannot express, tmpfs with options, and required external volumes."""

    binds: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    tmpfs: Mapping[str, str] | None = None
    external: tuple[str, ...] = ()

    @property
    def targets(self) -> Iterator[tuple[str, bool]]:
        """The target of each mount, and whether it is a tmpfs."""
        yield from ((bind.split(":")[1], False) for bind in self.binds)
        yield from ((mount.target, mount.kind is MountKind.TMPFS) for mount in self.mounts)
        yield from ((mount, True) for mount in self.tmpfs or ())


def read_volumes(root: Reader, document: ServiceDocument) -> Volumes:
    """All mounts. Their targets must be unique."""
    binds: list[str] = []
    mounts: list[Mount] = []
    external: list[str] = []
    for index, entry in enumerate(root.take("volumes", list_of(f"a list of {SHORT}"), list[object]())):
        key = f"volumes[{index}]"
        value, options = (entry, "") if isinstance(entry, Mapping) else _to_long_form(root, key, entry)
        if value is None:
            continue
        made = _read_volume(Reader(value, root.at(key), root.findings, extensible=True), options, document, external)
        binds += [made] if isinstance(made, str) else []
        mounts += [made] if isinstance(made, Mount) else []
    volumes = Volumes(
        tuple(binds), tuple(mounts), root.take("tmpfs", _tmpfs, dict[str, str]()), tuple(dict.fromkeys(external))
    )
    at = [target for target, _ in volumes.targets]
    for target in sorted({duplicate for duplicate in at if at.count(duplicate) > 1}):
        root.complain("volumes", f"duplicate target {target}; change one of them")
    return volumes


def _to_long_form(root: Reader, key: str, entry: object) -> tuple[Mapping[str, object] | None, str]:
    """The short form converted to the long one, and its options; None after reporting a mistake."""
    parts = entry.split(":") if isinstance(entry, str) else []
    source, target = (None, parts[0]) if len(parts) == 1 else (parts[0], parts[1]) if parts else (None, "")
    if not 1 <= len(parts) <= 3 or not target.startswith("/"):
        root.complain(key, f"found {format_value(entry)}; allowed: {SHORT}, or an object with type, source and target")
        return None, ""
    options = parts[2].split(",") if len(parts) == 3 else []
    wrong = [option for option in options if option not in OPTIONS | IGNORED]
    if wrong:
        root.complain(key, f"found {format_value(', '.join(wrong))}; allowed: {', '.join(sorted(OPTIONS))}")
    kind = "bind" if source and source[0] in "/.~" else "volume"
    kept = ",".join(option for option in options if option not in {*IGNORED, "rw"})
    return {"type": kind, "source": source, "target": target}, kept


def _read_volume(reader: Reader, options: str, document: ServiceDocument, external: list[str]) -> str | Mount | None:
    """Docker's short form if it can express the mount, else a `Mount`; None after reporting a mistake."""
    kind = reader.take("type", _kind, None)
    target = reader.take("target", _target, "")
    read_only = reader.take("read_only", boolean, False)
    reader.tolerate("consistency")
    if not target and "target" not in reader:
        reader.complain("target", "is required: the path in the container")
    if kind is None or not target:
        return None
    flags = ",".join(filter(None, [options, "ro" if read_only else ""]))
    if kind is MountKind.BIND:
        volume = _bind(reader, target, flags, document.location)
    else:
        volume = _volume(reader, target, flags) if kind is MountKind.VOLUME else _tmpfs_mount(reader, target, flags)
    if isinstance(volume, str) and kind is MountKind.VOLUME:
        volume = _with_resource_name(reader, volume, document, external)
    reader.finish()
    return volume


def _kind(value: object) -> MountKind:
    if isinstance(value, str) and value in UNSUPPORTED_TYPES:
        raise ValueError(f"{', '.join(MountKind)}; {value} is not supported: {UNSUPPORTED_TYPES[value]}")
    return one_of(MountKind, MountKind)(value)


def _target(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"/[^:\x00-\x1f\x7f]{1,255}", value) and ".." not in value.split("/"):
        return "/" + value.strip("/")
    raise ValueError("an absolute path in the container, without a colon")


def _bind(reader: Reader, target: str, options: str, location: Location) -> str | Mount | None:
    source = reader.take("source", lambda value: _path(value, location), "")
    own = reader.inner("bind")
    create = own.take("create_host_path", boolean, True)
    propagation = own.take("propagation", one_of(str, sorted(OPTIONS - {"ro", "rw", "z", "Z", "nocopy"})), "")
    selinux = own.take("selinux", one_of(str, ("z", "Z")), "")
    own.refuse({"recursive": "needs Docker 25"})
    own.finish()
    if not source:
        if "source" not in reader:
            reader.complain("source", "is required: an absolute path on the Docker hosts")
        return None
    if not create and selinux:
        own.complain("selinux", "not supported if create_host_path is false")
    if create:
        return ":".join(filter(None, (source, target, ",".join(filter(None, [options, propagation, selinux])))))
    return Mount(MountKind.BIND, target, source, "ro" in options.split(","), propagation)


def _path(value: object, location: Location) -> str:
    """A path on the Docker hosts; a relative one is in the Compose file's folder, if the hosts have that."""
    if isinstance(value, str) and not value.startswith("/"):
        base = location.home if value.split("/")[0] == "~" else location.folder
        if not location.is_local or not base.startswith("/"):
            raise ValueError(RELATIVE)
        value = posixpath.normpath(posixpath.join(base, value.removeprefix("~").lstrip("/") if value[0] == "~" else value))
    if isinstance(value, str) and re.fullmatch(r"/[^:\x00-\x1f\x7f]{0,1000}", value):
        return value
    raise ValueError("an absolute path on the Docker hosts, without a colon")


def _volume(reader: Reader, target: str, options: str) -> str | Mount | None:
    own = reader.inner("volume")
    nocopy = own.take("nocopy", boolean, False)
    own.refuse({"subpath": "needs Docker 26", "labels": "set them where the volume is created"})
    own.finish()
    if "source" not in reader:
        reader.tolerate("source")
        if "ro" in options.split(","):
            reader.complain("", "a volume without a name is new for each container, so read-only is useless")
        return Mount(MountKind.VOLUME, target)
    name = reader.take("source", _name, "")
    return ":".join(filter(None, (name, target, ",".join(filter(None, [options, "nocopy" if nocopy else ""])))))


def _name(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]*", value):
        return value
    if isinstance(value, str) and "/" in value:
        raise ValueError("a volume's name; a path in the Compose file's folder begins with ./")
    raise ValueError("a volume's name")


def _with_resource_name(reader: Reader, bind: str, document: ServiceDocument, external: list[str]) -> str | None:
    """The bind with the volume's name on the Docker hosts."""
    key, _, rest = bind.partition(":")
    if key not in document.shared.get("volumes", {}):
        if key:
            reader.complain("", f"no volume {key} in the file's top-level volumes; declare it there")
        return None
    resource = read_resource(document, "volumes", key, reader.findings)
    external += [resource.name] if resource.must_exist else []
    return f"{resource.name}:{rest}"


@dataclass(frozen=True, slots=True)
class Resource:
    """A volume or network on the Docker hosts. `must_exist`: Tidegate does not make it."""

    name: str
    must_exist: bool


def read_resource(document: ServiceDocument, kind: str, key: str, findings: Findings) -> Resource:
    """A definition of the top level. As in Compose, its name is its `name`, else its key, with the project's name as a
    prefix unless it is external."""
    reader = Reader(document.shared[kind].get(key), f"{kind}.{key}", findings, extensible=True)
    name = reader.take("name", _name, "")
    external, old_name = reader.take("external", _external, (False, ""))
    driver = reader.take("driver", text, "")
    special = [option for option in OWN_OPTIONS if reader.values.get(option)]
    special += [f"driver {driver}"] if driver not in ("", "default", "local" if kind == "volumes" else "bridge") else []
    reader.tolerate(*OWN_OPTIONS)
    reader.ignore({"labels": "they are set by whoever creates it"})
    if special and not external:
        ways = f"docker compose up or docker {kind[:-1]} create"
        reader.note("", f"must exist: Tidegate creates none with {' and '.join(special)}; {ways} does")
    reader.finish()
    if external:
        return Resource(name or old_name or key, must_exist=True)
    return Resource(name or f"{require_project(document, findings)}_{key}", must_exist=bool(special))


def _external(value: object) -> tuple[bool, str]:
    """Whether it is external, and the name in the old form `external: {name: …}`."""
    if isinstance(value, Mapping) and set(value) <= {"name"}:
        return True, _name(value["name"]) if "name" in value else ""
    if isinstance(value, Mapping):
        raise ValueError("true, false, or an object with name")
    return boolean(value), ""


def _tmpfs_mount(reader: Reader, target: str, options: str) -> Mount:
    own = reader.inner("tmpfs")
    reader.refuse({"source": "a tmpfs has no source"})
    mount = Mount(
        MountKind.TMPFS,
        target,
        read_only="ro" in options.split(","),
        size_bytes=own.take("size", parse_size, 0),
        mode=own.take("mode", _mode, 0),
    )
    own.finish()
    return mount


def _mode(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-7]{3,5}", value):
        value = int(value, 8)
    return integer(0, 0o7777)(value)


def _tmpfs(value: object) -> dict[str, str]:
    mounts: dict[str, str] = {}
    for entry in string_or_list(value):
        target, _, options = entry.partition(":")
        wrong = [one for one in options.split(",") if one and not TMPFS_OPTION.fullmatch(one)]
        if wrong:
            raise ValueError("a path and mount options such as /run:size=64m,mode=1777")
        mounts[_target(target)] = options
    return mounts
