"""Mode adopted: an nginx that others manage. Tidegate writes one file, which their configuration includes.

Their servers answer requests before the first rollout. So the first file that has a backend always has members for it, and
traffic moves when they change their `proxy_pass`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tidegate.core.routing import Backend
from tidegate.drivers.routers import atomic_files
from tidegate.drivers.routers.listen_addresses import require_free
from tidegate.drivers.routers.nginx import config
from tidegate.drivers.routers.nginx.generations import PREVIEW, Generation, GenerationFiles
from tidegate.drivers.routers.nginx.installation import draft_file, program_missing
from tidegate.drivers.routers.nginx.process import REJECTED, NginxProcess
from tidegate.drivers.routers.nginx.their_config import TheirConfig, parse_config
from tidegate.errors import RouterError
from tidegate.ports import CheckStatus, Diagnosis

PART = "nginx config"
SHORT_TIME = re.compile(r"\d{1,2}s?|\d{1,5}ms")  # below 100 s: requests may last as long
UNKNOWN_UPSTREAM = re.compile(r'(?:host not found in upstream|unknown) "([^"]+)"')
DUPLICATE_UPSTREAM = re.compile(r'duplicate upstream "([^"]+)"')


@dataclass
class AdoptedNginx:
    """An nginx whose file `main` includes Tidegate's file `path`."""

    frame: config.NginxFrame
    generations: GenerationFiles
    binary: str
    main: Path
    path: Path
    pid_file: Path

    def __post_init__(self) -> None:
        self.process = NginxProcess(self.binary, self.pid_file)

    def render(self, generation: Generation) -> str:
        return config.render_routes(self.frame, generation, self.generations.path(generation.number))

    def start(self) -> None:
        """Raise `RouterError` if nginx is not running: others start it."""
        if self.process.pid is None:
            raise RouterError(
                f"nginx is not running: {self.pid_file} does not contain its master's process id. Start nginx."
            )

    def ensure(self, backend: Backend, present: Generation) -> None:
        problems = self._problems()
        if not present.number:
            problems += self._status_problems()
        if problems:
            raise RouterError("; ".join(problems), retryable=False)

    def serves_empty(self, backend: Backend, present: Generation) -> bool:
        """Not before it had members: their servers would be replaced by an upstream that answers 503."""
        return backend.name in present.routes

    def _problems(self) -> list[str]:
        problems = []
        if self._include_line(atomic_files.read(self.main)) is None:
            problems.append(self._missing_include)
        if not os.access(self.path.parent, os.W_OK) or not os.access(self.main.parent, os.W_OK):
            problems.append(f"the directories of {self.path} and {self.main} must be writable for Tidegate's user")
        if (problem := self.process.signal_problem()) is not None:
            problems.append(problem)
        return problems

    def _status_problems(self) -> list[str]:
        """Why the first reload could not bind the status address."""
        try:
            require_free(Backend("its status page", self.frame.status), "nginx")
        except RouterError as error:
            return [error.message.replace("another `listen`", "another router.status")]
        return []

    @property
    def _missing_include(self) -> str:
        return f"{self.main} does not include Tidegate's file; add `include {self.path};` to its http section"

    def _include_line(self, text: str) -> re.Match[str] | None:
        """The line that includes Tidegate's file, with its path resolved as nginx resolves it."""
        lines = re.finditer(r"^([ \t]*include[ \t]+[\"']?)([^\s;\"']+)", text, re.M)
        return next((line for line in lines if self.main.parent / line[2] == self.path), None)

    def test(self, text: str, added: Collection[str]) -> None:
        """Check a copy of the main file in the same directory, because nginx resolves includes from there."""
        main = atomic_files.read(self.main)
        line = self._include_line(main)
        if line is None:
            raise RouterError(self._missing_include, retryable=False)
        with (
            draft_file(self.path, text) as ours,
            draft_file(self.main, main[: line.start(2)] + ours + main[line.end(2) :]) as theirs,
            _with_advice(),
        ):
            text = self.process.full_config(["-c", theirs], REJECTED)
        if problem := self._lost_balancing(parse_config(text, {ours}), added):
            raise RouterError(problem, retryable=False)

    def _lost_balancing(self, theirs: TheirConfig, added: Collection[str]) -> str:
        """Why a new backend may not be added: their balancing would be lost without a word."""
        undecided = sorted(name for name in added if name not in self.frame.balance and not name.endswith(PREVIEW))
        special = [f"{upstream.name} ({upstream.balancing})" for upstream in theirs.upstreams if upstream.balancing]
        if not undecided or not special:
            return ""
        name = undecided[0]
        return (
            f"Not adding the upstream {name}: {self.main} has upstreams that choose servers in a way of their own: "
            f"{', '.join(special)}. Say how {name} chooses them: set router.balance, such as "
            f'{{ "{name}" = "{theirs.upstreams_balancing()}" }} to keep it, or "round_robin". Nothing was changed.'
        )

    def reload(self) -> Callable[[], str]:
        self.process.reload()
        return str  # no reason: their error log is not read

    def missing(self) -> Diagnosis | None:
        if shutil.which(self.binary) is None:
            return program_missing(self.binary)
        if self.process.pid is None:
            problem = f"not running: {self.pid_file} does not contain the process id of an nginx master"
            return Diagnosis("nginx", CheckStatus.WRONG, problem, "start nginx, or correct router.pid")
        if problems := self._problems():
            fix = "fix this, or correct router.config and router.include"
            return Diagnosis(PART, CheckStatus.WRONG, "; ".join(problems), fix)
        return None

    def warnings(self, present: Generation) -> Sequence[Diagnosis]:
        with _with_advice():
            text = self.process.full_config(["-c", str(self.main)])
        theirs = parse_config(text, {str(self.path)})
        return [*self._setting_warnings(theirs, present), *self._upstream_notes(theirs, present)]

    def _setting_warnings(self, theirs: TheirConfig, present: Generation) -> Iterator[Diagnosis]:
        warning, wrong = CheckStatus.WARNING, CheckStatus.WRONG
        if "0" not in (words[0] for words in theirs.values("keepalive_timeout")):
            fix = "add `keepalive_timeout 0;` to the http section (docs/nginx.md describes the cost)"
            yield Diagnosis(PART, warning, "each route change closes idle client connections", fix)
        fix = "set `worker_shutdown_timeout 1h;`, or longer if requests or WebSockets may last longer"
        if not (limits := theirs.values("worker_shutdown_timeout")):
            yield Diagnosis(PART, warning, "a slow client may keep a worker of an old configuration for ever", fix)
        elif SHORT_TIME.fullmatch(limits[0][0]):
            text = f"each route change cuts requests after worker_shutdown_timeout ({limits[0][0]})"
            yield Diagnosis(PART, wrong, text, fix)
        if self.frame.log and (self.frame.log, "tidegate") not in (words[:2] for words in theirs.values("access_log")):
            fix = f"add `access_log {self.frame.log} tidegate;` to the servers of Tidegate's backends"
            yield Diagnosis(PART, warning, f"nothing writes router.log ({self.frame.log})", fix)
        if not present.number:
            for problem in self._status_problems():
                yield Diagnosis(PART, wrong, problem, "change router.status")

    def _upstream_notes(self, theirs: TheirConfig, present: Generation) -> Iterator[Diagnosis]:
        """What a person has to know before and while traffic moves to Tidegate's upstreams."""
        for upstream in theirs.upstreams:
            used = "in use" if upstream.name in theirs.targets else "not in use"
            yield Diagnosis(PART, CheckStatus.OK, f"your upstream {upstream.name}, {used}: {upstream.description}")
        for name, route in sorted(present.routes.items()):
            if name.endswith(PREVIEW):
                continue
            balance = self.frame.balance.get(name, "round_robin")
            members = f"{len(route.members)} member{'s' * (len(route.members) != 1)}, {balance}"
            if {name, f"${config.route_variable(name)}"} & theirs.targets:
                yield Diagnosis(PART, CheckStatus.OK, f"Tidegate's upstream {name}: {members}")
            else:
                text = f"Tidegate's upstream {name}: {members}, but no proxy_pass leads to it"
                yield Diagnosis(PART, CheckStatus.WARNING, text, f"change your proxy_pass to http://{name}, reload nginx")


@contextmanager
def _with_advice() -> Iterator[None]:
    """Add what to do to nginx's message about an upstream that exists twice or not at all."""
    try:
        yield
    except RouterError as error:
        advice = ""
        if match := DUPLICATE_UPSTREAM.search(error.message):
            advice = (
                f"Your configuration has an upstream {match[1]}. Set `x-tidegate.route` of the service to a name that it "
                f"does not have, such as {match[1]}_tidegate; traffic moves when you change proxy_pass (docs/nginx.md)."
            )
        elif match := UNKNOWN_UPSTREAM.search(error.message):
            advice = (
                f"Your proxy_pass leads to {match[1]}, which has no route yet. Leave it as it was until the first rollout "
                "of that service has ended (docs/nginx.md)."
            )
        if not advice:
            raise
        raise RouterError(f"{error.message}. {advice}", retryable=False) from error
