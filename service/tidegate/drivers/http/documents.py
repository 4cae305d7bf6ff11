"""Documents that releases serve of themselves, as JSON or YAML, fetched from an instance. Bounded in size and time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.client import HTTPException

import yaml

from tidegate.drivers.http.client import DeadlineHttpClient, HttpResponse, describe_error
from tidegate.errors import DocumentError
from tidegate.ports import DocumentFetcher

MAX_BYTES = 5_000_000
REQUEST_HEADERS = {
    "Accept": "application/json, application/yaml;q=0.9, */*;q=0.1",
    "Accept-Encoding": "identity",
    "Connection": "close",
}
ABSENT_STATUSES = frozenset({404, 410})


class HttpDocuments(DocumentFetcher):
    """What it promises is said in `ports.DocumentFetcher`."""

    def fetch(self, address: str, path: str, timeout_seconds: float) -> Mapping[str, object] | None:
        what, line = f"GET {path} from {address}", DeadlineHttpClient(f"http://{address}")
        try:
            answer = line.get(path, timeout_seconds, MAX_BYTES, REQUEST_HEADERS)
        except (OSError, HTTPException) as error:
            raise DocumentError(f"{what} {describe_error(error, timeout_seconds)}") from error
        finally:
            line.close()
        return None if answer.status in ABSENT_STATUSES else _parse_response(what, answer)


def _parse_response(what: str, answer: HttpResponse) -> Mapping[str, object]:
    if 300 <= answer.status < 400:
        raise DocumentError(f"{what} answered {answer.status}: redirects are not followed", retryable=False)
    if answer.status != 200:
        raise DocumentError(f"{what} answered {answer.status}", retryable=answer.status >= 500)
    if not answer.complete:
        raise DocumentError(f"{what} answered more than {MAX_BYTES:,} bytes", retryable=False)
    try:
        document = _parse_body(answer.body)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())[:200]
        raise DocumentError(f"{what} answered neither JSON nor YAML: {reason}", retryable=False) from error
    if not isinstance(document, Mapping):
        raise DocumentError(f"{what} answered no object", retryable=False)
    return document


def _parse_body(body: bytes) -> object:
    if body.lstrip()[:1] in (b"{", b"["):
        return json.loads(body)
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(body, Loader=yaml.CSafeLoader)):
        raise ValueError("aliases are not read, for a small document of them can stand for a huge one")
    return _to_json_values(yaml.load(body, Loader=yaml.CSafeLoader))  # the safe one in C: 5 MB within seconds


def _to_json_values(value: object) -> object:
    """As JSON would have it: keys are texts (`200:` is not), and so are dates."""
    if isinstance(value, dict):
        return {str(key): _to_json_values(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_to_json_values(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)
