"""A service of a Compose document with `x-tidegate`, as a `Service`. Pure; the text is loaded elsewhere.

    parse(document, service, environment, variables) -> Service

All mistakes are told at once, each with its path. What Compose knows and Tidegate cannot honour is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from tidegate.core import spec_way
from tidegate.core.approval import Approval, Expiry
from tidegate.core.model import FailureAction, InconclusiveAction, Order, Policy, Repair, Service, Strategy
from tidegate.core.reading import Reader, flag, image, one_of, shown, whole
from tidegate.core.routing import Backend, Preview
from tidegate.core.spec_checks import checks
from tidegate.core.spec_container import container
from tidegate.core.spec_document import Document, document_of
from tidegate.core.spec_files import Files
from tidegate.core.spec_order import depends_on
from tidegate.core.spec_refused import honour_by_name
from tidegate.core.units import seconds, share
from tidegate.errors import InvalidSpec, Problem

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
EXTENSION = "x-tidegate"

Schema = Callable[[Mapping[str, object]], Iterable[Problem]]  # what a document breaks of Compose's own schema


def parse(
    document: object,
    service: str,
    environment: str,
    variables: Mapping[str, str],
    files: Files | None = None,
    schema: Schema = lambda _: (),
) -> Service:
    """The named service of the document. `files` are those that came with it. Raises `InvalidSpec` with every mistake."""
    problems: list[Problem] = []
    found = document_of(document, service, variables, problems)
    root = Reader(found.body, f"services.{service}", problems, extensible=True)
    for what, name in (("service", service), ("environment", environment)):
        if not NAME.fullmatch(name):
            problems.append(Problem("", f"{what} {shown(name)}: allowed are a-z, 0-9 and -, at most 40"))
    made = _service(root, service, environment, found, variables, files or Files())
    problems += [each for each in schema(found.whole) if not any(_same_place(each, one) for one in problems)]
    if problems:
        raise InvalidSpec(sorted(set(problems), key=lambda each: each.path))
    return made


def _same_place(one: Problem, other: Problem) -> bool:
    """Whether one stands within the other: it is the same mistake."""
    shorter, longer = sorted((one.path, other.path), key=len)
    return longer == shorter or (shorter != "" and longer.startswith((f"{shorter}.", f"{shorter}[")))


def _service(
    root: Reader, name: str, environment: str, document: Document, variables: Mapping[str, str], files: Files
) -> Service:
    deploy, own = root.inner("deploy"), root.inner(EXTENSION)
    update = deploy.inner("update_config")
    replicas = deploy.take("replicas", whole(1, 1000), 1)
    batch = update.take("parallelism", whole(0, 1000), 1) or replicas
    monitor = update.take("monitor", seconds, 0.0)
    bake = own.take("bake", seconds, monitor) + update.take("delay", seconds, 0.0)
    strategy = own.take("strategy", one_of(Strategy, Strategy), Strategy.ROLLING)
    preview, preview_bake = spec_way.preview(own)
    backend = _backend(own, name, preview)
    found = Service(
        environment=environment,
        name=name,
        image=root.take("image", image, ""),
        replicas=replicas,
        backend=backend,
        strategy=strategy,
        container=container(root, deploy, own, document, variables, files),
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
        preview_bake_seconds=preview_bake,
        probe=spec_way.probe(own, backend.listen),
        together=spec_way.together(own),
        depends_on=depends_on(root, document),
        repair=own.take("repair", one_of(Repair, Repair), Repair.AUTO),
    )
    _consistent(root, own, update, found)
    honour_by_name(root, deploy)
    for reader in (update, deploy, own, root):
        reader.finish()
    return found


def _consistent(root: Reader, own: Reader, update: Reader, service: Service) -> None:
    """What each key alone cannot know."""
    if not service.image and "image" not in root:
        root.complain("image", "is needed")
    if service.checks and not service.bake_seconds:
        own.complain("bake", "is needed where there are checks: how long each batch is watched, such as 60s")
    if service.checks and service.policy.warmup_seconds >= service.bake_seconds > 0:
        own.complain("warmup", f"must be shorter than the bake of {service.bake_seconds:g} s, or nothing is ever compared")
    if service.preview_bake_seconds and not any(check.is_limit for check in service.checks):
        own.complain("preview.bake", "watches nothing: before traffic comes only checks with max or min can say anything")
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


def _backend(own: Reader, service: str, preview: Preview | None) -> Backend:
    health = own.values.get("health")
    path = health.get("path") if isinstance(health, Mapping) else ""
    listen = own.take("listen", spec_way.listen, "")
    return Backend(own.take("route", _name, service), listen, str(path or ""), preview)


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
