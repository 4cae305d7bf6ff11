"""Documents that releases serve of themselves, as JSON or YAML, fetched from an instance. Bounded in size and time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.client import HTTPException

import yaml

from tidegate.drivers.http.line import Answer, Line, told
from tidegate.errors import DocumentError
from tidegate.ports import Documents

MOST_BYTES = 5_000_000
ACCEPTED = {
    "Accept": "application/json, application/yaml;q=0.9, */*;q=0.1",
    "Accept-Encoding": "identity",
    "Connection": "close",
}
ABSENT = frozenset({404, 410})


class HttpDocuments(Documents):
    """What it promises is said in `ports.Documents`."""

    def fetch(self, address: str, path: str, timeout_seconds: float) -> Mapping[str, object] | None:
        what, line = f"GET {path} from {address}", Line(f"http://{address}")
        try:
            answer = line.get(path, timeout_seconds, MOST_BYTES, ACCEPTED)
        except (OSError, HTTPException) as error:
            raise DocumentError(f"{what} {told(error, timeout_seconds)}") from error
        finally:
            line.close()
        return None if answer.status in ABSENT else _document(what, answer)


def _document(what: str, answer: Answer) -> Mapping[str, object]:
    if 300 <= answer.status < 400:
        raise DocumentError(f"{what} answered {answer.status}: redirects are not followed", retryable=False)
    if answer.status != 200:
        raise DocumentError(f"{what} answered {answer.status}", retryable=answer.status >= 500)
    if not answer.whole:
        raise DocumentError(f"{what} answered more than {MOST_BYTES:,} bytes", retryable=False)
    try:
        found = _read(answer.body)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())[:200]
        raise DocumentError(f"{what} answered neither JSON nor YAML: {reason}", retryable=False) from error
    if not isinstance(found, Mapping):
        raise DocumentError(f"{what} answered no object", retryable=False)
    return found


def _read(body: bytes) -> object:
    if body.lstrip()[:1] in (b"{", b"["):
        return json.loads(body)
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(body, Loader=yaml.CSafeLoader)):
        raise ValueError("aliases are not read, for a small document of them can stand for a huge one")
    return _plain(yaml.load(body, Loader=yaml.CSafeLoader))  # the safe one in C: 5 MB within seconds


def _plain(value: object) -> object:
    """As JSON would have it: keys are texts (`200:` is not), and so are dates."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)
