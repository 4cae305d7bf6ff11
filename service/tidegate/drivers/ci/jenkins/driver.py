"""Jenkins as the CI: its builds show how their rollouts go, and what waits in them is settled when it is settled elsewhere.

Everything is found out by looking at the build first, so a report that comes twice changes nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import structlog

from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Build
from tidegate.core.phases import Phase
from tidegate.drivers.ci.jenkins import build_queue, description, inputs
from tidegate.drivers.ci.jenkins.client import JenkinsClient, build_path
from tidegate.drivers.ci.jenkins.errors import JenkinsRefusal
from tidegate.drivers.ci.jenkins.inputs import ROLLBACK_EVENTS, ROLLBACK_PHASES, InputAnswer, PendingInput
from tidegate.drivers.ci.jenkins.options import JenkinsOptions
from tidegate.drivers.error_translation import guard_response
from tidegate.errors import CIError
from tidegate.ports import Diagnosis, Notice

logger = structlog.get_logger("tidegate.ci")

PART = "jenkins"
MAX_REMEMBERED_BUILDS = 1000  # builds that are gone, so that each is told once


class JenkinsCI:
    """Implements `ports.CI`. Safe to use from several threads: each call has a client of its own."""

    Options = JenkinsOptions

    def __init__(self, options: JenkinsOptions, environment: str) -> None:
        self._options = options
        self._environment = environment
        self._missing_builds: dict[tuple[str, int], None] = {}

    @guard_response(CIError, "Jenkins")
    def report(self, build: Build, notice: Notice) -> None:
        """Settle the rollout's inputs in this build, then bring the build's description up to date. Raises `CIError`.

        What a person can mend may be tried again, a missing permission too. A build that is gone has nothing to be told.
        """
        client = JenkinsClient(self._options)
        try:
            self._update_build(client, build, notice)
        except JenkinsRefusal as error:
            if error.status != 404:
                raise
            client.login()  # raises when it is not Jenkins who says so, but a proxy before it
            self._is_first_miss(build)

    def check(self) -> Sequence[Diagnosis]:
        """Reachable, version, and as whom."""
        options, client = self._options, None
        try:
            client = JenkinsClient(options)
            login = client.login()
        except CIError as error:
            return (Diagnosis(PART, False, error.message, self._fix_for(client)),)
        version = f"Jenkins {login.version}" if login.version else "a Jenkins API"
        diagnosis = Diagnosis(PART, True, f"{version} at {options.url}")
        if login.user.lower() != options.user.lower():
            fix = "set user to the id of the user whose API token it is"
            return diagnosis, Diagnosis(f"{PART} user", False, f"known there as {login.user}, not as {options.user}", fix)
        return diagnosis, Diagnosis(f"{PART} user", True, f"known there as {login.user}")

    def _fix_for(self, client: JenkinsClient | None) -> str:
        """What to do when nobody could be asked who we are."""
        options = self._options
        if client is None:
            return f"make an API token for {options.user} in Jenkins and put it where token_file or token_env says"
        if client.exchange.status in (401, 403):
            return (
                f"make an API token for {options.user} in Jenkins (its user page, Security) and put it where token_file or"
                " token_env says; a password does not do"
            )
        return f"start Jenkins, or set `url` in the ci settings (now {options.url})"

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
        """On the way back only what turned it is told: the events of the steps back say nothing of it."""
        turning = notice.event.kind in ROLLBACK_EVENTS and notice.rollout.phase is not Phase.SUCCEEDED
        if notice.rollout.phase in ROLLBACK_PHASES and not turning:
            return
        line = description.format_line(notice.rollout, notice.event.message if turning else "", notice.link)
        wanted = description.replace_line(now, notice.rollout, line)
        if wanted != now:
            client.post(f"{path}submitDescription", {"description": wanted})

    def _settle_inputs(self, client: JenkinsClient, build: Build, waiting: PendingInput, notice: Notice) -> None:
        answer = inputs.choose_answer(waiting, notice.rollout, notice.event)
        if answer is None:
            return
        path = build_path(build)
        place, form = f"{path}input/{waiting.id}", {}
        if answer is InputAnswer.ABORT:
            place += "/abort"
        elif waiting.reason_parameter:
            reason = inputs.format_reason(waiting, notice)
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
        logger.info("an input was answered", job=build.job, number=build.number, input=waiting.id, answer=answer.value)

    def _require_settled(self, client: JenkinsClient, path: str, waiting: PendingInput, notice: Notice) -> None:
        """Jenkins refuses an input that was settled meanwhile and one that is not ours to settle in the same way."""
        reason = client.response_text()
        page = client.get(path, inputs.TREE)
        if waiting.id in [pending.id for pending in inputs.find_pending_inputs(page, notice.rollout.id)]:
            raise CIError(
                f"Jenkins does not let {self._options.user} answer the input {waiting.id}: {reason}; make it one of the"
                " submitters or an administrator, and it works at the next try"
            )

    def _stop_obsolete_builds(self, client: JenkinsClient, build: Build) -> None:
        """A refusal is told and passed over: that an old build goes on waiting hinders nobody."""
        for number in build_queue.find_obsolete_builds(client.get("queue/", build_queue.TREE), build):
            about = {"job": build.job, "number": number, "newer": build.number}
            try:
                page = client.get(build_path(Build(build.job, number)), "number,building")
                if page.get("number") == number and page.get("building") is True:
                    client.stop(build.job, number)
                    logger.info("an older build that waited for a node was stopped", **about)
            except JenkinsRefusal as error:
                if not 400 <= error.status < 500:
                    raise
                logger.warning("an older build could not be stopped", **about, error=error.message)

    def _is_first_miss(self, build: Build) -> None:
        key = (build.job, build.number)
        if key not in self._missing_builds:
            self._missing_builds[key] = None
            logger.warning(
                "the build is gone, or may not be seen", job=build.job, number=build.number, user=self._options.user
            )
        if len(self._missing_builds) > MAX_REMEMBERED_BUILDS:
            self._missing_builds.clear()
