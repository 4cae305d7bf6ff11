"""Failed attempts to authenticate: the more there come from one address, the longer it is sent away.

A token holds 256 random bits, so nobody guesses one; what this keeps off is the load. While an address is sent away, only
tokens that were right not long ago are looked up: whoever works behind the same proxy as a stranger goes on working, and
one who comes anew waits for a minute at most. Memory is bounded, and an IPv6 address counts as its network, of which every
machine has plenty.
"""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict
from dataclasses import dataclass

from tidegate.clock import Time
from tidegate.ports import Clock

FREE_ATTEMPTS = 10  # failures that cost nothing; each further one doubles the wait
MAX_WAIT_SECONDS = 60.0
RESET_SECONDS = 300.0  # without a failure, and the address begins anew
ADDRESSES = 1024  # whose failures are remembered
TOKENS = 1024  # that are remembered as right


@dataclass
class _AddressRecord:
    count: int = 0
    last: Time = 0.0
    until: Time = 0.0  # sent away so long


class AuthThrottle:
    """For many threads. `clock` tells seconds."""

    def __init__(self, clock: Clock, free: int = FREE_ATTEMPTS) -> None:
        self._clock, self._free = clock, free
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, _AddressRecord] = OrderedDict()
        self._right: OrderedDict[str, None] = OrderedDict()
        self.total = 0

    def wait_seconds(self, address: str) -> float:
        """How long it is still sent away; 0 when it is not."""
        with self._lock:
            record = self._seen.get(_network(address))
            return 0.0 if record is None else min(MAX_WAIT_SECONDS, max(0.0, record.until - self._clock()))

    def count(self, address: str) -> float:
        """One more. Returns the seconds that the address is sent away from now on, or 0."""
        now, network = self._clock(), _network(address)
        with self._lock:
            self.total += 1
            record = self._seen.pop(network, None)
            if record is None or not 0.0 <= now - record.last < RESET_SECONDS:
                record = _AddressRecord()
            record.count, record.last = record.count + 1, now
            over = record.count - self._free
            wait = 0.0 if over <= 0 else min(MAX_WAIT_SECONDS, 2.0 ** min(over - 1, 10))
            record.until = now + wait
            self._seen[network] = record
            while len(self._seen) > ADDRESSES:
                self._seen.popitem(last=False)
        return wait

    def is_known_valid(self, digest: str) -> bool:
        """Whether the token was right not long ago. It may have been dropped since: this lets nobody in."""
        with self._lock:
            return digest in self._right

    def remember_valid(self, digest: str) -> None:
        """The token was right."""
        with self._lock:
            self._right[digest] = None
            self._right.move_to_end(digest)
            while len(self._right) > TOKENS:
                self._right.popitem(last=False)


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
