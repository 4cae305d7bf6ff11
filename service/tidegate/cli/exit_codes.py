"""The exit codes of every command, the same everywhere."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command ends with."""

    DONE = 0  # did what was asked; a rollout succeeded, or a verdict is PASS
    REFUSED = 1  # the server or the input says no; nothing was changed
    USAGE = 2  # the command line is wrong
    ROLLED_BACK = 3  # the rollout was turned back, or the verdict is FAIL
    FAILED = 4  # the rollout halted; a person must look
    INCONCLUSIVE = 5  # the verdict is INCONCLUSIVE
    UNREACHABLE = 6  # no answer from the server in time; what it does goes on
    NOT_ALLOWED = 7  # no token, a wrong one, or one without the scope
    UNHEALTHY = 8  # `tidegate check` found something wrong
    INTERRUPTED = 130  # Ctrl-C; what the server does goes on


#: The phase that a rollout ended in, as an exit code.
BY_PHASE = {
    "succeeded": ExitCode.DONE,
    "rolled_back": ExitCode.ROLLED_BACK,
    "failed": ExitCode.FAILED,
}

#: A verdict's outcome, as an exit code.
BY_OUTCOME = {
    "PASS": ExitCode.DONE,
    "FAIL": ExitCode.ROLLED_BACK,
    "INCONCLUSIVE": ExitCode.INCONCLUSIVE,
}
