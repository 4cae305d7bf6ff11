"""The frontends of an owned HAProxy: where they listen, and which requests they send to a preview.

All of this is encoded in a frontend's name, so that it can be read from the running process and a reload can be verified.
"""

from __future__ import annotations

import re

from tidegate.core.routing import PREVIEW_HEADER, Backend, Preview
from tidegate.drivers.routers.members import bind_address

NAME = re.compile(r"([A-Za-z0-9_.-]+)_on_((?:[0-9a-f.:]+:)?[0-9]+)(?:_if_([a-z0-9-]+)_is_([A-Za-z0-9.:-]+))?")
PREVIEW = re.compile(r"(?!tidegate_)[A-Za-z0-9_.-]+_preview")  # not one of Tidegate's own proxies


def preview_condition(backend: Backend) -> str:
    """The HAProxy condition of requests that go to the backend's preview; empty if none do."""
    name, value = _header_match(backend)
    return f"req.hdr({name}) -m str {value}" if name else ""


def _header_match(backend: Backend) -> tuple[str, str]:
    """The header's name in lower case (HAProxy matches any case), and its value."""
    match = PREVIEW_HEADER.fullmatch(backend.preview.header) if backend.preview else None
    return (match[1].lower(), match[2]) if match else ("", "")


def frontend_name(backend: Backend) -> str:
    """The name of a backend's frontend, with its address and preview condition; empty if it has no listen address."""
    if not backend.listen:
        return ""
    listening = f"{backend.name}_on_" + re.sub(r"[\[\]]", "", bind_address(backend.listen).removeprefix("*:"))
    field, value = _header_match(backend)
    escaped = re.sub(r"[^A-Za-z0-9.-]", lambda match: f":{ord(match[0]):02x}", value)
    return f"{listening}_if_{field}_is_{escaped}" if field else listening


def backend_behind(frontend: str) -> Backend | None:
    """The backend of a frontend with this name; None for other frontends and for addresses that no name can encode."""
    match = NAME.fullmatch(frontend)
    if match is None:
        return None
    value = re.sub(r":([0-9a-f]{2})", lambda code: chr(int(code[1], 16)), match[4] or "")
    host, _, port = match[2].rpartition(":")
    return Backend(
        match[1],
        f"[{host}]:{port}" if ":" in host else match[2],
        preview=Preview(header=f"{match[3]}: {value}") if match[3] else None,
    )


def is_preview(proxy: str) -> bool:
    """Whether a proxy with this name is the backend of a preview."""
    return PREVIEW.fullmatch(proxy) is not None
