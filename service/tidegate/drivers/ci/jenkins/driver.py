"""Reports rollouts to Jenkins: updates build descriptions, and answers input steps after a decision elsewhere.

Every report reads the build first, so that a repeated report changes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import structlog

from tidegate.core.build import Build, BuildState
from tidegate.core.event_kinds import EventKind
from tidegate.core.phases import Phase
from tidegate.drivers.ci.jenkins import build_queue, build_state, description, inputs, markup
from tidegate.drivers.ci.jenkins.check import check_jenkins
from tidegate.drivers.ci.jenkins.client import JenkinsClient, build_path, job_path
from tidegate.drivers.ci.jenkins.errors import JenkinsRefusal
from tidegate.drivers.ci.jenkins.inputs import ROLLBACK_EVENTS, ROLLBACK_PHASES, InputAnswer, PendingInput
from tidegate.drivers.ci.jenkins.markup import Markup
from tidegate.drivers.ci.jenkins.options import JenkinsOptions
from tidegate.drivers.error_translation import guard_response
from tidegate.errors import CIError
from tidegate.ports import Diagnosis, Notice

logger = structlog.get_logger("tidegate.ci")

MARKUP_SECONDS = 600.0  # how long what Jenkins renders is not asked again
MAX_REMEMBERED_BUILDS = 1000  # missing builds, so that each is logged once


class JenkinsCI:
    """Implements `ports.CI`. Safe to use from several threads: each call has a client of its own."""

    Options = JenkinsOptions

    def __init__(self, options: JenkinsOptions, environment: str) -> None:
        self._options = options
        self._environment = environment
        self._missing_builds: dict[tuple[str, int], None] = {}
        self._markup = (Markup.UNKNOWN, 0.0)  # what was found, and until when that counts

    @guard_response(CIError, "Jenkins")
    def report(self, build: Build, notice: Notice) -> None:
        """Answer the rollout's inputs in this build, then update the build's description. Raises `CIError`.

        Errors that a person can fix, such as a missing permission, are retryable. A missing build is no error.
        """
        client = JenkinsClient(self._options)
        try:
            self._update_build(client, build, notice)
        except JenkinsRefusal as error:
            if error.status != 404:
                raise
            client.login()  # raises if the 404 is from a proxy and not from Jenkins
            self._require_job(client, build)
            self._log_missing_build(build)

    @guard_response(CIError, "Jenkins")
    def read_build(self, build: Build) -> BuildState | None:
        """See `ports.CI`. A missing build is unknown: the user may lack Job/Read. Raises `CIError`."""
        client = JenkinsClient(self._options)
        try:
            return build_state.read_state(client.get(build_path(build), build_state.TREE), build.number)
        except JenkinsRefusal as error:
            if error.status != 404:
                raise
            return None

    def check(self, builds: Sequence[Build] = ()) -> Sequence[Diagnosis]:
        """Check reachability, version, user, token and permissions."""
        return tuple(check_jenkins(self._options, builds))

    def _require_job(self, client: JenkinsClient, build: Build) -> None:
        """Raise `CIError` if the job cannot be seen either: that may be a missing permission, which somebody can grant."""
        try:
            client.get(job_path(build), "name")
        except JenkinsRefusal as error:
            if error.status != 404:
                raise
            text = f"{self._options.user} sees no job {build.job}: it was deleted, or Job/Read is missing. Grant it"
            raise CIError(f"{text}; Tidegate retries.") from None

    # -- one report ---------------------------------------------------------------------------------------------------

    def _update_build(self, client: JenkinsClient, build: Build, notice: Notice) -> None:
        path, rollout = build_path(build), notice.rollout
        page = client.get(path, f"description,{inputs.TREE}")
        for waiting in inputs.find_pending_inputs(page, rollout.id):
            self._settle_inputs(client, build, waiting, notice)
        self._update_description(client, path, str(page.get("description") or ""), notice)
        if self._options.stop_obsolete and notice.event.kind == EventKind.CREATED and rollout.phase.live:
            self._stop_obsolete_builds(client, build)

    def _update_description(self, client: JenkinsClient, path: str, now: str, notice: Notice) -> None:
        """During a rollback only the event with its reason updates the description, not the steps that follow."""
        starts_rollback = notice.event.kind in ROLLBACK_EVENTS and notice.rollout.phase is not Phase.SUCCEEDED
        if notice.rollout.phase in ROLLBACK_PHASES and not starts_rollback:
            return
        reason = notice.event.message if starts_rollback else ""
        line = description.format_line(notice.rollout, reason, notice.link, self._markup_of(client))
        wanted = description.replace_line(now, notice.rollout, line)
        if wanted != now:
            client.post(f"{path}submitDescription", {"description": wanted})

    def _markup_of(self, client: JenkinsClient) -> Markup:
        """What Jenkins renders in descriptions; asked again from time to time, since an administrator may change it."""
        known, at = self._markup
        if time.monotonic() >= at:
            try:
                known = markup.read_preview(client.preview(markup.SAMPLE))
            except JenkinsRefusal as error:
                if error.status not in (400, 403, 404, 405):
                    raise
                known = Markup.UNKNOWN
            self._markup = known, time.monotonic() + MARKUP_SECONDS
        return known

    def _settle_inputs(self, client: JenkinsClient, build: Build, waiting: PendingInput, notice: Notice) -> None:
        answer = inputs.choose_answer(waiting, notice)
        if answer is None:
            return
        path = build_path(build)
        place, form = f"{path}input/{waiting.id}", {}
        if answer is InputAnswer.ABORT:
            place += "/abort"
        elif waiting.reason_parameter:
            reason = inputs.format_reason(waiting, notice, answer)
            place += "/proceed"
            form = {"json": json.dumps({"parameter": [{"name": waiting.reason_parameter, "value": reason}]})}
        else:
            place += "/proceedEmpty"
        try:
            client.post(place, form)
        except JenkinsRefusal as error:
            if error.status not in (400, 404):
                raise
            self._require_settled(client, path, waiting, notice)
            return
        logger.info("Answered an input", job=build.job, number=build.number, input=waiting.id, answer=answer.value)

    def _require_settled(self, client: JenkinsClient, path: str, waiting: PendingInput, notice: Notice) -> None:
        """Raise `CIError` if the input is still pending: Jenkins rejects answered and forbidden inputs alike."""
        reason = client.response_text()
        page = client.get(path, inputs.TREE)
        if waiting.id in [pending.id for pending in inputs.find_pending_inputs(page, notice.rollout.id)]:
            raise CIError(
                f"{self._options.user} may not answer the Jenkins input {waiting.id}: {reason}. Add it to the input's "
                "submitters, or make it an administrator; Tidegate retries."
            )

    def _stop_obsolete_builds(self, client: JenkinsClient, build: Build) -> None:
        """Stop older builds that wait for a node. A refusal is only logged: a waiting build does no harm."""
        for number in build_queue.find_obsolete_builds(client.get("queue/", build_queue.TREE), build):
            about = {"job": build.job, "number": number, "newer": build.number}
            try:
                page = client.get(build_path(Build(build.job, number)), "number,building")
                if page.get("number") == number and page.get("building") is True:
                    client.stop(build.job, number)
                    logger.info("Stopped an older build that waited for a node", **about)
            except JenkinsRefusal as error:
                if not 400 <= error.status < 500:
                    raise
                logger.warning("Cannot stop an older build", **about, error=error.message)

    def _log_missing_build(self, build: Build) -> None:
        key = (build.job, build.number)
        if key not in self._missing_builds:
            self._missing_builds[key] = None
            logger.warning(
                "Build not found: it does not exist, or the user may not see it",
                job=build.job,
                number=build.number,
                user=self._options.user,
            )
        if len(self._missing_builds) > MAX_REMEMBERED_BUILDS:
            self._missing_builds.clear()
