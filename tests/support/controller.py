"""A Jenkins controller as the stories need it, by python-jenkins: folders, libraries, secrets, pipelines, builds, inputs.

The same code speaks to a real controller and to the fake one that plays builds (`support.fake_jenkins_jobs`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as Xml

import jenkins
import requests

from support.wait import eventually

LIBRARY_PATH = "shared-library/"
CREDENTIALS = "tidegate-token"
LIBS = "org.jenkinsci.plugins.workflow.libs"
SHOWN = (
    "_class,building,result,description,actions[_class,executions[id,settled,input[message,parameters[name,description]]]]"
)


@dataclass(frozen=True)
class Library:
    """Where the shared library is got from, by git."""

    remote: str
    version: str
    name: str = "tidegate"


class Controller:
    """One user's view of a controller. Raises what python-jenkins raises."""

    def __init__(self, url: str, user: str, token: str, patience_seconds: float = 300.0) -> None:
        self.url, self.user, self.token = url.rstrip("/"), user, token
        self._server = jenkins.Jenkins(self.url, user, token, timeout=60)
        self._patience = patience_seconds

    # -- making what a story needs ---------------------------------------------------------------------------------------

    def make_folder(self, name: str, library: Library | None = None) -> None:
        """With a library of its own, which runs in the sandbox."""
        self._server.create_job(name, folder_xml(library))

    def make_pipeline(self, job: str, script: str) -> None:
        """A sandboxed pipeline."""
        self._server.create_job(job, pipeline_xml(script))

    def make_secret(self, folder: str, secret: str) -> None:
        """The credential that the library's steps take."""
        self._server.create_credential(folder, secret_xml(secret))

    def administers(self) -> bool:
        """Whether the script console is open to the user."""
        try:
            self._server.run_script("")
        except jenkins.JenkinsException:
            return False
        return True

    def trust(self, library: Library) -> None:
        """Add a global library, which is trusted. Only the script console can: it takes an administrator."""
        self._server.run_script(trusting(library))

    def forget(self, library: Library) -> None:
        """Remove the global library."""
        self._server.run_script(forgetting(library))

    def remove(self, job: str) -> None:
        """A job, or a folder with all in it."""
        self._server.delete_job(job)

    # -- builds ----------------------------------------------------------------------------------------------------------

    def start(self, job: str) -> None:
        """Its first build."""
        self._server.build_job(job)
        self.eventually(f"{job} begins", lambda: self.shown(job))

    def shown(self, job: str, number: int = 1) -> dict[str, Any] | None:
        """A build as its API tells it; None before it has begun, or while Jenkins is away."""
        try:
            return self._get(f"{_path(job)}{number}/", SHOWN)
        except (jenkins.JenkinsException, requests.RequestException):
            return None

    def input(self, job: str) -> dict[str, Any]:
        """The one that the first build waits at, once it does."""
        found: dict[str, Any] = self.eventually(f"{job} waits at an input", lambda: self._input(job))
        return found

    def refuse(self, job: str) -> None:
        """Abort that input, as this user."""
        self._post(f"{_path(job)}1/input/{self.input(job)['id']}/abort")

    def approve(self, job: str, reason: str) -> None:
        """Proceed that input with a reason, as this user: a click on its page."""
        form = {"json": json.dumps({"parameter": [{"name": "reason", "value": reason}]})}
        self._post(f"{_path(job)}1/input/{self.input(job)['id']}/proceed", form)

    def evidence(self, job: str) -> str:
        """What the open input of the first build shows below the field; empty while none is open."""
        shown = self._input(job)
        return str(shown["input"]["parameters"][0]["description"]) if shown else ""

    def stop(self, job: str) -> None:
        """Abort the first build."""
        self._server.stop_build(job, 1)

    def ended(self, job: str) -> str:
        """The result of the first build, once it has one."""
        found: dict[str, Any] = self.eventually(f"{job} ends", lambda: self._ended(job))
        return str(found["result"])

    def log(self, job: str) -> str:
        """What its first build has said."""
        return str(self._server.get_build_console_output(job, 1))

    def executing(self, folder: str) -> list[str]:
        """The addresses of the folder's builds that hold an executor now."""
        found = self._get("computer/", "busyExecutors,computer[executors[currentExecutable[url]]]")
        busy = [executor["currentExecutable"] for one in found["computer"] for executor in one["executors"]]
        return [str(each["url"]) for each in busy if each and f"/job/{folder}/" in str(each.get("url"))]

    def eventually(self, what: str, condition: Callable[[], Any]) -> Any:
        """As `support.wait` has it, for as long as this controller may take."""
        return eventually(what, condition, self._patience)

    def _input(self, job: str) -> dict[str, Any] | None:
        shown = self.shown(job) or {}
        assert not shown.get("result"), f"{job} ended as {shown['result']} without an input:\n{self.log(job)}"
        actions = shown.get("actions", [])
        return next((one for action in actions if action for one in action.get("executions", [])), None)

    def _ended(self, job: str) -> dict[str, Any] | None:
        found = self.shown(job)
        return found if found and not found["building"] and found["result"] else None

    def _get(self, path: str, tree: str) -> dict[str, Any]:
        request = requests.Request("GET", f"{self.url}/{path}api/json", params={"tree": tree})
        found: dict[str, Any] = self._server.jenkins_request(request).json()
        return found

    def _post(self, path: str, form: dict[str, str] | None = None) -> None:
        self._server.jenkins_request(requests.Request("POST", f"{self.url}/{path}", data=form or {}))


