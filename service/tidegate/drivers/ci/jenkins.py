"""Jenkins as the CI: its builds show how their rollouts go, and what waits in them is settled when it is settled elsewhere.

Everything is found out by looking at the build first, so a report that comes twice changes nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import structlog

from tidegate.causes import understood
from tidegate.core.kinds import Kind
from tidegate.core.model import Build
from tidegate.core.phases import Phase
from tidegate.drivers.ci import jenkins_description, jenkins_inputs, jenkins_queue
from tidegate.drivers.ci.jenkins_answers import Refusal
from tidegate.drivers.ci.jenkins_client import JenkinsClient, path_of
from tidegate.drivers.ci.jenkins_inputs import TURNED_PHASES, TURNING, Answer, Pending
from tidegate.drivers.ci.jenkins_options import JenkinsOptions
from tidegate.errors import CIError
from tidegate.ports import Diagnosis, Notice

logger = structlog.get_logger("tidegate.ci")

PART = "jenkins"
REMEMBERED = 1000  # builds that are gone, so that each is told once


class JenkinsCI:
    """Implements `ports.CI`. Safe to use from several threads: each call has a client of its own."""

    Options = JenkinsOptions

    def __init__(self, options: JenkinsOptions, environment: str) -> None:
        self._options = options
        self._environment = environment
        self._gone: dict[tuple[str, int], None] = {}

    @understood(CIError, "Jenkins")
    def report(self, build: Build, notice: Notice) -> None:
        """Settle the rollout's inputs in this build, then bring the build's description up to date. Raises `CIError`.

        What a person can mend may be tried again, a missing permission too. A build that is gone has nothing to be told.
        """
        client = JenkinsClient(self._options)
        try:
            self._tell(client, build, notice)
        except Refusal as error:
            if error.status != 404:
                raise
            client.login()  # raises when it is not Jenkins who says so, but a proxy before it
            self._told_gone(build)

    def check(self) -> Sequence[Diagnosis]:
        """Reachable, version, and as whom."""
        options, client = self._options, None
        try:
            client = JenkinsClient(options)
            login = client.login()
        except CIError as error:
            return (Diagnosis(PART, False, error.message, self._mend(client)),)
        version = f"Jenkins {login.version}" if login.version else "a Jenkins API"
        there = Diagnosis(PART, True, f"{version} at {options.url}")
        if login.user.lower() != options.user.lower():
            mend = "set user to the id of the user whose API token it is"
            return there, Diagnosis(f"{PART} user", False, f"known there as {login.user}, not as {options.user}", mend)
        return there, Diagnosis(f"{PART} user", True, f"known there as {login.user}")

    def _mend(self, client: JenkinsClient | None) -> str:
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

    def _tell(self, client: JenkinsClient, build: Build, notice: Notice) -> None:
        path, rollout = path_of(build), notice.rollout
        found = client.get(path, f"description,{jenkins_inputs.TREE}")
        for waiting in jenkins_inputs.pending(found, rollout.id):
            self._settle(client, build, waiting, notice)
        self._describe(client, path, str(found.get("description") or ""), notice)
        if self._options.stop_obsolete and notice.event.kind == Kind.CREATED and rollout.phase.live:
            self._stop_obsolete(client, build)

    def _describe(self, client: JenkinsClient, path: str, now: str, notice: Notice) -> None:
        """On the way back only what turned it is told: the events of the steps back say nothing of it."""
        turning = notice.event.kind in TURNING and notice.rollout.phase is not Phase.SUCCEEDED
        if notice.rollout.phase in TURNED_PHASES and not turning:
            return
        line = jenkins_description.line(notice.rollout, notice.event.sentence if turning else "", notice.link)
        wanted = jenkins_description.changed(now, notice.rollout, line)
        if wanted != now:
            client.post(f"{path}submitDescription", {"description": wanted})

    def _settle(self, client: JenkinsClient, build: Build, waiting: Pending, notice: Notice) -> None:
        answer = jenkins_inputs.answer(waiting, notice.rollout, notice.event)
        if answer is None:
            return
        path = path_of(build)
        place, form = f"{path}input/{waiting.id}", {}
        if answer is Answer.ABORT:
            place += "/abort"
        elif waiting.reason_parameter:
            reason = jenkins_inputs.reason(waiting, notice)
            place += "/proceed"
            form = {"json": json.dumps({"parameter": [{"name": waiting.reason_parameter, "value": reason}]})}
        else:
            place += "/proceedEmpty"
        try:
            client.post(place, form)
        except Refusal as error:
            if error.status not in (400, 404):
                raise
            self._expect_settled(client, path, waiting, notice)
            return
        logger.info("an input was answered", job=build.job, number=build.number, input=waiting.id, answer=answer.value)

    def _expect_settled(self, client: JenkinsClient, path: str, waiting: Pending, notice: Notice) -> None:
        """Jenkins refuses an input that was settled meanwhile and one that is not ours to settle in the same way."""
        said = client.said()
        found = client.get(path, jenkins_inputs.TREE)
        if waiting.id in [each.id for each in jenkins_inputs.pending(found, notice.rollout.id)]:
            raise CIError(
                f"Jenkins does not let {self._options.user} answer the input {waiting.id}: {said}; make it one of the"
                " submitters or an administrator, and it works at the next try"
            )

    def _stop_obsolete(self, client: JenkinsClient, build: Build) -> None:
        """A refusal is told and passed over: that an old build goes on waiting hinders nobody."""
        for number in jenkins_queue.obsolete(client.get("queue/", jenkins_queue.TREE), build):
            about = {"job": build.job, "number": number, "newer": build.number}
            try:
                found = client.get(path_of(Build(build.job, number)), "number,building")
                if found.get("number") == number and found.get("building") is True:
                    client.stop(build.job, number)
                    logger.info("an older build that waited for a node was stopped", **about)
            except Refusal as error:
                if not 400 <= error.status < 500:
                    raise
                logger.warning("an older build could not be stopped", **about, error=error.message)

    def _told_gone(self, build: Build) -> None:
        key = (build.job, build.number)
        if key not in self._gone:
            self._gone[key] = None
            logger.warning(
                "the build is gone, or may not be seen", job=build.job, number=build.number, user=self._options.user
            )
        if len(self._gone) > REMEMBERED:
            self._gone.clear()
