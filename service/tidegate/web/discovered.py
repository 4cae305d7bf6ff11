"""What the platform said last, for those who ask often."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from tidegate.core.judge.verdict import Time
from tidegate.core.model import Instance
from tidegate.errors import DriverError
from tidegate.ports import Platform

FRESH_SECONDS = 2.0  # several Prometheis that ask at once cost the platform one question
KEPT_SECONDS = 60.0  # while the platform does not answer, what it said last is told for so long


@dataclass
class Discovered:
    """What the platform said last of each service."""

    _said: dict[str, tuple[Time, tuple[Instance, ...]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def instances(self, platform: Platform, service: str, now: Time) -> tuple[Instance, ...]:
        """Raises `DriverError` when the platform has not answered for too long."""
        at, found = self._said.get(service, (float("-inf"), ()))
        if now - at <= FRESH_SECONDS:
            return found
        with self._lock:
            at, found = self._said.get(service, (float("-inf"), ()))
            if now - at <= FRESH_SECONDS:
                return found
            try:
                found = platform.instances(service)
            except DriverError:
                if now - at <= KEPT_SECONDS:
                    return found
                raise
            self._said[service] = now, found
            return found
