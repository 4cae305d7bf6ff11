"""A FAKE Jenkins whose jobs can be made and whose builds are played by the harness of the shared library.

It answers as much of a controller's API as `support.controller` asks for, so that the stories which are told to a real one
are tried here first. It has no executors: what is asked of them is answered as by a controller at rest.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree as Xml

from support.controller import CREDENTIALS
from support.fake_jenkins import FakeBuild, FakeInput, FakeJenkins, FakeJenkinsHandler
from support.library import Harness
from support.wait import eventually

MAX_INPUTS = 4  # of one build
RECENT = "<?xml version='1.1' encoding='UTF-8'?>"


@dataclass
class PlayedBuild(FakeBuild):
    """One that the harness plays."""

    result: str | None = None
    log: str = ""

    def end(self, result: str, *causes: dict[str, Any]) -> None:
        """Somebody interrupts it; the harness says when it has ended, and how."""
        self.causes = list(causes)

    def shown(self) -> dict[str, Any]:
        """With its result; aborting an input does not end it at once."""
        return {**super().shown(), "building": self.result is None, "result": self.result}


@dataclass
class FakeJob:
    """A folder, or a pipeline with a script."""

    xml: str
    secrets: dict[str, str] = field(default_factory=dict)


class PlayedJenkins(FakeJenkins):
    """See above. `folder` is for what the played builds are told while they run."""

    def __init__(self, harness: Harness, folder: Path) -> None:
        super().__init__()
        self.jobs: dict[str, FakeJob] = {}
        self.scripts: list[str] = []  # of the script console
        self._harness, self._folder = harness, folder
        self._threads: list[threading.Thread] = []

    def handler(self) -> type[FakeJenkinsHandler]:
        """Jobs, credentials and the script console, too."""
        return PlayedHandler

    def stop(self) -> None:
        """After the last build, which is ended where it has not ended by itself."""
        for number in range(MAX_INPUTS):
            if not (self._folder / f"answer{number}.json").exists():
                self._write(f"answer{number}.json", json.dumps({"abort": True}))
        self._write("aborted", "")
        for thread in self._threads:
            thread.join(120)
        super().stop()

    def begin(self, job: str) -> None:
        """Its first build."""
        made = PlayedBuild(job, 1)
        self.builds[job, 1] = made
        for work in (self._play, self._watch):
            thread = threading.Thread(target=work, args=(made,))
            thread.start()
            self._threads.append(thread)

    def _play(self, build: PlayedBuild) -> None:
        script = Xml.fromstring(self.jobs[build.job].xml.removeprefix(RECENT)).findtext("definition/script")
        inputs = [
            {"input": {"shown": str(self._folder / f"shown{n}.json"), "file": str(self._folder / f"answer{n}.json")}}
            for n in range(MAX_INPUTS)
        ]
        scenario = {
            "jenkinsfile": script,
            "env": {"JOB_NAME": build.job, "BUILD_NUMBER": "1", "BUILD_URL": f"{self.url}/{build.path}"},
            "credentials": self.jobs[build.job.partition("/")[0]].secrets,
            "script": [*inputs, {"abort": {"file": str(self._folder / "aborted")}}],
        }
        played = self._harness.run(scenario)
        build.log = "\n".join([*played["echo"], *played["unstable"], str(played["error"] or "")])
        build.result = played["result"]

    def _watch(self, build: PlayedBuild) -> None:
        """What happens to the build here happens in the harness, and the other way round."""
        for number in range(MAX_INPUTS):
            shown = self._folder / f"shown{number}.json"
            eventually("the build asks or ends", lambda file=shown: file.exists() or build.stopped or build.result)  # type: ignore[misc]
            if not shown.exists():
                break
            asked = json.loads(shown.read_text())
            gate = FakeInput(asked["id"], ("reason",), message=asked["message"], description=asked["description"])
            build.inputs.append(gate)
            eventually("it is settled or the build ends", lambda one=gate: one.settled or build.stopped or build.result)  # type: ignore[misc]
            if not gate.settled:
                break
            ((verb, given),) = gate.answers
            ends = {"abort": True} if verb == "abort" else {"approver": self.user, **given}
            self._write(f"answer{number}.json", json.dumps(ends))
        if build.stopped:
            self._write("aborted", "")

    def _write(self, name: str, text: str) -> None:
        (self._folder / "written").write_text(text)
        (self._folder / "written").rename(self._folder / name)


class PlayedHandler(FakeJenkinsHandler):
    """What a controller answers to who makes jobs there."""

    jenkins: PlayedJenkins

    def do_POST(self) -> None:  # noqa: N802
        """Bodies may be XML here."""
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        form = parse_qs(self.body, keep_blank_values=True) if not self.body.startswith("<") else {}
        self._handle({name: values[0] for name, values in form.items()})

    def _route(self, path: str, form: dict[str, str]) -> None:
        names = path.split("/")
        folder = "/".join(names[1:-1:2]) if names[0] == "job" else ""
        if self.command == "GET" and (not path or path.endswith("/1/")):
            self._send(200, "<html><body>a page of Jenkins, to which POSTs lead</body></html>")
        elif path == "computer/api/json":
            self._json({"_class": "hudson.model.ComputerSet", "busyExecutors": 0, "computer": []})
        elif path == "scriptText":
            self.jenkins.scripts.append(form["script"])
            self._send(200, ")]}.", "text/plain")
        elif names[-1] == "createItem":
            name = parse_qs(urlsplit(self.path).query)["name"][0]
            Xml.fromstring(self.body.removeprefix(RECENT))
            self.jenkins.jobs[f"{folder}/{name}".lstrip("/")] = FakeJob(self.body)
            self._send(200, "")
        elif "credentials" in names:
            self._credential(self.jenkins.jobs[names[1]])
        elif not self._of_job(path):
            super()._route(path, form)

    def _of_job(self, path: str) -> bool:
        """Whether it was about a job, or the log of its build, and was answered."""
        verb = next((each for each in ("/api/json", "/build", "/doDelete", "/1/consoleText") if path.endswith(each)), "")
        parts = path.removesuffix(verb).split("/")
        if not verb or len(parts) % 2 or set(parts[::2]) != {"job"}:
            return False
        name = "/".join(parts[1::2])
        job = self.jenkins.jobs.get(name)
        if job is None:
            self._not_found()
        elif verb == "/api/json":
            kind = "flow.Pipeline" if "flow-definition" in job.xml else "com.cloudbees.hudson.plugins.folder.Folder"
            self._json({"_class": kind, "name": name.rpartition("/")[2], "jobs": []})
        elif verb == "/build":
            self.jenkins.begin(name)
            self._send(201, "", more={"Location": f"{self.jenkins.url}/queue/item/1/"})
        elif verb == "/doDelete":
            jobs = self.jenkins.jobs
            self.jenkins.jobs = {each: one for each, one in jobs.items() if not f"{each}/".startswith(f"{name}/")}
            self._send(302, "", more={"Location": self.jenkins.url})
        else:
            found = self.jenkins.builds[name, 1]
            self._send(200, found.log if isinstance(found, PlayedBuild) else "", "text/plain;charset=utf-8")
        return True

    def _credential(self, folder: FakeJob) -> None:
        if self.command == "POST":
            made = Xml.fromstring(self.body.removeprefix(RECENT))
            folder.secrets[str(made.findtext("id"))] = str(made.findtext("password"))
            self._send(200, "")
        elif CREDENTIALS in folder.secrets:
            self._json({"_class": "…", "id": CREDENTIALS})
        else:
            self._not_found()
