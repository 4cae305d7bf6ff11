"""Reads metrics from Prometheus through prometheus-api-client.

Every call returns series or raises one `MetricsError` with a reason; an error never looks like an empty result. An empty
result means that Prometheus has no such series, which the analysis reports as `no-data`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import stamina
from prometheus_api_client import PrometheusConnect
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tidegate.analysis import promql
from tidegate.analysis.queries import Series
from tidegate.analysis.verdict import Reason
from tidegate.clock import Window
from tidegate.drivers.error_translation import MALFORMED, guard_response
from tidegate.drivers.http_client import LimitedAdapter
from tidegate.drivers.metrics.prometheus import check as prometheus_check
from tidegate.drivers.metrics.prometheus import decode
from tidegate.drivers.metrics.prometheus.errors import PrometheusExchange, source_down, translate_errors
from tidegate.drivers.urls import BaseUrl
from tidegate.errors import MetricsError
from tidegate.ports import Diagnosis

MAX_ATTEMPTS = 3  # if Prometheus is down for a moment; all within `timeout_seconds`


class PrometheusOptions(BaseModel):
    """`[environments.NAME.metrics]` with `driver = "prometheus"`. Secrets are read from their files at each request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: BaseUrl  # http(s)://host:port[/path]
    timeout_seconds: float = Field(default=5.0, gt=0, le=300)
    username: str | None = None
    password_file: Path | None = None
    bearer_token_file: Path | None = None
    ca_file: Path | None = None  # trusted CA certificates, instead of the system's
    verify: bool = True  # False: accept any certificate

    @model_validator(mode="after")
    def _is_one_way_to_log_in(self) -> PrometheusOptions:
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file must be set together")
        if self.username is not None and self.bearer_token_file is not None:
            raise ValueError("set either username and password_file, or bearer_token_file")
        if self.ca_file is not None and not self.verify:
            raise ValueError("ca_file requires verify = true")
        return self


class PrometheusMetrics:
    """Implements `ports.MetricsSource`. Safe to use from several threads: each call has its own session."""

    Options = PrometheusOptions

    def __init__(self, options: PrometheusOptions, environment: str) -> None:
        self._options = options
        self._environment = environment

    @guard_response(MetricsError, "Prometheus")
    def fetch(self, query: str, window: Window, step_seconds: float = 0.0) -> tuple[Series, ...]:
        """The raw samples of a plain selector inside the window, both ends included; for any other query its value at the
        window's end; with `step_seconds` its values at multiples of the step inside the window.

        To compute a counter's increase the caller must extend the window to the sample before it.
        """
        full_query, several = query, step_seconds > 0 or promql.is_selector(query)
        if several:
            full_query = promql.range_query(query, max(1, math.ceil(1000 * window.seconds) + 1), round(1000 * step_seconds))
        kind, result = self._ask(full_query, window.end)
        series = decode.decode_series(kind, result)
        return decode.clip_to_window(series, window) if several else decode.latest_samples(series)

    def check(self) -> Sequence[Diagnosis]:
        """Check reachability, version, clock, exporter data and scrape interval."""
        return prometheus_check.check(self._options.url, self._ask, self._version, time.time)

    @guard_response(MetricsError, "Prometheus")
    def _ask(self, query: str, at: float | None) -> tuple[str, Any]:
        """(result type, result) of an instant query; retried if Prometheus is down for a moment."""
        options = self._options
        for attempt in stamina.retry_context(
            on=_is_retryable, attempts=MAX_ATTEMPTS, timeout=options.timeout_seconds, wait_initial=0.1, wait_max=1.0
        ):
            with attempt:
                return self._ask_once(query, at)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _ask_once(self, query: str, at: float | None) -> tuple[str, Any]:
        params = {
            "timeout": f"{math.ceil(1000 * self._options.timeout_seconds)}ms"
        }  # Prometheus rejects fractions such as "2.5s"
        if at is not None:
            params["time"] = f"{at:.3f}"
        exchange = PrometheusExchange()
        with self._client(exchange) as client, translate_errors(self._options.url, exchange):
            result = client.custom_query(query, params=params)
        if exchange.warnings:
            raise MetricsError(
                f"Incomplete response: Prometheus reported warnings: {'; '.join(exchange.warnings)}",
                reason=Reason.PARTIAL,
            )
        return exchange.result_type, result

    def _version(self) -> str:
        """Prometheus' version; empty for a compatible server that does not report one."""
        page = f"{self._options.url}/api/v1/status/buildinfo"
        with self._session(PrometheusExchange()) as session:
            try:
                answer = session.get(page, headers=self._bearer(), auth=self._password(), timeout=self._timeout())
                return str(answer.json()["data"]["version"])
            except (requests.RequestException, *MALFORMED):
                return ""

    @contextmanager
    def _session(self, exchange: PrometheusExchange) -> Iterator[requests.Session]:
        """A session that ignores the process's environment (`http_proxy`, `.netrc`): only the settings apply."""
        options = self._options
        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(options.ca_file) if options.ca_file else options.verify
            self._limit(session)
            session.hooks["response"] = [exchange.record]
            yield session

    @contextmanager
    def _client(self, exchange: PrometheusExchange) -> Iterator[PrometheusConnect]:
        """A client with a timeout and without the library's retries."""
        with self._session(exchange) as session:
            client = PrometheusConnect(
                self._options.url,
                headers=self._bearer(),
                auth=self._password(),
                session=session,
                timeout=self._timeout(),
            )
            self._limit(session)  # the library has mounted an adapter of its own
            yield client

    def _limit(self, session: requests.Session) -> None:
        """Bound the time and the size of each response."""
        for scheme in ("http://", "https://", self._options.url):
            session.mount(scheme, LimitedAdapter(self._options.timeout_seconds))

    def _timeout(self) -> tuple[float, float]:
        """(connect, read) in seconds."""
        return min(self._options.timeout_seconds, 3.05), self._options.timeout_seconds

    def _bearer(self) -> dict[str, str]:
        file = self._options.bearer_token_file
        return {} if file is None else {"Authorization": f"Bearer {_read_secret(file, 'bearer_token_file')}"}

    def _password(self) -> tuple[str, str] | None:
        options = self._options
        if options.username is None or options.password_file is None:
            return None
        return options.username, _read_secret(options.password_file, "password_file")


def _read_secret(file: Path, setting: str) -> str:
    """The secret in a file. Errors contain the setting and the file's path, never its content."""
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        kind = error.strerror if isinstance(error, OSError) else "not text"
        raise source_down(f"Cannot read {setting} {file}: {kind}", retryable=False) from None
    if not secret or not secret.isprintable():
        raise source_down(f"{setting} {file} must contain exactly one line", retryable=False)
    return secret


def _is_retryable(error: Exception) -> bool:
    """Whether Prometheus may be down for a moment. Timeouts and rejected queries are not retried."""
    return isinstance(error, MetricsError) and error.retryable and error.reason == Reason.SOURCE_DOWN
