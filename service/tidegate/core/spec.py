"""A service of a Compose document with `x-tidegate`, as a `Service`. Pure; the text is loaded elsewhere.

    parse(document, service, environment, variables) -> Service

All mistakes are told at once, each with its path. What Compose knows and Tidegate cannot honour is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tidegate.core import reading, spec_way
from tidegate.core.approval import Approval, Expiry
from tidegate.core.container import Container, Health, HealthCommand
from tidegate.core.interpolation import interpolated
from tidegate.core.model import FailureAction, InconclusiveAction, Order, Policy, Service, Strategy
from tidegate.core.reading import Reader, flag, one_of, pairs, shown, text, whole, words
from tidegate.core.routing import Backend
from tidegate.core.spec_checks import checks
from tidegate.core.units import seconds, share, size
from tidegate.errors import InvalidSpec, Problem

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
EXTENSION = "x-tidegate"

#: Words of the Compose specification that Tidegate does not honour, with what to do.
NOT_SUPPORTED = {
    "ports": "the proxy publishes the service: name the container's port in expose, and the proxy's in x-tidegate.listen",
    "build": "build the image before, and name it in image",
    "depends_on": "deploy services in their order",
    "env_file": "give the variables in environment",
    "secrets": "mount files with volumes",
    "configs": "mount files with volumes",
    "networks": "the environment's settings name the network",
    "network_mode": "the environment's settings name the network",
    "container_name": "Tidegate names its containers",
    "restart": "containers are always restarted with their engine",
    "scale": "use deploy.replicas",
    "profiles": "name the service that is meant",
    "privileged": "not offered",
}


def parse(document: object, service: str, environment: str, variables: Mapping[str, str]) -> Service:
    """The named service of the document. Raises `InvalidSpec` with every mistake."""
    problems: list[Problem] = []
    body = _body(document, service)
    path = f"services.{service}"
    root = Reader(interpolated(body, variables, problems, path), path, problems)
    for what, name in (("service", service), ("environment", environment)):
        if not NAME.fullmatch(name):
            problems.append(Problem("", f"{what} {shown(name)}: allowed are a-z, 0-9 and -, at most 40"))
    found = _service(root, service, environment)
    if problems:
        raise InvalidSpec(sorted(set(problems), key=lambda each: each.path))
    return found


def _body(document: object, service: str) -> object:
    """The part of the document that is about the service."""
    if not isinstance(document, Mapping) or not isinstance(document.get("services"), Mapping):
        raise InvalidSpec([Problem("services", "a mapping of services is needed, as in a Compose file")])
    services = document["services"]
    if service not in services:
        known = ", ".join(map(str, services)) or "none"
        raise InvalidSpec([Problem("services", f"there is no service {service}; the file has: {known}")])
    return services[service]


def _service(root: Reader, name: str, environment: str) -> Service:
    deploy, own = root.inner("deploy"), root.inner(EXTENSION)
    update = deploy.inner("update_config")
    replicas = deploy.take("replicas", whole(1, 1000), 1)
    batch = update.take("parallelism", whole(0, 1000), 1) or replicas
    monitor = update.take("monitor", seconds, 0.0)
    bake = own.take("bake", seconds, monitor) + update.take("delay", seconds, 0.0)
    strategy = own.take("strategy", one_of(Strategy, Strategy), Strategy.ROLLING)
    backend = _backend(own, name)
    found = Service(
        environment=environment,
        name=name,
        image=root.take("image", text, ""),
        replicas=replicas,
        container=_container(root, deploy, own),
        backend=backend,
        strategy=strategy,
        order=update.take("order", one_of(Order, Order), Order.START_FIRST),
        batch=batch,
        bake_seconds=bake,
        holds=own.take("hold", _holds, ()),
        checks=checks(own),
        policy=_policy(own, update, bake),
        keep_seconds=spec_way.keep(own, strategy),
        shares=spec_way.shares(own),
        hooks=spec_way.hooks(own),
        compare=spec_way.compare(own),
        probe=spec_way.probe(own, backend.listen),
        together=spec_way.together(own),
    )
    _consistent(root, own, update, found)
    for reader in (update, deploy, own):
        reader.finish()
    root.refuse(NOT_SUPPORTED)
    root.finish()
    return found


def _consistent(root: Reader, own: Reader, update: Reader, service: Service) -> None:
    """What each key alone cannot know."""
    if not service.image and "image" not in root:
        root.complain("image", "is needed")
    if service.checks and not service.bake_seconds:
        own.complain("bake", "is needed where there are checks: how long each batch is watched, such as 60s")
    if service.checks and service.policy.warmup_seconds >= service.bake_seconds > 0:
        own.complain("warmup", f"must be shorter than the bake of {service.bake_seconds:g} s, or nothing is ever compared")
    if service.order is Order.STOP_FIRST and service.batch >= service.replicas:
        update.complain(
            "order", f"stop-first with parallelism {service.batch} of {service.replicas} would stop all at once"
        )
    if service.order is Order.STOP_FIRST and service.strategy is Strategy.BLUE_GREEN:
        update.complain("order", "stop-first has no meaning with strategy blue_green")
    gradual = 1 + len(service.shares)
    last = gradual if service.strategy is Strategy.BLUE_GREEN else -(-service.replicas // service.batch)
    if service.strategy is Strategy.ROLLING and len(service.shares) >= last:
        own.complain("weights", f"found {len(service.shares)}; there are {last} batches, and the last one takes everything")
    beyond = [str(number) for number in service.holds if number > last]
    if beyond:
        own.complain("hold", f"there is no batch {', '.join(beyond)}; there are {last}")


def _container(root: Reader, deploy: Reader, own: Reader) -> Container:
    resources = deploy.inner("resources")
    limits = resources.inner("limits")
    check = root.inner("healthcheck") if "healthcheck" in root else None
    found = Container(
        port=_port(root),
        command=root.take("command", words, None),
        entrypoint=root.take("entrypoint", words, None),
        environment=root.take("environment", pairs, {}),
        labels=root.take("labels", _labels, {}),
        user=root.take("user", text, ""),
        working_dir=root.take("working_dir", text, ""),
        health=_health(own.inner("health")),
        healthcheck=_healthcheck(check) if check else None,
        stop_signal=root.take("stop_signal", text, ""),
        stop_grace_seconds=root.take("stop_grace_period", seconds, 10.0),
        memory_bytes=limits.take("memory", size, 0),
        cpus=limits.take("cpus", reading.decimal, 0.0),
        volumes=root.take("volumes", _volumes, ()),
        init=root.take("init", flag, False),
        read_only=root.take("read_only", flag, False),
    )
    resources.refuse({"reservations": "limits can be honoured"})
    limits.finish()
    resources.finish()
    return found


def _port(root: Reader) -> int:
    if "expose" not in root:
        root.complain("expose", 'is needed: the one port that takes traffic, such as ["8080"]')
    return root.take("expose", _one_port, 0)


def _one_port(value: object) -> int:
    if isinstance(value, list) and len(value) == 1:
        return whole(1, 65535)(value[0])
    raise ValueError('one port, such as ["8080"]')


def _labels(value: object) -> dict[str, str]:
    found = pairs(value)
    if any(name.startswith("tidegate.") for name in found):
        raise ValueError("labels that do not begin with tidegate.")
    return found


def _volumes(value: object) -> tuple[str, ...]:
    rule = re.compile(r"(/[^:]*|[A-Za-z0-9][\w.-]*):/[^:]*(:(ro|rw))?")
    if isinstance(value, list) and all(isinstance(each, str) and rule.fullmatch(each) for each in value):
        return tuple(value)
    raise ValueError("a list of source:target or source:target:ro, the source an absolute path or a volume's name")


def _health(reader: Reader) -> Health:
    found = Health(
        path=reader.take("path", _path, ""),
        port=reader.take("port", whole(1, 65535), 0),
        timeout_seconds=reader.take("timeout", seconds, 2.0),
    )
    if reader.values and "path" not in reader:
        reader.complain("path", "is needed, such as /health")
    reader.finish()
    return found


def _path(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"/[!-~]*", value):
        return value
    raise ValueError("a path such as /health")


def _healthcheck(reader: Reader) -> HealthCommand | None:
    disabled = reader.take("disable", flag, False)
    test: tuple[str, ...] = reader.take("test", _test, tuple[str, ...]())
    found = HealthCommand(
        test=("NONE",) if disabled else test,
        interval_seconds=reader.take("interval", seconds, 30.0),
        timeout_seconds=reader.take("timeout", seconds, 30.0),
        retries=reader.take("retries", whole(1, 1000), 3),
        start_period_seconds=reader.take("start_period", seconds, 0.0),
    )
    reader.finish()
    if not disabled and not test:
        reader.complain("test", "is needed")
    return None if found.test in ((), ("NONE",)) else found


def _test(value: object) -> tuple[str, ...]:
    if isinstance(value, str) and value.strip():
        return ("CMD-SHELL", value)
    words = value if isinstance(value, list) and all(isinstance(word, str) for word in value) else []
    if words == ["NONE"] or words[:1] in (["CMD"], ["CMD-SHELL"]):
        return tuple(words)
    raise ValueError("text, or a list that begins with CMD, CMD-SHELL or NONE")


def _backend(own: Reader, service: str) -> Backend:
    health = own.values.get("health")
    path = health.get("path") if isinstance(health, Mapping) else ""
    listen = own.take("listen", spec_way.listen, "")
    return Backend(own.take("route", _name, service), listen, str(path or ""), spec_way.preview(own))


def _name(value: object) -> str:
    if isinstance(value, str) and NAME.fullmatch(value):
        return value
    raise ValueError("a-z, 0-9 and -, at most 40")


def _holds(value: object) -> tuple[int, ...]:
    if isinstance(value, list):
        return tuple(whole(1, 1000)(each) for each in value)
    raise ValueError("a list of the batches after which a person is asked, such as [1]")


def _policy(own: Reader, update: Reader, bake_seconds: float) -> Policy:
    base = Policy()
    return Policy(
        drain_seconds=own.take("drain", seconds, base.drain_seconds),
        long_lived_seconds=spec_way.long_lived(own),
        healthy_deadline_seconds=own.take("healthy_deadline", seconds, base.healthy_deadline_seconds),
        max_restarts=own.take("max_restarts", whole(0), base.max_restarts),
        max_failure_ratio=update.take("max_failure_ratio", _ratio, 0.0),
        look_seconds=own.take("look", _positive, base.look_seconds),
        failure_action=update.take("failure_action", one_of(FailureAction, FailureAction), base.failure_action),
        warmup_seconds=own.take("warmup", seconds, min(base.warmup_seconds, bake_seconds / 3)),
        false_abort=own.take("false_abort", _chance, base.false_abort),
        on_inconclusive=own.take("on_inconclusive", one_of(InconclusiveAction, InconclusiveAction), base.on_inconclusive),
        max_extensions=own.take("max_extensions", whole(0, 100), base.max_extensions),
        hold_expires_seconds=own.take("hold_expires", seconds, base.hold_expires_seconds),
        approval=_approval(own.inner("approval")),
    )


def _approval(reader: Reader) -> Approval:
    base = Approval()
    found = Approval(
        roles=reader.take("roles", _roles, base.roles),
        needed=reader.take("needed", whole(1, 20), base.needed),
        requester=reader.take("requester", flag, base.requester),
        on_expiry=reader.take("on_expiry", one_of(Expiry, Expiry), base.on_expiry),
    )
    reader.finish()
    return found


def _roles(value: object) -> tuple[str, ...]:
    if isinstance(value, list) and value and all(isinstance(each, str) and each.strip() for each in value):
        return tuple(value)
    raise ValueError("a list of roles of the environment's settings, such as [release-managers]")


def _ratio(value: object) -> float:
    found = share(value)
    if found > 1:
        raise ValueError("a share from 0 to 1")
    return found


def _chance(value: object) -> float:
    found = share(value)
    if not 0.0001 <= found <= 0.2:
        raise ValueError("a share from 0.01% to 20%")
    return found


def _positive(value: object) -> float:
    found = seconds(value)
    if found < 0.1:
        raise ValueError("a duration of at least 100ms")
    return found
