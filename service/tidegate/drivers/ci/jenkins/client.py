"""python-jenkins behind an adapter: with a timeout, without what it takes from the environment, and with our errors only.

Inputs, descriptions and chosen fields of a build are not covered by the library and go through its `jenkins_request`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import jenkins
import requests
import stamina

from tidegate.core.model import Build
from tidegate.drivers.ci.jenkins.errors import JenkinsErrors, JenkinsExchange, JenkinsRefusal, JenkinsUnreachable
from tidegate.drivers.ci.jenkins.options import JenkinsOptions
from tidegate.drivers.error_translation import guard_response
from tidegate.errors import CIError

MAX_ATTEMPTS = 3  # to read from a Jenkins that is down for a moment; within `timeout_seconds` altogether
TRANSIENT_STATUSES = frozenset({502, 503, 504})


@dataclass(frozen=True, slots=True)
class JenkinsIdentity:
    """As whom Jenkins knows us, and which version it has; empty where it does not tell."""

    user: str
    version: str


class JenkinsClient:
    """For one report or check: it reads the token when it is made, so that a new one counts from then on.

    Every method raises `CIError`: `JenkinsRefusal` with the status where Jenkins answered something else than was wanted.
    """

    def __init__(self, options: JenkinsOptions) -> None:
        self._options = options
        self._errors = JenkinsErrors(options.url, options.user, options.token())
        self.exchange = JenkinsExchange()
        self._server = self._connected()

    @guard_response(CIError, "Jenkins")
    def get(self, path: str, tree: str) -> dict[str, Any]:
        """The fields in `tree` of the thing at `path` (below the root, ending in `/` or empty); tried again when Jenkins is
        down for a moment only."""
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
        """Once, never again: whether it came through is found out by looking."""
        with self._errors.translate_errors(self.exchange):
            self._server.jenkins_request(requests.Request("POST", f"{self._options.url}/{path}", data=form or {}))
        self._require_no_redirect()

    @guard_response(CIError, "Jenkins")
    def stop(self, job: str, number: int) -> None:
        """Stop a build."""
        with self._errors.translate_errors(self.exchange):
            self._server.stop_build(job, number)
        self._require_no_redirect()

    @guard_response(CIError, "Jenkins")
    def login(self) -> JenkinsIdentity:
        """Proof that it is Jenkins who answers, and that it knows us. The version comes in a header of the same answer."""
        with self._errors.translate_errors(self.exchange):
            user = str(self._server.get_whoami()["id"])
        return JenkinsIdentity(user, self.exchange.headers.get("X-Jenkins", ""))

    def response_text(self) -> str:
        """The reason that Jenkins gave in its last answer, as plain text without secrets."""
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
        """The library's object. What it has no parameter for is set on its session: the hook, the certificate, and that
        nothing of the process's environment (`http_proxy`, `.netrc`, `JENKINS_API_EXTRA_HEADERS`) applies."""
        options = self._options
        limits = (min(options.timeout_seconds, 3.05), options.timeout_seconds)  # to connect, to read
        server = jenkins.Jenkins(options.url, options.user, self._errors.token, timeout=limits)
        server.crumb = False  # an API token needs none
        server._auths = server._auths[:1]  # never Kerberos, should its library be there
        session = server._session
        session.trust_env = False
        session.verify = str(options.ca_file) if options.ca_file else True
        session.headers = requests.utils.default_headers()
        session.hooks["response"] = [self.exchange.keep]
        session.get_redirect_target = lambda _: None  # none is followed: a POST would arrive as a GET
        return server


def build_path(build: Build) -> str:
    """Its address below Jenkins' root: `job/team/job/repo/job/feature%252Ffoo/12/`.

    Made of the job's name and never of the address that came with the request: that could be anybody's. Raises `CIError`
    when no job can have this name.
    """
    parts = build.job.split("/")
    if any(not part.strip(". ") or not part.isprintable() for part in parts):
        raise CIError(f"no job of Jenkins can be named {build.job[:100]!r}", retryable=False)
    return "".join(f"job/{quote(part, safe='')}/" for part in parts) + f"{build.number}/"


def _is_retryable(error: Exception) -> bool:
    """Down for a moment, perhaps: never a slow answer (it had its time) and never a refusal."""
    return isinstance(error, JenkinsUnreachable) or (
        isinstance(error, JenkinsRefusal) and error.status in TRANSIENT_STATUSES
    )
