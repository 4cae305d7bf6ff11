"""Every error that Tidegate raises on purpose.

    TidegateError
    ├── Refused                what a person or a client asked for cannot be done; nothing was changed
    │   ├── InvalidSpec        a Compose file or a request with mistakes; lists all of them
    │   ├── InvalidSettings    the server's own settings; lists all mistakes
    │   ├── UnknownService     no such service in this environment
    │   ├── UnknownRollout     no such rollout
    │   ├── UnknownDriver      no such driver; lists the known ones
    │   ├── RolloutInProgress  the service has a live rollout already
    │   ├── Superseded         a newer build has asked for a rollout already
    │   ├── Frozen             the environment is frozen
    │   ├── Quarantined        this digest was turned back before
    │   ├── RouteTaken         another service of the environment owns this route
    │   ├── DependencyMissing  a service that this one depends on does not serve
    │   ├── NothingToRollBackTo  no good release is known to go back to
    │   ├── IllegalMove        the phase table does not allow it
    │   ├── Stale              the row was changed since it was read
    │   ├── KeyReused          one idempotency key, two different requests
    │   └── NotAllowed         the token lacks the scope
    │       └── MayNotApprove  this person may not approve
    ├── DriverError            an outside part failed; `retryable` says whether waiting can help
    │   ├── PlatformError      starting, stopping or listing instances
    │   ├── RouterError        reading or writing the proxy
    │   ├── MetricsError       asking Prometheus; carries a reason code
    │   ├── CIError            telling the CI, or settling what waits there
    │   ├── DocumentError      fetching what a release serves of itself
    │   └── StoreError         the database
    └── LeaseLost              another engine drives this rollout now; stop at once

The docstring of a class is its default message. Nothing is imported here.
"""

from __future__ import annotations


class TidegateError(Exception):
    """Something went wrong in Tidegate."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())

    @property
    def message(self) -> str:
        """The sentence for people."""
        return str(self.args[0])


class Refused(TidegateError):
    """The request cannot be done."""


class Problem:
    """One mistake in an input: where it stands, what was found, what is allowed.

    `path` is dotted as people read it (`services.shop.deploy.replicas`).
    """

    __slots__ = ("message", "path")

    def __init__(self, path: str, message: str) -> None:
        self.path = path
        self.message = message

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message

    def __repr__(self) -> str:
        return f"Problem({self.path!r}, {self.message!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Problem) and (self.path, self.message) == (other.path, other.message)

    def __hash__(self) -> int:
        return hash((self.path, self.message))


class _ProblemList(Refused):
    """Several mistakes, all told at once."""

    def __init__(self, problems: list[Problem] | tuple[Problem, ...]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class InvalidSpec(_ProblemList):
    """The specification has mistakes."""


class InvalidSettings(_ProblemList):
    """The settings have mistakes."""


class UnknownService(Refused):
    """No such service."""


class UnknownRollout(Refused):
    """No such rollout."""


class UnknownDriver(Refused):
    """No such driver."""


class RolloutInProgress(Refused):
    """The service already has a live rollout."""


class Superseded(Refused):
    """A newer build of this job has asked for a rollout of this service already."""

    def __init__(self, message: str = "", *, rollout: str = "") -> None:
        super().__init__(message)
        #: The newer build's rollout.
        self.rollout = rollout


class Frozen(Refused):
    """The environment is frozen."""


class Quarantined(Refused):
    """This digest was turned back before."""


class RouteTaken(Refused):
    """Another service of this environment owns the route."""


class DependencyMissing(Refused):
    """A service that this one depends on does not serve."""


class NoGoodRelease(Refused):
    """No good release is known to go back to."""


class NoLiveRelease(Refused):
    """No release of the service serves."""


class IllegalMove(Refused):
    """This move is not allowed in the present phase."""


class VersionConflict(Refused):
    """The thing was changed since it was read; read it again."""


class KeyReused(Refused):
    """The idempotency key was used before with another request."""


class NotAllowed(Refused):
    """The token does not allow this."""


class ApprovalNotAllowed(NotAllowed):
    """The token allows it, but not to this person: another one may do it."""


class DriverError(TidegateError):
    """An outside part failed."""

    def __init__(self, message: str = "", *, retryable: bool = True) -> None:
        super().__init__(message)
        #: True when the same call may succeed later without anybody changing anything.
        self.retryable = retryable


class PlatformError(DriverError):
    """The platform failed."""


class RouterError(DriverError):
    """The proxy failed."""


class MetricsError(DriverError):
    """The metrics source failed."""

    def __init__(self, message: str = "", *, reason: str = "source-down", retryable: bool = True) -> None:
        super().__init__(message, retryable=retryable)
        #: A code of `core.judge.verdict.Reason`, for the verdict.
        self.reason = reason


class CIError(DriverError):
    """The CI failed."""


class DocumentError(DriverError):
    """A document could not be fetched."""


class StoreError(DriverError):
    """The database failed."""


class LeaseLost(TidegateError):
    """Another engine drives this rollout now."""
