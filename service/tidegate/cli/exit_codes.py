"""How commands end: the exit codes, and the errors that carry them."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

Json = dict[str, Any]


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0  # the command succeeded: the rollout succeeded, or the verdict is PASS
    REFUSED = 1  # the input is invalid or the server refused it; nothing was changed
    USAGE = 2  # invalid command line
    ROLLED_BACK = 3  # the rollout rolled back, or the verdict is FAIL
    FAILED = 4  # the rollout halted; a person must intervene
    INCONCLUSIVE = 5  # the verdict is INCONCLUSIVE
    UNREACHABLE = 6  # the server did not respond in time; its rollouts continue
    NOT_ALLOWED = 7  # the token is missing, invalid, or lacks the scope
    UNHEALTHY = 8  # `tidegate check` found a problem
    WAITING = 9  # with --detailed-exit-code: the rollout waits for a person
    INTERRUPTED = 130  # Ctrl-C; rollouts continue


#: The exit code for each final phase of a rollout.
BY_PHASE = {
    "succeeded": ExitCode.DONE,
    "rolled_back": ExitCode.ROLLED_BACK,
    "refused": ExitCode.REFUSED,
    "failed": ExitCode.FAILED,
}

#: The exit code for each outcome of a verdict.
BY_OUTCOME = {
    "PASS": ExitCode.DONE,
    "FAIL": ExitCode.ROLLED_BACK,
    "INCONCLUSIVE": ExitCode.INCONCLUSIVE,
}


class CommandError(Exception):
    """A command failed: the message for the user, the exit code, and the server's problem document if there is one."""

    def __init__(self, message: str, code: ExitCode, problem: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.problem = problem or {}
