"""The frontends of an owned HAProxy: where they listen, and which requests they send to a preview.

A frontend's name tells all of that, so that the running process can be asked for it, and a reload be proved by it.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from tidegate.core.routing import PREVIEW_HEADER, Backend, Preview

NAME = re.compile(r"([a-z0-9-]+(?:_preview)?)_on_((?:[0-9.]+:)?[0-9]+)(?:_if_([a-z0-9-]+)_is_([A-Za-z0-9.:-]+))?")
PREVIEW = re.compile(r"[a-z0-9-]+_preview")


def preview_condition(backend: Backend) -> str:
    """Which requests go to the backend's preview instead; empty where none do."""
    name, value = _header_match(backend)
    return f"req.hdr({name}) -m str {value}" if name else ""


def _header_match(backend: Backend) -> tuple[str, str]:
    """The name in small letters, for which HAProxy looks whatever is sent, and the value."""
    match = PREVIEW_HEADER.fullmatch(backend.preview.header) if backend.preview else None
    return (match[1].lower(), match[2]) if match else ("", "")


def frontend_name(backend: Backend) -> str:
    """The frontend of an owned backend, with its address and the condition of its preview; empty where it has none."""
    if not backend.listen:
        return ""
    listening = f"{backend.name}_on_" + re.sub(r"[^A-Za-z0-9_.:-]", "_", backend.listen.removeprefix("*:"))
    field, value = _header_match(backend)
    escaped = re.sub(r"[^A-Za-z0-9.-]", lambda match: f":{ord(match[0]):02x}", value)
    return f"{listening}_if_{field}_is_{escaped}" if field else listening


def backend_behind(frontend: str) -> Backend | None:
    """The other way round; None for another frontend, and for an address that its name does not tell."""
    match = NAME.fullmatch(frontend)
    if match is None:
        return None
    value = re.sub(r":([0-9a-f]{2})", lambda code: chr(int(code[1], 16)), match[4] or "")
    return Backend(match[1], match[2], preview=Preview(header=f"{match[3]}: {value}") if match[3] else None)


def frontends_of(backend: str, proxies: Collection[str]) -> set[str]:
    """The frontends of a backend among the proxies of a process."""
    return {proxy for proxy in proxies if proxy.startswith(f"{backend}_on_")}
