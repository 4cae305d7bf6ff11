"""One exchange with Prometheus, and the translation of its errors into `MetricsError`s."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import requests
from prometheus_api_client.exceptions import PrometheusApiClientException

from tidegate.analysis.verdict import Reason
from tidegate.drivers.error_translation import describe_cause, root_cause
from tidegate.drivers.http_client import ResponseTooLarge
from tidegate.errors import MetricsError

MAX_MESSAGE_CHARS = 300  # of Prometheus' own message
NARROW = 'Narrow the query, for example with {service="shop"}, or aggregate it with sum() or avg().'


def source_down(message: str, *, retryable: bool = True) -> MetricsError:
    """A `MetricsError` with the reason source-down."""
    return MetricsError(message, reason=Reason.SOURCE_DOWN, retryable=retryable)


@dataclass
class PrometheusExchange:
    """The parts of a response that the library drops, recorded by a response hook."""

    status: int = 0
    warnings: tuple[str, ...] = ()
    infos: tuple[str, ...] = ()  # Prometheus 3: remarks about the query; the result is complete
    result_type: str = ""
    error_type: str = ""
    error: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def record(self, response: requests.Response, **_: object) -> None:
        """The response hook: called for every response, redirects included; the last one counts."""
        self.status, self.headers = response.status_code, dict(response.headers)
        try:
            body: Any = response.json()
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            body = {}
        self.warnings = _strings(body.get("warnings"))
        self.infos = _strings(body.get("infos"))
        self.error_type, self.error = str(body.get("errorType") or ""), str(body.get("error") or "")
        data = body.get("data")
        self.result_type = str(data.get("resultType") or "") if isinstance(data, dict) else ""


def _strings(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


@contextmanager
def translate_errors(url: str, exchange: PrometheusExchange) -> Iterator[None]:
    """Turn every error of the library, of requests and of an unexpected body into a `MetricsError` with its reason.

    The messages contain the address and Prometheus' own message, never the credentials.
    """
    try:
        yield
    except MetricsError:
        raise
    except PrometheusApiClientException:
        raise _refused(url, exchange) from None
    except (requests.JSONDecodeError, KeyError, TypeError):
        raise _not_prometheus(url, exchange) from None
    except ResponseTooLarge as error:
        raise MetricsError(f"The query is too large: {error}. {NARROW}", reason=Reason.BAD_QUERY, retryable=False) from None
    except requests.Timeout:
        raise MetricsError(f"Prometheus at {url} did not answer in time", reason=Reason.TIMEOUT) from None
    except requests.exceptions.SSLError as error:
        raise source_down(
            f"Cannot verify the certificate of {url}: {describe_cause(error)}. Set ca_file.", retryable=False
        ) from None
    except requests.RequestException as error:
        if isinstance(root_cause(error), TimeoutError):  # without retries urllib3 wraps it in a connection error
            raise MetricsError(f"Prometheus at {url} did not answer in time", reason=Reason.TIMEOUT) from None
        raise source_down(f"Cannot reach Prometheus at {url}: {describe_cause(error)}") from None
    except OSError as error:  # requests raises it bare when ca_file does not exist
        raise source_down(f"Cannot query Prometheus at {url}: {error}", retryable=False) from None


def _refused(url: str, exchange: PrometheusExchange) -> MetricsError:
    """The error of a response with a status other than 200."""
    status, reason = exchange.status, (exchange.error or "no reason given")[:MAX_MESSAGE_CHARS]
    if exchange.error_type in ("bad_data", "execution"):
        return MetricsError(f"Prometheus rejected the query: {reason}", reason=Reason.BAD_QUERY, retryable=False)
    if exchange.error_type == "timeout" or status in (408, 504):
        return MetricsError(f"Prometheus at {url} aborted a slow query: {reason}", reason=Reason.TIMEOUT)
    if status in (401, 403):
        return source_down(
            f"Prometheus at {url} rejected the credentials with {status}. Check username, password_file or "
            "bearer_token_file.",
            retryable=False,
        )
    if status in (400, 422):
        return MetricsError(
            f"Prometheus rejected the query with {status}: {reason}", reason=Reason.BAD_QUERY, retryable=False
        )
    if 400 <= status < 500 and status != 429:
        return source_down(f"{url} answered {status} and may not be Prometheus. Check url.", retryable=False)
    return source_down(f"Prometheus at {url} answered {status}: {reason}")


def _not_prometheus(url: str, exchange: PrometheusExchange) -> MetricsError:
    """The error of a response with status 200 whose body Prometheus cannot have sent."""
    if exchange.error:
        return source_down(f"Prometheus at {url} returned an error: {exchange.error[:MAX_MESSAGE_CHARS]}")
    kind = exchange.headers.get("Content-Type", "no content type")
    return source_down(
        f"{url} answered {exchange.status} with {kind} instead of Prometheus' JSON. Check url.", retryable=False
    )