def _path(job: str) -> str:
    return "".join(f"job/{part}/" for part in job.split("/"))


# -- what jobs are made of -----------------------------------------------------------------------------------------------


def _text(root: Xml.Element) -> str:
    return "<?xml version='1.1' encoding='UTF-8'?>\n" + Xml.tostring(root, encoding="unicode")


def _add(parent: Xml.Element, tag: str, text: str = "", **attributes: str) -> Xml.Element:
    made = Xml.SubElement(parent, tag, attributes)
    made.text = text
    return made


def folder_xml(library: Library | None) -> str:
    """A folder's configuration."""
    folder = Xml.Element("com.cloudbees.hudson.plugins.folder.Folder")
    _add(folder, "description", "Made by Tidegate's acceptance tests, and removed by them.")
    properties = _add(folder, "properties")
    if library is not None:
        libraries = _add(_add(properties, f"{LIBS}.FolderLibraries"), "libraries")
        made = _add(libraries, f"{LIBS}.LibraryConfiguration")
        _add(made, "name", library.name)
        retriever = _add(made, "retriever", **{"class": f"{LIBS}.SCMSourceRetriever"})
        _add(retriever, "libraryPath", LIBRARY_PATH)
        scm = _add(retriever, "scm", **{"class": "jenkins.plugins.git.GitSCMSource"})
        _add(scm, "id", "tidegate")
        _add(scm, "remote", library.remote)
        _add(_add(scm, "traits"), "jenkins.plugins.git.traits.BranchDiscoveryTrait")
        _add(made, "defaultVersion", library.version)
        _add(made, "implicit", "false")
        _add(made, "allowVersionOverride", "true")
        _add(made, "includeInChangesets", "false")
    return _text(folder)


def pipeline_xml(script: str) -> str:
    """A pipeline job's configuration, in the sandbox."""
    job = Xml.Element("flow-definition")
    definition = _add(job, "definition", **{"class": "org.jenkinsci.plugins.workflow.cps.CpsFlowDefinition"})
    _add(definition, "script", script)
    _add(definition, "sandbox", "true")
    return _text(job)


def secret_xml(secret: str) -> str:
    """A Username with password: the only kind that the HTTP Request plugin sends by itself."""
    made = Xml.Element("com.cloudbees.plugins.credentials.impl.UsernamePasswordCredentialsImpl")
    _add(made, "scope", "GLOBAL")
    _add(made, "id", CREDENTIALS)
    _add(made, "description", "Of Tidegate's acceptance tests.")
    _add(made, "username", "tidegate")
    _add(made, "password", secret)
    return _text(made)


def _quoted(text: str) -> str:
    """As a text of Groovy."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def trusting(library: Library) -> str:
    """What the script console runs to add the global library."""
    return f"""\
import {LIBS}.*
def source = new jenkins.plugins.git.GitSCMSource({_quoted(library.remote)})
source.traits = [new jenkins.plugins.git.traits.BranchDiscoveryTrait()]
def retriever = new SCMSourceRetriever(source)
retriever.libraryPath = {_quoted(LIBRARY_PATH)}
def added = new LibraryConfiguration({_quoted(library.name)}, retriever)
added.defaultVersion = {_quoted(library.version)}
def all = GlobalLibraries.get()
all.libraries = all.libraries.findAll {{ it.name != added.name }} + added
"""


def forgetting(library: Library) -> str:
    """What it runs to remove it."""
    return f"""\
def all = {LIBS}.GlobalLibraries.get()
all.libraries = all.libraries.findAll {{ it.name != {_quoted(library.name)} }}
"""
