"""Parsing a service of a Compose document, with its `x-tidegate` extension. Pure; `loader` reads the text.

All mistakes are reported together, each with its path. Compose keys that Tidegate does not support are rejected by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from tidegate.compose import extension
from tidegate.compose.backend import NAME_PATTERN, read_backend, read_health
from tidegate.compose.checks import read_checks
from tidegate.compose.container_keys import read_container, read_either
from tidegate.compose.depends_on import read_depends_on
from tidegate.compose.document import EXTENSION, NOWHERE, Location, ServiceDocument, extract_service
from tidegate.compose.files import ComposeFiles
from tidegate.compose.interpolation import Variables
from tidegate.compose.jobs import JobReader
from tidegate.compose.ports import read_ports
from tidegate.compose.reader import Findings, Reader, boolean, format_value, integer, one_of
from tidegate.compose.units import parse_duration, parse_share
from tidegate.compose.unsupported import note_neighbours, note_other_programs, reject_unsupported
from tidegate.compose.worker import check_worker, read_singleton, read_worker, read_worker_health, read_worker_port
from tidegate.core.compose import ComposeSource
from tidegate.core.container import Container
from tidegate.core.model import (
    Approval,
    Expiry,
    FailureAction,
    InconclusiveAction,
    Order,
    Policy,
    RepairPolicy,
    Service,
    Strategy,
)
from tidegate.core.routing import Backend, BackendProtocol
from tidegate.errors import InvalidSpec, Problem

SERVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
SchemaCheck = Callable[[Mapping[str, object]], Iterable[Problem]]  # the violations of Compose's schema


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What is read with a document.

    `files`: those sent with it. `image`: deployed instead of the one in it. `problems`: mistakes found while it was
    assembled.
    """

    files: ComposeFiles = field(default_factory=ComposeFiles)
    location: Location = NOWHERE
    image: str = ""
    problems: tuple[Problem, ...] = ()


def parse_service(
    document: object,
    service: str,
    environment: str,
    variables: Mapping[str, str],
    options: ReadOptions | None = None,
    schema: SchemaCheck = lambda _: (),
) -> Service:
    """The named service of the document. Raises `InvalidSpec` with all mistakes."""
    findings, variables, options = Findings(), Variables.of(variables), options or ReadOptions()
    problems = findings.problems
    problems += options.problems
    extracted = extract_service(document, service, variables, findings, options.location)
    unset, first = problems[len(options.problems) :], len(problems)
    root = Reader(extracted.body, f"services.{service}", findings, extensible=True)
    if service not in extracted.ours:
        root.complain(EXTENSION, "is required: a service without it is run by docker compose; `x-tidegate: {}` is enough")
    if not SERVICE_NAME.fullmatch(service):
        text = "allowed: letters, digits, ., _ and -, at most 63 characters"
        problems.append(Problem("", f"service {format_value(service)}: {text}"))
    if not NAME_PATTERN.fullmatch(environment):
        text = "allowed: a-z, 0-9 and -, at most 40 characters"
        problems.append(Problem("", f"environment {format_value(environment)}: {text}"))
    depends_on, jobs = read_depends_on(root, extracted), JobReader(document, root, extracted, variables, options.files)
    jobs.read(depends_on)
    result = _read_service(root, service, environment, extracted, variables, options)
    for checked in (extracted.as_document, *jobs.documents()):
        problems += [problem for problem in schema(checked) if not any(_is_same_place(problem, one) for one in problems)]
    if problems:
        caused = {problem for problem in problems[first:] if any(_is_within(problem, one) for one in unset)}
        raise InvalidSpec(sorted({*problems} - caused, key=lambda problem: problem.path))
    note_neighbours(root, extracted)
    note_other_programs(root, result.container)
    notes = tuple(sorted(dict.fromkeys(findings.notes), key=lambda note: note.field))
    source = ComposeSource(extracted.project, tuple(dict.fromkeys(jobs.others)), variables.used, notes)
    return replace(result, source=source, depends_on=depends_on.ours, hooks={**jobs.jobs, **result.hooks})


