"""Whether instances are ready: checks at the address that the proxy uses, as long as somebody observes the service.

A check has one time limit for all that it does. Without a path it is a TCP connection; with one it is a GET request, in
addition to a connection to the port for traffic where that is another. Of HTTP/2 in clear text the first frame is required.
"""

from __future__ import annotations

import functools
import itertools
import socket
import struct
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from urllib.parse import urlsplit

import structlog

from tidegate.core.container import Health
from tidegate.drivers.http_client import DeadlineHttpClient, HttpResponse, describe_error
from tidegate.fair_threads import FairThreads
from tidegate.text import single_line

log = structlog.get_logger("tidegate.readiness")

OBSERVED_SECONDS = 15.0  # checks continue for this long after a service was last asked for
FIRST_RESULT_SECONDS = (
    5.0  # its first result is waited for until so long after it was first seen, if it has run for a while
)
STARTING_RESULT_SECONDS = 1.0  # the same for one that just started: it is not ready until a check says so
FRESH_RESULT_SECONDS = 0.25  # the longest wait for a new result of an instance that is still starting
MAX_CHECKS, MAX_CHECKS_OF_SERVICE = 1024, 32  # at a time; an instance that hangs takes one until its time limit
CLOSE_SECONDS = 0.25  # within which Docker's own proxy closes a connection to a port on which nothing listens
MAX_HOST_CHARS = 100
H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
H2_FRAME = struct.Struct(">BHBBL")  # length (24 bits), type, flags, stream
H2_SETTINGS = 4

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class ReadinessProbe:
    """How one instance is checked.

    `key` identifies one start of it, so that results of an earlier start do not count. The proxy connects to `address`; the
    request of `health` goes to `health_address`. `published`: the address belongs to Docker's proxy, which accepts
    connections for a container that does not listen. `settled`: it has run for a while, so it may have been ready before it
    was first observed.
    """

    key: str
    address: Address
    health_address: Address
    health: Health
    h2c: bool = False
    published: bool = False
    settled: bool = False


# -- one check ------------------------------------------------------------------------------------------------------------


def check_instance(probe: ReadinessProbe) -> str:
    """Empty if the instance is ready; otherwise what is wrong."""
    deadline = time.monotonic() + probe.health.timeout_seconds
    problem = ""
    if probe.h2c:
        problem = _check_h2c(probe, deadline)
    elif not probe.health.path or probe.health_address != probe.address:
        problem = _check_connection(probe, deadline)
    return problem or (_check_response(probe, deadline) if probe.health.path else "")


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining


