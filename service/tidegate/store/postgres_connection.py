"""A PostgreSQL connection with a client-side timeout. Separate from `postgres`, because psycopg is an optional extra."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from time import monotonic
from typing import Any

from psycopg import Connection, Cursor, Error, OperationalError

__all__ = ["Error", "TimeLimitedConnection"]

PATIENCE_SECONDS = 15.0  # longer than the server's statement timeout: for a server that hangs


class PlainCursor(Cursor[Any]):
    """Sends each statement of a sequence by itself instead of in a pipeline.

    The server does not apply `idle_in_transaction_session_timeout` to a client that stops within a pipeline (tested with
    PostgreSQL 15): its locks would stay until it continues.
    """

    def executemany(self, query: Any, params_seq: Iterable[Any], *, returning: bool = False) -> None:
        """Run the statement with each set of parameters; its results are not kept."""
        for parameters in params_seq:
            self.execute(query, parameters)


class TimeLimitedConnection(Connection[Any]):
    """Closes itself when the server is silent for `patience_seconds`, and raises `OperationalError`."""

    patience_seconds = PATIENCE_SECONDS

    def wait(self, gen: Generator[Any, Any, Any], *limits: Any, **named: Any) -> Any:
        return super().wait(self._bounded(gen), *limits, **named)

    def _bounded(self, work: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """The same exchange with the server, with the timeout; psycopg resumes it at least ten times a second."""
        end = monotonic() + self.patience_seconds
        try:
            wanted = next(work)
            while True:
                ready = yield wanted
                if not ready and monotonic() > end:
                    self.pgconn.finish()  # otherwise returning it to the pool would wait as long again
                    raise OperationalError(f"no response from the server within {self.patience_seconds:g} s")
                wanted = work.send(ready)
        except StopIteration as done:
            return done.value
