"""Reading what is particular to workers, which take no requests, and to singletons, of which no two may run. Pure."""

from __future__ import annotations

from tidegate.compose.reader import Reader, boolean, integer
from tidegate.core.container import Health
from tidegate.core.hooks import PRE_PROMOTE
from tidegate.core.model import CheckKind, Order, Service, Strategy

DEFAULT_RUN_SECONDS = 5.0  # Compose's own default of `monitor`
MAX_RUN_SECONDS = 3600.0  # Docker rounds longer times
#: Keys of `x-tidegate` that are about requests. One of them shows that a service without a port is no worker.
REQUEST_KEYS = (
    "listen", "hosts", "route", "port", "health", "protocol", "timeouts", "preview", "weights", "compare", "probe",
    "drain_timeout", "long_lived",
)  # fmt: skip
PORT_KEYS = ("ports", "expose")


def read_worker(root: Reader, own: Reader) -> bool:
    """Whether the service takes no requests: `worker` says so, or nothing in the file names a port or needs one."""
    has_requests = any(key in root for key in PORT_KEYS) or any(key in own for key in REQUEST_KEYS)
    worker = own.take("worker", boolean, not has_requests)
    if not worker:
        return False
    if "worker" not in own:
        own.note("worker", "the service names no port, so it runs without a proxy; set `port` if it takes requests")
    for key in REQUEST_KEYS:
        if key in own and key != "port":
            own.complain(key, "cannot be used for a worker, which takes no requests; remove it, or `worker`")
    return True


def read_worker_port(root: Reader, own: Reader) -> int:
    """Where an instance of a worker serves its metrics; 0: nowhere."""
    root.tolerate("expose")
    root.ignore({"ports": "the ports of a worker are not published; `port` says where it serves metrics"})
    return own.take("port", integer(1, 65535), 0)


def check_worker(own: Reader, service: Service) -> None:
    """Complain about what only instances that take requests can have."""
    if service.strategy is Strategy.BLUE_GREEN:
        own.complain("strategy", "blue_green needs a proxy: a worker works as soon as it runs; use rolling")
    if PRE_PROMOTE in service.hooks:
        own.complain("hooks.pre_promote", "runs before traffic moves; a worker works as soon as it runs: use pre_deploy")
    if any(check.kind in (CheckKind.ERRORS, CheckKind.LATENCY) for check in service.checks):
        own.complain("checks", "errors and latency count requests; a worker can have memory and queries")


def read_worker_health(update: Reader, monitor_seconds: float) -> Health:
    """How an instance of a worker is checked: it must run for `monitor`, unless it has a HEALTHCHECK."""
    if monitor_seconds > MAX_RUN_SECONDS:
        update.complain("monitor", f"found {monitor_seconds:g} s; allowed for a worker: at most {MAX_RUN_SECONDS:g} s")
    return Health(run_seconds=monitor_seconds or DEFAULT_RUN_SECONDS)


def read_singleton(own: Reader, update: Reader, replicas: int, strategy: Strategy) -> bool:
    """Whether the service demands that no two instances run at once."""
    if not own.take("singleton", boolean, False):
        return False
    if replicas > 1:
        own.complain("singleton", f"allows one instance; the service has {replicas} replicas")
    if strategy is not Strategy.ROLLING:
        own.complain("singleton", "cannot be used with strategy blue_green, which runs both releases at once")
    if update.values.get("order") == Order.START_FIRST:
        update.complain("order", "start-first runs two instances at once, but the service is a singleton; use stop-first")
    return True