def examine(document: object, service: str, variables: Variables, options: ReadOptions) -> None:
    """Read a service only for the variables that it uses, whatever its mistakes."""
    with suppress(InvalidSpec):
        parse_service(document, service, "any", variables, options)


def _is_within(inner: Problem, outer: Problem) -> bool:
    """Whether a value has a mistake because the one that it is read from has: a variable in it is not set."""
    return outer.path != "" and (inner.path == outer.path or inner.path.startswith((f"{outer.path}.", f"{outer.path}[")))


def _is_same_place(one: Problem, other: Problem) -> bool:
    """Whether one path contains the other: then both are about the same mistake."""
    shorter, longer = sorted((one.path, other.path), key=len)
    return longer == shorter or (shorter != "" and longer.startswith((f"{shorter}.", f"{shorter}[")))


def _read_service(
    root: Reader, name: str, environment: str, document: ServiceDocument, variables: Variables, options: ReadOptions
) -> Service:
    deploy, own = root.inner("deploy"), root.inner(EXTENSION)
    update, is_worker = deploy.inner("update_config"), read_worker(root, own)
    replicas = read_either(root, "scale", deploy, "replicas", integer(1, 1000), 0) or 1
    batch = update.take("parallelism", _parallelism(replicas), 1) or replicas
    monitor, bake = _read_monitor(own, update, is_waited_for=is_worker and "healthcheck" not in root)
    strategy = own.take("strategy", one_of(Strategy, Strategy), Strategy.ROLLING)
    shares = extension.read_weights(own)
    batches = 1 + len(shares) if strategy is Strategy.BLUE_GREEN else -(-replicas // batch)
    preview, preview_bake = extension.read_preview(own)
    port, listen = (read_worker_port(root, own), "") if is_worker else read_ports(root, own)
    health = read_worker_health(update, monitor) if is_worker else read_health(own)
    container = read_container(root, deploy, health, port, document, variables, options.files)
    order, warnings = _read_order(own, update, strategy, replicas, container, is_worker=is_worker)
    backend = None if is_worker else read_backend(own, name, container, listen, preview)
    deadline, late = _read_healthy_deadline(own, container)
    result = Service(
        environment=environment,
        name=name,
        image=extension.read_image(root, own, options.image),
        replicas=replicas,
        backend=backend,
        strategy=strategy,
        container=_complete(container, backend, order, replicas),
        order=order,
        batch=batch,
        bake_seconds=bake,
        checks=read_checks(own),
        policy=replace(_read_policy(own, update, bake, batches), healthy_deadline_seconds=deadline),
        keep_old_seconds=extension.read_keep_old(own, strategy),
        traffic_shares=shares,
        hooks=extension.read_hooks(own),
        compare=extension.read_compare(own),
        preview_bake_seconds=preview_bake,
        probe=extension.read_probe(own, listen),
        in_group=extension.read_group(own),
        repair=own.take("repair", one_of(RepairPolicy, RepairPolicy), RepairPolicy.AUTO),
        keep_images=own.take("keep_images", integer(1, 1000), 0),
        warnings=(*warnings, *late),
    )
    result = replace(result, control=extension.read_control(own, result))
    _finish(root, deploy, update, own, result, batches)
    return result


def _complete(container: Container, backend: Backend | None, order: Order, replicas: int) -> Container:
    h2c = backend is not None and backend.options.protocol is BackendProtocol.H2C
    return replace(container, h2c=h2c, alone=order is Order.STOP_FIRST and replicas == 1)


def _read_monitor(own: Reader, update: Reader, *, is_waited_for: bool) -> tuple[float, float]:
    """`monitor`, and the bake of each batch, in seconds. By default the bake is `monitor`, unless that says how long an
    instance must run before it is ready."""
    monitor = update.take("monitor", parse_duration, 0.0)
    bake = own.take("bake", parse_duration, 0.0 if is_waited_for else monitor)
    return monitor, bake + update.take("delay", parse_duration, 0.0)


def _finish(root: Reader, deploy: Reader, update: Reader, own: Reader, service: Service, batches: int) -> None:
    _check_consistency(root, own, update, service, batches)
    reject_unsupported(root, deploy)
    Reader.finish_all(update, deploy, own, root)


def _read_order(
    own: Reader, update: Reader, strategy: Strategy, replicas: int, container: Container, *, is_worker: bool
) -> tuple[Order, tuple[str, ...]]:
    """The order, and what it means for the service while a release is replaced.

    By default a singleton, and a single instance that writes to a volume, is stopped before the next one starts.
    """
    data = " and ".join(container.writable_sources)
    alone = replicas == 1 and strategy is Strategy.ROLLING
    singleton = read_singleton(own, update, replicas, strategy)
    default = Order.STOP_FIRST if singleton or (alone and data) else Order.START_FIRST
    order = update.take("order", one_of(Order, Order), default)
    if alone and order is Order.STOP_FIRST:
        reason = f"Its instance writes to {data}, so it" if data else "With one replica and order stop-first the instance"
        advice = " Set order: start-first if two instances may write at once." if data else ""
        what = "no work is done" if is_worker else "no request is answered"
        text = f"stops before the next one starts: {what} meanwhile, during a rollback neither."
        return order, (f"{reason} {text}{advice}",)
    if data and replicas > 1:
        hosts = "With several Docker hosts, each has data of its own."
        return order, (f"{replicas} instances write to {data} at the same time. {hosts}",)
    if data:
        return order, (f"Instances of both releases write to {data} at the same time during a rollout.",)
    return order, ()


def _read_healthy_deadline(own: Reader, container: Container) -> tuple[float, tuple[str, ...]]:
    """The deadline, and a warning if a good instance may miss it. By default it is as long as the healthcheck needs."""
    command = None if container.health.path else container.healthcheck
    needed = container.health.run_seconds or 0.0 if command is None else command.ready_within_seconds
    deadline = own.take("healthy_deadline", parse_duration, max(Policy().healthy_deadline_seconds, needed))
    if command is None and deadline <= needed:
        own.complain("healthy_deadline", f"must be longer than the {needed:g} s that an instance runs before it is ready")
    if command is None or command.is_disabled or deadline >= needed:
        return deadline, ()
    first = command.start_interval_seconds or command.interval_seconds
    if deadline <= first:
        own.complain(
            "healthy_deadline",
            f"must be longer than {first:g} s: Docker runs the first healthcheck only after its interval",
        )
    text = f"healthy_deadline is {deadline:g} s, but the healthcheck may take {needed:g} s to find an instance healthy"
    return deadline, (f"{text} (start_period + interval × (retries + 1) + timeout): a good release may be rolled back.",)


def _check_consistency(root: Reader, own: Reader, update: Reader, service: Service, batches: int) -> None:
    """Check keys that depend on each other."""
    if service.checks and not service.bake_seconds:
        own.complain("bake", "is required if there are checks: how long each batch is observed, such as 60s")
    if service.checks and service.policy.warmup_seconds >= service.bake_seconds > 0:
        own.complain("warmup", f"must be shorter than the bake of {service.bake_seconds:g} s, or nothing can be compared")
    if service.preview_bake_seconds and not any(check.is_limit for check in service.checks):
        own.complain("preview.bake", "has no effect: without traffic only checks with max or min can be evaluated")
    if service.backend is None:
        check_worker(own, service)
    elif service.order is Order.STOP_FIRST and service.batch >= service.replicas > 1:
        update.complain(
            "order", f"stop-first with parallelism {service.batch} of {service.replicas} would stop all instances at once"
        )
    if service.order is Order.STOP_FIRST and service.strategy is Strategy.BLUE_GREEN:
        update.complain("order", "stop-first cannot be used with strategy blue_green")
    if service.strategy is Strategy.ROLLING and len(service.traffic_shares) >= batches:
        count = len(service.traffic_shares)
        own.complain("weights", f"found {count}; allowed: fewer than the {batches} batches (the last takes all traffic)")
    beyond = [str(number) for number in service.policy.approval.after if number > batches]
    if beyond:
        own.complain("approval.after", f"no batch {', '.join(beyond)}; there are {batches} batches")


def _parallelism(replicas: int) -> Callable[[object], int]:
    """A reader of the number of instances in a batch; a percentage of all instances is rounded down, but is at least 1."""

    def read(value: object) -> int:
        if isinstance(value, str) and value.endswith("%"):
            share = parse_share(value)
            if 0 < share <= 1:
                return max(1, int(share * replicas + 1e-9))
        elif not isinstance(value, str):
            return integer(0, 1000)(value)
        raise ValueError("an integer from 0 to 1000, or a percentage from 1% to 100% such as 25%")

    return read


def _batches(count: int) -> Callable[[object], tuple[int, ...]]:
    """A reader of batch numbers; `all` means every batch."""

    def read(value: object) -> tuple[int, ...]:
        if value == "all":
            return tuple(range(1, count + 1))
        if isinstance(value, list):
            return tuple(integer(1, 1000)(number) for number in value)
        raise ValueError("a list of the batches after which approval is required, such as [1], or all")

    return read


def _read_policy(own: Reader, update: Reader, bake_seconds: float, batches: int) -> Policy:
    base = Policy()
    return Policy(
        drain_timeout_seconds=own.take("drain_timeout", parse_duration, base.drain_timeout_seconds),
        long_lived_seconds=extension.read_long_lived(own),
        max_restarts=own.take("max_restarts", integer(0), base.max_restarts),
        max_failure_ratio=update.take("max_failure_ratio", _ratio, 0.0),
        interval_seconds=own.take("interval", _positive, base.interval_seconds),
        failure_action=update.take("failure_action", one_of(FailureAction, FailureAction), base.failure_action),
        warmup_seconds=own.take("warmup", parse_duration, min(base.warmup_seconds, bake_seconds / 3)),
        false_abort=own.take("false_abort", _chance, base.false_abort),
        on_inconclusive=own.take("on_inconclusive", one_of(InconclusiveAction, InconclusiveAction), base.on_inconclusive),
        max_extensions=own.take("max_extensions", integer(0, 100), base.max_extensions),
        approval=_read_approval(own.inner("approval"), batches),
    )


def _read_approval(reader: Reader, batches: int) -> Approval:
    base = Approval()
    approval = Approval(
        after=reader.take("after", _batches(batches), base.after),
        roles=reader.take("roles", _roles, base.roles),
        needed=reader.take("needed", integer(1, 20), base.needed),
        requester=reader.take("requester", boolean, base.requester),
        expires_seconds=reader.take("expires", parse_duration, base.expires_seconds),
        on_expiry=reader.take("on_expiry", one_of(Expiry, Expiry), base.on_expiry),
    )
    reader.finish()
    return approval


def _roles(value: object) -> tuple[str, ...]:
    if isinstance(value, list) and value and all(isinstance(role, str) and role.strip() for role in value):
        return tuple(value)
    raise ValueError("a list of roles of the environment's settings, such as [release-managers]")


def _ratio(value: object) -> float:
    ratio = parse_share(value)
    if ratio > 1:
        raise ValueError("a share from 0 to 1")
    return ratio


def _chance(value: object) -> float:
    probability = parse_share(value)
    if not 0.0001 <= probability <= 0.2:
        raise ValueError("a share from 0.01% to 20%")
    return probability


def _positive(value: object) -> float:
    duration = parse_duration(value)
    if duration < 0.1:
        raise ValueError("a duration of at least 100ms")
    return duration
