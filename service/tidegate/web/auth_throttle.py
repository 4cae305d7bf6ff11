"""Throttling of failed authentication: the more attempts fail from one address, the longer it is blocked.

A token holds 256 random bits and cannot be guessed; the throttle protects the server from the load. Clients behind the same
proxy share an address, so a valid token is accepted while its address is blocked. The valid tokens are read from the
database at most once in `REFRESH_SECONDS`, however many others are tried. Memory is bounded by the addresses remembered and
the tokens that exist. An IPv6 address counts as its /64 network: one machine has many.
"""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tidegate.clock import Time
from tidegate.core.records import Token
from tidegate.ports import Clock

FREE_ATTEMPTS = 10  # failures without a wait; each further one doubles it
MAX_WAIT_SECONDS = 60.0
RESET_SECONDS = 300.0  # without a failure, the count of an address starts at 0 again
ADDRESSES = 1024  # maximum number of remembered addresses
REFRESH_SECONDS = 1.0  # between two reads of the valid tokens


@dataclass
class _AddressRecord:
    count: int = 0
    last: Time = 0.0
    until: Time = 0.0  # blocked until then


class AuthThrottle:
    """Counts failed attempts by address. Thread-safe. `clock` returns seconds since the epoch, `read_tokens` all tokens of
    the database."""

    def __init__(self, clock: Clock, read_tokens: Callable[[], Iterable[Token]], free: int = FREE_ATTEMPTS) -> None:
        self._clock, self._read_tokens, self._free = clock, read_tokens, free
        self._lock, self._refresh_lock = threading.Lock(), threading.Lock()
        self._records: OrderedDict[str, _AddressRecord] = OrderedDict()
        self._valid: frozenset[str] = frozenset()
        self._refreshed: Time | None = None
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

    def is_valid(self, digest: str) -> bool:
        """Whether a token with this digest was valid less than `REFRESH_SECONDS` ago. It may have been revoked since, so
        this alone does not authenticate. Raises `StoreError`."""
        if digest not in self._valid:
            self._refresh()
        return digest in self._valid

    def _refresh(self) -> None:
        """Read the valid tokens if that is due. Concurrent callers wait for one read instead of all reading."""
        with self._refresh_lock:
            now = self._clock()
            if self._refreshed is not None and 0.0 <= now - self._refreshed < REFRESH_SECONDS:
                return
            self._refreshed = now  # also after a failure, so that callers do not wait for a failing database in turn
            tokens = self._read_tokens()
            self._valid = frozenset(token.digest for token in tokens if token.expires is None or now < token.expires)


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
