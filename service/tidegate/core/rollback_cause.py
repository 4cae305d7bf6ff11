"""Why a rollout rolls back, and which causes are a finding about its release."""

from __future__ import annotations

from enum import StrEnum


class RollbackCause(StrEnum):
    """What started a rollback. Only a finding puts the release into quarantine: silence, a person, a build or a part of the
    environment says nothing about the image."""

    # findings
    CHECKS = "checks"  # a verdict of FAIL
    HEALTH = "health"  # instances that had taken requests crashed, became unhealthy or did not become ready
    HOOK = "hook"  # a hook failed
    COMPARISON = "comparison"  # the documents of both releases are not compatible

    # no findings
    INCONCLUSIVE = "inconclusive"  # the final verdict was not clear, and the policy is to roll back
    NEVER_SERVED = "never_served"  # instances did not start or become ready before they had taken requests
    UNAVAILABLE = "unavailable"  # a part of the environment failed: the platform, the proxy, instances of both releases
    REQUEST = "request"  # a person or a program requested it
    APPROVAL_REJECTED = "approval_rejected"  # requested while the rollout waited for an answer
    APPROVAL_EXPIRED = "approval_expired"  # nobody answered in time
    BUILD_ENDED = "build_ended"  # the build that requested the rollout is over
    SUPERSEDED = "superseded"  # a newer build of the same job takes over
    GROUP = "group"  # another rollout of the group rolled back

    @property
    def is_finding(self) -> bool:
        """Whether it speaks against the release."""
        return self in FINDINGS


FINDINGS = frozenset({RollbackCause.CHECKS, RollbackCause.HEALTH, RollbackCause.HOOK, RollbackCause.COMPARISON})
