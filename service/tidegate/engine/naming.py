"""How a rollout is called."""

from __future__ import annotations

import secrets

from tidegate.core.judge.verdict import Time


def new_id(now: Time) -> str:
    """A rollout's id: 14 hex digits, the first nine of them the time in sixteenths of a second, so that ids sort by age."""
    return f"{int(now * 16):09x}{secrets.randbits(20):05x}"
