"""A connection to PostgreSQL that does not wait for ever. Apart from `postgres`, for psycopg is an extra."""

from __future__ import annotations

from collections.abc import Generator
from time import monotonic
from typing import Any

from psycopg import Connection, Error, OperationalError

__all__ = ["Error", "TimeLimitedConnection"]

PATIENCE_SECONDS = 15.0  # longer than the server's own limit for a statement: this is for a server that hangs itself


class TimeLimitedConnection(Connection[Any]):
    """Closes itself when the server keeps silent for longer than `patience_seconds`; that is an `OperationalError`."""

    patience_seconds = PATIENCE_SECONDS

    def wait(self, gen: Generator[Any, Any, Any], *limits: Any, **named: Any) -> Any:
        return super().wait(self._bounded(gen), *limits, **named)

    def _bounded(self, work: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """The same exchange with the server; psycopg asks it to go on at least ten times a second."""
        end = monotonic() + self.patience_seconds
        try:
            wanted = next(work)
            while True:
                ready = yield wanted
                if not ready and monotonic() > end:
                    self.pgconn.finish()  # or giving it back would wait as long again
                    raise OperationalError(f"the server said nothing for {self.patience_seconds:g} s")
                wanted = work.send(ready)
        except StopIteration as done:
            return done.value
