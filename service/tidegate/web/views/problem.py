"""An error as the API shows it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class ProblemView(BaseModel):
    """An error, RFC 9457."""

    type: str
    title: str
    status: int
    detail: str = Field(description="What is wrong and what to do, for people.")
    instance: str = Field(description="The request; the server's log has the same id.")
    code: str = Field(description="For programs; never changes.")
    errors: list[MistakeView] = Field(default=[], description="Every mistake in the request.")
    rollout: str | None = Field(default=None, description="With rollout-in-progress: the live rollout's id.")


class MistakeView(BaseModel):
    """One mistake in a request."""

    in_: Literal["body", "query", "path", "header"] = Field(alias="in")
    pointer: str = Field(description="A JSON Pointer into that part of the request.")
    path: str = Field(description="The same for people; for a Compose file the place inside its text.")
    detail: str
