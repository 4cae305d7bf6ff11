"""Prometheus as the source of metrics, through prometheus-api-client behind one adapter.

Every outcome is either series or one `MetricsError` with a reason: nothing that went wrong looks like an empty answer. An
empty answer means that Prometheus knows of no such series, and the judge makes `no-data` of that.
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
from urllib3.util.retry import Retry

from tidegate.analysis import promql
from tidegate.analysis.queries import Series
from tidegate.analysis.verdict import Reason
from tidegate.clock import Window
from tidegate.drivers.error_translation import MALFORMED, guard_response
from tidegate.drivers.http.urls import BaseUrl
from tidegate.drivers.metrics.prometheus import check as prometheus_check
from tidegate.drivers.metrics.prometheus import decode
from tidegate.drivers.metrics.prometheus.errors import PrometheusExchange, source_down, translate_errors
from tidegate.errors import MetricsError
from tidegate.ports import Diagnosis

MAX_ATTEMPTS = 3  # for a source that is down for a moment; within `timeout_seconds` altogether


class PrometheusOptions(BaseModel):
    """`[environments.NAME.metrics]` with `driver = "prometheus"`. Secrets are read from their files at each use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: BaseUrl  # http(s)://host:port, with a path where a proxy needs one
    timeout_seconds: float = Field(default=5.0, gt=0, le=300)
    username: str | None = None
    password_file: Path | None = None
    bearer_token_file: Path | None = None
    ca_file: Path | None = None  # the authorities that are trusted, instead of the system's
    verify: bool = True  # False: any certificate is accepted

    @model_validator(mode="after")
    def _is_one_way_to_log_in(self) -> PrometheusOptions:
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file belong together")
        if self.username is not None and self.bearer_token_file is not None:
            raise ValueError("give either username and password_file or bearer_token_file")
        if self.ca_file is not None and not self.verify:
            raise ValueError("ca_file needs verify = true")
        return self


class PrometheusMetrics:
    """Implements `ports.Metrics`. Safe to use from several threads: each call has a session of its own."""

    Options = PrometheusOptions

    def __init__(self, options: PrometheusOptions, environment: str) -> None:
        self._options = options
        self._environment = environment

    @guard_response(MetricsError, "Prometheus")
    def fetch(self, query: str, window: Window, step_seconds: float = 0.0) -> tuple[Series, ...]:
        """Raw samples of a plain selector inside the window, both ends included; else the value at the window's end; with
        `step_seconds` the values at its multiples inside the window.

        The sample just before the window, which differencing a counter needs, comes only when the window that is asked
        for reaches back to it: the judge's questions do.
        """
        full_query, several = query, step_seconds > 0 or promql.is_selector(query)
        if several:
            full_query = promql.range_query(query, max(1, math.ceil(1000 * window.seconds) + 1), round(1000 * step_seconds))
        kind, result = self._ask(full_query, window.end)
        series = decode.decode_series(kind, result)
        return decode.clip_to_window(series, window) if several else decode.latest_samples(series)

    def check(self) -> Sequence[Diagnosis]:
        """Reachable, version, clock, exporter data and scrape interval."""
        return prometheus_check.check(self._options.url, self._ask, self._version, time.time)

    @guard_response(MetricsError, "Prometheus")
    def _ask(self, query: str, at: float | None) -> tuple[str, Any]:
        """(result type, result) of an instant query; asked again when the source was down for a moment only."""
        options = self._options
        for attempt in stamina.retry_context(
            on=_is_retryable, attempts=MAX_ATTEMPTS, timeout=options.timeout_seconds, wait_initial=0.1, wait_max=1.0
        ):
            with attempt:
                return self._ask_once(query, at)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _ask_once(self, query: str, at: float | None) -> tuple[str, Any]:
        params = {"timeout": f"{math.ceil(1000 * self._options.timeout_seconds)}ms"}  # Prometheus refuses "2.5s"
        if at is not None:
            params["time"] = f"{at:.3f}"
        exchange = PrometheusExchange()
        with self._client(exchange) as client, translate_errors(self._options.url, exchange):
            result = client.custom_query(query, params=params)
        if exchange.warnings:
            raise MetricsError(
                f"Prometheus answered with warnings, so parts may be missing: {'; '.join(exchange.warnings)}",
                reason=Reason.PARTIAL,
            )
        return exchange.result_type, result

    def _version(self) -> str:
        """Prometheus' own version; empty where something else speaks its language and does not tell."""
        page = f"{self._options.url}/api/v1/status/buildinfo"
        with self._session(PrometheusExchange()) as session:
            try:
                answer = session.get(page, headers=self._bearer(), auth=self._password(), timeout=self._timeout())
                return str(answer.json()["data"]["version"])
            except (requests.RequestException, *MALFORMED):
                return ""

    @contextmanager
    def _session(self, exchange: PrometheusExchange) -> Iterator[requests.Session]:
        """Nothing is taken from the process's environment (`http_proxy`, `.netrc`): only the settings apply."""
        options = self._options
        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(options.ca_file) if options.ca_file else options.verify
            session.hooks["response"] = [exchange.keep]
            yield session

    @contextmanager
    def _client(self, exchange: PrometheusExchange) -> Iterator[PrometheusConnect]:
        """A client without the library's defaults that hurt: no timeout, four tries, warnings dropped."""
        with self._session(exchange) as session:
            yield PrometheusConnect(
                self._options.url,
                headers=self._bearer(),
                auth=self._password(),
                retry=Retry(total=0, raise_on_status=False),
                session=session,
                timeout=self._timeout(),
            )

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
    """The one line of a secret's file; an error names the setting and never what the file holds."""
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        kind = error.strerror if isinstance(error, OSError) else "not text"
        raise source_down(f"{setting} {file} cannot be read: {kind}", retryable=False) from None
    if not secret or not secret.isprintable():
        raise source_down(f"{setting} {file} must hold one line", retryable=False)
    return secret


def _is_retryable(error: Exception) -> bool:
    """Down for a moment, perhaps: never a slow answer (it had its time) and never a refused query."""
    return isinstance(error, MetricsError) and error.retryable and error.reason == Reason.SOURCE_DOWN
