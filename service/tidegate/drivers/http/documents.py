"""Fetches JSON and YAML documents, such as API descriptions, from instances, with limits of size and time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.client import HTTPException

import yaml

from tidegate.drivers.http_client import DeadlineHttpClient, HttpResponse, describe_error
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
    """See `ports.DocumentFetcher` for the contract."""

    def fetch(self, address: str, path: str, timeout_seconds: float) -> Mapping[str, object] | None:
        request, client = f"GET {path} from {address}", DeadlineHttpClient(f"http://{address}")
        try:
            response = client.get(path, timeout_seconds, MAX_BYTES, REQUEST_HEADERS)
        except (OSError, HTTPException) as error:
            raise DocumentError(f"{request} {describe_error(error, timeout_seconds)}") from error
        finally:
            client.close()
        return None if response.status in ABSENT_STATUSES else _parse_response(request, response)


def _parse_response(request: str, response: HttpResponse) -> Mapping[str, object]:
    if 300 <= response.status < 400:
        raise DocumentError(f"{request} answered {response.status}; redirects are not followed", retryable=False)
    if response.status != 200:
        raise DocumentError(f"{request} answered {response.status}", retryable=response.status >= 500)
    if not response.complete:
        raise DocumentError(f"{request} answered with more than {MAX_BYTES:,} bytes", retryable=False)
    try:
        document = _parse_body(response.body)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())[:200]
        raise DocumentError(f"{request} answered with neither JSON nor YAML: {reason}", retryable=False) from error
    if not isinstance(document, Mapping):
        raise DocumentError(f"{request} answered without a JSON object", retryable=False)
    return document


def _parse_body(body: bytes) -> object:
    if body.lstrip()[:1] in (b"{", b"["):
        return json.loads(body)
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(body, Loader=yaml.CSafeLoader)):
        raise ValueError("YAML aliases are not supported, because a small document can expand to a huge one")
    return _to_json_values(yaml.load(body, Loader=yaml.CSafeLoader))  # in C: parses 5 MB within seconds


def _to_json_values(value: object) -> object:
    """YAML values as JSON has them: keys and dates become strings."""
    if isinstance(value, dict):
        return {str(key): _to_json_values(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_to_json_values(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)
