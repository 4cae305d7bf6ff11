"""The log: one line each on standard error, of our own and of the libraries alike."""

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
    """Whatever this request logs from here on is about this rollout."""
    bind_contextvars(**log_fields(rollout))


def _visible(_: object, __: str, fields: EventDict) -> EventDict:
    """One event is one line also for people, but for its traceback."""
    return {
        name: escape(each, keep="\n" if name == "exception" else "") if isinstance(each, str) else each
        for name, each in fields.items()
    }


def configure(level: str = "info", form: Literal["json", "console"] = "json") -> None:
    """For a whole process, once, at its start. `form` json is for programs, console for people."""
    least = logging.getLevelNamesMapping()[level.upper()]
    if form == "json":
        end: list[Processor] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        renderer = structlog.dev.ConsoleRenderer(
            timestamp_key="at",
            colors=sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # the default shows the values of variables, secrets too
        )
        end = [structlog.processors.format_exc_info, _visible, renderer]
    structlog.configure(
        processors=[*_SHARED, *end],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_SHARED, processors=[meta, *end]))
    logging.basicConfig(handlers=[handler], level=least, force=True)
