"""A FAKE Jenkins, for what the driver asks of one: a server that answers as a real one was seen to, or as its source says.

It knows builds with descriptions and inputs, the queue, and what one user with an API token may do. It runs nothing.
"""

from __future__ import annotations

import base64
import html
import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from support.controller import Controller
from support.measurements import rollout_of
from tidegate.analysis.verdict import Outcome, Verdict
from tidegate.clock import Window
from tidegate.core.build import Build
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Event, Rollout, Signal, SignalKind
from tidegate.core.phases import Phase
from tidegate.drivers.ci.jenkins.driver import JenkinsCI
from tidegate.drivers.ci.jenkins.markup import PREVIEW
from tidegate.drivers.ci.jenkins.options import JenkinsOptions
from tidegate.errors import CIError
from tidegate.ports import Notice

VERSION = "2.528"
Logs = list[MutableMapping[str, Any]]  # what structlog captured
PLACEHOLDER = "org.jenkinsci.plugins.workflow.support.steps.ExecutorStepExecution$PlaceholderTask"


@dataclass
class FakeInput:
    """A step that waits for a person. `submitters`: who may answer it; none: everybody."""

    id: str
    parameters: tuple[str, ...] = ()
    submitters: tuple[str, ...] = ()
    answers: list[tuple[str, dict[str, str]]] = field(default_factory=list)  # (proceed, proceedEmpty or abort, parameters)
    message: str = "?"
    description: str = ""  # of each parameter

    def __post_init__(self) -> None:
        self.id = self.id[:1].upper() + self.id[1:]  # as Jenkins does

    @property
    def settled(self) -> bool:
        """Whether it was answered."""
        return bool(self.answers)

    def shown(self) -> dict[str, Any]:
        """As the build's `api/json` tells it while it waits."""
        parameters = [{"name": name, "description": self.description} for name in self.parameters]
        return {
            "id": self.id,
            "settled": False,
            "input": {"message": self.message, "parameters": parameters, "submitter": ",".join(self.submitters) or None},
        }


@dataclass
class FakeBuild:
    """A build and what was done to it."""

    job: str
    number: int
    inputs: list[FakeInput] = field(default_factory=list)
    description: str | None = None
    building: bool = True
    result: str | None = None
    causes: list[dict[str, Any]] = field(default_factory=list)  # why it was interrupted
    stopped: int = 0
    described: list[str] = field(default_factory=list)  # every description that was ever submitted

    @property
    def path(self) -> str:
        """Relative to the root, as `Run.getUrl` has it: a `%` in a branch's name becomes `%25`, brackets stay."""
        names = [quote(name, safe="!$&'()*+,=@~") for name in self.job.split("/")]
        return f"job/{'/job/'.join(names)}/{self.number}/"

    def shown(self) -> dict[str, Any]:
        """All that `api/json` would tell of it; a settled input is no longer there."""
        waiting = [each.shown() for each in self.inputs if not each.settled]
        actions: list[dict[str, Any]] = [{"_class": "hudson.model.CauseAction", "causes": []}, {}]
        if self.inputs:
            kind = "org.jenkinsci.plugins.workflow.support.steps.input.InputAction"
            actions.append({"_class": kind, "executions": waiting})
        if self.causes:
            actions.append({"_class": "jenkins.model.InterruptedBuildAction", "causes": self.causes})
        return {
            "_class": "org.jenkinsci.plugins.workflow.job.WorkflowRun",
            "actions": actions,
            "building": self.building,
            "description": self.description,
            "number": self.number,
            "result": self.result,
        }

    def end(self, result: str, *causes: dict[str, Any]) -> None:
        """It is over; the causes say who interrupted it."""
        self.building, self.result, self.causes = False, result, list(causes)


def aborted_by(user: str) -> dict[str, Any]:
    """As the core tells of a build that somebody stopped: the user is only in the text."""
    kind = "jenkins.model.CauseOfInterruption$UserInterruption"
    return {"_class": kind, "shortDescription": f"Aborted by {user}"}


def rejected_by(user: str) -> dict[str, Any]:
    """As the input step tells of a gate that somebody aborted: the text has the full name."""
    kind = "org.jenkinsci.plugins.workflow.support.steps.input.Rejection"
    shown = {"_class": "hudson.model.User", "id": user, "fullName": user.title()}
    return {"_class": kind, "shortDescription": f"Rejected by {user.title()}", "timestamp": 1, "user": shown}


