"""HTTP client for the Tidegate API."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
import stamina

from tidegate.cli.exit_codes import CommandError, ExitCode, Json
from tidegate.core.phases import Until

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
LONG_POLL_SECONDS = 20


class ServerUnreachable(CommandError):
    """The server did not respond, or responded that it is temporarily unavailable. The request is retried.

    `brief` says what happened, for the line that announces the retries.
    """

    def __init__(self, brief: str, advice: str, problem: Json | None = None) -> None:
        super().__init__(f"{brief}.{advice}", ExitCode.UNREACHABLE, problem)
        self.brief = brief


class ApiClient:
    """One server, one token.

    Requests are retried for `patience_seconds` while the server is unreachable. A POST keeps its idempotency key, so the
    server never acts twice.
    """

    def __init__(
        self,
        server: str,
        token: str,
        patience_seconds: float,
        ca_file: Path | None,
        notify: Callable[[str], None],
    ) -> None:
        """`ca_file`: PEM file with the CA certificates to trust instead of the system's. `notify` gets a line as soon as a
        request is retried."""
        stamina.instrumentation.set_on_retry_hooks(())  # the default hook logs to standard output, which is for answers
        self._server = server.rstrip("/")
        self._patience, self._notify = patience_seconds, notify
        self._session = requests.Session()
        self._session.headers.update({"Accept": "application/json", "User-Agent": "tidegate-cli"})
        # passed with each request: REQUESTS_CA_BUNDLE would override a session's value
        self._verify = None if ca_file is None else str(ca_file)
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def get(self, path: str, **query: object) -> Json:
        """GET a document."""
        return self._with_retries(lambda: self._call("GET", path, params=query))

    def post(self, path: str, body: Json | None = None, *, key: str = "", if_match: str = "") -> Json:
        """POST with an idempotency key; empty: a random one."""
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        if if_match:
            headers["If-Match"] = if_match
        return self._with_retries(lambda: self._call("POST", path, json=body or {}, headers=headers))

    def put(self, path: str, body: Json) -> Json:
        """PUT a document."""
        return self._with_retries(lambda: self._call("PUT", path, json=body))

    def delete(self, path: str, *, key: str = "", **query: object) -> Json:
        """DELETE a document, with an idempotency key; empty: a random one. The answer is empty if the server has none."""
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        return self._with_retries(lambda: self._call("DELETE", path, params=query, headers=headers))

    def events(self, rollout: str, after: int, wait_seconds: int = LONG_POLL_SECONDS) -> list[Json]:
        """Return the events after number `after`. The server waits up to `wait_seconds` for the first one."""
        events: list[Json] = self.poll_events(rollout, after, Until.END, wait_seconds)["events"]
        return events

    def poll_events(self, rollout: str, after: int, until: Until, wait_seconds: int = LONG_POLL_SECONDS) -> Json:
        """Return the page of events after number `after`, and whether the rollout has `reached` `until`."""
        return self.get(f"/v1/rollouts/{quote(rollout)}/events", after=after, wait=wait_seconds, until=until.value)

    def rollout(self, name: str) -> Json:
        """Return a rollout by its ID, or the latest one of `environment/service`."""
        if "/" not in name:
            return self.get(f"/v1/rollouts/{quote(name)}")
        page = self.get("/v1/rollouts", service=name, limit=1)
        if not page["rollouts"]:
            raise CommandError(
                f"No rollout of {name} exists yet. Start one with `tidegate deploy {name}`.", ExitCode.REFUSED
            )
        newest: Json = page["rollouts"][0]
        return newest

    def _with_retries(self, call: Callable[[], Json]) -> Json:
        if self._patience == 0:
            return call()
        for attempt in stamina.retry_context(on=ServerUnreachable, attempts=None, timeout=self._patience, wait_max=3.0):
            with attempt:
                try:
                    return call()
                except ServerUnreachable as error:
                    if attempt.num == 1:
                        self._notify(f"{error.brief}; retrying for {self._patience:g} s, Ctrl-C to stop")
                    raise
        raise AssertionError("retry_context always returns or raises")

    def _call(self, method: str, path: str, **options: Any) -> Json:
        try:
            response = self._session.request(
                method,
                self._server + path,
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                allow_redirects=False,
                verify=self._verify,
                **options,
            )
        except requests.RequestException as error:
            brief = f"Cannot reach {self._server}: {_root_cause(error)}"
            raise ServerUnreachable(brief, " Is the server running? Check --server.") from error
        return _answer(response, self._server)


def _root_cause(error: BaseException) -> str:
    """The message of the innermost exception."""
    while error.__context__ is not None:
        error = error.__context__
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _answer(response: requests.Response, server: str) -> Json:
    if response.status_code == 204:
        return {}
    try:
        body = response.json()
    except ValueError as error:
        text = (
            f"{server} responded with status {response.status_code} but without JSON."
            " It is probably not a Tidegate server. Check --server."
        )
        raise CommandError(text, ExitCode.UNREACHABLE) from error
    if response.ok:
        answer: Json = body
        if "ETag" in response.headers:
            answer["etag"] = response.headers["ETag"]
        return answer
    raise _refusal(response.status_code, body)


def _refusal(status: int, problem: Mapping[str, Any]) -> CommandError:
    lines = [str(problem.get("detail") or problem.get("title") or f"status {status}")]
    for mistake in problem.get("errors") or ():
        line = f"{mistake.get('path') or mistake.get('pointer', '')}: {mistake.get('message') or mistake.get('detail', '')}"
        if line not in lines[0]:
            lines.append(f"  {line}")
    message = "\n".join(lines)
    if status in (502, 503, 504, 429):
        return ServerUnreachable(message.rstrip("."), "", dict(problem))
    code = ExitCode.NOT_ALLOWED if status in (401, 403) else ExitCode.REFUSED
    return CommandError(message, code, dict(problem))
