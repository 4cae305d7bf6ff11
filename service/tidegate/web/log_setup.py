"""Logging setup: one line per event on standard error, for Tidegate and its libraries."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog
from structlog.contextvars import bind_contextvars
from structlog.typing import EventDict, Processor

from tidegate.core.model import Rollout
from tidegate.engine.log_context import log_fields
from tidegate.text import escape

_SHARED: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
)


def bind_rollout(rollout: Rollout) -> None:
    """Add the fields of `rollout` to every log line of the current request."""
    bind_contextvars(**log_fields(rollout))


def _escape_fields(_: object, __: str, fields: EventDict) -> EventDict:
    """Escape control characters, so that an event without a traceback is one line."""
    return {
        name: escape(value, allowed="\n" if name == "exception" else "") if isinstance(value, str) else value
        for name, value in fields.items()
    }


def configure(level: str = "info", form: Literal["json", "console"] = "json") -> None:
    """Configure logging of the process; call once at its start. `form` is `json` for programs or `console` for people."""
    minimum = logging.getLevelNamesMapping()[level.upper()]
    if form == "json":
        end: list[Processor] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        renderer = structlog.dev.ConsoleRenderer(
            timestamp_key="at",
            colors=sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # the default prints local variables, which may hold secrets
        )
        end = [structlog.processors.format_exc_info, _escape_fields, renderer]
    structlog.configure(
        processors=[*_SHARED, *end],
        wrapper_class=structlog.make_filtering_bound_logger(minimum),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_SHARED, processors=[meta, *end]))
    logging.basicConfig(handlers=[handler], level=minimum, force=True)