class FakeJenkins:
    """A Jenkins that is made up; its address stays the same when it is stopped and started again.

    `error_response`: what is answered to every request instead, as (status, content type, body). `detour`: where
    every request is led instead. `answering`: cleared while nobody gets an answer. `before`: called before each POST is
    carried out.
    `lacking`: paths, by their end, for which the user has no permission.
    """

    def __init__(self, user: str = "tidegate", token: str = "11fake0token0of0the0fake0jenkins") -> None:
        self.user, self.token = user, token
        self.builds: dict[tuple[str, int], FakeBuild] = {}
        self.queue: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []  # method, path, form
        self.headers: list[dict[str, str]] = []  # of each request
        self.error_response: tuple[int, str, str] | None = None
        self.error_count = 0  # how many requests it concerns; 0: all
        self.detour = ""  # `{path}` stands for the path that was asked for
        self.led = "."  # where a POST leads in the end: up, to the build's page
        self.answering = threading.Event()
        self.answering.set()
        self.before: Callable[[str], None] = lambda path: None
        self.lacking: tuple[str, ...] = ()
        self.hidden: set[str] = set()  # jobs without Job/Read: as if they did not exist
        self.emptied: set[str] = set()  # jobs that exist without builds
        self.password = ""  # of the user; accepted for reads only, since no crumb comes with it
        self.groups = ("authenticated",)
        self.safe_html = False  # the markup formatter; else it escapes
        self.wrong_login = 403  # what a real one answers by its version: 401 or 403
        self.settled_answer = 404  # or 400
        self._port = 0
        self._server: http.server.ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    def build(self, job: str, number: int, *inputs: FakeInput) -> FakeBuild:
        """One that runs."""
        made = FakeBuild(job, number, list(inputs))
        self.builds[job, number] = made
        return made

    def waits_for_node(self, build: FakeBuild, **task: object) -> None:
        """A part of it stands in the queue."""
        shown = {"_class": PLACEHOLDER, "name": f"part of {build.job} #{build.number}", "url": build.path, **task}
        self.queue.append({"id": len(self.queue) + 1, "task": shown, "why": "Waiting for next available executor"})

    def methods(self) -> list[str]:
        """The method of each request; without previews, which change nothing."""
        return [method for method, path, _ in self.requests if path != f"/{PREVIEW}"]

    def posts(self) -> list[str]:
        """The paths of all that was posted; without previews, which change nothing."""
        return [path for method, path, _ in self.requests if method == "POST" and path != f"/{PREVIEW}"]

    @property
    def url(self) -> str:
        """Where it listens, or did."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """On a port of its own, and on the same one ever after."""
        handler = type("Handler", (self.handler(),), {"jenkins": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._server.daemon_threads = False
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        """Nothing listens there any more."""
        self.answering.set()
        server, thread, self._server = self._server, self._thread, None
        if server is not None and thread is not None:
            server.shutdown()
            server.server_close()
            thread.join()

    def handler(self) -> type[FakeJenkinsHandler]:
        """What answers its requests."""
        return FakeJenkinsHandler

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Started, and stopped at the end."""
        self.start()
        try:
            yield self
        finally:
            self.stop()


