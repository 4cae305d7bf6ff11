"""Documents of releases, fetched from real servers and compared."""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.backends import free_port
from support.http_server import HttpSite, page, serving
from support.wait import at_most, eventually, pause
from tidegate.drivers.http.documents import MAX_BYTES, HttpDocuments
from tidegate.engine.hooks import compare_apis
from tidegate.errors import DocumentError
from tidegate.openapi_diff.result import CompareOptions, DiffOutcome, OnBreaking

OLD: dict[str, Any] = {"openapi": "3.1.0", "paths": {"/orders": {"get": {"responses": {"200": {"description": "all"}}}}}}
NEW: dict[str, Any] = {"openapi": "3.1.0", "paths": {"/carts": {"get": {"responses": {"200": {"description": "all"}}}}}}
YAML = b"""openapi: 3.1.0
paths:
  /orders:
    get:
      responses:
        200: {description: all, x-since: 2020-01-01}
"""


def fetched(site: HttpSite, timeout_seconds: float = 60.0) -> object:
    return HttpDocuments().fetch(site.address, "/openapi.json", timeout_seconds)


def refused(site: HttpSite, timeout_seconds: float = 60.0) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        fetched(site, timeout_seconds)
    return caught.value


@pytest.mark.parametrize("body", [json.dumps(OLD).encode(), YAML])
def test_json_and_yaml_are_read(body: bytes) -> None:
    with serving(lambda path: page(200, body)) as site:
        found = fetched(site)
    assert isinstance(found, dict)
    assert found["openapi"] == "3.1.0"
    assert found["paths"]["/orders"]["get"]["responses"]["200"]["description"] == "all"


@pytest.mark.parametrize("status", [404, 410])
def test_none_there_is_none(status: int) -> None:
    with serving(lambda path: page(status, b"none")) as site:
        assert fetched(site) is None


@pytest.mark.parametrize(
    ("status", "body", "message", "retryable"),
    [
        (307, b"", "answered 307; redirects are not followed", False),
        (401, b"", "answered 401", False),
        (503, b"", "answered 503", True),
        (200, b"", "answered without a JSON object", False),
        (200, b"[1]", "answered without a JSON object", False),
        (200, b"<html>\xff", "answered with neither JSON nor YAML", False),
        (200, b'{"a": ', "answered with neither JSON nor YAML", False),
        (200, b"a: &x [1]\nb: *x\n", "YAML aliases are not supported", False),
        (200, b"!!python/object/apply:os.getpid []", "answered with neither JSON nor YAML", False),
        (200, b'{"a":' * 100_000, "nested too deeply", False),
        (200, b" " * (MAX_BYTES + 1), "answered with more than 5,000,000 bytes", False),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_document_is_an_error_with_its_reason(status: int, body: bytes, message: str, retryable: bool) -> None:
    with serving(lambda path: page(status, body)) as site:
        error = refused(site)
    assert message in error.message
    assert error.message.startswith(f"GET /openapi.json from {site.address} ")
    assert error.retryable is retryable


def test_nobody_there() -> None:
    with pytest.raises(DocumentError, match="connection refused"):
        HttpDocuments().fetch(f"127.0.0.1:{free_port()}", "/openapi.json", 60.0)


def test_a_body_that_breaks_off_is_no_document() -> None:
    with serving(lambda path: [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}"]) as site:
        assert "failed: incomplete response" in refused(site).message


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"])
def test_a_byte_now_and_then_does_not_stretch_the_time(head: bytes) -> None:
    """Each byte comes well within the limit; all of it would take half a day, or has no end."""

    def slowly() -> Iterator[bytes]:
        yield head
        for _ in itertools.count():
            pause(0.05, "a byte comes now and then")
            yield b"x"

    with serving(lambda path: slowly()) as site, at_most(30, "giving up"):
        assert "timed out after 0.5 s" in refused(site, 0.5).message


@contextmanager
def silent() -> Iterator[str]:
    """A server that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_silence_ends() -> None:
    with silent() as address, pytest.raises(DocumentError, match=r"timed out after 0\.3 s"):
        HttpDocuments().fetch(address, "/openapi.json", 0.3)


# -- two releases -----------------------------------------------------------------------------------------------------


def comparison(old: object, new: object, policy: OnBreaking = OnBreaking.FAIL) -> Any:
    """Of two releases that serve these; None is a 404."""

    def release(document: object) -> Any:
        return serving(lambda path: page(404) if document is None else page(200, json.dumps(document).encode()))

    with release(old) as one, release(new) as other:
        return compare_apis(one.address, other.address, CompareOptions("/openapi.json", policy), HttpDocuments())


def test_the_same_api_passes() -> None:
    found = comparison(OLD, OLD)
    assert (found.outcome, found.message, found.changes) == (DiffOutcome.PASSED, "no breaking change in the API", ())


def test_a_breaking_change_fails_or_warns_by_policy() -> None:
    failed, warned = comparison(OLD, NEW), comparison(OLD, NEW, OnBreaking.WARN)
    assert (failed.outcome, failed.blocks(OnBreaking.FAIL)) == (DiffOutcome.FAILED, True)
    assert (warned.outcome, warned.blocks(OnBreaking.WARN)) == (DiffOutcome.WARNED, False)
    assert failed.message == "1 breaking change: /orders was removed"
    assert [change.message for change in failed.changes] == ["/orders was removed", "/carts is new"]


def test_neither_serves_one() -> None:
    found = comparison(None, None)
    assert (found.outcome, found.blocks(OnBreaking.FAIL)) == (DiffOutcome.SKIPPED, False)
    assert found.message == "OpenAPI not compared: neither release serves /openapi.json."


@pytest.mark.parametrize(("old", "new", "which"), [(OLD, None, "new"), (None, OLD, "old")])
def test_only_one_serves_one(old: object, new: object, which: str) -> None:
    found = comparison(old, new)
    assert (found.outcome, found.blocks(OnBreaking.FAIL), found.blocks(OnBreaking.WARN)) == (
        DiffOutcome.UNKNOWN,
        True,
        False,
    )
    assert found.message == f"OpenAPI not compared: the {which} release does not serve /openapi.json."


def test_a_document_that_cannot_be_had_is_never_a_pass() -> None:
    with serving(lambda path: page(200, json.dumps(OLD).encode())) as site:
        found = compare_apis(site.address, f"127.0.0.1:{free_port()}", CompareOptions("/openapi.json"), HttpDocuments())
    assert (found.outcome, found.blocks(OnBreaking.FAIL)) == (DiffOutcome.UNKNOWN, True)
    assert "connection refused" in found.message


def test_a_document_of_real_size() -> None:
    """Our own API's, 6,700 lines, against itself and against one with a path less."""
    own = json.loads((Path(__file__).parents[2] / "docs" / "openapi.json").read_text())
    assert comparison(own, own).message == "no breaking change in the API"
    less = {**own, "paths": {path: item for path, item in own["paths"].items() if path != "/healthz"}}
    assert comparison(own, less).message == "1 breaking change: /healthz was removed"


def test_fetching_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())
    with serving(lambda path: page(404)) as site:
        fetched(site)
    eventually("no other thread is left", lambda: set(threading.enumerate()) <= before)
