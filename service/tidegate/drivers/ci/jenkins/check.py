"""What `tidegate check` reports about Jenkins: whether it answers, and whether our user may do what it must."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tidegate.core.build import Build
from tidegate.drivers.ci.jenkins import markup
from tidegate.drivers.ci.jenkins.client import JenkinsClient, build_path
from tidegate.drivers.ci.jenkins.errors import JenkinsRefusal
from tidegate.drivers.ci.jenkins.options import JenkinsOptions
from tidegate.errors import CIError
from tidegate.ports import CheckStatus, Diagnosis

PART = "jenkins"
MAX_BUILDS = 20  # of live rollouts, that are examined
INPUTS = "actions[executions[id,settled,input[submitter]]]"


def check_jenkins(options: JenkinsOptions, builds: Sequence[Build]) -> Iterator[Diagnosis]:
    """Each line. `builds` are those of live rollouts."""
    client = None
    try:
        client = JenkinsClient(options)
        login = client.login()
    except CIError as error:
        yield Diagnosis(PART, CheckStatus.WRONG, error.message, _fix_for_login(options, client))
        return
    version = f"Jenkins {login.version}" if login.version else "a Jenkins API"
    yield Diagnosis(PART, CheckStatus.OK, f"{version} at {options.url}")
    if login.user.lower() != options.user.lower():
        text, fix = f"the token belongs to {login.user}, not to {options.user}", "set user to the id of the token's user"
        yield Diagnosis(f"{PART} user", CheckStatus.WRONG, text, fix)
        return
    yield Diagnosis(f"{PART} user", CheckStatus.OK, f"authenticated as {login.user}")
    for check in (_check_token, _check_jobs):
        yield _examined(check.__name__.removeprefix("_check_"), client, options, check)
    for build in builds[:MAX_BUILDS]:
        yield from _check_build(client, options, build)


def _fix_for_login(options: JenkinsOptions, client: JenkinsClient | None) -> str:
    if client is None:
        return f"create an API token for {options.user} in Jenkins and store it in token_file or token_env"
    if client.exchange.status in (401, 403):
        return _fix_for_token(options)
    return f"start Jenkins, or set `url` in the ci settings (now {options.url})"


def _fix_for_token(options: JenkinsOptions) -> str:
    return (
        f"create an API token for {options.user} in Jenkins (user page, Security) and store it in token_file or "
        "token_env; a password will not work"
    )


def _examined(part: str, client: JenkinsClient, options: JenkinsOptions, check: Any) -> Diagnosis:
    try:
        status, text, fix = check(client, options)
    except CIError as error:
        status, text, fix = CheckStatus.WARNING, error.message, "run the check again when Jenkins answers"
    return Diagnosis(f"{PART} {part}", status, text, fix)


def _check_token(client: JenkinsClient, options: JenkinsOptions) -> tuple[CheckStatus, str, str]:
    """Jenkins accepts a POST with an API token. With a password it demands a crumb, although reads work."""
    try:
        shown = client.preview(markup.SAMPLE)
    except JenkinsRefusal as error:
        if error.status != 403:
            raise
        text = f"Jenkins refuses POST requests of {options.user}: {client.response_text()}. Is it a password?"
        return CheckStatus.WRONG, text, _fix_for_token(options)
    return CheckStatus.OK, f"an API token; descriptions are {markup.read_preview(shown).value}", ""


def _check_jobs(client: JenkinsClient, options: JenkinsOptions) -> tuple[CheckStatus, str, str]:
    jobs = client.get("", "jobs[name]").get("jobs")
    if isinstance(jobs, list) and jobs:
        return CheckStatus.OK, f"{options.user} sees {len(jobs)} at the top level", ""
    fix = f"grant {options.user} Job/Read, Run/Update and Job/Cancel where deployments run"
    return CheckStatus.WARNING, f"{options.user} sees no job", fix


def _check_build(client: JenkinsClient, options: JenkinsOptions, build: Build) -> Iterator[Diagnosis]:
    """Whether we see this build, and may answer its inputs."""
    part = f"{PART} {build.label}"
    try:
        page = client.get(build_path(build), INPUTS)
        groups = client.get("whoAmI/", "authorities").get("authorities")
    except JenkinsRefusal as error:
        if error.status in (403, 404):
            text = f"{options.user} cannot see {build.label}, which has a live rollout"
            yield Diagnosis(part, CheckStatus.WRONG, text, f"grant {options.user} Job/Read, unless the build was deleted")
            return
        yield Diagnosis(part, CheckStatus.WARNING, error.message, "run the check again when Jenkins answers")
        return
    except CIError as error:
        yield Diagnosis(part, CheckStatus.WARNING, error.message, "run the check again when Jenkins answers")
        return
    names = {options.user.lower(), *(str(group).lower() for group in (groups if isinstance(groups, list) else ()))}
    for name, submitter in _restricted_inputs(page):
        if not names & {one.strip().lower() for one in submitter.split(",")}:
            text = f"{options.user} is not among the submitters of {name} ({submitter}), which it must answer"
            fix = f"add {options.user} to `submitter` of the gate, or make it an administrator"
            yield Diagnosis(part, CheckStatus.WARNING, text, fix)
            return
    yield Diagnosis(part, CheckStatus.OK, f"{options.user} sees it and may answer its inputs")


def _restricted_inputs(page: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Our pending inputs that not everybody may answer, with their `submitter`."""
    for action in page.get("actions") or ():
        for execution in (action.get("executions") or ()) if isinstance(action, dict) else ():
            pending, name = execution.get("input") or {}, str(execution.get("id"))
            if name.startswith("Tidegate-") and not execution.get("settled") and pending.get("submitter"):
                yield name, str(pending["submitter"])
