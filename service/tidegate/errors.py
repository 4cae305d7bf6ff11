"""The errors that Tidegate raises.

    TidegateError
    ├── Refused                the request cannot be fulfilled; nothing was changed
    │   ├── InvalidSpec        a Compose file or a request has mistakes; lists all of them
    │   ├── InvalidSettings    the server's settings have mistakes; lists all of them
    │   ├── UnknownService     no such service in this environment
    │   ├── UnknownRollout     no such rollout
    │   ├── UnknownDriver      no such driver; lists the known ones
    │   ├── RolloutInProgress  the service has a live rollout
    │   ├── Superseded         a newer build has requested a rollout
    │   ├── Frozen             the environment is frozen
    │   ├── Quarantined        this image with this configuration was found bad
    │   ├── NotQuarantined     the release is not in quarantine
    │   ├── RouteTaken         another service of the environment uses this route
    │   ├── ListenTaken        another service of the environment listens on this address
    │   ├── DependencyMissing  a service that this one depends on is not live
    │   ├── PlanChanged        the deployment is not what its plan says
    │   ├── NoGoodRelease      there is no good release to roll back to
    │   ├── AlreadyRolledBack  the service was rolled back, and nothing was deployed since
    │   ├── NoLiveRelease      the service has no live release
    │   ├── IllegalMove        not possible in this phase
    │   ├── VersionConflict    changed since it was read
    │   ├── KeyReused          one idempotency key for two different requests
    │   └── NotAllowed         the token lacks the scope
    │       └── ApprovalNotAllowed  this person may not approve
    ├── DriverError            an external part failed; `retryable` says whether waiting can help
    │   ├── PlatformError      starting, stopping or listing instances
    │   ├── RouterError        reading or writing the proxy
    │   ├── MetricsError       querying Prometheus; carries a reason code
    │   ├── CIError            reporting to the CI
    │   ├── DocumentError      fetching a document that a release serves
    │   └── StoreError         the database
    └── LeaseLost              another engine drives this rollout; stop at once

The docstring of a class is its default message. This module imports nothing.
"""

from __future__ import annotations


class TidegateError(Exception):
    """Tidegate failed."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())

    @property
    def message(self) -> str:
        """The message for people."""
        return str(self.args[0])


class Refused(TidegateError):
    """The request cannot be fulfilled."""


class Problem:
    """One mistake in an input: where it is, what was found, and what is allowed.

    `path` is dotted (`services.shop.deploy.replicas`).
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
    """Several mistakes, reported at once."""

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
    """A newer build of this job has already requested a rollout of this service."""

    def __init__(self, message: str = "", *, rollout: str = "") -> None:
        super().__init__(message)
        #: The newer build's rollout.
        self.rollout = rollout


class Frozen(Refused):
    """The environment is frozen."""


class Quarantined(Refused):
    """A rollout of this image with this configuration was rolled back for what was found."""


class NotQuarantined(Refused):
    """The release is not in quarantine."""


class RouteTaken(Refused):
    """Another service of this environment uses the route."""


class ListenTaken(Refused):
    """Another service of this environment listens on the address."""


class DependencyMissing(Refused):
    """A service that this one depends on is not live."""


class PlanChanged(Refused):
    """The deployment is not what its plan says."""


class NoGoodRelease(Refused):
    """There is no good release to roll back to."""


class AlreadyRolledBack(Refused):
    """The service was rolled back, and nothing was deployed since. Going further back needs the name of a release."""

    def __init__(self, message: str = "", *, rollout: str = "") -> None:
        super().__init__(message)
        #: The rollout that rolled it back.
        self.rollout = rollout


class NoLiveRelease(Refused):
    """The service has no live release."""


class IllegalMove(Refused):
    """This is not possible in the current phase."""


class VersionConflict(Refused):
    """It was changed since it was read; read it again."""


class KeyReused(Refused):
    """The idempotency key was used before with another request."""


class NotAllowed(Refused):
    """The token does not allow this."""


class ApprovalNotAllowed(NotAllowed):
    """This person may not approve; another person must."""


class DriverError(TidegateError):
    """An external part failed."""

    def __init__(self, message: str = "", *, retryable: bool = True) -> None:
        super().__init__(message)
        #: True if the same call may succeed later without a change.
        self.retryable = retryable


class PlatformError(DriverError):
    """The platform failed."""


class RouterError(DriverError):
    """The proxy failed."""


class MetricsError(DriverError):
    """The metrics source failed."""

    def __init__(self, message: str = "", *, reason: str = "source-down", retryable: bool = True) -> None:
        super().__init__(message, retryable=retryable)
        #: A code of `analysis.verdict.Reason`, for the verdict.
        self.reason = reason


class CIError(DriverError):
    """The CI failed."""


class DocumentError(DriverError):
    """A document could not be fetched."""


class StoreError(DriverError):
    """The database failed."""


class LeaseLost(TidegateError):
    """Another engine drives this rollout."""
