"""Views of the logs of instances."""

from __future__ import annotations

from pydantic import Field

from tidegate.web.views.timestamps import Timestamp, View


class LogLineView(View):
    """A line of an instance's log."""

    at: Timestamp = Field(description="When Docker received it, by the clock of the instance's host.")
    instance: str = Field(description="The ID of the instance.")
    release: str
    ordinal: int
    text: str = Field(description="At most 4,096 characters.")


class LogNoteView(View):
    """What is missing of an instance's log."""

    instance: str = Field(description="The ID of the instance.")
    release: str
    ordinal: int
    message: str


class LogsView(View):
    """Lines of the logs of all instances, oldest first."""

    lines: list[LogLineView]
    missing: list[LogNoteView] = Field(description="Logs that cannot be read, and those of which lines were left out.")
    next: str = Field(description="Send it as `after` to get the lines that follow.")