def _format(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _nothing_answers(address: Address, error: OSError, timeout_seconds: float) -> str:
    reason = f"no connection within {timeout_seconds:g} s"
    if isinstance(error, ConnectionRefusedError):
        reason = "connection refused"
    elif not isinstance(error, TimeoutError):
        reason = error.strerror or str(error)
    return f"nothing answers at {_format(address)}: {reason}"


def _check_connection(probe: ReadinessProbe, deadline: float) -> str:
    try:
        with socket.create_connection(probe.address, timeout=_remaining(deadline)) as connection:
            if probe.published:
                connection.settimeout(min(CLOSE_SECONDS, _remaining(deadline)))
                try:
                    closed = not connection.recv(1, socket.MSG_PEEK)
                except TimeoutError:
                    closed = False
                if closed:
                    return f"nothing answers at {_format(probe.address)}: the connection is closed at once"
    except OSError as error:
        return _nothing_answers(probe.address, error, probe.health.timeout_seconds)
    return ""


def _check_h2c(probe: ReadinessProbe, deadline: float) -> str:
    """The connection preface of HTTP/2; the answer must begin with a frame SETTINGS (RFC 9113, section 3.4)."""
    try:
        connection = socket.create_connection(probe.address, timeout=_remaining(deadline))
    except OSError as error:
        return _nothing_answers(probe.address, error, probe.health.timeout_seconds)
    answer = b""
    with connection:
        try:
            connection.sendall(H2_PREFACE + H2_FRAME.pack(0, 0, H2_SETTINGS, 0, 0))
            while len(answer) < H2_FRAME.size:
                connection.settimeout(_remaining(deadline))
                received = connection.recv(H2_FRAME.size - len(answer))
                if not received:
                    break
                answer += received
        except OSError:
            pass  # an incomplete answer
    if len(answer) == H2_FRAME.size:
        _, _, kind, flags, stream = H2_FRAME.unpack(answer)
        if (kind, flags, stream) == (H2_SETTINGS, 0, 0):
            return ""
    return f"{_format(probe.address)} does not speak HTTP/2 in clear text (protocol: h2c)"


def _check_response(probe: ReadinessProbe, deadline: float) -> str:
    health = probe.health
    request = f"GET {health.path}"
    own_name = urlsplit(f"//{health.host}").hostname or ""
    client = DeadlineHttpClient(f"{health.scheme}://{_format(probe.health_address)}", verify=False, server_name=own_name)
    headers = {"connection": "close", "accept": "*/*", **{name.lower(): value for name, value in health.headers}}
    headers |= {"host": health.host} if health.host else {}
    try:
        response = client.get(health.path, _remaining(deadline), 0, headers)
    except ConnectionRefusedError as error:
        return _nothing_answers(probe.health_address, error, health.timeout_seconds)
    except (OSError, HTTPException) as error:
        advice = "; set health.port to a port that speaks HTTP/1, or remove health.path" if probe.h2c else ""
        return f"{request} {describe_error(error, health.timeout_seconds)}{advice}"
    finally:
        client.close()
    if not any(lowest <= response.status <= highest for lowest, highest in health.expect):
        return f"{request} answered {response.status}"
    elsewhere = _redirect_host(response, {own_name, probe.health_address[0]})
    return f"{request} answered {response.status}: a redirect to another host, {elsewhere}" if elsewhere else ""


def _redirect_host(response: HttpResponse, own: Collection[str]) -> str:
    """The other host that a redirect leads to; empty if there is none."""
    location = response.headers.get("location", "") if 300 <= response.status < 400 else ""
    try:
        host = urlsplit(location).hostname or ""
    except ValueError:
        host = location
    return "" if host in own else single_line(host, MAX_HOST_CHARS)


# -- results in a row -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Streak:
    """The results of one start of an instance, counted against the thresholds of its `Health`.

    `decided`: whether it is known if it is ready. One that has run for a while may have been ready all the time, so that
    the thresholds decide from the first result on; one that just started is not ready until it is.
    """

    health: Health
    decided: bool = False
    settled: bool = False
    ready: bool = False
    was_ready: bool = False
    successes: int = 0
    failures: int = 0
    problem: str = ""
    failing_since: float = 0.0  # seconds since the epoch

    def add(self, problem: str, now: float) -> None:
        """Count a result, empty for a success; `now` in seconds since the epoch."""
        if not problem:
            self.successes, self.failures = self.successes + 1, 0
            if self.successes >= self.health.healthy_threshold:
                self.ready = self.was_ready = self.decided = True
        else:
            self.failing_since = self.failing_since if self.failures else now
            self.successes, self.failures, self.problem = 0, self.failures + 1, problem
            if self.failures >= self.health.unhealthy_threshold:
                self.ready, self.decided = False, True
        self.decided = self.decided or not self.settled

    @property
    def message(self) -> str:
        """Empty if it is ready; otherwise what is wrong, and since when."""
        if self.ready:
            return ""
        if self.failures:
            since = time.strftime("%H:%M:%S UTC", time.gmtime(self.failing_since))
            return f"{self.problem} (failing since {since})"
        if self.successes:
            return f"{self.successes} of {self.health.healthy_threshold} successful checks in a row"
        return "no result of the first check yet"


# -- all instances --------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Target:
    """An instance that is being checked. Times are monotonic."""

    service: str
    probe: ReadinessProbe
    streak: Streak
    since: float
    due: float = 0.0
    asked: float = 0.0
    running: bool = False
    results: int = 0

    @property
    def first_result_until(self) -> float:
        """Until when its first result is waited for."""
        return self.since + (FIRST_RESULT_SECONDS if self.streak.settled else STARTING_RESULT_SECONDS)

    @property
    def is_starting(self) -> bool:
        """Whether it has never been ready and fails: then it is checked each time somebody asks."""
        return not self.streak.was_ready and not self.streak.successes and not self.streak.settled


class ReadinessProber:
    """Checks instances in the background, each at its own interval while its service is observed. Safe to use from several
    threads."""

    def __init__(self) -> None:
        self._targets: dict[str, dict[str, _Target]] = {}  # by service and key
        self._changed = threading.Condition()
        self._closing = False
        self._scheduler: threading.Thread | None = None
        self._threads = FairThreads("probe", MAX_CHECKS, MAX_CHECKS_OF_SERVICE)

    def ask(self, service: str, probes: Collection[ReadinessProbe]) -> Mapping[str, str]:
        """By key: empty if ready, otherwise what is wrong. `probes` must be all probes of the service.

        Answers with the latest results; waits only for those of instances that start, or are new.
        """
        with self._changed:
            targets = self._observe(service, probes)
            waiting = {}
            for target in targets:
                if target.is_starting:
                    target.due = 0.0
                    waiting[target.probe.key] = target.results + 1
            self._changed.notify_all()
            self._wait(targets, waiting)
            return {target.probe.key: target.streak.message for target in targets}

    def _observe(self, service: str, probes: Iterable[ReadinessProbe]) -> list[_Target]:
        known, now = self._targets.get(service, {}), time.monotonic()
        targets = {
            probe.key: known.get(probe.key) or _Target(service, probe, Streak(probe.health, settled=probe.settled), now)
            for probe in probes
        }
        for target in targets.values():
            target.asked = now
        self._targets[service] = targets
        if self._scheduler is None and targets:
            self._scheduler = threading.Thread(target=self._schedule, name="probe-scheduler", daemon=True)
            self._scheduler.start()
        return list(targets.values())

    def _wait(self, targets: Collection[_Target], fresh: Mapping[str, int]) -> None:
        """Wait for first results, and for new ones of instances that start. An instance that hangs delays its callers only
        shortly after it was first seen, not each time somebody asks."""
        begun = time.monotonic()
        first = max((target.first_result_until for target in targets if not target.streak.decided), default=begun)
        for deadline, is_done in (
            (first, lambda target: target.streak.decided or target.first_result_until < time.monotonic()),
            (begun + FRESH_RESULT_SECONDS, lambda target: target.results >= fresh.get(target.probe.key, 0)),
        ):
            while not self._closing and not all(map(is_done, targets)):
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                self._changed.wait(remaining)

    def _schedule(self) -> None:
        with self._changed:
            while not self._closing:
                now = time.monotonic()
                for service, targets in list(self._targets.items()):
                    current = {key: one for key, one in targets.items() if now - one.asked < OBSERVED_SECONDS}
                    self._targets[service] = current
                    if not current:
                        del self._targets[service]
                idle = [target for targets in self._targets.values() for target in targets.values() if not target.running]
                for target in idle:
                    if target.due <= now:
                        target.running = True
                        self._threads.submit(target.service, functools.partial(self._check, target))
                upcoming = (target.due for target in idle if not target.running)
                next_due = min(itertools.chain(upcoming, [now + OBSERVED_SECONDS]))
                self._changed.wait(max(0.0, next_due - now))

    def _check(self, target: _Target) -> None:
        begun = time.monotonic()
        try:
            problem = check_instance(target.probe)
        except Exception as error:  # a bug: the instance is not known to be ready
            log.exception("cannot check an instance", address=target.probe.address)
            problem = f"the check failed: {error!r}"
        with self._changed:
            target.streak.add(problem, time.time())
            target.results += 1
            target.running = False
            target.due = begun + target.probe.health.interval_seconds if target.streak.decided else begun
            self._changed.notify_all()

    def close(self) -> None:
        """End all checks. Those that are running are not waited for: they end after their time limit."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._scheduler is not None:
            self._scheduler.join()