class FakeJenkinsHandler(http.server.BaseHTTPRequestHandler):
    """One request."""

    jenkins: FakeJenkins

    def do_GET(self) -> None:
        self._handle({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self._handle({name: values[0] for name, values in parse_qs(body, keep_blank_values=True).items()})

    def _handle(self, form: dict[str, str]) -> None:
        fake, path = self.jenkins, urlsplit(self.path).path
        fake.requests.append((self.command, path, form))
        fake.headers.append(dict(self.headers))
        fake.answering.wait(300)
        if self.command == "POST":
            fake.before(path)
        if fake.detour:
            self._send(302, "", more={"Location": fake.detour.replace("{path}", self.path)})
        elif fake.error_response is not None:
            status, kind, body = fake.error_response
            if fake.error_count:
                fake.error_count -= 1
                fake.error_response = fake.error_response if fake.error_count else None
            self._send(status, body, kind)
        elif self._may(path):
            self._route(unquote(path).lstrip("/"), form)

    def _may(self, path: str) -> bool:
        """Whether the user is known and has the permission; else the refusal is sent."""
        fake, sent = self.jenkins, self.headers.get("Authorization")
        wanted = f"Basic {base64.b64encode(f'{fake.user}:{fake.token}'.encode()).decode()}"
        by_password = f"Basic {base64.b64encode(f'{fake.user}:{fake.password}'.encode()).decode()}"
        if fake.password and sent == by_password:
            if self.command == "POST":
                self._send(
                    403, "<html><body><h2>HTTP ERROR 403 No valid crumb was included in the request</h2></body></html>"
                )
            return self.command == "GET"
        if sent != wanted:
            page = f"<html><body>Authentication required<!-- You sent {sent} --></body></html>"
            self._send(fake.wrong_login if sent else 403, page)
            return False
        if any(path.endswith(each) for each in fake.lacking):
            lacking = {"X-Required-Permission": "hudson.model.Item.Cancel", "X-You-Are-Authenticated-As": fake.user}
            self._send(403, "<html><body>Access denied</body></html>", more=lacking)
            return False
        return True

    def _route(self, path: str, form: dict[str, str]) -> None:
        fake = self.jenkins
        if self.command == "GET" and path == "me/api/json":
            self._json({"_class": "hudson.model.User", "id": fake.user, "fullName": fake.user.title()})
            return
        if self.command == "GET" and path == "api/json":
            names = sorted({build.job.partition("/")[0] for build in fake.builds.values() if build.job not in fake.hidden})
            self._json({"_class": "hudson.model.Hudson", "jobs": [{"name": name} for name in names]})
            return
        if self.command == "GET" and path == "whoAmI/api/json":
            self._json({"_class": "hudson.security.WhoAmI", "name": fake.user, "authorities": list(fake.groups)})
            return
        if self.command == "POST" and path == PREVIEW:
            text = form["text"]
            self._send(200, text if fake.safe_html else html.escape(text))
            return
        if self.command == "GET" and path == "queue/api/json":
            self._json({"_class": "hudson.model.Queue", "items": fake.queue})
            return
        if self.command == "POST" and path == "queue/cancelItem":
            self._cancel(int(parse_qs(urlsplit(self.path).query)["id"][0]))
            return
        shown = [build for build in fake.builds.values() if build.job not in fake.hidden]
        found = next((build for build in shown if path.startswith(unquote(build.path))), None)
        jobs = {unquote(build.path).rpartition(f"{build.number}/")[0] for build in shown}
        jobs |= {f"job/{'/job/'.join(job.split('/'))}/" for job in fake.emptied}
        if self.command == "GET" and path.removesuffix("api/json") in jobs:
            self._json({"_class": "org.jenkinsci.plugins.workflow.job.WorkflowJob", "name": path.split("/")[-3]})
        elif found is None:
            self._not_found()
        elif self.command == "GET" and path == f"{unquote(found.path)}api/json":
            self._json(found.shown())
        elif self.command == "POST":
            self._post(found, path.removeprefix(unquote(found.path)), form)
        else:
            self._not_found()

    def _cancel(self, item: int) -> None:
        left = [each for each in self.jenkins.queue if each["id"] != item]
        known, self.jenkins.queue = len(left) < len(self.jenkins.queue), left
        self._send(204 if known else 404, "")

    def _post(self, build: FakeBuild, verb: str, form: dict[str, str]) -> None:
        if verb == "submitDescription":
            build.description = form["description"]
            build.described.append(form["description"])
            self._send(302, "", more={"Location": self.jenkins.led})
        elif verb == "stop":
            build.stopped += 1
            build.end("ABORTED", aborted_by(self.jenkins.user))
            self._send(302, "", more={"Location": self.jenkins.led})
        elif answered := re.fullmatch(r"input/([^/]+)/(proceed|proceedEmpty|abort)", verb):
            self._answer(build, answered[1], answered[2], form)
        else:
            self._not_found()

    def _answer(self, build: FakeBuild, name: str, verb: str, form: dict[str, str]) -> None:
        fake = self.jenkins
        named = [each for each in build.inputs if each.id == name]  # one after another, only the last of them can be open
        found = named[-1] if named else None
        if found is None or (found.settled and fake.settled_answer == 404):
            self._not_found()
        elif found.settled:
            self._failure("This input has been already given")
        elif found.submitters and fake.user not in found.submitters:
            self._failure(f"You need to be {','.join(found.submitters)} to submit this")
        else:
            given = {each["name"]: each["value"] for each in json.loads(form.get("json", "{}")).get("parameter", [])}
            if not set(given) <= set(found.parameters):
                self._send(500, "<html><body>Oops! No such parameter definition</body></html>")
                return
            found.answers.append((verb, given))
            if verb == "abort":
                build.end("ABORTED", rejected_by(fake.user))
            self._send(200, "")

    # -- answers ------------------------------------------------------------------------------------------------------

    def _json(self, found: dict[str, Any]) -> None:
        """Only the fields that are asked for; `_class` is always there."""
        tree = parse_qs(urlsplit(self.path).query).get("tree")
        kept = _pruned(found, _parsed(list(tree[0]))) if tree else found
        self._send(200, json.dumps(kept), "application/json;charset=utf-8", {"X-Jenkins": VERSION})

    def _not_found(self) -> None:
        self._send(404, "<html><head><title>Error 404 Not Found</title></head><body><h2>HTTP ERROR 404</h2></body></html>")

    def _failure(self, why: str) -> None:
        """How `hudson.model.Failure` is answered."""
        page = f"<html><head><title>Error</title></head><body><h1>Error</h1><p>{why}</p></body></html>"
        self._send(400, page, more={"X-Error": why})

    def _send(self, status: int, body: str, kind: str = "text/html", more: dict[str, str] | None = None) -> None:
        sent = body.encode()
        with suppress(ConnectionError):  # whoever asked has gone
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(sent)), **(more or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        """Quiet."""


Tree = dict[str, "Tree"]


def _parsed(left: list[str]) -> Tree:
    """`a,b[c,d[e]]` as nested dicts; eats the characters up to the end of its brackets."""
    tree: Tree = {}
    name = ""
    while left:
        each = left.pop(0)
        if each == "[":
            tree[name] = _parsed(left)
            name = ""
        elif each in ",]":
            if name:
                tree[name] = {}
            name = ""
            if each == "]":
                return tree
        else:
            name += each
    if name:
        tree[name] = {}
    return tree


def _pruned(found: Any, tree: Tree) -> Any:
    """What the tree asks for; a leaf that is an object shows its class only."""
    if isinstance(found, list):
        return [_pruned(each, tree) for each in found]
    if not isinstance(found, dict):
        return found
    return {
        name: value if name == "_class" else _pruned(value, tree[name])
        for name, value in found.items()
        if name == "_class" or name in tree
    }


# -- the driver, told of a rollout --------------------------------------------------------------------------------------

ID = "18fd2a3b4c5d6e"
LINK = f"http://tidegate.example/rollouts/{ID}"
JOB = "team/repo/feature%2Ffoo"
GATE = f"Tidegate-{ID}-1-0"  # asks about the second step
BUILD = Build(JOB, 12, "http://jenkins.example/job/team/job/repo/job/feature%252Ffoo/12/")
ROLLOUT = replace(rollout_of(steps=4), id=ID, traffic_confirmed_at=None, step_ready_at=None)
WAITING = replace(ROLLOUT, cursor=1, approval_since=5.0)
ROLLED_BACK = replace(ROLLOUT, phase=Phase.ROLLING_BACK, reason="errors: 5 % of requests failed")
ANN = Signal(SignalKind.PROMOTE, 6.0, "ann", "all good", 1)
PROMOTED = Event(EventKind.PROMOTED, "promoted by ann: all good", 6.0, 7, {"by": "ann", "reason": "all good", "step": 1})


def subject(fake: FakeJenkins | Controller, token: Path, **settings: object) -> JenkinsCI:
    """The driver, as an environment has it."""
    given = {"url": fake.url, "user": fake.user, "token_file": str(token), "timeout_seconds": 60.0, **settings}
    return JenkinsCI(JenkinsOptions.model_validate(given), "demo")


def event(kind: EventKind, message: str = "so it is", number: int = 9) -> Event:
    """One that carries nothing."""
    return Event(kind, message, 8.0, number)


def report_event(
    ci: JenkinsCI,
    rollout: Rollout,
    what: Event | EventKind,
    build: Build = BUILD,
    link: str = LINK,
    signals: Sequence[Signal] = (),
) -> None:
    """Report it."""
    ci.report(build, Notice(rollout, what if isinstance(what, Event) else event(what), link, tuple(signals)))


def failure(
    ci: JenkinsCI, rollout: Rollout = ROLLOUT, what: Event | EventKind = EventKind.CREATED, build: Build = BUILD
) -> CIError:
    """What a report that fails says."""
    with pytest.raises(CIError) as caught:
        report_event(ci, rollout, what, build)
    assert caught.value.__cause__ is None
    return caught.value


def judged(rollout: Rollout, outcome: Outcome) -> Rollout:
    """With a verdict on its present step."""
    return replace(rollout, verdict=Verdict(outcome, 7.0, Window(0.0, 7.0), (), "the checks said so", True))


def at(cursor: int) -> Rollout:
    """Running, at this step."""
    return replace(ROLLOUT, cursor=cursor)
