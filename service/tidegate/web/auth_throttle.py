"""Throttling of failed authentication: the more attempts fail from one address, the longer it is blocked.

A token holds 256 random bits and cannot be guessed; the throttle protects the server from the load. While an address is
blocked, tokens that were valid recently are still accepted, so that clients behind the same proxy keep working. A new token
waits at most a minute. Memory is bounded. An IPv6 address counts as its /64 network: one machine has many.
"""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict
from dataclasses import dataclass

from tidegate.clock import Time
from tidegate.ports import Clock

FREE_ATTEMPTS = 10  # failures without a wait; each further one doubles it
MAX_WAIT_SECONDS = 60.0
RESET_SECONDS = 300.0  # without a failure, the count of an address starts at 0 again
ADDRESSES = 1024  # maximum number of remembered addresses
TOKENS = 1024  # maximum number of remembered valid tokens


@dataclass
class _AddressRecord:
    count: int = 0
    last: Time = 0.0
    until: Time = 0.0  # blocked until then


class AuthThrottle:
    """Counts failed attempts by address. Thread-safe. `clock` returns seconds since the epoch."""

    def __init__(self, clock: Clock, free: int = FREE_ATTEMPTS) -> None:
        self._clock, self._free = clock, free
        self._lock = threading.Lock()
        self._records: OrderedDict[str, _AddressRecord] = OrderedDict()
        self._valid: OrderedDict[str, None] = OrderedDict()
        self.total = 0

    def wait_seconds(self, address: str) -> float:
        """Seconds for which the address is still blocked; 0 if it is not."""
        with self._lock:
            record = self._records.get(_network(address))
            return 0.0 if record is None else min(MAX_WAIT_SECONDS, max(0.0, record.until - self._clock()))

    def count(self, address: str) -> float:
        """Count a failed attempt. Returns the seconds for which the address is blocked from now on, or 0."""
        now, network = self._clock(), _network(address)
        with self._lock:
            self.total += 1
            record = self._records.pop(network, None)
            if record is None or not 0.0 <= now - record.last < RESET_SECONDS:
                record = _AddressRecord()
            record.count, record.last = record.count + 1, now
            over = record.count - self._free
            wait = 0.0 if over <= 0 else min(MAX_WAIT_SECONDS, 2.0 ** min(over - 1, 10))
            record.until = now + wait
            self._records[network] = record
            while len(self._records) > ADDRESSES:
                self._records.popitem(last=False)
        return wait

    def is_known_valid(self, digest: str) -> bool:
        """Whether the token was valid recently. It may have been revoked since, so this alone does not authenticate."""
        with self._lock:
            return digest in self._valid

    def remember_valid(self, digest: str) -> None:
        """Remember that the token was valid."""
        with self._lock:
            self._valid[digest] = None
            self._valid.move_to_end(digest)
            while len(self._valid) > TOKENS:
                self._valid.popitem(last=False)


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
