"""Parsers of durations, sizes and shares. Pure; each raises `ValueError` with the allowed format."""

from __future__ import annotations

import re

SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
MAX_SECONDS = 1e9  # about 30 years
MAX_BYTES = 2**63 - 1  # the largest size that Docker accepts
BYTES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


def parse_duration(value: object) -> float:
    """Seconds in `1m30s`, `500ms` or `2d`; only 0 may have no unit."""
    if value in (0, "0") and not isinstance(value, bool):
        return 0.0
    if isinstance(value, str):
        parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)", value)
        if parts and "".join(number + unit for number, unit in parts) == value:
            total = sum(float(number) * SECONDS[unit] for number, unit in parts)
            if total <= MAX_SECONDS:
                return total
    raise ValueError("a duration such as 30s, 1m30s or 500ms")


def parse_size(value: object) -> int:
    """Bytes in `64M`, `1g` or a plain number."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_BYTES:
        return value
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,9})?) ?([kmgt]?)i?b?", value.lower()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a size such as 64M or 1g")
    found_bytes = int(float(match[1]) * BYTES[match[2]]) if "." in match[1] else int(match[1]) * BYTES[match[2]]
    if found_bytes > MAX_BYTES:
        raise ValueError("a size such as 64M or 1g, of less than 8 EiB")
    return found_bytes


def parse_share(value: object) -> float:
    """The ratio in `0.5%` or `0.005`."""
    number: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    elif isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", value)
        number = float(match[1]) / (100 if match[2] else 1) if match else None
    if number is None or not 0 <= number <= 100:
        raise ValueError("a share such as 0.5% or 0.005")
    return number
