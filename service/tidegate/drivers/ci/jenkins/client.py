"""A Jenkins client based on python-jenkins: with timeouts, independent of the environment, and with our own errors.

The library has no methods for inputs, descriptions and selected fields of a build; these use its `jenkins_request`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import jenkins
import requests
import stamina

from tidegate.core.build import Build
from tidegate.drivers.ci.jenkins.errors import JenkinsErrors, JenkinsExchange, JenkinsRefusal, JenkinsUnreachable
from tidegate.drivers.ci.jenkins.markup import PREVIEW
from tidegate.drivers.ci.jenkins.options import JenkinsOptions
from tidegate.drivers.error_translation import guard_response
from tidegate.drivers.http_client import LimitedAdapter
from tidegate.errors import CIError

MAX_ATTEMPTS = 3  # of a read if Jenkins is down for a moment; all within `timeout_seconds`
MAX_PREVIEW_CHARS = 1000
TRANSIENT_STATUSES = frozenset({502, 503, 504})


@dataclass(frozen=True, slots=True)
class JenkinsIdentity:
    """The user id that Jenkins reports for our token, and Jenkins' version (empty if not reported)."""

    user: str
    version: str


class JenkinsClient:
    """A client for one report or check. It reads the token when created, so that a changed token takes effect.

    Every method raises `CIError`; for an unexpected HTTP status the subclass `JenkinsRefusal`.
    """

    def __init__(self, options: JenkinsOptions) -> None:
        self._options = options
        self._errors = JenkinsErrors(options.url, options.user, options.token())
        self.exchange = JenkinsExchange()
        self._server = self._connected()

    @guard_response(CIError, "Jenkins")
    def get(self, path: str, tree: str) -> dict[str, Any]:
        """GET the fields in `tree` of the object at `path` (relative to the root; empty or ending in `/`).

        Retried if Jenkins is down for a moment.
        """
        for attempt in stamina.retry_context(
            on=_is_retryable,
            attempts=MAX_ATTEMPTS,
            timeout=self._options.timeout_seconds,
            wait_initial=0.1,
            wait_max=1.0,
        ):
            with attempt:
                return self._get_once(path, tree)
        raise AssertionError("unreachable: the last attempt returns or raises")

    @guard_response(CIError, "Jenkins")
    def post(self, path: str, form: dict[str, str] | None = None) -> None:
        """POST once, without retries; the caller reads the build to find out whether it had an effect."""
        with self._errors.translate_errors(self.exchange):
            self._server.jenkins_request(requests.Request("POST", f"{self._options.url}/{path}", data=form or {}))
        self._require_no_redirect()

    @guard_response(CIError, "Jenkins")
    def preview(self, text: str) -> str:
        """The beginning of what Jenkins renders when a description has this text. Changes nothing."""
        request = requests.Request("POST", f"{self._options.url}/{PREVIEW}", data={"text": text})
        with self._errors.translate_errors(self.exchange):
            rendered = self._server.jenkins_request(request).text
        self._require_no_redirect()
        return str(rendered)[:MAX_PREVIEW_CHARS]

    @guard_response(CIError, "Jenkins")
    def stop(self, job: str, number: int) -> None:
        """Stop a build."""
        with self._errors.translate_errors(self.exchange):
            self._server.stop_build(job, number)
        self._require_no_redirect()

    @guard_response(CIError, "Jenkins")
    def login(self) -> JenkinsIdentity:
        """Verify that the server is Jenkins and accepts the token."""
        with self._errors.translate_errors(self.exchange):
            user = str(self._server.get_whoami()["id"])
        return JenkinsIdentity(user, self.exchange.headers.get("X-Jenkins", ""))

    def response_text(self) -> str:
        """The message in Jenkins' last response, as plain text without secrets."""
        return self._errors.response_text(self.exchange)

    def _get_once(self, path: str, tree: str) -> dict[str, Any]:
        request = requests.Request("GET", f"{self._options.url}/{path}api/json", params={"tree": tree})
        with self._errors.translate_errors(self.exchange):
            document = self._server.jenkins_request(request).json()
        self._require_no_redirect()
        if not isinstance(document, dict):
            raise self._errors.not_jenkins_error(self.exchange)
        return document

    def _require_no_redirect(self) -> None:
        if self.exchange.redirect:
            raise self._errors.redirect_error(self.exchange)

    def _connected(self) -> Any:
        """The library's client, which ignores the environment (`http_proxy`, `.netrc`, `JENKINS_API_EXTRA_HEADERS`)."""
        options = self._options
        limits = (min(options.timeout_seconds, 3.05), options.timeout_seconds)  # to connect, to read
        server = jenkins.Jenkins(options.url, options.user, self._errors.token, timeout=limits)
        server.crumb = False  # API tokens need no crumb
        server._auths = server._auths[:1]  # no Kerberos, even if its library is installed
        session = server._session
        session.trust_env = False
        session.verify = str(options.ca_file) if options.ca_file else True
        for scheme in ("http://", "https://"):
            session.mount(scheme, LimitedAdapter(options.timeout_seconds))
        session.headers = requests.utils.default_headers()
        session.hooks["response"] = [self.exchange.record]
        session.get_redirect_target = lambda _: None  # no redirects: a POST would become a GET
        return server


def build_path(build: Build) -> str:
    """The build's path relative to Jenkins' root, such as `job/team/job/repo/job/feature%252Ffoo/12/`.

    Built from the job's name and not from the URL in the request, which could be of another server. Raises `CIError` for an
    invalid name.
    """
    return f"{job_path(build)}{build.number}/"


def job_path(build: Build) -> str:
    """The path of the build's job. Raises `CIError` for an invalid name."""
    parts = build.job.split("/")
    if any(not part.strip(". ") or not part.isprintable() for part in parts):
        raise CIError(f"Invalid Jenkins job name {build.job[:100]!r}", retryable=False)
    return "".join(f"job/{quote(part, safe='')}/" for part in parts)


def _is_retryable(error: Exception) -> bool:
    """Whether Jenkins may be down for a moment. Timeouts and refusals are not retried."""
    return isinstance(error, JenkinsUnreachable) or (
        isinstance(error, JenkinsRefusal) and error.status in TRANSIENT_STATUSES
    )
