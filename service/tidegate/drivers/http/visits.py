"""Visits at a service's public address, as its clients make them."""

from __future__ import annotations

import time
from http.client import HTTPException
from urllib.parse import urlsplit

from tidegate.core.probing import Probe, Visit
from tidegate.drivers.http.line import Line, told
from tidegate.ports import Visitor

MOST_BYTES = 1_000_000  # of an answer; a longer one is cut, which is no failure


class HttpVisitor(Visitor):
    """What it promises is said in `ports.Visitor`."""

    def __init__(self, probe: Probe) -> None:
        place = urlsplit(probe.url)
        self._probe = probe
        self._path = (place.path or "/") + (f"?{place.query}" if place.query else "")
        self._kept = Line(probe.url)

    def visit(self, *, kept: bool) -> Visit:
        begun, line = time.monotonic(), self._kept if kept else Line(self._probe.url)
        headers = {"Accept": "*/*"} if kept else {"Accept": "*/*", "Connection": "close"}
        try:
            answer = line.get(self._path, self._probe.timeout_seconds, MOST_BYTES, headers)
        except (OSError, HTTPException) as error:
            return Visit(time.monotonic() - begun, told(error, self._probe.timeout_seconds))
        finally:
            if not kept:
                line.close()
        trouble = "" if 200 <= answer.status < 400 else f"answered {answer.status}"
        return Visit(time.monotonic() - begun, trouble, answer.headers.get(self._probe.header.lower(), ""))

    def close(self) -> None:
        self._kept.close()
